"""CVAT's XML 1.1 for images: polygons, masks, boxes and ellipses, stacked by z_order.

Format: docs.cvat.ai, "XML annotation format". CVAT draws its own masks with pycocotools, so shapes
are drawn by COCO's rule. Lines, points, cuboids, skeletons and tags cover no area.
"""

import json
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement

import numpy as np

from featherseg.converters.annotations import (
    AnnotatedImage,
    Annotations,
    Region,
    Shape,
    SkippedItems,
    UnusableShape,
    color_of,
    placed_region,
)
from featherseg.converters.masks import Masks, parts_of, place
from featherseg.converters.pixel_rules import coco_polygons, ellipse_points, points_of, rotated
from featherseg.converters.run_lengths import counts_of_rows, mask_of_counts
from featherseg.converters.source import Source, nothing_readable, read_xml, split_of
from featherseg.core.errors import DataError
from featherseg.core.types import Color, Size
from featherseg.data.images.decoding import MAX_PIXELS
from featherseg.data.images.palettes import color_text

TITLE = "CVAT for images 1.1"

WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton", "tag")


def find(source: Source) -> list[Path]:
    """Return the XML files of this format."""
    return [path for path, ends in source.xmls if "<annotations" in ends]


def read(source: Source, files: list[Path]) -> Annotations:
    """Return the annotations of all files; the classes are the labels of the task.

    Raises DataError, DataNotFound.
    """
    skipped = SkippedItems()
    classes: dict[str, Color | None] = {}
    images = []
    for path in files:
        root = read_xml(path)
        if (
            root.tag == "annotations"
            and root.find("image") is None
            and root.find("track") is not None
        ):
            raise DataError(
                f"{path} is 'CVAT for video'. Export the task again as 'CVAT for images 1.1'."
            )
        for label in root.iter("label"):
            name = (label.findtext("name") or "").strip()
            if not name:
                raise DataError(f"{path} has a label without a name. Give it one in CVAT.")
            if label.find("parent") is None and label.findtext("type") not in WITHOUT_AREA:
                classes[name] = color_of(label.findtext("color"))
        for image in root.iter("image"):
            images.append(_image(path, image, classes, skipped))
    if not images:
        raise nothing_readable(source, "image of CVAT")
    return Annotations(classes, images, skipped=skipped)


def _image(
    path: Path, image: Element, classes: dict[str, Color | None], skipped: SkippedItems
) -> AnnotatedImage:
    name = image.get("name", "")
    shapes: list[tuple[int, Shape]] = []
    for element in image:
        if element.tag in WITHOUT_AREA or element.tag not in _DRAWN:
            skipped.add_shape(f"shapes of the type {element.tag!r}, which cover no area", name)
            continue
        label = element.get("label", "").strip()
        if not label:
            raise DataError(
                f"{path}: image {name!r} has a {element.tag} without a label. Give it one in CVAT."
            )
        classes.setdefault(label, None)
        group = element.get("group_id", "0")
        shape = Shape(
            label,
            partial(_draw, element.tag, dict(element.attrib)),
            None if group == "0" else group,
        )
        shapes.append((_integer(path, element.get("z_order", "0")), shape))
    shapes.sort(key=lambda row: row[0])  # stable: ties keep the order of the file
    size = (_integer(path, image.get("height", "0")), _integer(path, image.get("width", "0")))
    split = split_of(image.get("subset", ""), *Path(name).parts[:-1], path.stem)
    return AnnotatedImage(
        name, path.parent, [shape for _, shape in shapes], size if min(size) > 0 else None, split
    )


def _integer(path: Path, text: str) -> int:
    if not re.fullmatch(r" *-?\d{1,9} *", text):
        raise DataError(f"{path} has {text[:40]!r} instead of a whole number. Export it again.")
    return int(text)


def _numbers(attributes: dict[str, str], *names: str) -> list[float]:
    try:
        numbers = [float(attributes[name]) for name in names]
    except (KeyError, ValueError):
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise UnusableShape(f"shapes whose {', '.join(names)} are no numbers")
    return numbers


def _draw(kind: str, attributes: dict[str, str], size: Size) -> Region:
    return _DRAWN[kind](attributes, size)


def _polygon(attributes: dict[str, str], size: Size) -> Region:
    pairs = attributes.get("points", "")
    try:
        values = [float(number) for number in re.split("[,;]", pairs)] if pairs else []
    except ValueError:
        raise UnusableShape("corners that are no pairs of numbers") from None
    return coco_polygons([points_of(values)], size)


def _box(attributes: dict[str, str], size: Size) -> Region:
    left, top, right, bottom = _numbers(attributes, "xtl", "ytl", "xbr", "ybr")
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    angle = _numbers(attributes, "rotation")[0] if "rotation" in attributes else 0.0
    return coco_polygons([points_of(rotated(corners, corners.mean(axis=0), angle))], size)


def _ellipse(attributes: dict[str, str], size: Size) -> Region:
    x, y, across, down = _numbers(attributes, "cx", "cy", "rx", "ry")
    angle = _numbers(attributes, "rotation")[0] if "rotation" in attributes else 0.0
    return coco_polygons([points_of(ellipse_points(x, y, across, down, angle))], size)


def _mask(attributes: dict[str, str], size: Size) -> Region:
    left, top, width, height = (
        int(number) for number in _numbers(attributes, "left", "top", "width", "height")
    )
    if not (width > 0 and height > 0 and width * height <= MAX_PIXELS):
        raise UnusableShape("masks of an impossible size")
    try:
        counts = [int(number) for number in attributes.get("rle", "").split(",")]
    except ValueError:
        raise UnusableShape("run lengths that are no counts of pixels") from None
    return placed_region(mask_of_counts(counts, (height, width)), top, left, size)


_DRAWN: dict[str, Callable[[dict[str, str], Size], Region]] = {
    "polygon": _polygon,
    "box": _box,
    "ellipse": _ellipse,
    "mask": _mask,
}


def write(folder: Path, masks: Masks, copy: bool) -> None:
    """Write images/, annotations.xml with a brush mask per part, and labels.json.

    The content of labels.json is pasted under "Raw" when a task is created.
    """
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    labels = SubElement(SubElement(SubElement(root, "meta"), "task"), "labels")
    for number, image in enumerate(masks.images):
        height, width = image.mask.shape
        name = f"{image.split}/{image.name}" if image.split else image.name
        attributes = {"id": str(number), "name": name, "width": str(width), "height": str(height)}
        element = SubElement(root, "image", attributes)
        for part in parts_of(image, masks):
            rle = ", ".join(map(str, counts_of_rows(part.inside)))
            box = {
                "left": part.left,
                "top": part.top,
                "width": part.inside.shape[1],
                "height": part.inside.shape[0],
            }
            facts = {
                "label": part.name,
                "source": "file",
                "occluded": "0",
                "rle": rle,
                **box,
                "z_order": "0",
            }
            SubElement(element, "mask", {key: str(value) for key, value in facts.items()})
        place(image, folder / "images" / image.split, copy)
    colors = [(name, color_text(color)) for name, color in masks.colors().items()]
    for name, color in colors:
        label = SubElement(labels, "label")
        SubElement(label, "name").text, SubElement(label, "color").text = name, color
    ElementTree(root).write(folder / "annotations.xml", encoding="utf-8", xml_declaration=True)
    raw = [{"name": name, "color": color, "attributes": []} for name, color in colors]
    (folder / "labels.json").write_text(
        json.dumps(raw, ensure_ascii=False, indent=2), encoding="utf-8"
    )
