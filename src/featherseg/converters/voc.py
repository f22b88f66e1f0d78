"""Pascal VOC's SegmentationClass: masks with a palette or in colours, SegmentationObject beside them, JPEGImages.

So write the VOC devkit, labelme's labelme2voc, and CVAT and Datumaro ("Segmentation mask 1.1", with labelmap.txt).
"""

from functools import partial
from pathlib import Path

import numpy as np

from featherseg.converters.annotations import (
    AnnotatedImage,
    Annotations,
    Left,
    Raster,
    UnusableShape,
    class_values,
)
from featherseg.converters.rasters import Stems, code_of, color_codes, listed_colors, numbered, raster_of
from featherseg.converters.source import SPLITS, Source, read_text, split_of
from featherseg.core.errors import DataError
from featherseg.core.types import IGNORE, Color
from featherseg.data.images import read_mask
from featherseg.data.palettes import default_palette

TITLE = "Pascal VOC"

CLASSES, OBJECTS = "SegmentationClass", "SegmentationObject"

VOC_CLASSES = [
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]
"""Indices 0 to 20 of the devkit's masks; 255 marks outlines, which are ignored."""

VOID_COLOR = (224, 224, 192)
"""Entry 255 of the devkit's palette."""


def find(source: Source) -> list[Path]:
    """The masks of classes."""
    return [path for path in source.ending(".png") if CLASSES in path.parts]


def read(source: Source, files: list[Path]) -> Annotations:
    """The classes of labelmap.txt or class_names.txt, else the 20 of Pascal VOC. Raises DataError."""
    colors = listed_colors(source)
    names = _class_names(source) if colors is None else list(colors)
    palette = [(0, 0, 0), *default_palette(len(names))]
    classes: dict[str, Color | None] = dict(zip(names, palette, strict=False)) if colors is None else dict(colors)
    values, left = class_values(classes), Left()
    by_index = {index: values[name] for index, name in enumerate(names)} | {255: IGNORE}
    by_color = {code_of(color or (0, 0, 0)): values[name] for name, color in classes.items()}
    by_color.setdefault(code_of(VOID_COLOR), IGNORE)
    masks = set(files)
    objects = {path for path in source.images if OBJECTS in path.parts}
    stems = Stems(source, masks | objects | {path for path in source.images if "SegmentationClassRaw" in str(path)})
    splits = _splits(source)
    images = []
    for path in files:
        other = Path(*(OBJECTS if part == CLASSES else part for part in path.parts))
        draw = partial(_raster, path, other if other in objects else None, by_index if colors is None else {}, by_color)
        split = splits.get(path.stem, split_of(*Path(source.relative(path)).parts[:-1]))
        image = stems.image_of(path, "")
        images.append(AnnotatedImage(image.name, image.parent, split=split, raster=draw))
    return Annotations(classes, images, with_objects=bool(objects), left=left)


def _class_names(source: Source) -> list[str]:
    """class_names.txt as labelme2voc writes it, a name a line from index 0 on; else those of Pascal VOC."""
    path = next((path for path in source.files if path.name == "class_names.txt"), None)
    if path is None:
        return VOC_CLASSES
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    names = names[1:] if names[:1] == ["__ignore__"] else names
    if len(set(names)) < len(names) or not names:
        raise DataError(f"{path} names the classes {names}: expected a name a line, and no name twice.")
    return names


def _splits(source: Source) -> dict[str, str]:
    """Stem -> split, of ImageSets/Segmentation; "trainval" is none."""
    found: dict[str, str] = {}
    for path in source.files:
        if path.suffix == ".txt" and path.stem in SPLITS and "ImageSets" in path.parts:
            for line in read_text(path).splitlines():
                if line.strip():
                    found[Path(line.split()[0].replace("\\", "/")).stem] = SPLITS[path.stem]
    return found


def _raster(path: Path, other: Path | None, by_index: dict[int, int], by_color: dict[int, int]) -> Raster:
    raw = read_mask(path)
    by_number = bool(by_index) and raw.ndim == 2
    raster = raster_of(raw if by_number else color_codes(path), by_index if by_number else by_color)
    objects = None
    if other is not None:
        objects = numbered(color_codes(other), (0, code_of(VOID_COLOR)))
        if objects.shape != raw.shape[:2]:
            raise UnusableShape("masks of objects of another size than those of classes")
        objects = np.where((raster.values > 0) & (raster.values < IGNORE), objects, 0).astype(np.int32)
    return raster._replace(objects=objects)
