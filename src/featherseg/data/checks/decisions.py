"""What a person decided on the page of `featherseg audit`: read, checked against a dataset, and drawn into its masks.

A decision names the pixels that become another class, as runs over the mask as it was audited: every n-th pixel of a
large one. Each pixel of the mask belongs to the one of those that is nearest.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.core.errors import DataError, near_path
from featherseg.core.files import load_json
from featherseg.core.types import IGNORE, Size
from featherseg.core.wording import counted, size_text
from featherseg.data.images.pairs import Listing, Pair, read_ids

FORMAT = 1

AUDITED = ("train", "val")
"""The splits that are audited: faults of test would not spoil a training, and masks there are nobody's to look at."""

MOST_SIDE = 512
"""Pixels of the longer side at which masks are audited: every n-th pixel of larger ones. Regions stay regions."""

WORDS = ("accept", "keep", "skip")
"""Take what the prediction says there; the mask is right; not decided."""

_KEYS = {"decision", "key", "region", "size", "runs", "mask"}


@dataclass(frozen=True)
class Decision:
    """One word about one region of an image; `runs` (N, 3) are class, first pixel, pixels at `size` (height, width).

    mask: `mask_digest` of the mask it was decided on; None in a file that somebody wrote by hand.
    """

    word: str
    key: str
    region: int
    size: Size
    runs: np.ndarray
    mask: str | None


@dataclass
class Changes:
    """What decisions change: of every image with one that was accepted, its changed pixels at the size it was audited.

    classes: key -> (h, w) int16, -1 = as it is; pairs: key -> the files it is of; words: how often each was said.
    """

    classes: dict[str, np.ndarray] = field(default_factory=dict)
    pairs: dict[str, Pair] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)

    def draw(self, pair: Pair, ids: np.ndarray) -> np.ndarray:
        """The mask of a pair, (H, W) class ids, with what was accepted; ignored pixels (below 0, or 255) stay so."""
        if self.pairs.get(pair.key) != pair:
            return ids
        at = self.classes[pair.key]
        rows, columns = (
            _nearest(full, part) for full, part in zip(ids.shape, at.shape, strict=True)
        )
        wanted = at[rows[:, None], columns]
        return np.where((wanted >= 0) & (ids >= 0) & (ids != IGNORE), wanted, ids)


def audited_places(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """The rows and the columns of an image of `size` at which it is audited."""
    factor = min(1.0, MOST_SIDE / max(size))
    found = []
    for length in size:
        count = max(1, round(length * factor))
        found.append(((np.arange(count) + 0.5) * length / count).astype(np.int64))
    return found[0], found[1]


def mask_digest(label: np.ndarray) -> str:
    """By what a decision knows the mask (h, w) uint8 that it was made on, at the size that is audited."""
    return hashlib.sha256(label.tobytes()).hexdigest()[:16]


def read_decisions(path: Path) -> list[Decision]:
    """The decisions of a file that the page saved. Raises DataError with what is wrong in it."""
    try:
        content = load_json(path)
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist.{near_path(path)} Expected the decisions.json that *Save decisions* on the page of "
            "`featherseg audit` puts into the browser's downloads."
        ) from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}. Expected the file that an audit's page saves."
        ) from None
    except ValueError as error:
        raise DataError(
            f"{path} cannot be read: {error}. Expected what the page of `featherseg audit` saves."
        ) from None
    if not isinstance(content, dict) or not isinstance(rows := content.get("decisions"), list):
        raise DataError(f"{path} holds no decisions. Expected what an audit's page saves.")
    if content.get("format") != FORMAT:
        raise DataError(
            f"{path} has format {content.get('format')!r}, but this version reads {FORMAT}."
        )
    found = [
        _decision(row, f"{path}, decision {number}") for number, row in enumerate(rows, start=1)
    ]
    seen = set()
    for decision in found:
        place = (decision.key, decision.region)
        if place in seen:
            raise DataError(
                f"{path} decides twice on region {decision.region} of {decision.key!r}. Keep one of them."
            )
        seen.add(place)
    return found


