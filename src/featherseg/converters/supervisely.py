"""A Supervisely project: meta.json, and ann/NAME.json beside img/NAME.

Shapes are polygons, bitmaps and rectangles. Format: docs.supervisely.com, "Supervisely annotation
format". Corners are whole pixels; its SDK fills polygons and holes including the outline.
"""

import base64
import zipfile
import zlib
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featherseg.converters.annotations import (
    AnnotatedImage,
    Annotations,
    EmptyShape,
    Region,
    Shape,
    SkippedItems,
    UnusableShape,
    color_of,
    placed_region,
    unusable,
)
from featherseg.converters.pixel_rules import check_points, pillow_polygon, points_of
from featherseg.converters.source import (
    AMBIGUOUS,
    KEPT_IN,
    SPLITS,
    Source,
    name_form,
    read_json,
    split_of,
)
from featherseg.core.errors import DataError
from featherseg.core.types import Color, Size
from featherseg.data.images.decoding import MAX_PIXELS, EncodedImage, read_image
from featherseg.data.images.listing import is_image

TITLE = "Supervisely"

META = "meta.json"


def find(source: Source) -> list[Path]:
    """Return the annotations of this format: one JSON per image."""
    return [
        path
        for path, ends in source.jsons
        if '"objects"' in ends and '"size"' in ends and '"height"' in ends and path.name != META
    ]


def read(source: Source, files: list[Path]) -> Annotations:
    """Return the annotations of all files; classes are those of meta.json that cover an area.

    Raises DataError.
    """
    skipped, notes, images = SkippedItems(), list[str](), list[AnnotatedImage]()
    classes = _classes(source, files, notes)
    stems: dict[str, list[Path]] = {}
    for image in source.images:
        stems.setdefault(name_form(image.stem), []).append(image)
    known = set(files)
    for path in files:
        name, near = path.name.removesuffix(".json"), path.parent.parent / "img"
        if not is_image(name):  # older projects omit the image's ending
            alike = stems.get(name_form(name), [])
            alike = [image for image in alike if path.with_name(f"{image.name}.json") not in known]
            names = {image.name for image in alike if image.parent == near} or {
                image.name for image in alike
            }
            if len(names) > 1:
                skipped.add(AMBIGUOUS, name)
                continue
            name = names.pop() if names else name
        images.append(_image(source, path, name, near, classes, skipped))
    return Annotations(classes, images, notes=notes, skipped=skipped)


def _classes(source: Source, files: list[Path], notes: list[str]) -> dict[str, Color | None]:
    """Return the classes of every meta.json.

    A dataset's folder without one uses that of the project directly above it.
    """
    classes: dict[str, Color | None] = {}
    metas = [path for path in source.files if path.name == META]
    above = source.root.resolve().parent / META
    is_dataset = any(path.parent == source.root / "ann" for path in files)
    if (
        not metas and is_dataset and above.is_file() and not zipfile.is_zipfile(source.name)
    ):  # a zip is unpacked elsewhere
        metas = [above]
        notes.append(f"the classes are those of {above}, above the folder")
    for path in metas:
        content = read_json(path)
        rows = content.get("classes") if isinstance(content, dict) else None
        for row in rows if isinstance(rows, list) else ():
            name = row.get("title") if isinstance(row, dict) else None
            if not isinstance(name, str) or not name.strip():
                raise DataError(
                    f"{path} has a class without a title: {str(row)[:200]}. Give it one."
                )
            if str(row.get("shape") or "any") in ("any", *_DRAWN, *_UNDRAWN):
                classes[name.strip()] = color_of(row.get("color"))
    return classes


