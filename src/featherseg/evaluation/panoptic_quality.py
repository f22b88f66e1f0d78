"""Panoptic quality (Kirillov et al., CVPR 2019), counted as the official tools count it.

A predicted and a true segment of one category match where their IoU is over 0.5: at most one can. Of each category,
over all images: SQ = mean IoU of the matches, RQ = TP / (TP + FP/2 + FN/2), PQ = SQ * RQ; then the mean over the
categories that occur. Two rules say what the ground truth leaves open: that of COCO's panopticapi, whose code the
Cityscapes benchmark shares, and that of the BDD100K toolkit (bdd100k/eval/pan_seg.py).

| rule | coco | bdd100k |
|---|---|---|
| pixels of a prediction on void belong to the union | no | yes |
| an unmatched prediction is no error if more than half of it lies on | void, crowd of its category | void, any crowd |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherseg.core.errors import DataError, unknown
from featherseg.core.wording import counted, size_text

RULES = ("coco", "bdd100k")

VOID = 0
"""The id of pixels that belong to no segment."""

SHOWN_IDS = 5
"""How many ids a message names."""


@dataclass(frozen=True)
class _Segments:
    """An image's segments: row 0 is void, the others are numbered as they are listed.

    rows (R,) int64 says to which each run of pixels belongs; category (S + 1,) holds the position in the list of
    categories, -1 for void; crowd (S + 1,) bool.
    """

    rows: np.ndarray
    category: np.ndarray
    crowd: np.ndarray


class PanopticQuality:
    """Matches and misses of every category, summed over images.

    `categories` are `{"id": int, "isthing": 0 | 1}`, as in COCO's JSON; further keys are passed over. `rule` is one of
    RULES. Raises UnknownName for another rule, DataError for categories without these keys or with one id twice.
    """

    def __init__(self, categories: Sequence[Mapping[str, Any]], rule: str = "coco") -> None:
        if rule not in RULES:
            raise unknown("rule of panoptic quality", rule, RULES)
        self.rule = rule
        self.things = _things(categories)  # category id -> whether it is a thing
        self._position = {category: position for position, category in enumerate(self.things)}
        self._counts = np.zeros((len(self.things), 3), dtype=np.int64)  # columns TP, FP, FN
        self._iou_sum = np.zeros(len(self.things))

    def update(
        self,
        ground_truth_ids: np.ndarray,
        ground_truth_segments: Sequence[Mapping[str, Any]],
        predicted_ids: np.ndarray,
        predicted_segments: Sequence[Mapping[str, Any]],
    ) -> None:
        """Add one image: two maps of segment ids (H, W), any integers from 0, 0 = void, and what the ids are.

        A segment is `{"id": int, "category_id": int}`; of a true one "iscrowd" (0 where it is missing) and "area" (its
        pixels where it is missing) are read as well, and by the rule bdd100k "iscrowd" of a predicted one: it matches
        nothing and is no error. A true segment without a pixel is a miss. Raises DataError, and counts nothing, where
        maps and segments do not agree.
        """
        true_runs, predicted_runs, lengths = _runs(ground_truth_ids, predicted_ids)
        ground_truth = self._read("ground truth", true_runs, lengths, ground_truth_segments)
        predicted = self._read("prediction", predicted_runs, lengths, predicted_segments)
        area = np.array([0, *map(_area, ground_truth_segments)])
        overlap = _overlap(ground_truth, predicted, lengths)
        empty = np.flatnonzero(overlap.sum(axis=0)[1:] == 0)
        if empty.size:
            raise DataError(
                f"the prediction lists {_named([predicted_segments[i]['id'] for i in empty.tolist()])}, which no "
                "pixel of its map has. Leave out segments without pixels."
            )
        self._count(ground_truth, predicted, overlap, np.where(area > 0, area, overlap.sum(axis=1)))

    def add(self, other: "PanopticQuality") -> None:
        """Add the counts of another with the same categories and rule, as of another process."""
        assert (self.rule, self.things) == (other.rule, other.things)
        self._counts += other._counts
        self._iou_sum += other._iou_sum

    def pooled(self) -> np.ndarray:
        """(3, C) in the order of the categories: counts from which `uncertainty` makes PQ as it makes IoU of pixels.

        True segments, the IoU of the matches, and what is left of PQ's denominator, TP + FP/2 + FN/2.
        """
        tp, fp, fn = self._counts.T
        return np.stack([tp + fn, self._iou_sum, (fp - fn) / 2 + self._iou_sum])

    def compute(self) -> dict[str, Any]:
        """PQ, SQ and RQ as fractions, means over the categories that occur, of which there are n.

        `{"pq", "sq", "rq", "n", "things": {the same four}, "stuff": {the same four}, "per_category": {id: {"tp", "fp",
        "fn", "iou_sum"}}}`. NaN where no category occurs.
        """
        per_category = {
            category: {"tp": tp, "fp": fp, "fn": fn, "iou_sum": iou_sum}
            for category, (tp, fp, fn), iou_sum in zip(
                self.things, self._counts.tolist(), self._iou_sum.tolist(), strict=True
            )
        }
        things, stuff = (
            _mean([counts for category, counts in per_category.items() if self.things[category] == of_things])
            for of_things in (True, False)
        )
        return _mean(list(per_category.values())) | {"things": things, "stuff": stuff, "per_category": per_category}

    def _read(
        self, name: str, ids: np.ndarray, lengths: np.ndarray, segments: Sequence[Mapping[str, Any]]
    ) -> _Segments:
        """Ids (R,) of runs as rows of the segments' list; raises DataError where the two do not agree."""
        listed = _ids(name, segments)
        category = np.full(len(segments) + 1, -1)
        for row, segment in enumerate(segments, start=1):
            if segment.get("category_id") not in self._position:
                raise DataError(
                    f"segment {segment['id']} of the {name} has the category_id {segment.get('category_id')!r}: "
                    f"expected an id of the categories, {_few(self.things)}."
                )
            category[row] = self._position[segment["category_id"]]
        crowd = np.array([False, *(bool(segment.get("iscrowd", 0)) for segment in segments)])
        return _Segments(_rows(name, ids, lengths, listed), category, crowd)

    def _count(self, ground_truth: _Segments, predicted: _Segments, overlap: np.ndarray, true_area: np.ndarray) -> None:
        """Add TP, FP, FN and IoU of the matches; overlap (T + 1, P + 1) counts pixels, true_area is (T + 1,)."""
        predicted_area = overlap.sum(axis=0)  # (P + 1,)
        if self.rule == "coco":
            outside_union, excused = overlap[VOID], overlap[VOID] + _same_crowd(ground_truth, predicted, overlap)
            passed_over = np.zeros_like(predicted.crowd)
        else:
            outside_union, excused = np.zeros_like(overlap[VOID]), overlap[VOID] + overlap[ground_truth.crowd].sum(0)
            passed_over = predicted.crowd
        t, p = np.nonzero(overlap)  # all pairs that meet
        same = (ground_truth.category[t] == predicted.category[p]) & (t > 0) & ~ground_truth.crowd[t] & ~passed_over[p]
        t, p = t[same], p[same]
        iou = overlap[t, p] / (true_area[t] + predicted_area[p] - overlap[t, p] - outside_union[p])
        t, p, iou = t[iou > 0.5], p[iou > 0.5], iou[iou > 0.5]

        missed, wrong = ~ground_truth.crowd, ~passed_over & (2 * excused <= predicted_area)
        missed[[VOID, *t]] = wrong[[VOID, *p]] = False
        of = (ground_truth.category[t], predicted.category[wrong], ground_truth.category[missed])
        for column, found in enumerate(of):
            np.add.at(self._counts[:, column], found, 1)
        np.add.at(self._iou_sum, ground_truth.category[t], iou)


