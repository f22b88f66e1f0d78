"""COCO's panoptic format: NAME.json, and a folder of PNGs whose colours are ids of segments (R + 256 G + 65536 B).

Format: cocodataset.org/#format-data. Categories with `isthing` become [things]; their segments are the objects.
"""

from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from featherseg.converters.annotations import (
    AnnotatedImage,
    Annotations,
    Left,
    Raster,
    UnusableShape,
    class_values,
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
    """The JSON files of this format; none beside COCO's instances where their PNGs are not there."""
    found = [
        path
        for path, ends in source.jsons
        if SEGMENTS in ends
        or (("panoptic" in path.name.lower() or path.with_suffix("").is_dir()) and mentions(path, SEGMENTS.encode()))
    ]
    with_pngs = any(path.stem in image.parent.parts for path in found for image in source.images)
    instances = any(path.name.startswith("instances_") for path, _ in source.jsons)
    return found if with_pngs or not instances else []


def read(source: Source, files: list[Path]) -> Annotations:
    """All annotations of the files, the names of categories joined over them. Raises DataError, DataNotFound."""
    left, things, classes = Left(), set[str](), dict[str, Color | None]()
    read_files = []
    for path in files:
        content = read_json(path)
        listed, images = panoptic_json_of(path, content), rows_by_id(path, content, "images")
        names = _names(path, listed)
        for number, row in listed.categories.items():
            classes.setdefault(names[number], _color(row.get("color")))
            things |= {names[number]} if row.get("isthing", 1) else set()
        files_of = {row: str(image.get("file_name") or "") for row, image in images.items()}
        read_files.append((path, listed, names, files_of, _masks(source, path, listed)))
    values, masks = class_values(classes), {mask for *_, found in read_files for mask in found.values()}
    folders = {mask.parent for mask in masks}
    masks |= {path for path in source.images if path.parent in folders and path.suffix.lower() == ".png"}
    stems, annotated = Stems(source, masks), list[AnnotatedImage]()
    for path, listed, names, files_of, found in read_files:
        split = split_of(path.stem, *path.parent.relative_to(source.root).parts[::-1])
        for annotation in listed.annotations:
            mask = found.get(annotation.file_name)
            if mask is None:
                left.add("panoptic PNGs that are not there", annotation.file_name)
                continue
            name = PurePosixPath(files_of.get(annotation.image_id) or annotation.file_name).name
            image = stems.image_of(mask.with_name(name), "")
            draw = partial(_raster, mask, annotation, names, values, things)
            annotated.append(AnnotatedImage(image.name, image.parent, split=split, raster=draw))
    if not annotated:
        raise nothing_readable(source, "image with a panoptic PNG")
    return Annotations(classes, annotated, with_objects=bool(things), left=left, masks=masks, things=things)


def _names(path: Path, listed: PanopticJson) -> dict[int, str]:
    """Category id -> name. Raises DataError for a category without one."""
    names = {number: str(row.get("name") or "").strip() for number, row in listed.categories.items()}
    if nameless := [number for number, name in names.items() if not name]:
        raise DataError(f"{path} has the category {nameless[0]} without a name. Give it one.")
    return names


def _color(color: object) -> Color | None:
    known = isinstance(color, list) and len(color) == 3 and all(type(c) is int and 0 <= c < 256 for c in color)
    return tuple(color) if known else None  # type: ignore[arg-type, return-value]


def _masks(source: Source, path: Path, listed: PanopticJson) -> dict[str, Path]:
    """Name in the JSON -> its PNG, in the folder that is called as the JSON, else one of panoptic PNGs.

    Raises DataError where none of them is there.
    """
    named = [path.with_suffix(""), source.root / path.stem, path.parent.parent / path.stem]
    there: dict[str, dict[str, Path]] = {}
    for image in source.images:
        for folder in (folder for folder in image.parents if folder in named or "panoptic" in folder.name.lower()):
            there.setdefault(str(folder), {})[name_form(image.relative_to(folder).as_posix())] = image
    names = {annotation.file_name: name_form(annotation.file_name) for annotation in listed.annotations}
    for place in (*map(str, named), *there):
        files = there.get(place, {})
        if found := {name: files[form] for name, form in names.items() if form in files}:
            return found
    if names:
        raise DataError(
            f"{path} lists segments of PNGs that are not there, first {next(iter(names))}. Put them into the folder "
            f"{source.relative(named[0])} beside it."
        )
    return {}


def _raster(
    path: Path, annotation: Annotation, names: dict[int, str], values: dict[str, int], things: set[str]
) -> Raster:
    """The masks of a PNG. Raises UnusableShape for a segment that the JSON does not list, or of no category."""
    drawn = read_ids(path)  # (H, W)
    ids, places = np.unique(drawn, return_inverse=True)
    row_of = {int(row[ID]): row for row in annotation.segments}
    value, number = np.full(len(ids), IGNORE, np.uint8), np.zeros(len(ids), np.int32)
    for place, one in enumerate(ids.tolist()):
        if one == 0:  # void
            continue
        if one not in row_of:
            raise UnusableShape("panoptic PNGs with segments that the JSON does not list")
        name = names.get(int(row_of[one][CATEGORY]))
        if name is None:
            raise UnusableShape("segments of a category that the JSON does not name")
        value[place] = values[name]
        number[place] = place + 1 if name in things and not row_of[one][IS_CROWD] and 0 < values[name] < IGNORE else 0
    return Raster(value[places].reshape(drawn.shape), number[places].reshape(drawn.shape))