def _image(
    source: Source,
    path: Path,
    name: str,
    near: Path,
    classes: dict[str, Color | None],
    skipped: SkippedItems,
) -> AnnotatedImage:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        raise DataError(f"{path} has no list of objects: is it an annotation of Supervisely?")
    shapes = []
    for row in content["objects"]:
        label = row.get("classTitle") if isinstance(row, dict) else None
        if not isinstance(label, str) or not label.strip():
            raise DataError(f"{path} has an object without a classTitle: {str(row)[:200]}.")
        kind = str(row.get("geometryType") or ("bitmap" if row.get("bitmap") else "polygon"))[:80]
        if kind not in _DRAWN and kind not in _UNDRAWN:
            skipped.add_shape(f"objects of the type {kind!r}", name)
            continue
        classes.setdefault(label.strip(), None)
        unknown = partial(
            unusable, f"objects of the type {kind!r}: expected polygons, bitmaps or rectangles"
        )
        shapes.append(
            Shape(label.strip(), partial(_DRAWN[kind], row) if kind in _DRAWN else unknown)
        )
    stated = content.get("size")
    size = (stated.get("height"), stated.get("width")) if isinstance(stated, dict) else (None, None)
    known = all(type(side) is int and side > 0 for side in size)
    tags = content.get("tags")
    texts = [
        tag.get("name") if isinstance(tag, dict) else tag
        for tag in (tags if isinstance(tags, list) else ())
    ]
    tagged = {SPLITS.get(str(text).strip().lower()) for text in texts}
    split = split_of(*path.relative_to(source.root).parts[:-1]) or next(
        filter(tagged.__contains__, KEPT_IN), ""
    )
    return AnnotatedImage(name, near, shapes, size if known else None, split)  # type: ignore[arg-type]


def _polygon(row: dict[str, Any], size: Size) -> Region:
    points = row.get("points")
    if not isinstance(points, dict):
        raise UnusableShape("polygons without points")
    region = pillow_polygon(np.rint(points_of(points.get("exterior"))), size, with_lines=True)
    holes = points.get("interior") or []
    if not isinstance(holes, list):
        raise UnusableShape("polygons whose holes are no list")
    for hole in holes:
        try:
            top, left, inside = pillow_polygon(np.rint(points_of(hole)), size, with_lines=True)
        except EmptyShape:
            continue
        hole_mask = np.zeros(size, bool)
        hole_mask[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        height, width = region.inside.shape
        without_hole = (
            region.inside
            & ~hole_mask[region.top : region.top + height, region.left : region.left + width]
        )
        region = region._replace(inside=without_hole)
    return region


def _rectangle(row: dict[str, Any], size: Size) -> Region:
    points = row.get("points")
    corners = np.rint(
        check_points(points.get("exterior") if isinstance(points, dict) else None)
    ).astype(int)
    (left, top), (right, bottom) = (
        corners.min(axis=0).clip(0).tolist(),
        corners.max(axis=0).tolist(),
    )
    height, width = min(bottom + 1, size[0]) - top, min(right + 1, size[1]) - left
    return placed_region(np.ones((max(height, 0), max(width, 0)), bool), top, left, size)


def _bitmap(row: dict[str, Any], size: Size) -> Region:
    bitmap = row.get("bitmap")
    if not isinstance(bitmap, dict):
        raise UnusableShape("bitmaps without data")
    left, top = np.rint(check_points(bitmap.get("origin"))[0]).astype(int).tolist()
    try:
        packed = base64.b64decode(bitmap.get("data") or "", validate=True)
        content = zlib.decompressobj().decompress(packed, MAX_PIXELS)
        inside = (read_image(EncodedImage(content, "a bitmap")) > 0).any(axis=2)
        with Image.open(
            BytesIO(content), formats=["PNG"]
        ) as image:  # the SDK writes palettes of black and white
            if "A" in image.getbands():
                inside = np.array(image.getchannel("A")) > 0
    except (TypeError, ValueError, OSError, zlib.error, DataError):
        raise UnusableShape("bitmaps that cannot be read") from None
    return placed_region(np.ascontiguousarray(inside), top, left, size)


_UNDRAWN = ("alpha_mask", "oriented_bbox")
"""Types whose pixels are unknown here; further types are lines and points."""

_DRAWN = {"polygon": _polygon, "rectangle": _rectangle, "bitmap": _bitmap}