def quality(counts: Mapping[str, float]) -> dict[str, float]:
    """{"pq", "sq", "rq"} of one category from its "tp", "fp", "fn" and "iou_sum"; NaN where it does not occur."""
    errors = 0.5 * counts["fp"] + 0.5 * counts["fn"]
    if counts["tp"] + errors == 0:
        return {"pq": float("nan"), "sq": float("nan"), "rq": float("nan")}
    return {
        "pq": counts["iou_sum"] / (counts["tp"] + errors),
        "sq": counts["iou_sum"] / counts["tp"] if counts["tp"] else 0.0,
        "rq": counts["tp"] / (counts["tp"] + errors),
    }


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Means over the categories that occur, and their number n."""
    known = [quality(row) for row in rows if row["tp"] + row["fp"] + row["fn"]]
    means = {key: _ordered_sum([row[key] for row in known]) / len(known) if known else float("nan") for key in _FIGURES}
    return means | {"n": len(known)}


_FIGURES = ("pq", "sq", "rq")


def _ordered_sum(values: Sequence[float]) -> float:
    """The sum in the order of the values, as the official tools add them up."""
    return float(np.add.accumulate(values)[-1])


def _runs(ground_truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two maps (H, W), read along their rows -> the two ids and the pixels of every run in which neither changes.

    (R,) int64 each. Raises DataError for maps of different size, of numbers that are not whole, or not (H, W).
    """
    ground_truth, prediction = np.asarray(ground_truth), np.asarray(prediction)
    for name, ids in (("ground truth", ground_truth), ("prediction", prediction)):
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
            raise DataError(
                f"the ids of the {name} are {ids.dtype} of shape {size_text(ids.shape)}: expected whole "
                f"numbers (height, width)."
            )
    if ground_truth.shape != prediction.shape:
        raise DataError(
            f"the prediction is {size_text(prediction.shape)}, its ground truth {size_text(ground_truth.shape)} "
            f"(height x width): expected a prediction of the ground truth's size."
        )
    t, p = ground_truth.ravel(), prediction.ravel()
    starts = np.flatnonzero(np.concatenate([[t.size > 0], (t[1:] != t[:-1]) | (p[1:] != p[:-1])]))
    return t[starts].astype(np.int64), p[starts].astype(np.int64), np.diff(starts, append=t.size)


