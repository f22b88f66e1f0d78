"""Label Studio's JSON export: polygons, brushes, rectangles, ellipses, in percent of the image.

Format: labelstud.io/guide/export, docs of the tags PolygonLabels and BrushLabels. Label Studio does
not define the pixels of a polygon; COCO's rule is used, as in its own export to COCO.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from featherseg.converters.annotations import (
    AnnotatedImage,
    Annotations,
    EmptyShape,
    Region,
    Shape,
    SkippedItems,
    UnusableShape,
    whole_region,
)
from featherseg.converters.pixel_rules import (
    check_points,
    coco_polygons,
    ellipse_points,
    points_of,
    rotated,
)
from featherseg.converters.run_lengths import label_studio_mask
from featherseg.converters.source import Source, nothing_readable, read_json, split_of
from featherseg.core.errors import DataError, DataNotFound
from featherseg.core.types import Size
from featherseg.core.wording import counted
from featherseg.data.images.listing import is_image

TITLE = "Label Studio"

_KINDS = ("polygon", "brush", "rectangle", "ellipse", "bitmask", "vector")
"""Types of regions that cover an area; a vector only if it is closed."""

_UNDRAWN = ("bitmask", "vector")
"""Types whose pixels are unknown here."""

_PREDICTED = "tasks with predictions of a model alone"


def find(source: Source) -> list[Path]:
    """Return the JSON files of this format."""
    own_marks, others = ('"from_name"', '"was_cancelled"'), ('"categories"', '"shapes"')
    marks = (*own_marks, '"annotations"', '"completions"')
    return [
        path
        for path, ends in source.jsons
        if any(mark in ends for mark in marks)
        and ('"data"' in ends or '"from_name"' in ends)
        and (any(mark in ends for mark in own_marks) or not any(mark in ends for mark in others))
    ]


def read(source: Source, files: list[Path]) -> Annotations:
    """Return one annotation per task. Raises DataError, DataNotFound.

    Cancelled annotations are ignored. Of several, the last one marked as ground truth counts, else
    the last that is not empty.
    """
    skipped, names, several = SkippedItems(), dict[str, None](), list[str]()
    images = []
    for path in files:
        content = read_json(path)
        for task in content if isinstance(content, list) else [content]:
            if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
                raise DataError(
                    f"{path} has a task without data, as in JSON-MIN. Export it from Label Studio "
                    "as JSON."
                )
            given = task.get("annotations", task.get("completions")) or []
            if not isinstance(given, list):
                raise DataError(
                    f"{path} has a task whose annotations are no list: {str(given)[:80]}. Export "
                    "it again."
                )
            done = [a for a in given if isinstance(a, dict) and not a.get("was_cancelled")]
            chosen = (
                [a for a in done if a.get("ground_truth")]
                or [a for a in done if a.get("result")]
                or done
            )
            results = chosen[-1].get("result") if chosen else []
            if not isinstance(results, list):
                raise DataError(
                    f"{path} has an annotation without a list of results. Export it again."
                )
            rows = [
                row
                for row in results
                if isinstance(row, dict) and isinstance(row.get("value"), dict)
            ]
            tags = {str(row.get("to_name")) for row in rows if _kind(row) in _KINDS}
            name = _file_name(task["data"], tags)
            if not done:
                skipped.add(
                    _PREDICTED
                    if task.get("predictions") and not given
                    else "tasks without an annotation",
                    name,
                )
                continue
            if not name or any(row.get("item_index") is not None for row in rows):
                skipped.add("tasks of several images, or of none", name or str(task["data"])[:80])
                continue
            if len(done) > 1:
                several.append(name)
            images.append(_image(source, path, name, rows, names, skipped))
    if not images and _PREDICTED in skipped.reasons:
        raise DataNotFound(
            f"{source.name} contains {counted(skipped.reasons[_PREDICTED][0], 'task')} with "
            "predictions of a model alone, and none with an annotation. Accept the predictions as "
            "annotations in Label Studio and export again."
        )
    if not images:
        raise nothing_readable(source, "task of Label Studio with an annotation")
    notes = []
    if several:
        notes.append(
            f"{counted(len(several), 'image')} with several annotations, of which the last marked "
            f"as ground truth was taken, else the last that is not empty, first: {several[0]}"
        )
    return Annotations(dict.fromkeys(sorted(names)), images, notes=notes, skipped=skipped)


def _file_name(data: dict[str, Any], tags: set[str]) -> str:
    """Return the image of a task; empty if several could be meant.

    The image is the only text with an image's ending. If several have one, it is the text under a
    key in `tags` (the keys that the results refer to), or under a key like "image". If none has
    one, it is the first text under a key like "image", else the first of all.
    """
    addresses = {
        key: _address(value) for key, value in data.items() if isinstance(value, str) and value
    }
    images = {key: address for key, address in addresses.items() if is_image(address)}
    like = {key: address for key, address in (images or addresses).items() if "im" in key.lower()}
    if len(tags) > 1 or (len(images) > 1 and not tags & images.keys() and len(like) != 1):
        return ""
    named = (
        {key: address for key, address in images.items() if key in tags}
        if len(images) > 1
        else images
    )
    return next(iter({**named, **like, **addresses}.values()), "")


def _address(text: str) -> str:
    """Return the path in a link, without scheme; also of "/data/local-files/?d=day/a.jpg"."""
    return re.sub(r"^[a-z0-9]+://", "", unquote(text.partition("?d=")[2] or text.partition("?")[0]))


def _kind(row: dict[str, Any]) -> str:
    return str(row.get("type", "")).lower().removesuffix("labels")


def _image(
    source: Source,
    path: Path,
    name: str,
    rows: list[dict[str, Any]],
    names: dict[str, None],
    skipped: SkippedItems,
) -> AnnotatedImage:
    labels: dict[str, dict[str, None]] = {}
    for row in rows:  # the label of a region may be a separate result with the region's id
        for key, value in row["value"].items():
            if key.endswith("labels") and isinstance(value, list):
                given = dict.fromkeys(text.strip() for text in value if isinstance(text, str))
                labels.setdefault(str(row.get("id", id(row))), {}).update(given)
    shapes, size = [], None
    for row in rows:
        kind = _kind(row)
        if kind not in _KINDS or (kind == "vector" and not row["value"].get("closed")):
            if kind not in ("", "choices", "text", "textarea"):
                skipped.add_shape(f"results of the type {str(row.get('type'))[:80]!r}", name)
            continue
        stated = (row.get("original_height"), row.get("original_width"))
        if all(type(side) is int and side > 0 for side in stated):
            size = stated
        label, *further = labels.get(str(row.get("id", id(row)))) or [""]
        if not label:
            skipped.add_shape("regions without a label", name)
            continue
        for text in further:
            skipped.add(
                f"further labels of a region, of which the first was taken: {text[:80]!r}", name
            )
        names[label] = None
        shapes.append(
            Shape(label, partial(_draw, kind, row["value"], row.get("image_rotation") or 0))
        )
    split = (
        split_of(*path.relative_to(source.root).parts[:-1])
        if path.is_relative_to(source.root)
        else ""
    )
    return AnnotatedImage(name, path.parent, shapes, size, split)  # type: ignore[arg-type]


def _draw(kind: str, value: dict[str, Any], rotation: object, size: Size) -> Region:
    if kind in _UNDRAWN:
        raise UnusableShape(f"regions of the type {kind!r}: expected polygons or brushes")
    if rotation:
        raise UnusableShape("images that were turned in Label Studio")
    if kind == "brush":
        if not isinstance(value.get("rle"), list):
            raise UnusableShape("brush strokes without run lengths")
        return whole_region(label_studio_mask(value["rle"], size), size)
    percent = np.array([size[1], size[0]]) / 100
    if kind == "polygon":
        if value.get("closed") is False:
            raise EmptyShape("polygons that were not closed")
        return coco_polygons(
            [(points_of(value.get("points")) * percent).round(6)], size
        )  # keeps 20.5 exact
    keys = (
        ("x", "y", "width", "height") if kind == "rectangle" else ("x", "y", "radiusX", "radiusY")
    )
    (x, y), (across, down) = check_points([value.get(key) for key in keys]) * percent
    turned = float(check_points([value.get("rotation") or 0, 0])[0, 0])
    if kind == "ellipse":
        return coco_polygons([ellipse_points(x, y, across, down, turned)], size)
    corners = np.array([[x, y], [x + across, y], [x + across, y + down], [x, y + down]])
    return coco_polygons(
        [rotated(corners, corners[0], turned)], size
    )  # around the upper left corner
