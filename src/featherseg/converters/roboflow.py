"""Roboflow's "Semantic Segmentation Masks": _classes.csv and NAME_mask.png beside NAME.jpg.

There is one folder per split. Roboflow's exports as COCO or YOLO are read as these formats.
"""

from functools import partial
from pathlib import Path

from featherseg.converters.annotations import (
    AnnotatedImage,
    Annotations,
    Raster,
    UnusableShape,
    class_values,
)
from featherseg.converters.rasters import Stems, raster_of
from featherseg.converters.source import Source, read_text, split_of
from featherseg.core.errors import DataError
from featherseg.data.discovery.class_lists import listed_values
from featherseg.data.images.decoding import read_mask

TITLE = "Roboflow masks"

LIST, SUFFIX = "_classes.csv", "_mask"


def find(source: Source) -> list[Path]:
    """Return the lists of classes; the masks lie beside them."""
    return [
        path
        for path in source.ending(".csv")
        if path.name == LIST and read_text(path).lower().startswith("pixel value")
    ]


def read(source: Source, files: list[Path]) -> Annotations:
    """Return the annotations of all masks beside the lists.

    Raises DataError if two lists disagree.
    """
    names: dict[int, str] = {}
    for path in files:
        for value, name in listed_values(path, read_text(path)).items():
            if names.setdefault(value, name) != name:
                raise DataError(
                    f"{path} calls {value} {name!r}, but another {LIST} calls it {names[value]!r}."
                )
    folders = {path.parent for path in files}
    masks = [
        path for path in source.images if path.parent in folders and path.stem.endswith(SUFFIX)
    ]
    stems, values = Stems(source, set(masks)), class_values(names.values())
    table = {value: values[name] for value, name in names.items()}
    images = [
        AnnotatedImage(
            image.name,
            image.parent,
            split=split_of(*Path(source.relative(path)).parts[:-1]),
            raster=partial(_raster, path, table),
        )
        for path in masks
        for image in [stems.image_of(path, SUFFIX)]
    ]
    if not images:
        raise DataError(f"{files[0]} lists classes, but no NAME{SUFFIX}.png lies beside it.")
    return Annotations(dict.fromkeys(names.values()), images, with_objects=False, masks=set(masks))


def _raster(path: Path, table: dict[int, int]) -> Raster:
    raw = read_mask(path)
    if raw.ndim == 3:
        if not (raw == raw[:, :, :1]).all():
            raise UnusableShape("masks in colours where values are expected")
        raw = raw[:, :, 0]
    return raster_of(raw, table)
