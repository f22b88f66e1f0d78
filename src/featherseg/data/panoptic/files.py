"""Panoptic segmentations on disk: PNGs whose colours are ids, and the JSON that says what each id is.

COCO's format (cocodataset.org/#format-data), into which Cityscapes is converted too: a PNG holds the id
R + 256 G + 65536 B at every pixel, 0 = void; NAME.json beside the folder NAME lists the segments of every PNG.
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
"""The largest id that three bytes hold."""

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
    """What a JSON says of one PNG: its name, its image, and its segments (S, 4) int64; an area of 0 is not known."""

    image_id: int | str
    file_name: str
    segments: np.ndarray

    def dicts(self) -> list[Segment]:
        """The segments as COCO has them, without boxes."""
        return [
            {"id": i, "category_id": category, "iscrowd": crowd} | ({"area": area} if area else {})
            for i, category, area, crowd in self.segments.tolist()
        ]


@dataclass(frozen=True)
class PanopticJson:
    """The annotations of a JSON in its order, and its categories by id (none where it names none)."""

    annotations: tuple[Annotation, ...]
    categories: Mapping[int, Mapping[str, Any]]


def to_colors(ids: np.ndarray) -> np.ndarray:
    """Ids (H, W), 0..MAX_ID -> (H, W, 3) uint8. Raises DataError for an id outside."""
    if ids.size and (ids.min() < 0 or ids.max() > MAX_ID):
        raise DataError(
            f"ids from {ids.min()} to {ids.max()} do not fit a PNG of three bytes: expected 0 to {MAX_ID}."
        )
    wide = ids.astype(np.int32)
    return np.stack([wide & 255, wide >> 8 & 255, wide >> 16], axis=2).astype(np.uint8)  # (H, W, 3)


def from_colors(colors: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> ids (H, W) int32, 0..MAX_ID."""
    red, green, blue = (
        colors[:, :, band].astype(np.int32) for band in range(3)
    )  # 256 * uint8 would overflow
    return red | green << 8 | blue << 16


def read_ids(path: Path) -> np.ndarray:
    """The ids (H, W) int32 of a PNG in colours or with a palette. Raises what `read_mask` raises."""
    return from_colors(_read_colors(path))


def write_ids(path: Path, ids: np.ndarray) -> None:
    """Write ids (H, W), 0..MAX_ID, as a PNG, whole or not at all. Raises DataError for an id outside."""
    write_atomic(path, partial(Image.fromarray(to_colors(ids)).save, format="PNG"))


def read_panoptic_json(path: Path) -> PanopticJson:
    """The annotations of a panoptic JSON.

    Raises DataNotFound for a missing file and DataError, naming the annotation, for one that is no panoptic JSON, that
    lists an id or a file twice, or whose file names lead out of the folder.
    """
    return panoptic_json_of(path, _load(path))


def panoptic_json_of(path: Path, content: Any) -> PanopticJson:
    """What `read_panoptic_json` gives of a file that holds `content`."""
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise DataError(
            f"{path} is not a panoptic JSON: expected an object with a list 'annotations'."
        )
    annotations = tuple(
        _annotation(path, number, row) for number, row in enumerate(content["annotations"])
    )
    for key in ("image_id", "file_name"):
        values = [getattr(annotation, key) for annotation in annotations]
        twice, times = Counter(values).most_common(1)[0] if values else ("", 0)
        if times > 1:
            raise DataError(
                f"{path}: two annotations have the {key} {twice!r}. Keep one per image."
            )
    return PanopticJson(annotations, rows_by_id(path, content, "categories"))


def rows_by_id(path: Path, content: Mapping[str, Any], key: str) -> dict[Any, Mapping[str, Any]]:
    """id -> object of the list `key`, which may be missing. Raises DataError."""
    rows = content.get(key, [])
    if not isinstance(rows, list) or not all(
        isinstance(r, dict) and isinstance(r.get("id"), int | str) for r in rows
    ):
        raise DataError(f"{path}: {key!r} is not a list of objects with an 'id'.")
    return {row["id"]: row for row in rows}