def _overlap(ground_truth: _Segments, predicted: _Segments, lengths: np.ndarray) -> np.ndarray:
    """(T + 1, P + 1) int64: in how many pixels each true segment meets each predicted one."""
    shape = len(ground_truth.category), len(predicted.category)
    joint = ground_truth.rows * shape[1] + predicted.rows  # (R,)
    pixels = np.bincount(joint, weights=lengths, minlength=shape[0] * shape[1])  # float64: exact up to 2^53 pixels
    return pixels.astype(np.int64).reshape(shape)


def _same_crowd(ground_truth: _Segments, predicted: _Segments, overlap: np.ndarray) -> np.ndarray:
    """(P + 1,): pixels of each prediction on the crowd of its category, of several on the last (as panopticapi)."""
    last = {int(ground_truth.category[row]): row for row in np.flatnonzero(ground_truth.crowd)}
    rows = np.array([last.get(category, -1) for category in predicted.category.tolist()])
    return np.where(rows >= 0, overlap[rows, np.arange(len(rows))], 0)


def _things(categories: Sequence[Mapping[str, Any]]) -> dict[int, bool]:
    things: dict[int, bool] = {}
    for category in categories:
        if not {"id", "isthing"} <= category.keys():
            raise DataError(f"the category {dict(category)} lacks a key: expected 'id' and 'isthing'.")
        if category["id"] in things:
            raise DataError(f"the category id {category['id']} occurs twice: expected every id once.")
        things[category["id"]] = bool(category["isthing"])
    return things


def _ids(name: str, segments: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The ids of the segments, (S,) int64; raises DataError for one that is no number above 0, or occurs twice."""
    listed = [segment.get("id") for segment in segments]
    wrong = [i for i in listed if isinstance(i, bool) or not isinstance(i, int | np.integer) or i <= VOID]
    if wrong:
        raise DataError(
            f"a segment of the {name} has the id {wrong[0]!r}: expected a whole number above 0 (0 is void)."
        )
    if len(set(listed)) < len(listed):
        twice = next(i for i in listed if listed.count(i) > 1)
        raise DataError(f"two segments of the {name} have the id {twice}: expected every id once.")
    return np.array(listed, dtype=np.int64)


def _rows(name: str, ids: np.ndarray, lengths: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """(R,) ids -> (R,) int64 positions in `listed`, from 1; 0 = void. Raises DataError for ids that are not listed."""
    order = np.argsort(listed)
    known, row = np.array([VOID, *listed[order]]), np.array([0, *(order + 1)])
    at = np.searchsorted(known, ids).clip(max=len(known) - 1)
    strangers = known[at] != ids
    if strangers.any():
        raise DataError(
            f"the map of the {name} has {_named(np.unique(ids[strangers]).tolist())} "
            f"({counted(int(lengths[strangers].sum()), 'pixel')} in all), not listed among its "
            f"{counted(len(listed), 'segment')}. Name every id of the map, and give void the id 0."
        )
    return row[at]


def _area(segment: Mapping[str, Any]) -> int:
    """The area that a true segment names, 0 for none; raises DataError for one that cannot be."""
    area = segment.get("area")
    if area is None:
        return 0
    if isinstance(area, bool) or not isinstance(area, int | np.integer) or area <= 0:
        raise DataError(
            f"segment {segment['id']} of the ground truth has area {area!r}: expected its pixels, at least 1."
        )
    return int(area)


def _named(ids: Sequence[int]) -> str:
    return f"id{'s' * (len(ids) != 1)} {_few(ids)}"


def _few(ids: Any) -> str:
    """`1, 2, 3, 4, 5, ...`"""
    ids = list(ids)
    return ", ".join(map(str, ids[:SHOWN_IDS])) + ", ..." * (len(ids) > SHOWN_IDS)
