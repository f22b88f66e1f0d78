"""Decisions that a user made on the page of `featherseg audit`, and the changes that they mean.

A decision lists pixels that get another class, as runs over the mask as it was audited: every n-th
pixel of a large one. Each pixel of the mask follows the nearest of those.
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
"""The splits that are audited: masks of test do not spoil a training, and stay unseen."""

MOST_SIDE = 512
"""Longer side, in pixels, at which masks are audited; regions of larger masks stay regions."""

WORDS = ("accept", "keep", "skip")
"""Use the prediction there; the mask is right; not decided."""

_KEYS = {"decision", "key", "region", "size", "runs", "mask"}


@dataclass(frozen=True)
class Decision:
    """One word about one region of an image.

    Attributes:
        size: (height, width) at which it was audited.
        runs: Class, first pixel and number of pixels at that size, (N, 3).
        mask: `mask_digest` of the mask; None in a file that was written by hand.
    """

    word: str
    key: str
    region: int
    size: Size
    runs: np.ndarray
    mask: str | None


@dataclass
class Changes:
    """The changes that accepted decisions mean.

    Attributes:
        classes: {key: new class of each pixel (h, w) int16 at the size of the audit, -1 = as is}.
        pairs: {key: the files of the image}.
        words: {word: number of decisions}.
    """

    classes: dict[str, np.ndarray] = field(default_factory=dict)
    pairs: dict[str, Pair] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)

    def draw(self, pair: Pair, ids: np.ndarray) -> np.ndarray:
        """Return class ids (H, W) with the changes; ignored pixels (below 0, or 255) stay."""
        if self.pairs.get(pair.key) != pair:
            return ids
        classes = self.classes[pair.key]
        rows, columns = (
            (2 * np.arange(length) + 1) * audited // (2 * length)  # the nearest audited one
            for length, audited in zip(ids.shape, classes.shape, strict=True)
        )
        new = classes[rows[:, None], columns]
        return np.where((new >= 0) & (ids >= 0) & (ids != IGNORE), new, ids)


def audited_places(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and the columns at which an image of this size is audited."""
    factor = min(1.0, MOST_SIDE / max(size))
    counts = [max(1, round(length * factor)) for length in size]
    rows, columns = (
        ((np.arange(count) + 0.5) * length / count).astype(np.int64)
        for count, length in zip(counts, size, strict=True)
    )
    return rows, columns


def mask_digest(label: np.ndarray) -> str:
    """Return what identifies a mask (h, w) uint8 at the size of the audit."""
    return hashlib.sha256(label.tobytes()).hexdigest()[:16]


def read_decisions(path: Path) -> list[Decision]:
    """Return the decisions in a file that the page saved. Raises DataError if it has others."""
    try:
        content = load_json(path)
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist.{near_path(path)} Expected the decisions.json that *Save "
            "decisions* on the page of `featherseg audit` puts into the browser's downloads."
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"{path} cannot be read: {reason}. Expected the file that an audit's page saves."
        ) from None
    if not isinstance(content, dict) or not isinstance(rows := content.get("decisions"), list):
        raise DataError(f"{path} has no decisions. Expected the file that an audit's page saves.")
    if content.get("format") != FORMAT:
        raise DataError(
            f"{path} has format {content.get('format')!r}, but this version reads {FORMAT}."
        )
    decisions, decided = [], set[tuple[str, int]]()
    for number, row in enumerate(rows, start=1):
        decision = _decision(row, f"{path}, decision {number}")
        if (decision.key, decision.region) in decided:
            raise DataError(
                f"{path} decides twice on region {decision.region} of {decision.key!r}. Keep one "
                "of them."
            )
        decided.add((decision.key, decision.region))
        decisions.append(decision)
    return decisions


