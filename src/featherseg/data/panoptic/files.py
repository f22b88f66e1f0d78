"""Panoptic segmentations on disk: PNGs whose colours are ids, and the JSON that describes them.

COCO's format (cocodataset.org/#format-data), to which Cityscapes is converted, too: each pixel of a
PNG has the id R + 256 G + 65536 B, 0 = void; NAME.json beside the folder NAME lists the segments of
every PNG.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from featherseg.core.errors import DataError, DataNotFound
from featherseg.core.files import write_atomic, write_text
from featherseg.data.images.decoding import image_channels, read_mask
from featherseg.data.panoptic.segments import Panoptic, Segment

MAX_ID = 256**3 - 1
"""The largest id in three bytes."""

MAX_JSON_BYTES = 2**30
"""Size above which a JSON is refused before it is read."""

SEGMENTS = '"segments_info"'
"""A key that no JSON of another format has."""

CITYSCAPES_IMAGE = "_leftImg8bit"

_Row = Mapping[str, Any]

ID, CATEGORY, AREA, IS_CROWD = range(4)
"""Columns of an annotation's segments."""


@dataclass(frozen=True)
class Annotation:
    """One PNG in a JSON: its image, its name, and its segments (S, 4) int64; area 0 = unknown."""

    image_id: int | str
    file_name: str
    segments: np.ndarray

    def dicts(self) -> list[Segment]:
        """Return the segments as COCO has them, without boxes."""
        return [
            {"id": i, "category_id": category, "iscrowd": crowd} | ({"area": area} if area else {})
            for i, category, area, crowd in self.segments.tolist()
        ]


@dataclass(frozen=True)
class PanopticJson:
    """The annotations of a JSON in its order, and {id: category}, empty without categories."""

    annotations: tuple[Annotation, ...]
    categories: Mapping[int, Mapping[str, Any]]


def to_colors(ids: np.ndarray) -> np.ndarray:
    """Return ids (H, W), 0..MAX_ID, as colours (H, W, 3) uint8. Raises DataError for others."""
    if ids.size and (ids.min() < 0 or ids.max() > MAX_ID):
        raise DataError(
            f"ids from {ids.min()} to {ids.max()} do not fit a PNG of three bytes: expected 0 to "
            f"{MAX_ID}."
        )
    wide = ids.astype(np.int32)
    return np.stack([wide & 255, wide >> 8 & 255, wide >> 16], axis=2).astype(np.uint8)  # (H, W, 3)


def from_colors(colors: np.ndarray) -> np.ndarray:
    """Return colours (H, W, 3) uint8 as ids (H, W) int32, 0..MAX_ID."""
    red, green, blue = (colors[:, :, band].astype(np.int32) for band in range(3))
    return red | green << 8 | blue << 16


def read_ids(path: Path) -> np.ndarray:
    """Return the ids (H, W) int32 of a PNG in colours or with a palette. Raises as `read_mask`."""
    if image_channels(path) != 3:
        raise DataError(
            f"{path} is a grey image: expected colours that encode ids (R + 256 G + 65536 B)."
        )
    return from_colors(read_mask(path, colors=True))


def write_ids(path: Path, ids: np.ndarray) -> None:
    """Write ids (H, W), 0..MAX_ID, as a PNG atomically. Raises DataError for others."""
    write_atomic(path, partial(Image.fromarray(to_colors(ids)).save, format="PNG"))


def read_panoptic_json(path: Path) -> PanopticJson:
    """Read a panoptic JSON.

    Raises DataNotFound for a missing file, and DataError for one that is no panoptic JSON, lists an
    id or a file twice, or has file names that lead out of the folder.
    """
    return panoptic_json_of(path, _load(path))


def panoptic_json_of(path: Path, content: Any) -> PanopticJson:
    """Return the `content` of a file as `read_panoptic_json` does."""
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise DataError(
            f"{path} is not a panoptic JSON: expected an object with a list 'annotations'."
        )
    annotations = tuple(
        _annotation(path, number, row) for number, row in enumerate(content["annotations"])
    )
    for key in ("image_id", "file_name"):
        values = [getattr(annotation, key) for annotation in annotations]
        value, count = Counter(values).most_common(1)[0] if values else ("", 0)
        if count > 1:
            raise DataError(
                f"{path}: two annotations have the {key} {value!r}. Keep one per image."
            )
    return PanopticJson(annotations, rows_by_id(path, content, "categories"))


def rows_by_id(path: Path, content: Mapping[str, Any], key: str) -> dict[Any, Mapping[str, Any]]:
    """Return {id: object} of the list `key`, which may be missing. Raises DataError."""
    rows = content.get(key, [])
    if not isinstance(rows, list) or not all(
        isinstance(r, dict) and isinstance(r.get("id"), int | str) for r in rows
    ):
        raise DataError(f"{path}: {key!r} is not a list of objects with an 'id'.")
    return {row["id"]: row for row in rows}