class PanopticWriter:
    """Writes segmentations into a folder of PNGs, and at the end the JSON of the same name beside it.

    `folder` "out/panoptic_val" makes out/panoptic_val/*.png and out/panoptic_val.json, which official tools take as
    ground truth and as prediction. Every file is written whole or not at all; the JSON is the last.

    Files that would have one image id have, each of them, their name in the folder instead, whichever came first.
    """

    def __init__(self, folder: Path, categories: Sequence[Mapping[str, Any]]) -> None:
        self.folder, self.categories = folder, list(categories)
        self.path = folder.with_name(f"{folder.name}.json")
        self._rows: dict[
            str, tuple[_Row | None, _Row]
        ] = {}  # by file_name: its image, its annotation

    def keep(self, there: Callable[[str], bool], replaced: Collection[str]) -> None:
        """List what the JSON that is there lists and `add` does not add anew, where `there` is true of the PNG's name.

        Raises DataError for one that cannot be read, and for one of other categories, unless all that it lists is to be
        `replaced`, of which then nothing is kept.
        """
        content = _load(self.path)
        listed, images = (
            panoptic_json_of(self.path, content),
            rows_by_id(self.path, content, "images"),
        )
        rows: dict[str, tuple[_Row | None, _Row]] = {}
        for annotation, raw in zip(listed.annotations, content["annotations"], strict=True):
            name, number = annotation.file_name, annotation.image_id
            wanted = official_id(name.removesuffix(".png")) if number == name else number
            if there(name):
                rows[name] = (images.get(number), {**raw, "image_id": wanted, "file_name": name})
        ours, theirs = (
            {row["id"]: (row.get("name"), row.get("isthing")) for row in categories}
            for categories in (self.categories, listed.categories.values())
        )
        if ours == theirs:
            self._rows = rows
        elif rows.keys() - set(replaced):
            raise DataError(
                f"{self.path} lists images by other classes: expected one list of classes for all of them."
            )

    def lists(self, file_name: str) -> bool:
        """Whether the JSON lists the PNG of that name."""
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
        """Add one segmentation of the image `image` as the PNG `file_name`; without `draw` the PNG is there.

        It takes the place of what was listed of that PNG.
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
        """Write the JSON; returns its path."""
        ids = {name: annotation["image_id"] for name, (_, annotation) in self._rows.items()}
        while twice := {i for i, times in Counter(ids.values()).items() if times > 1}:
            ids = {name: name if i in twice else i for name, i in ids.items()}
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
    """The image id of a file's name without ending: COCO's are numbers, Cityscapes' lack the kind of the file."""
    return int(name) if name.isascii() and name.isdigit() else name.removesuffix(CITYSCAPES_IMAGE)


def _read_colors(path: Path) -> np.ndarray:
    if image_channels(path) != 3:
        raise DataError(
            f"{path} is a grey image: expected colours that encode ids (R + 256 G + 65536 B)."
        )
    return read_mask(path, colors=True)  # (H, W, 3)


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
    """One annotation; raises DataError for what is missing or wrong in it."""
    where = f"{path}, annotation {number}"
    if not isinstance(row, dict) or not isinstance(row.get("segments_info"), list):
        raise DataError(f"{where} has no list 'segments_info': is this a JSON for another task?")
    image_id, file_name = row.get("image_id"), row.get("file_name")
    if not isinstance(image_id, int | str) or not isinstance(file_name, str):
        raise DataError(f"{where} lacks 'image_id' (a number or a name) or 'file_name'.")
    segments = [_segment(f"{where} ({file_name})", segment) for segment in row["segments_info"]]
    if len({segment[ID] for segment in segments}) < len(segments):
        raise DataError(
            f"{where} ({file_name}) lists one id twice: expected every id of its PNG once."
        )
    return Annotation(
        image_id,
        str(_inside(file_name, where)),
        np.array(segments, dtype=np.int64).reshape(-1, IS_CROWD + 1),
    )


def _segment(where: str, segment: Any) -> tuple[int, int, int, int]:
    """(id, category, area, crowd) of a segment; raises DataError for values that cannot be."""
    values = segment if isinstance(segment, dict) else {}
    row = tuple(
        values.get(key, missing)
        for key, missing in (("id", 0), ("category_id", -1), ("area", 0), ("iscrowd", 0))
    )
    if not all(isinstance(value, int) for value in row) or not (
        0 < row[ID] <= MAX_ID and row[CATEGORY] >= 0
    ):
        raise DataError(
            f"{where} has the segment {segment!r}: expected whole numbers, an id from 1 to {MAX_ID}, a category_id, "
            "and optionally area and iscrowd."
        )
    return row[ID], row[CATEGORY], max(0, row[AREA]), int(bool(row[IS_CROWD]))


def _inside(file_name: str, where: str) -> PurePosixPath:
    """The name as a path below the folder; raises DataError for one that leads out of it."""
    path = PurePosixPath(file_name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or not path.name
        or "\\" in file_name
        or "\0" in file_name
    ):
        raise DataError(
            f"{where} names the file {file_name!r}: expected a name inside the folder of the masks."
        )
    return path