def _decision(row: Any, where: str) -> Decision:
    """Return a decision from JSON. Raises DataError that begins with `where`."""
    required = _KEYS - {"mask"}
    if not isinstance(row, dict) or not required <= row.keys() <= _KEYS:
        raise DataError(f"{where}: expected the keys {', '.join(sorted(required))} (and mask).")
    word, key, region, size = row["decision"], row["key"], row["region"], row["size"]
    runs, mask = row["runs"], row.get("mask")
    if word not in WORDS:
        raise DataError(
            f"{where}: decision is {str(word)[:40]!r}, expected one of {', '.join(WORDS)}."
        )
    is_text = isinstance(key, str) and (mask is None or isinstance(mask, str))
    if not is_text or not _are_counts([region], 2**31):
        raise DataError(
            f"{where}: expected a text as key (and mask), and a whole number as region."
        )
    is_pair = isinstance(size, list) and len(size) == 2
    if not is_pair or not _are_counts(size, MOST_SIDE**2) or not all(size):
        raise DataError(f"{where} ({key!r}): expected size as [height, width] in pixels.")
    if not isinstance(runs, list) or any(
        not isinstance(run, list) or len(run) != 3 for run in runs
    ):
        raise DataError(
            f"{where} ({key!r}): expected runs as a list of [class, first pixel, pixels]."
        )
    if not all(_are_counts(run, 2**31) for run in runs):
        raise DataError(f"{where} ({key!r}): expected whole numbers from 0 on in runs.")
    table = np.array(runs, np.int64).reshape(-1, 3)
    return Decision(word, key, region, (size[0], size[1]), table, mask)


def _are_counts(values: Iterable[Any], below: int) -> bool:
    return all(type(value) is int and 0 <= value < below for value in values)


def changes_of(decisions: Sequence[Decision], listing: Listing, where: str) -> Changes:
    """Return the changes of decisions, checked against the masks of a dataset.

    Masks that cannot be read are skipped: they are faults. Raises DataError for an unknown key or
    class, a mask with another size or content than the audited one, and runs that leave it or
    overlap.
    """
    pairs: dict[str, list[Pair]] = {}
    for split in AUDITED:
        for pair in listing.splits.get(split, ()):
            pairs.setdefault(pair.key, []).append(pair)
    words = [decision.word for decision in decisions]
    changes = Changes(words={word: words.count(word) for word in WORDS})
    for decision in decisions:
        candidates = set(pairs.get(decision.key, ()))
        if not candidates:
            raise DataError(
                f"{where} decides on {decision.key!r}, which is no image of train or val of "
                f"{listing.name}. Are the decisions of another dataset?"
            )
        if len(candidates) > 1:
            raise DataError(
                f"{where} decides on {decision.key!r}, but {listing.name} has {len(candidates)} "
                "images of that name in train and val. Give one of them another name, and audit "
                "again."
            )
        pair = candidates.pop()
        if decision.word == "accept" and pair.mask is not None and pair.image is not None:
            _accept(changes, decision, pair, listing, where)
    return changes


def _accept(changes: Changes, decision: Decision, pair: Pair, listing: Listing, where: str) -> None:
    """Add a decision to the changes, if its mask is readable and the audited one."""
    mask, (height, width) = pair.files[1], decision.size
    try:
        ids = read_ids(listing.masks_of(pair))
    except DataError:
        return
    rows, columns = audited_places((ids.shape[0], ids.shape[1]))
    audited_size = (len(rows), len(columns))
    if decision.size not in (ids.shape, audited_size):
        raise DataError(
            f"{where} decides on {decision.key!r} at {size_text(decision.size)}, but {mask} is "
            f"{size_text(ids.shape)} and is audited at {size_text(audited_size)} (height x width). "
            "Audit these data again."
        )
    audited = np.where(ids < 0, IGNORE, ids)[rows[:, None], columns].astype(np.uint8)
    if decision.mask is not None and decision.mask != mask_digest(audited):
        raise DataError(
            f"{where} decides on {decision.key!r}, but {mask} has changed since, or is of another "
            "dataset. Audit these data again."
        )
    classes = changes.classes.setdefault(pair.key, np.full((height, width), -1, np.int16))
    changes.pairs[pair.key] = pair
    if classes.shape != decision.size:
        raise DataError(f"{where} decides on {decision.key!r} at two sizes. Expected one.")
    for class_id, first, pixels in decision.runs.tolist():
        if class_id >= len(listing.classes):
            raise DataError(
                f"{where}: {decision.key!r} is to get class {class_id}, but {listing.name} has "
                f"{len(listing.classes)} classes, numbered from 0. Are the decisions of another "
                "dataset?"
            )
        if not pixels or first + pixels > height * width:
            raise DataError(
                f"{where}: a run of {decision.key!r} has {counted(pixels, 'pixel')} from pixel "
                f"{first} on, but its mask has {height * width}, and no run is empty."
            )
        part = classes.reshape(-1)[first : first + pixels]
        if (part >= 0).any():
            raise DataError(
                f"{where}: two runs of {decision.key!r} overlap at pixel {first}. Expected each "
                "pixel once."
            )
        part[:] = class_id
