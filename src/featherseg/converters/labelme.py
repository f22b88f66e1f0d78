"""labelme's JSON, one file per image; also written by AnyLabeling and X-AnyLabeling.

Shapes are drawn as labelme draws them (`shape_to_mask` of labelme 6.3): by Pillow, lines 10 pixels
wide, points with a radius of 5. Coordinates refer to the image as labelme shows it, turned by its
EXIF orientation.
"""

import base64
import hashlib
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageDraw

from featherseg.converters.annotations import (
    AnnotatedImage,
    Annotations,
    EmptyShape,
    ImageInside,
    Region,
    Shape,
    UnusableShape,
    placed_region,
)
from featherseg.converters.masks import Masks, place, simplified, stacked_parts
from featherseg.converters.pixel_rules import check_points, pillow_polygon, pillow_region, points_of
from featherseg.converters.source import Source, read_json, split_of
from featherseg.core.errors import DataError
from featherseg.core.types import IGNORE, Size
from featherseg.data.images.decoding import EncodedImage, read_image

TITLE = "labelme"

LINE_WIDTH, POINT_RADIUS = 10, 5

VERSION = "6.3.1"
"""The version of labelme whose format is written."""

DRAWN_AS = {
    "line": f"lines: drawn {LINE_WIDTH} pixels wide, as labelme does",
    "point": f"points: drawn with a radius of {POINT_RADIUS} pixels, as labelme does",
}


def find(source: Source) -> list[Path]:
    """Return the JSON files of this format."""
    marks = ('"imagePath"', '"imageData"', '"imageHeight"', '"shape_type"')
    return [
        path
        for path, ends in source.jsons
        if '"shapes"' in ends and any(mark in ends for mark in marks)
    ]


def read(source: Source, files: list[Path]) -> Annotations:
    """Return the annotations of all files; classes are sorted by name. Raises DataError."""
    names: dict[str, None] = {}
    images = []
    notes: dict[str, None] = {}
    for path in files:
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            raise DataError(f"{path} has no list of shapes: is it a file of labelme?")
        shapes = []
        for row in content["shapes"]:
            name = row.get("label") if isinstance(row, dict) else None
            if not isinstance(name, str) or not name.strip():
                raise DataError(
                    f"{path} has a shape without a label: {str(row)[:200]}. Give it one in labelme."
                )
            names[name.strip()] = None
            group = row.get("group_id")
            shapes.append(
                Shape(
                    name.strip(),
                    partial(_draw, row),
                    group if isinstance(group, int | str) else None,
                )
            )
            kind = {"linestrip": "line"}.get(str(row.get("shape_type")), str(row.get("shape_type")))
            if kind in DRAWN_AS:
                notes[f"there are {DRAWN_AS[kind]}"] = None
        size = (content.get("imageHeight"), content.get("imageWidth"))
        stated = size if all(type(side) is int and side > 0 for side in size) else None
        file_name, inside = content.get("imagePath"), content.get("imageData")
        digest = (
            hashlib.blake2b(inside.encode(errors="replace")).digest()
            if isinstance(inside, str)
            else b""
        )
        images.append(
            AnnotatedImage(
                file_name if isinstance(file_name, str) and file_name else path.stem,
                path.parent,
                shapes,
                stated,  # type: ignore[arg-type]
                split_of(*path.relative_to(source.root).parts[:-1]),
                ImageInside(path, digest, partial(_image_inside, path)) if digest else None,
            )
        )
    return Annotations(dict.fromkeys(sorted(names)), images, notes=list(notes))


def _image_inside(path: Path) -> bytes:
    try:
        return base64.b64decode(read_json(path)["imageData"], validate=True)
    except ValueError:
        raise UnusableShape("images inside an annotation that are damaged") from None


def _draw(row: dict[str, Any], size: Size) -> Region:
    kind = row.get("shape_type") or "polygon"
    if kind == "mask":
        return _mask(row, size)
    points = check_points(row.get("points"))
    if kind in ("polygon", "oriented_rectangle", "rotation"):
        return pillow_polygon(points_of(row.get("points")), size)
    low, high = points.min(axis=0), points.max(axis=0)
    corners = [tuple(point) for point in points.tolist()]
    if kind == "rectangle":
        reach, least = 0.0, 2
    elif kind == "circle":
        reach, least = math.dist(corners[0], corners[-1]), 2
        low, high = points[0] - reach, points[0] + reach
    elif kind in ("line", "linestrip"):
        reach, least = float(LINE_WIDTH), 2
    elif kind == "point":
        reach, least = float(POINT_RADIUS), 1
    else:
        raise EmptyShape(f"shapes of the type {kind!r}")
    if len(corners) < least:
        raise EmptyShape(f"shapes of the type {kind!r} with {len(corners)} of {least} points")

    def draw(pen: ImageDraw.ImageDraw, shift: tuple[int, int]) -> None:
        moved = [(x + shift[0], y + shift[1]) for x, y in corners]
        box = (low[0] + shift[0], low[1] + shift[1]), (high[0] + shift[0], high[1] + shift[1])
        if kind == "rectangle":
            pen.rectangle(box, fill=1, outline=1)
        elif kind == "circle":
            pen.ellipse(box, fill=1, outline=1)
        elif kind == "point":
            (x, y), r = moved[0], POINT_RADIUS
            pen.ellipse(((x - r, y - r), (x + r, y + r)), fill=1, outline=1)
        else:
            pen.line(moved, fill=1, width=LINE_WIDTH)

    return pillow_region(tuple(low - reach), tuple(high + reach), size, draw)


def _mask(row: dict[str, Any], size: Size) -> Region:
    points = check_points(row.get("points"))
    try:
        content = base64.b64decode(row.get("mask") or "", validate=True)
        inside = read_image(EncodedImage(content, "a mask"), channels=1)[:, :, 0] > 0
    except (TypeError, ValueError, DataError):
        raise UnusableShape("masks that cannot be read") from None
    (left, top), (right, bottom) = points[0].astype(int).tolist(), points[-1].astype(int).tolist()
    if inside.shape != (bottom - top + 1, right - left + 1):
        raise UnusableShape("masks of another size than their box")
    return placed_region(np.ascontiguousarray(inside), top, left, size)


def write(folder: Path, masks: Masks, copy: bool) -> None:
    """Write NAME.json beside NAME: polygons through the pixel centres of outlines, larger first.

    A region in a hole is a shape on top of the one around it: a class, or the background.
    """
    for image in masks.images:
        height, width = image.mask.shape
        below = folder / image.split
        place(image, below, copy)
        shapes: list[dict[str, Any]] = [
            {
                "label": "__ignore__" if part.class_id == IGNORE else part.name,
                "points": outline
                + outline[-1:] * (3 - len(outline)),  # labelme needs three corners
                "group_id": part.number or None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for part, outline in simplified(stacked_parts(image, masks), image.mask.shape)
        ]
        content = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": image.name.rpartition("/")[2],
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        path = below / f"{image.name.rpartition('.')[0]}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
