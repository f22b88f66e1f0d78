"""Pascal VOC: masks in SegmentationClass, objects in SegmentationObject, images in JPEGImages.

Masks have a palette or colours. Written by the VOC devkit, labelme's labelme2voc, CVAT and Datumaro
("Segmentation mask 1.1", with labelmap.txt).
"""

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from featherseg.converters.annotations import (
    AnnotatedImage,
    Annotations,
    Raster,
    SkippedItems,
    UnusableShape,
    class_values,
)
from featherseg.converters.rasters import (
    Stems,
    code_of,
    color_codes,
    listed_colors,
    numbered,
    raster_of,
)
from featherseg.converters.source import KEPT_IN, SPLITS, Source, name_form, read_text, split_of
from featherseg.core.errors import DataError
from featherseg.core.types import IGNORE, Color
from featherseg.data.images.decoding import read_mask
from featherseg.data.images.listing import IMAGE_SUFFIXES
from featherseg.data.images.palettes import voc_palette

TITLE = "Pascal VOC"

CLASSES, OBJECTS, SETS = "SegmentationClass", "SegmentationObject", "ImageSets"

VOC_CLASSES = [
    *(
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
    ),
    *(
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
]
"""Values 0 to 20 of the devkit's masks; 255 marks outlines, which are ignored."""

NO_LIST = (
    "no labelmap.txt or class_names.txt names the classes: they are the 21 of Pascal VOC. If "
    "yours are others, write them into class_names.txt beside the folders, a name a line in the "
    "order of their values, and convert again"
)

VOID_COLOR = (224, 224, 192)
"""Entry 255 of the devkit's palette."""


def find(source: Source) -> list[Path]:
    """Return the masks of classes."""
    return [path for path in source.ending(".png") if CLASSES in path.parts]


def read(source: Source, files: list[Path]) -> Annotations:
    """Return the annotations of all masks. Raises DataError.

    Classes are those of labelmap.txt or class_names.txt, else the 20 of Pascal VOC.
    """
    listed = listed_colors(source)
    names = _class_names(source) if listed is None else list(listed)
    palette = [(0, 0, 0), *voc_palette(len(names))]
    colors = (
        {name: [color] for name, color in zip(names, palette, strict=False)}
        if listed is None
        else listed
    )
    classes: dict[str, Color | None] = {name: own[0] for name, own in colors.items()}
    values, skipped = class_values(classes), SkippedItems()
    by_index = (
        {index: values[name] for index, name in enumerate(names)} | {255: IGNORE}
        if listed is None
        else {}
    )
    by_color = {code_of(color): values[name] for name, own in colors.items() for color in own}
    by_color.setdefault(code_of(VOID_COLOR), IGNORE)
    objects = {path for path in source.images if OBJECTS in path.parts}
    masks = (
        {*files, *objects}
        | {
            path  # also labelme2voc's visualisations of masks in SegmentationClassVisualization
            for path in source.images
            if any(
                part.startswith((CLASSES, OBJECTS))
                for part in source.relative(path).split("/")[:-1]
            )
        }
    )
    stems, splits = Stems(source, masks), _splits(source, files, skipped)
    images = []
    for path in files:
        other = Path(*(OBJECTS if part == CLASSES else part for part in path.parts))
        draw = partial(_raster, path, other if other in objects else None, by_index, by_color)
        split = splits.get(path, split_of(*Path(source.relative(path)).parts[:-1]))
        image = stems.image_of(path, "")
        images.append(AnnotatedImage(image.name, image.parent, split=split, raster=draw))
    notes = [NO_LIST] if names is VOC_CLASSES else []
    return Annotations(
        classes, images, with_objects=bool(objects), notes=notes, skipped=skipped, masks=masks
    )


def _class_names(source: Source) -> list[str]:
    """Return the names in labelme2voc's class_names.txt, one per line from index 0; else VOC's."""
    path = next((path for path in source.files if path.name == "class_names.txt"), None)
    if path is None:
        return VOC_CLASSES
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    names = names[1:] if names[:1] == ["__ignore__"] else names
    if len(set(names)) < len(names) or not names:
        raise DataError(
            f"{path} names the classes {names}: expected a name a line, and no name twice."
        )
    return names


def _splits(source: Source, masks: list[Path], skipped: SkippedItems) -> dict[Path, str]:
    """Return mask -> split by the lists in ImageSets/Segmentation, else in ImageSets.

    "trainval" is no split.
    """
    lists = [
        p
        for p in source.files
        if p.suffix == ".txt" and p.stem.lower() in SPLITS and SETS in p.parts
    ]
    lists = [path for path in lists if path.parent.name == "Segmentation"] or lists
    of_name: dict[str, set[Path]] = {}
    for path in masks:
        parts = path.with_suffix("").parts
        of_name.setdefault(name_form("/".join(parts[parts.index(CLASSES) + 1 :])), set()).add(path)
    split_of_mask: dict[Path, str] = {}
    for path in sorted(lists, key=lambda path: KEPT_IN.index(SPLITS[path.stem.lower()])):
        root, split = Path(*path.parts[: path.parts.index(SETS)]), SPLITS[path.stem.lower()]
        for line in filter(None, map(str.strip, read_text(path).splitlines())):
            mask = _listed(line, root, of_name)
            if mask is None:
                skipped.add(
                    "names in lists of splits of which there is no mask, or more than one", line
                )
            elif split_of_mask.setdefault(mask, split) != split:
                skipped.add(f"images of two splits (kept in {split_of_mask[mask]})", line)
    return split_of_mask


def _listed(line: str, root: Path, of_name: Mapping[str, set[Path]]) -> Path | None:
    """Return the only mask that a line names: by the whole line, a quoted part or its first word.

    Paths may follow the first word.
    """
    quoted = re.match(r'"([^"]+)"', line)
    for text in (line, quoted[1] if quoted else "", line.split()[0]):
        name, ending = os.path.splitext(text.replace("\\", "/"))
        parts = (name if ending.lower() in IMAGE_SUFFIXES else name + ending).strip("/").split("/")
        for first in range(len(parts)):
            masks = of_name.get(name_form("/".join(parts[first:])), set())
            masks = {path for path in masks if path.is_relative_to(root)} or masks
            if len(masks) == 1:
                return next(iter(masks))
    return None


def _raster(
    path: Path, other: Path | None, by_index: dict[int, int], by_color: dict[int, int]
) -> Raster:
    raw = read_mask(path)
    by_number = bool(by_index) and raw.ndim == 2
    raster = raster_of(raw if by_number else color_codes(path), by_index if by_number else by_color)
    objects = None
    if other is not None:
        objects = numbered(color_codes(other), (0, code_of(VOID_COLOR)))
        if objects.shape != raw.shape[:2]:
            raise UnusableShape("masks of objects of another size than those of classes")
        objects = np.where((raster.values > 0) & (raster.values < IGNORE), objects, 0).astype(
            np.int32
        )
    return raster._replace(objects=objects)
