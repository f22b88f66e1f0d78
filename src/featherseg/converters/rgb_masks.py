"""A folder of images and one of colour masks, with or without a list of the colours' classes."""

from functools import partial
from pathlib import Path

import numpy as np

from featherseg.converters.annotations import (
    MOST_CLASSES,
    AnnotatedImage,
    Annotations,
    Raster,
    class_values,
)
from featherseg.converters.rasters import Stems, code_of, color_codes, listed_colors, raster_of
from featherseg.converters.source import Source, split_of
from featherseg.core.errors import DataError
from featherseg.core.types import Color
from featherseg.data.images.decoding import read_mask

TITLE = "masks in colours"

FOLDERS = (
    "masks",
    "mask",
    "labels",
    "label",
    "annotations",
    "annotation",
    "gt",
    "ground_truth",
    "segmentation",
)
"""Names of a folder of masks, or of its parent or child, in lower case."""

SUFFIXES = ("", "_mask", "_label", "_labels", "_seg", "_gt", "_L", "_gt_color", "_color", "_rgb")
"""What the stem of a mask may add to the stem of its image."""


def find(source: Source) -> list[Path]:
    """Return the masks if the first one is in colours, else nothing."""
    masks = [
        path
        for path in source.images
        if path.suffix.lower() in (".png", ".bmp", ".tif", ".tiff")
        and any(_is_mask_folder(part) for part in Path(source.relative(path)).parts[:-1])
    ]
    try:
        return (
            masks
            if masks and len(masks) < len(source.images) and read_mask(masks[0]).ndim == 3
            else []
        )
    except DataError:
        return []


def _is_mask_folder(name: str) -> bool:
    return name.lower() in FOLDERS or name.lower().endswith(
        ("_labels", "_masks", "_label", "_mask")
    )


def read(source: Source, files: list[Path]) -> Annotations:
    """Return the annotations of all masks. Raises DataError.

    Without a list, each colour is its own class and black is background.
    """
    listed = listed_colors(source)
    colors = _found_colors(files) if listed is None else listed
    classes: dict[str, Color | None] = {name: own[0] for name, own in colors.items()}
    notes = (
        ["no list names the colours: rename class_... in dataset.toml"] if listed is None else []
    )
    values, masks = class_values(classes), set(files)
    table = {code_of(color): values[name] for name, own in colors.items() for color in own}
    stems = Stems(source, masks)
    images = [
        AnnotatedImage(
            image.name,
            image.parent,
            split=split_of(*Path(source.relative(path)).parts[:-1]),
            raster=partial(_raster, path, table),
        )
        for path in files
        for image in [stems.image_of(path, *SUFFIXES)]
    ]
    return Annotations(classes, images, with_objects=False, notes=notes, masks=masks)


def _found_colors(files: list[Path]) -> dict[str, list[Color]]:
    codes: set[int] = set()
    for path in files:
        try:
            codes |= set(np.unique(color_codes(path)).tolist())
        except DataError:  # reported later, when the mask is read
            continue
        if len(codes) > MOST_CLASSES:
            raise DataError(
                f"{path}: the masks contain more than {MOST_CLASSES} colours. Are they smoothed, "
                "saved as JPEG, or photographs? Expected masks whose colours are classes."
            )
    return {
        "background" if code == 0 else f"class_{code:06x}": [
            (code >> 16, code >> 8 & 255, code & 255)
        ]
        for code in sorted(codes)
    }


def _raster(path: Path, table: dict[int, int]) -> Raster:
    return raster_of(color_codes(path), table)
