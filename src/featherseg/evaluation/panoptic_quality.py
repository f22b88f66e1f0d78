"""Panoptic quality (Kirillov et al., CVPR 2019), counted as the official tools count it.

A predicted and a true segment of one category match if their IoU is above 0.5, so each has at most
one match. For each category, over all images: SQ = mean IoU of the matches,
RQ = TP / (TP + FP/2 + FN/2), PQ = SQ * RQ. The scores are means over the categories that occur.
Benchmarks differ in two rules: "coco" is that of COCO's panopticapi, which Cityscapes shares, and
"bdd100k" is that of the BDD100K toolkit (bdd100k/eval/pan_seg.py).

| rule | coco | bdd100k |
|---|---|---|
| pixels of a prediction on void belong to the union | no | yes |
| unmatched prediction is no error if mostly on | void, crowd of its category | void, any crowd |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherseg.core.errors import DataError, unknown
from featherseg.core.wording import counted, size_text

RULES = ("coco", "bdd100k")

VOID = 0
"""Id of the pixels that belong to no segment."""

SHOWN_IDS = 5
"""Number of ids that a message names."""


@dataclass(frozen=True)
class _Segments:
    """The S segments of an image, numbered 1..S in their order; 0 is void.

    rows (R,) int64 gives the segment of each run of pixels, category (S + 1,) the position of
    each segment's category in the list of categories (-1 for void), crowd (S + 1,) bool whether
    it is one.
    """

    rows: np.ndarray
    category: np.ndarray
    crowd: np.ndarray


class PanopticQuality:
    """Matches and misses of every category, summed over images.

    Args:
        categories: `{"id": int, "isthing": 0 | 1}` each, as in COCO's JSON; other keys are ignored.
        rule: one of RULES.

    Raises:
        UnknownName: for another rule.
        DataError: for a category without these keys, or an id that occurs twice.
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
        """Add one image. A true segment without a pixel is a miss.

        Args:
            ground_truth_ids: (H, W) integers, the id of each pixel's segment, 0 = void.
            ground_truth_segments: `{"id": int, "category_id": int}` each, optionally with "iscrowd"
                (default 0) and "area" (default: its number of pixels).
            predicted_ids: (H, W), as ground_truth_ids.
            predicted_segments: as above without "area". The rule bdd100k reads "iscrowd" of these
                too: such a segment matches nothing and is no error.

        Raises:
            DataError: if the maps and the segments disagree; then nothing is counted.
        """
        true_runs, predicted_runs, lengths = _runs(ground_truth_ids, predicted_ids)
        ground_truth = self._read("ground truth", true_runs, lengths, ground_truth_segments)
        predicted = self._read("prediction", predicted_runs, lengths, predicted_segments)
        area = np.array([0, *map(_area, ground_truth_segments)])
        overlap = _overlap(ground_truth, predicted, lengths)
        empty = np.flatnonzero(overlap.sum(axis=0)[1:] == 0)
        if empty.size:
            ids = [predicted_segments[i]["id"] for i in empty.tolist()]
            problem = f"the prediction lists {_named(ids)}, which no pixel of its map has"
            raise DataError(f"{problem}. Leave out segments without pixels.")
        self._count(ground_truth, predicted, overlap, np.where(area > 0, area, overlap.sum(axis=1)))

    def pooled(self) -> np.ndarray:
        """Return (3, C) counts from which `uncertainty` computes PQ as it computes IoU from pixels.

        That is hits / (label + predicted - hits). The hits are the summed IoU of the matches,
        label are the true segments, and predicted is such that the denominator is TP + FP/2 +
        FN/2.
        """
        tp, fp, fn = self._counts.T
        return np.stack([tp + fn, self._iou_sum, (fp - fn) / 2 + self._iou_sum])

    def compute(self) -> dict[str, Any]:
        """Return PQ, SQ and RQ (0..1), means over the n categories that occur; NaN if none does.

        The keys are "pq", "sq", "rq", "n", "things" and "stuff" with the same four, and
        "per_category" with {id: {"tp", "fp", "fn", "iou_sum"}}.
        """
        per_category = {
            category: {"tp": tp, "fp": fp, "fn": fn, "iou_sum": iou_sum}
            for category, (tp, fp, fn), iou_sum in zip(
                self.things,
                self._counts.tolist(),
                self._iou_sum.tolist(),
                strict=True,
            )
        }
        things = [counts for id, counts in per_category.items() if self.things[id]]
        stuff = [counts for id, counts in per_category.items() if not self.things[id]]
        return {
            **_mean(list(per_category.values())),
            "things": _mean(things),
            "stuff": _mean(stuff),
            "per_category": per_category,
        }

    def _read(
        self, name: str, ids: np.ndarray, lengths: np.ndarray, segments: Sequence[Mapping[str, Any]]
    ) -> _Segments:
        """Return the listed segments, with `rows` by the ids (R,) of the runs.

        Raises DataError if ids and segments disagree.
        """
        listed = _ids(name, segments)
        category = np.full(len(segments) + 1, -1)
        for row, segment in enumerate(segments, start=1):
            if segment.get("category_id") not in self._position:
                raise DataError(
                    f"segment {segment['id']} of the {name} has the category_id "
                    f"{segment.get('category_id')!r}. Expected an id of the categories: "
                    f"{_few(self.things)}."
                )
            category[row] = self._position[segment["category_id"]]
        crowd = np.array([False, *(bool(segment.get("iscrowd", 0)) for segment in segments)])
        return _Segments(_rows(name, ids, lengths, listed), category, crowd)

    def _count(
        self,
        ground_truth: _Segments,
        predicted: _Segments,
        overlap: np.ndarray,
        true_area: np.ndarray,
    ) -> None:
        """Add TP, FP, FN and the IoU of matches; overlap is (T + 1, P + 1), true_area (T + 1,)."""
        predicted_area = overlap.sum(axis=0)  # (P + 1,)

        # where the two rules differ, (P + 1,) each
        if self.rule == "coco":
            outside_union = overlap[VOID]
            excused = overlap[VOID] + _same_crowd(ground_truth, predicted, overlap)
            not_scored = np.zeros_like(predicted.crowd)
        else:
            outside_union = np.zeros_like(overlap[VOID])
            excused = overlap[VOID] + overlap[ground_truth.crowd].sum(0)
            not_scored = predicted.crowd

        # pairs of segments that overlap, have one category and may match
        t, p = np.nonzero(overlap)
        same_category = ground_truth.category[t] == predicted.category[p]
        may_match = same_category & (t > 0) & ~ground_truth.crowd[t] & ~not_scored[p]
        t, p = t[may_match], p[may_match]
        # above 0.5 a segment has at most one match, so no assignment has to be chosen
        iou = overlap[t, p] / (true_area[t] + predicted_area[p] - overlap[t, p] - outside_union[p])
        t, p, iou = t[iou > 0.5], p[iou > 0.5], iou[iou > 0.5]

        # every other segment is an error, unless it is void, a crowd, or mostly on void or crowds
        missed, wrong = ~ground_truth.crowd, ~not_scored & (2 * excused <= predicted_area)
        missed[[VOID, *t]] = wrong[[VOID, *p]] = False
        matched = ground_truth.category[t]
        columns = (matched, predicted.category[wrong], ground_truth.category[missed])  # TP, FP, FN
        for column, positions in enumerate(columns):
            np.add.at(self._counts[:, column], positions, 1)
        np.add.at(self._iou_sum, matched, iou)


