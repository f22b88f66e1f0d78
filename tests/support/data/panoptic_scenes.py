"""Random panoptic segmentations, and panoptic quality as a slow loop after its definition."""

import numpy as np

CATEGORIES = [
    {"id": 1, "isthing": 1},
    {"id": 4, "isthing": 1},
    {"id": 90, "isthing": 0},
    {"id": 200, "isthing": 0},
]
THINGS = (1, 4)
LARGEST = 256**3 - 1


def scene(
    rng: np.random.Generator,
    size: tuple[int, int] = (24, 32),
    crowds: bool = True,
    near: np.ndarray | None = None,
):
    """Return (ids, segments): rectangles on void, some crowds; `near`: a shifted, changed copy."""
    ids = (
        np.zeros(size, np.int64) if near is None else np.roll(near, rng.integers(-2, 3, 2), (0, 1))
    )
    for _ in range(rng.integers(1, 9 if near is None else 4)):
        top, left = (rng.integers(0, length) for length in size)
        height, width = rng.integers(3, 16, 2)
        new = 0 if rng.random() < 0.15 else rng.integers(1, LARGEST, endpoint=True)
        ids[top : top + height, left : left + width] = new
    return ids, listed(ids, rng, crowds)


def listed(ids: np.ndarray, rng: np.random.Generator, crowds: bool = True) -> list[dict]:
    """Return a map's segments in random order: category by id, every fourth thing a crowd."""
    present, areas = np.unique(ids, return_counts=True)
    area_of, segments = dict(zip(present.tolist(), areas.tolist(), strict=True)), []
    for i in rng.permutation(present[present > 0]).tolist():
        category = CATEGORIES[i % 4]["id"]
        crowd = crowds and category in THINGS and i // 4 % 4 == 0
        segments.append(
            {"id": i, "category_id": category, "area": area_of[i], "iscrowd": int(crowd)}
        )
    return segments


def count_slowly(
    rule: str, ground_truth, true_segments, prediction, predicted_segments
) -> dict[int, list[float]]:
    """Return {category id: [tp, fp, fn, sum of IoU]}, counted one mask at a time."""
    counts = {category["id"]: [0, 0, 0, 0.0] for category in CATEGORIES}
    void, matched = ground_truth == 0, set()
    for t in true_segments:
        if t["iscrowd"]:
            continue
        hits = []
        for p in predicted_segments:
            if p["category_id"] != t["category_id"] or (rule == "bdd100k" and p["iscrowd"]):
                continue
            a, b = ground_truth == t["id"], prediction == p["id"]
            union = (a | b) & ~(b & void) if rule == "coco" else a | b
            iou = (a & b).sum() / union.sum()
            hits += [(p["id"], iou)] if iou > 0.5 else []
        assert len(hits) <= 1  # as the paper proves
        for i, iou in hits:
            matched.add(i)
            counts[t["category_id"]][0] += 1
            counts[t["category_id"]][3] += iou
        counts[t["category_id"]][2] += not hits
    for p in predicted_segments:
        own = [
            t["id"] for t in true_segments if t["iscrowd"] and t["category_id"] == p["category_id"]
        ][-1:]
        every = [t["id"] for t in true_segments if t["iscrowd"]]
        mask = prediction == p["id"]
        excused = (
            mask & (void | np.isin(ground_truth, own if rule == "coco" else every))
        ).sum() / mask.sum() > 0.5
        passed_over = rule == "bdd100k" and p["iscrowd"]
        counts[p["category_id"]][1] += p["id"] not in matched and not excused and not passed_over
    return counts
