"""COCO instances, also as exported by Roboflow: one JSON per split, polygons or run lengths."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from featherseg.converters import coco_panoptic
from featherseg.converters.annotations import (
    AnnotatedImage,
    Annotations,
    EmptyShape,
    Region,
    Shape,
    SkippedItems,
    UnusableShape,
    color_of,
    draw_box,
    unusable,
)
from featherseg.converters.masks import MaskedImage, Masks, Part, parts_of, place
from featherseg.converters.pixel_rules import coco_polygons, points_of
from featherseg.converters.regions import runs_of
from featherseg.converters.run_lengths import coco_counts, region_of_counts
from featherseg.converters.source import Source, nothing_readable, read_json, split_of
from featherseg.core.errors import DataError
from featherseg.core.types import Color, Size
from featherseg.data.panoptic.files import SEGMENTS

TITLE = "COCO"


OTHER_TASKS = ("captions_", "image_info_", "panoptic_", "person_keypoints_", "stuff_")
"""Prefixes of the files in COCO's own release that list the images of instances_*.json again."""


def find(source: Source) -> list[Path]:
    """Return the JSON files of this format; of COCO's own release only those with instances."""
    panoptic = coco_panoptic.find(source)
    paths = [
        path
        for path, ends in source.jsons
        if ('"images"' in ends or '"annotations"' in ends)
        and ('"categories"' in ends or '"category_id"' in ends)
        and SEGMENTS not in ends
        and path not in panoptic
        and not any(
            key in ends for key in ('"dm_format_version"', '"from_name"', '"was_cancelled"')
        )
    ]
    if any(path.name.startswith("instances_") for path in paths):
        return [path for path in paths if not path.name.startswith(OTHER_TASKS)]
    return paths


def read(source: Source, files: list[Path]) -> Annotations:
    """Return the annotations of all files, with the categories joined by name.

    Raises DataError, DataNotFound.
    """
    skipped, notes, licences = SkippedItems(), list[str](), set[str]()
    classes: dict[str, Color | None] = {}
    images: list[AnnotatedImage] = []
    for path in files:
        content = read_json(path)
        if not isinstance(content, dict):
            raise DataError(
                f"{path} is no COCO file: expected an object with images, annotations and "
                "categories."
            )
        rows = {key: _rows(path, content, key) for key in ("images", "annotations", "categories")}
        used = Counter(
            str(row.get("category_id"))
            for row in rows["annotations"]
            if _is_id(row.get("category_id"))
        )
        categories = _categories(path, rows["categories"], used, notes)
        for row in rows["categories"]:  # COCO Annotator adds a colour
            if name := categories.get(row["id"]):
                classes[name] = classes.get(name) or color_of(row.get("color"))
        split = split_of(path.stem, *path.parent.relative_to(source.root).parts[::-1])
        images += _images(path, rows, categories, split, skipped)
        if isinstance(listed := content.get("licenses"), list):
            licences |= {str(row.get("name") or "") for row in listed if isinstance(row, dict)}
    if not images:
        raise nothing_readable(source, "image with annotations of COCO")
    licence = licences.pop() if len(licences) == 1 else "not stated"
    return Annotations(
        classes, images, licence=licence or "not stated", notes=notes, skipped=skipped
    )


def _rows(path: Path, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    rows = content.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} has no list {key!r}: is it a COCO file of another task?")
    return rows


def _categories(
    path: Path, rows: list[dict[str, Any]], used: Counter[str], notes: list[str]
) -> dict[Any, str]:
    """Return category id -> name.

    Ids may have gaps, and several ids may share a name. Roboflow's first category is its project's
    name and no class.
    """
    categories: dict[Any, str] = {}
    parents = {str(row.get("supercategory")) for row in rows}
    for row in rows:
        number, name = row.get("id"), row.get("name")
        if not isinstance(name, str) or not name.strip() or not _is_id(number):
            raise DataError(
                f"{path} has the category {row!r}: expected an id and a name. Give it a name."
            )
        if categories.setdefault(number, name.strip()) != name.strip():
            raise DataError(
                f"{path} has two categories of the id {number}: {categories[number]!r} and "
                f"{name!r}."
            )
        if (
            name in parents
            and str(row.get("supercategory")) == "none"
            and not used[str(number)]
            and len(rows) > 1
        ):
            del categories[number]
            notes.append(f"{name!r} is only the name of Roboflow's project, and no class")
    for name, times in Counter(categories.values()).items():
        if times > 1:
            notes.append(
                f"{times} categories of {path.name} are called {name!r}: they are one class"
            )
    return categories


