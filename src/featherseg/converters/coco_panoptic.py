"""COCO panoptic: NAME.json, and a folder of PNGs with segment ids as colours.

A segment id is R + 256 G + 65536 B. Format: cocodataset.org/#format-data. Categories with `isthing`
become [things]; their segments are the objects.
"""

from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from featherseg.converters.annotations import (
    AnnotatedImage,
    Annotations,
    Raster,
    SkippedItems,
    UnusableShape,
    class_values,
    color_of,
)
from featherseg.converters.rasters import Stems
from featherseg.converters.source import Source, name_form, nothing_readable, read_json, split_of
from featherseg.core.errors import DataError
from featherseg.core.files import mentions
from featherseg.core.types import IGNORE, Color
from featherseg.data.panoptic.files import (
    CATEGORY,
    ID,
    IS_CROWD,
    SEGMENTS,
    Annotation,
    PanopticJson,
    panoptic_json_of,
    read_ids,
    rows_by_id,
)

TITLE = "COCO panoptic"


def find(source: Source) -> list[Path]:
    """Return the JSON files of this format.

    None if their PNGs are missing beside COCO's instances.
    """
    paths = [
        path
        for path, ends in source.jsons
        if SEGMENTS in ends
        or (
            ("panoptic" in path.name.lower() or path.with_suffix("").is_dir())
            and mentions(path, SEGMENTS.encode())
        )
    ]
    with_pngs = any(path.stem in image.parent.parts for path in paths for image in source.images)
    instances = any(path.name.startswith("instances_") for path, _ in source.jsons)
    return paths if with_pngs or not instances else []


def read(source: Source, files: list[Path]) -> Annotations:
    """Return the annotations of all files, with the categories joined by name.

    Raises DataError, DataNotFound.
    """
    skipped, things, classes = SkippedItems(), set[str](), dict[str, Color | None]()
    read_files = []
    for path in files:
        content = read_json(path)
        listed, images = panoptic_json_of(path, content), rows_by_id(path, content, "images")
        names = _names(path, listed)
        for number, row in listed.categories.items():
            classes.setdefault(names[number], color_of(row.get("color")))
            things |= {names[number]} if row.get("isthing", 1) else set()
        files_of = {row: str(image.get("file_name") or "") for row, image in images.items()}
        read_files.append((path, listed, names, files_of, _masks(source, path, listed)))
    values, masks = (
        class_values(classes),
        {mask for *_, masks_by_name in read_files for mask in masks_by_name.values()},
    )
    folders = {mask.parent for mask in masks}
    masks |= {
        path for path in source.images if path.parent in folders and path.suffix.lower() == ".png"
    }
    stems, annotated = Stems(source, masks), list[AnnotatedImage]()
    for path, listed, names, files_of, masks_by_name in read_files:
        split = split_of(path.stem, *path.parent.relative_to(source.root).parts[::-1])
        for annotation in listed.annotations:
            mask = masks_by_name.get(annotation.file_name)
            if mask is None:
                skipped.add("panoptic PNGs that are not there", annotation.file_name)
                continue
            name = PurePosixPath(files_of.get(annotation.image_id) or annotation.file_name).name
            image = stems.image_of(mask.with_name(name), "")
            draw = partial(_raster, mask, annotation, names, values, things)
            annotated.append(AnnotatedImage(image.name, image.parent, split=split, raster=draw))
    if not annotated:
        raise nothing_readable(source, "image with a panoptic PNG")
    return Annotations(
        classes, annotated, with_objects=bool(things), skipped=skipped, masks=masks, things=things
    )


def _names(path: Path, listed: PanopticJson) -> dict[int, str]:
    """Return category id -> name. Raises DataError for a category without a name."""
    names = {
        number: str(row.get("name") or "").strip() for number, row in listed.categories.items()
    }
    if nameless := [number for number, name in names.items() if not name]:
        raise DataError(f"{path} has the category {nameless[0]} without a name. Give it one.")
    return names


def _masks(source: Source, path: Path, listed: PanopticJson) -> dict[str, Path]:
    """Return name in the JSON -> its PNG.

    The PNGs lie in the folder named like the JSON, else in one called "panoptic". Raises DataError
    if none of them exists.
    """
    named = [path.with_suffix(""), source.root / path.stem, path.parent.parent / path.stem]
    there: dict[str, dict[str, Path]] = {}
    for image in source.images:
        for folder in (
            folder
            for folder in image.parents
            if folder in named or "panoptic" in folder.name.lower()
        ):
            there.setdefault(str(folder), {})[name_form(image.relative_to(folder).as_posix())] = (
                image
            )
    names = {
        annotation.file_name: name_form(annotation.file_name) for annotation in listed.annotations
    }
    for place in (*map(str, named), *there):
        files = there.get(place, {})
        if existing := {name: files[form] for name, form in names.items() if form in files}:
            return existing
    if names:
        raise DataError(
            f"{path} lists segments of PNGs that are not there, first {next(iter(names))}. Put "
            f"them into the folder {source.relative(named[0])} beside it."
        )
    return {}


def _raster(
    path: Path,
    annotation: Annotation,
    names: dict[int, str],
    values: dict[str, int],
    things: set[str],
) -> Raster:
    """Return the mask of a PNG.

    Raises UnusableShape for a segment that the JSON does not list, or without a category.
    """
    drawn = read_ids(path)  # (H, W)
    ids, places = np.unique(drawn, return_inverse=True)
    row_of = {int(row[ID]): row for row in annotation.segments}
    value, number = np.full(len(ids), IGNORE, np.uint8), np.zeros(len(ids), np.int32)
    for place, segment_id in enumerate(ids.tolist()):
        if segment_id == 0:  # void
            continue
        if segment_id not in row_of:
            raise UnusableShape("panoptic PNGs with segments that the JSON does not list")
        name = names.get(int(row_of[segment_id][CATEGORY]))
        if name is None:
            raise UnusableShape("segments of a category that the JSON does not name")
        value[place] = values[name]
        has_object = name in things and not row_of[segment_id][IS_CROWD]
        number[place] = place + 1 if has_object and 0 < values[name] < IGNORE else 0
    return Raster(value[places].reshape(drawn.shape), number[places].reshape(drawn.shape))