def _decision(row: Any, where: str) -> Decision:
    if not isinstance(row, dict) or not _KEYS - {"mask"} <= row.keys() <= _KEYS:
        raise DataError(
            f"{where}: expected the keys {', '.join(sorted(_KEYS - {'mask'}))} (and mask)."
        )
    word, key, region, size, mask = (
        row["decision"],
        row["key"],
        row["region"],
        row["size"],
        row.get("mask"),
    )
    if word not in WORDS:
        raise DataError(
            f"{where}: decision is {str(word)[:40]!r}, expected one of {', '.join(WORDS)}."
        )
    if (
        not isinstance(key, str)
        or not (mask is None or isinstance(mask, str))
        or not _whole([region], 2**31)
    ):
        raise DataError(
            f"{where}: expected a text as key (and mask), and a whole number as region."
        )
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not _whole(size, MOST_SIDE**2)
        or not all(size)
    ):
        raise DataError(f"{where} ({key!r}): expected size as [height, width] in pixels.")
    runs = row["runs"]
    if not isinstance(runs, list) or not all(
        isinstance(run, list) and len(run) == 3 for run in runs
    ):
        raise DataError(
            f"{where} ({key!r}): expected runs as a list of [class, first pixel, pixels]."
        )
    if not all(_whole(run, 2**31) for run in runs):
        raise DataError(
            f"{where} ({key!r}): runs hold something else than whole numbers from 0 on."
        )
    table = np.array(runs, np.int64).reshape(-1, 3)
    return Decision(word, key, region, (size[0], size[1]), table, mask)


def _whole(values: Iterable[Any], below: int) -> bool:
    return all(type(value) is int and 0 <= value < below for value in values)


def changes_of(decisions: Sequence[Decision], listing: Listing, where: str) -> Changes:
    """What the decisions change in a dataset, checked against the masks they are about.

    Masks that cannot be read are passed over: they are faults. Raises DataError for a key that is not there, a class
    that is not, a mask of another size or content than was decided on, and runs that leave it or overlap.
    """
    pairs: dict[str, list[Pair]] = {}
    for split in AUDITED:
        for pair in listing.splits.get(split, ()):
            pairs.setdefault(pair.key, []).append(pair)
    found = Changes(words={word: sum(d.word == word for d in decisions) for word in WORDS})
    for decision in decisions:
        of = set(pairs.get(decision.key, ()))
        if not of:
            raise DataError(
                f"{where} decides on {decision.key!r}, which is no image of train or val of {listing.name}. "
                "Are the decisions of another dataset?"
            )
        if len(of) > 1:
            raise DataError(
                f"{where} decides on {decision.key!r}, but {listing.name} has {len(of)} images of that name in train "
                "and val. Give one of them another name, and audit again."
            )
        pair = of.pop()
        if decision.word == "accept" and pair.mask is not None and pair.image is not None:
            _accept(found, decision, pair, listing, where)
    return found


def _accept(found: Changes, decision: Decision, pair: Pair, listing: Listing, where: str) -> None:
    mask, (height, width) = pair.files[1], decision.size
    try:
        ids = read_ids(listing.masks_of(pair))
    except DataError:
        return
    rows, columns = audited_places((ids.shape[0], ids.shape[1]))
    if decision.size not in (ids.shape, (len(rows), len(columns))):
        raise DataError(
            f"{where} decides on {decision.key!r} at {size_text(decision.size)}, but {mask} is {size_text(ids.shape)} "
            f"and is audited at {size_text((len(rows), len(columns)))} (height x width). Audit these data again."
        )
    audited = np.where(ids < 0, IGNORE, ids)[rows[:, None], columns].astype(np.uint8)
    if decision.mask is not None and decision.mask != mask_digest(audited):
        raise DataError(
            f"{where} decides on {decision.key!r}, but {mask} has changed since, or is of another dataset. Audit these "
            "data again."
        )
    at = found.classes.setdefault(pair.key, np.full((height, width), -1, np.int16))
    found.pairs[pair.key] = pair
    if at.shape != decision.size:
        raise DataError(f"{where} decides on {decision.key!r} at two sizes. Expected one.")
    for class_id, first, pixels in decision.runs.tolist():
        if class_id >= len(listing.classes):
            raise DataError(
                f"{where}: {decision.key!r} is to get class {class_id}, but {listing.name} has "
                f"{len(listing.classes)} classes, numbered from 0. Are the decisions of another dataset?"
            )
        if not pixels or first + pixels > height * width:
            raise DataError(
                f"{where}: a run of {decision.key!r} goes from pixel {first} over {counted(pixels, 'pixel')}, but its "
                f"mask has {height * width}, and no run is empty."
            )
        part = at.reshape(-1)[first : first + pixels]
        if (part >= 0).any():
            raise DataError(
                f"{where}: two runs of {decision.key!r} overlap at pixel {first}. Expected each pixel once."
            )
        part[:] = class_id


def _nearest(full: int, part: int) -> np.ndarray:
    """Which of `part` audited rows each of `full` rows belongs to, (full,)."""
    return (2 * np.arange(full) + 1) * part // (2 * full)