def quality(counts: Mapping[str, float]) -> dict[str, float]:
    """Return "pq", "sq" and "rq" of a category by its counts; NaN if it does not occur."""
    errors = 0.5 * counts["fp"] + 0.5 * counts["fn"]
    if counts["tp"] + errors == 0:
        return {"pq": float("nan"), "sq": float("nan"), "rq": float("nan")}
    return {
        "pq": counts["iou_sum"] / (counts["tp"] + errors),
        "sq": counts["iou_sum"] / counts["tp"] if counts["tp"] else 0.0,
        "rq": counts["tp"] / (counts["tp"] + errors),
    }


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return the means over the categories that occur, and their number n."""
    known = [quality(row) for row in rows if row["tp"] + row["fp"] + row["fn"]]
    means: dict[str, Any] = dict.fromkeys(("pq", "sq", "rq"), float("nan"))
    if known:  # summed in order, as the official tools do, so that the last bit agrees
        sums = {key: np.add.accumulate([row[key] for row in known])[-1] for key in means}
        means = {key: float(total) / len(known) for key, total in sums.items()}
    return means | {"n": len(known)}


def _runs(
    ground_truth: np.ndarray,
    prediction: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true id, predicted id and length of each run of pixels, (R,) int64 each.

    The maps (H, W) are read along their rows; in a run neither id changes. Raises DataError for
    maps of different sizes, of other numbers than integers, or that are not (H, W).
    """
    ground_truth, prediction = np.asarray(ground_truth), np.asarray(prediction)
    for name, ids in (("ground truth", ground_truth), ("prediction", prediction)):
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
            raise DataError(
                f"the ids of the {name} are {ids.dtype} of shape {size_text(ids.shape)}. "
                "Expected whole numbers (height, width)."
            )
    if ground_truth.shape != prediction.shape:
        raise DataError(
            f"the prediction is {size_text(prediction.shape)}, its ground truth "
            f"{size_text(ground_truth.shape)} (height x width). Expected a prediction of its size."
        )
    t, p = ground_truth.ravel(), prediction.ravel()
    changes = (t[1:] != t[:-1]) | (p[1:] != p[:-1])
    starts = np.flatnonzero(np.concatenate([[t.size > 0], changes]))
    return t[starts].astype(np.int64), p[starts].astype(np.int64), np.diff(starts, append=t.size)