def _images(
    path: Path,
    rows: dict[str, list[dict[str, Any]]],
    categories: dict[Any, str],
    split: str,
    skipped: SkippedItems,
) -> list[AnnotatedImage]:
    shapes: dict[Any, list[Shape]] = {}
    named: dict[Any, str] = {}
    images = []
    for row in rows["images"]:
        name, number = row.get("file_name"), row.get("id")
        if not isinstance(name, str) or not name or not _is_id(number):
            raise DataError(
                f"{path} has the image {str(row)[:200]}: expected an id and a file_name."
            )
        size = (row.get("height"), row.get("width"))
        if not all(type(side) is int and side > 0 for side in size):
            size = None  # type: ignore[assignment]
        if named.setdefault(number, name) != name:
            raise DataError(
                f"{path} has two images of the id {number}, {named[number]!r} and {name!r}, so "
                "their annotations cannot be told apart. Give each image an id of its own."
            )
        image_shapes = shapes.setdefault(number, [])
        images.append(AnnotatedImage(name, path.parent, image_shapes, size, split))  # type: ignore[arg-type]
    images_of, categories_of = (
        {str(number): number for number in ids} for ids in (shapes, categories)
    )
    for row in rows["annotations"]:
        number = _listed(row.get("image_id"), shapes, images_of)
        if number is None:
            skipped.add_shape("annotations of images that are not listed", path.name)
            continue
        segmentation, category = (
            row.get("segmentation"),
            _listed(row.get("category_id"), categories, categories_of),
        )
        name = categories.get(category, "")
        unlisted = partial(unusable, "annotations of a category that is not listed")
        draw = draw_box if not segmentation else partial(_draw, segmentation) if name else unlisted
        shapes[number].append(Shape(name, draw, crowd=bool(row.get("iscrowd"))))
    return images


def _is_id(value: object) -> bool:
    return isinstance(value, int | str)


def _listed(number: object, ids: Mapping[Any, object], by_text: Mapping[str, Any]) -> Any:
    """Return the listed id equal to `number`, also across types (7 and "7"); None without one."""
    if not _is_id(number):
        return None
    return number if number in ids else by_text.get(str(number))


def _draw(segmentation: Any, size: Size) -> Region:
    if isinstance(segmentation, dict):
        if segmentation.get("size") != list(size):
            raise UnusableShape("run lengths of another size than the image")
        counts = segmentation.get("counts")
        counts = coco_counts(counts) if isinstance(counts, str) else counts
        return region_of_counts(counts if isinstance(counts, list) else [None], size)
    if isinstance(segmentation, list) and not any(isinstance(part, list) for part in segmentation):
        segmentation = [segmentation]  # one polygon, as some tools write it
    if not isinstance(segmentation, list) or not all(
        isinstance(part, list) for part in segmentation
    ):
        raise UnusableShape("segmentations that are neither polygons nor run lengths")
    polygons, empty = [], EmptyShape("shapes that cover no pixel of their image")
    for part in segmentation:
        try:
            polygons.append(points_of(part))
        except EmptyShape as error:
            empty = error
    if not polygons:
        raise empty
    return coco_polygons(polygons, size)


def write(folder: Path, masks: Masks, copy: bool) -> None:
    """Write annotations/instances_SPLIT.json and images/.

    Parts without holes become polygons, parts with holes and crowds become run lengths.
    """
    images = masks.images

    def placed() -> Iterator[MaskedImage]:
        for image in images:
            yield image
            place(image, folder / "images" / image.split, copy)

    masks.images = placed()
    for split, content in documents(masks).items():
        path = folder / "annotations" / f"instances_{split or 'default'}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def documents(masks: Masks) -> dict[str, dict[str, Any]]:
    """Return split -> the content of its file, with images, annotations and categories."""
    contents: dict[str, dict[str, Any]] = {}
    for image in masks.images:
        content = contents.setdefault(image.split, {"images": [], "annotations": []})
        height, width = size = image.mask.shape
        number = len(content["images"]) + 1
        content["images"].append(
            {"id": number, "file_name": image.name, "height": height, "width": width}
        )
        for part in parts_of(image, masks):
            ids = {"id": len(content["annotations"]) + 1, "image_id": number}
            ids["category_id"] = masks.number_of(part) + 1
            content["annotations"].append(ids | _segmentation(part, size, masks.tolerance))
    categories = [
        {"id": i, "name": name, "supercategory": ""}
        for i, name in enumerate(masks.colors(), start=1)
    ]
    return {split: content | {"categories": categories} for split, content in contents.items()}


def _segmentation(part: Part, size: Size, tolerance: float) -> dict[str, Any]:
    height, width = part.inside.shape
    outlines = part.outlines(tolerance)
    if part.crowd or any(holes for _, holes in outlines):
        segmentation: Any = {"size": list(size), "counts": runs_of(part.whole(size))[True].counts()}
    else:
        segmentation = [[number for point in ring for number in point] for ring, _ in outlines]
    return {
        "segmentation": segmentation,
        "area": int(part.inside.sum()),
        "bbox": [part.left, part.top, width, height],
        "iscrowd": int(part.crowd),
    }