class PanopticWriter:
    """Writes segmentations into a folder of PNGs, and then the JSON of the same name beside it.

    `folder` "out/panoptic_val" gives out/panoptic_val/*.png and out/panoptic_val.json, which
    official tools read as ground truth and as prediction. Files are written atomically, the JSON
    last. Files that would have the same image id have their name as id instead.
    """

    def __init__(self, folder: Path, categories: Sequence[Mapping[str, Any]]) -> None:
        self.folder, self.categories = folder, list(categories)
        self.path = folder.with_name(f"{folder.name}.json")
        self._rows: dict[str, tuple[_Row | None, _Row]] = {}  # {file_name: (image, annotation)}

    def keep(self, there: Callable[[str], bool], replaced: Collection[str]) -> None:
        """Keep the rows of an existing JSON whose PNGs are `there`; `add` replaces them.

        Raises DataError for a JSON that cannot be read, and for other categories, unless all of its
        rows will be `replaced`: then none is kept.
        """
        content = _load(self.path)
        existing = panoptic_json_of(self.path, content)
        images = rows_by_id(self.path, content, "images")
        rows: dict[str, tuple[_Row | None, _Row]] = {}
        for annotation, raw in zip(existing.annotations, content["annotations"], strict=True):
            name, image_id = annotation.file_name, annotation.image_id
            new_id = official_id(name.removesuffix(".png")) if image_id == name else image_id
            if there(name):
                rows[name] = (images.get(image_id), {**raw, "image_id": new_id, "file_name": name})
        # Rows by other classes mean something else
        ours, theirs = (
            {row["id"]: (row.get("name"), row.get("isthing")) for row in categories}
            for categories in (self.categories, existing.categories.values())
        )
        if ours == theirs:
            self._rows = rows
        elif rows.keys() - set(replaced):
            raise DataError(
                f"{self.path} lists images with other classes: expected the same classes for all "
                "of them."
            )

    def lists(self, file_name: str) -> bool:
        """Return whether the JSON lists the PNG of that name."""
        return file_name in self._rows

    def add(
        self,
        image_id: int | str,
        image: str,
        file_name: str,
        panoptic: Panoptic,
        *,
        draw: bool = True,
    ) -> None:
        """Add the segmentation of `image` as the PNG `file_name`, in place of an earlier one.

        Without `draw` the PNG exists.
        """
        ids, segments = panoptic
        if draw:
            write_ids(self.folder / _inside(file_name, str(self.folder)), ids)
        height, width = ids.shape
        self._rows[file_name] = (
            {"id": image_id, "file_name": image, "height": height, "width": width},
            {"image_id": image_id, "file_name": file_name, "segments_info": segments},
        )

    def finish(self) -> Path:
        """Write the JSON, return its path."""
        ids = {name: annotation["image_id"] for name, (_, annotation) in self._rows.items()}
        # Images with one id, such as 1.png and 001.png, get their names instead
        while shared := {i for i, count in Counter(ids.values()).items() if count > 1}:
            ids = {name: name if i in shared else i for name, i in ids.items()}
        content = {
            "images": [
                {**image, "id": ids[name]} for name, (image, _) in self._rows.items() if image
            ],
            "annotations": [
                {**row, "image_id": ids[name]} for name, (_, row) in self._rows.items()
            ],
            "categories": self.categories,
        }
        write_text(self.path, json.dumps(content, ensure_ascii=False) + "\n")
        return self.path


def official_id(name: str) -> int | str:
    """Return the image id of a file name without ending: a number, or without _leftImg8bit."""
    return int(name) if name.isascii() and name.isdigit() else name.removesuffix(CITYSCAPES_IMAGE)


def _load(path: Path) -> Any:
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise DataError(
                f"{path} has {size:,} bytes, the limit is {MAX_JSON_BYTES:,}. Cut it into parts."
            )
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataNotFound(f"{path} does not exist.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}.") from error


def _annotation(path: Path, number: int, row: Any) -> Annotation:
    """Return an annotation. Raises DataError for what is missing or wrong in it."""
    where = f"{path}, annotation {number}"
    if not isinstance(row, dict) or not isinstance(row.get("segments_info"), list):
        raise DataError(f"{where} has no list 'segments_info': is this a JSON for another task?")
    image_id, file_name = row.get("image_id"), row.get("file_name")
    if not isinstance(image_id, int | str) or not isinstance(file_name, str):
        raise DataError(f"{where} lacks 'image_id' (a number or a name) or 'file_name'.")
    segments = [_segment(f"{where} ({file_name})", segment) for segment in row["segments_info"]]
    if len({segment[ID] for segment in segments}) < len(segments):
        raise DataError(
            f"{where} ({file_name}) lists an id twice: expected every id of its PNG once."
        )
    return Annotation(
        image_id,
        str(_inside(file_name, where)),
        np.array(segments, dtype=np.int64).reshape(-1, IS_CROWD + 1),
    )


def _segment(where: str, segment: Any) -> tuple[int, int, int, int]:
    """Return (id, category, area, crowd) of a segment. Raises DataError for impossible values."""
    values = segment if isinstance(segment, dict) else {}
    defaults = {"id": 0, "category_id": -1, "area": 0, "iscrowd": 0}
    row = tuple(values.get(key, default) for key, default in defaults.items())
    integers = all(isinstance(value, int) for value in row)
    if not integers or not (0 < row[ID] <= MAX_ID and row[CATEGORY] >= 0):
        raise DataError(
            f"{where} has the segment {segment!r}: expected whole numbers, an id from 1 to "
            f"{MAX_ID}, a category_id, and optionally area and iscrowd."
        )
    return row[ID], row[CATEGORY], max(0, row[AREA]), int(bool(row[IS_CROWD]))


def _inside(file_name: str, where: str) -> PurePosixPath:
    """Return the name as a path below the folder. Raises DataError if it leads out of it."""
    path = PurePosixPath(file_name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or not path.name
        or "\\" in file_name
        or "\0" in file_name
    ):
        raise DataError(
            f"{where} names the file {file_name!r}: expected a name inside the folder of masks."
        )
    return path