def _overlap(ground_truth: _Segments, predicted: _Segments, lengths: np.ndarray) -> np.ndarray:
    """Return the number of pixels shared by each true and predicted segment, (T + 1, P + 1)."""
    shape = len(ground_truth.category), len(predicted.category)
    joint = ground_truth.rows * shape[1] + predicted.rows  # (R,)
    # float64: exact up to 2^53 pixels
    pixels = np.bincount(joint, weights=lengths, minlength=shape[0] * shape[1])
    return pixels.astype(np.int64).reshape(shape)


def _same_crowd(ground_truth: _Segments, predicted: _Segments, overlap: np.ndarray) -> np.ndarray:
    """Return the pixels of each prediction on the crowd of its category, (P + 1,).

    If a category has several crowds, the last one counts, as in panopticapi.
    """
    last = {int(ground_truth.category[row]): row for row in np.flatnonzero(ground_truth.crowd)}
    rows = np.array([last.get(category, -1) for category in predicted.category.tolist()])
    return np.where(rows >= 0, overlap[rows, np.arange(len(rows))], 0)


def _things(categories: Sequence[Mapping[str, Any]]) -> dict[int, bool]:
    things: dict[int, bool] = {}
    for category in categories:
        if not {"id", "isthing"} <= category.keys():
            raise DataError(f"category {dict(category)} lacks a key. Expected 'id' and 'isthing'.")
        if category["id"] in things:
            raise DataError(f"category id {category['id']} occurs twice. Expected each id once.")
        things[category["id"]] = bool(category["isthing"])
    return things


def _ids(name: str, segments: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the ids of the segments, (S,) int64; raises DataError for a wrong or repeated one."""
    listed = [segment.get("id") for segment in segments]
    wrong = [id for id in listed if not _is_positive(id)]
    if wrong:
        problem = f"a segment of the {name} has the id {wrong[0]!r}"
        raise DataError(f"{problem}. Expected a whole number above 0.")
    if len(set(listed)) < len(listed):
        twice = next(i for i in listed if listed.count(i) > 1)
        raise DataError(f"two segments of the {name} have the id {twice}. Expected each id once.")
    return np.array(listed, dtype=np.int64)


def _rows(name: str, ids: np.ndarray, lengths: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """Return the positions of the ids (R,) in `listed`, from 1, 0 = void, (R,) int64.

    Raises DataError for ids that are not listed.
    """
    order = np.argsort(listed)
    known, row = np.array([VOID, *listed[order]]), np.array([0, *(order + 1)])
    at = np.searchsorted(known, ids).clip(max=len(known) - 1)
    unlisted = known[at] != ids
    if unlisted.any():
        raise DataError(
            f"the map of the {name} has {_named(np.unique(ids[unlisted]).tolist())} "
            f"({counted(int(lengths[unlisted].sum()), 'pixel')} in all), not listed among its "
            f"{counted(len(listed), 'segment')}. List every id of the map, and give void the id 0."
        )
    return row[at]


def _area(segment: Mapping[str, Any]) -> int:
    """Return "area" of a true segment, 0 if it has none; raises DataError for an impossible one."""
    area = segment.get("area")
    if area is None:
        return 0
    if not _is_positive(area):
        problem = f"segment {segment['id']} of the ground truth has area {area!r}"
        raise DataError(f"{problem}. Expected its number of pixels, at least 1.")
    return int(area)


def _is_positive(value: Any) -> bool:
    """Return whether a value from JSON is a whole number above 0."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value > 0)


def _named(ids: Sequence[int]) -> str:
    return f"id{'s' * (len(ids) != 1)} {_few(ids)}"


def _few(ids: Any) -> str:
    """`1, 2, 3, 4, 5, ...`"""
    ids = list(ids)
    return ", ".join(map(str, ids[:SHOWN_IDS])) + ", ..." * (len(ids) > SHOWN_IDS)
