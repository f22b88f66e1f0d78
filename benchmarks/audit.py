"""How many planted faults `featherseg audit` finds on CamVid and NEU-Seg, against the soft-minimum.

    python benchmarks/audit.py camvid --data-root PATH/camvid --out runs/audit-camvid [--minutes 20]
    python benchmarks/audit.py neu --data-root PATH/neu --out runs/audit-neu [--images 900]
    python benchmarks/audit.py camvid --data-root PATH/camvid --out runs/audit-test \\
        --run RUN --split test
    python benchmarks/audit.py --table

Each image is predicted by --run, or by one of three models trained for --minutes on other
sequences. In each draw a fifth of the masks get one of five kinds of fault, and the whole audit is
computed from them: it plants its own faults to learn from, also into masks that are already wrong.
Both scores see the same probabilities. Real faults count as false alarms against both; rows without
the images that were seen to be wrong (SEEN_WRONG) show what that costs. `unknown` is the stricter
test: each kind is found by a scorer that learned from the other four.

Models, probabilities and draws are kept under --out, with first.jsonl, the audit of the masks as
they are. The same command continues an interrupted run. --images takes that many evenly spaced
images (the models are trained on all). Rows are appended to tables/audit.jsonl.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import neu_seg
import numpy as np
from recipe_changes import commit_of_source

from featherseg.auditing.examples import WRONG, Example, examine
from featherseg.auditing.faults import FAULTS, plant
from featherseg.auditing.folds import FOLDS, folds_of
from featherseg.auditing.probabilities import open_unseeing, probabilities_at, train_fold
from featherseg.auditing.regions import FEATURES, Prediction, regions_of
from featherseg.auditing.scorer import SOFT, rank_images
from featherseg.auditing.self_test import FIRST, PLANTED, average_precision
from featherseg.core.types import SegmentationData
from featherseg.data import open_dataset
from featherseg.data.checks.decisions import audited_places
from featherseg.evaluation.bootstrap import LEVEL
from featherseg.evaluation.clusters import clusters_of
from featherseg.inference.runtimes import open_runtime

TABLE = Path(__file__).parent / "tables" / "audit.jsonl"
REPLICATES = 1000
CONSECUTIVE = 25
"""Images in a cluster; 1, 4, 10 or 50 move the ends of intervals by at most 0.013 (docs/log.md)."""

STRICT = 2
"""Draws of which `unknown` is measured: it learns anew for each kind."""

LEARNT, JUDGED = 1, 2
"""Parts of the seeds: the scorer learns from other draws than those that it must find."""

SEEN_WRONG = {
    "camvid": tuple(f"Seq05VD_f0{frame}" for frame in (1020, 2610, 3090, 3600, 3810)),
    "neu": ("test/000441", "test/000744", "training/001445"),
}
"""Looked at: docs/log.md says what is wrong."""


class Masks:
    """The audited images by number: the model's probabilities, the mask, and the mask of a draw."""

    def __init__(self, data: SegmentationData, asked: argparse.Namespace) -> None:
        self.data, self.out = data, asked.out
        count = min(len(data), asked.images or len(data))
        self.numbers = np.linspace(0, len(data) - 1, count).round().astype(int)
        self.keys = [data.keys[n] for n in self.numbers]
        present = np.array(
            [
                [(data.label(n) == k).any() for k in range(len(data.classes))]
                for n in range(len(data))
            ]
        )
        folds, _ = folds_of(data.keys, present)
        sparse = bool((present.sum(axis=1) == 1).mean() > 0.5)
        self.folds = folds[self.numbers]
        self._predict(folds, sparse, asked)

    def _predict(self, folds: np.ndarray, sparse: bool, asked: argparse.Namespace) -> None:
        """Train the missing models; keep each image's probabilities and mask at the same pixels."""
        if asked.run:
            runtimes = [open_unseeing(asked.run, self.data, "cpu")[0]] * FOLDS
        else:
            runtimes = []
            for fold in range(FOLDS):
                out = self.out / f"fold-{fold}"
                run = train_fold(self.data, folds, fold, out, asked.minutes, "cpu", tell, sparse)
                runtimes.append(open_runtime(run, "cpu"))
        (self.out / "predicted").mkdir(parents=True, exist_ok=True)
        for place, number in enumerate(self.numbers):
            tell("predicting", place, len(self.numbers))
            path = self.out / "predicted" / f"{place:06d}.npz"
            if not path.exists():
                sample = self.data[int(number)]
                rows, columns = audited_places(sample.label.shape[:2])
                chances = probabilities_at(runtimes[folds[number]], sample.image, rows, columns)
                label = sample.label[rows[:, None], columns]
                temporary = path.with_suffix(".new.npz")
                np.savez(temporary, chances=chances.astype(np.float16), label=label)
                temporary.rename(path)

    def predicted(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """-> (label (h, w), probabilities (K, h, w))."""
        with np.load(self.out / "predicted" / f"{place:06d}.npz") as file:
            chances = file["chances"].astype(np.float32)
            return file["label"], chances / chances.sum(axis=0)

    def example(self, place: int, draw: int, fault: str | None) -> Example:
        """Return the audit's view of an image, with this draw's fault if any; kept on disk."""
        folder = self.out / ("sound" if fault is None else f"draw-{draw}")
        folder.mkdir(exist_ok=True)
        path = folder / f"{place:06d}.npz"
        if not path.exists():
            label, chances = self.predicted(place)
            if fault is not None:
                label = self.spoiled(place, draw, fault, label, len(chances))
            rng = np.random.default_rng([LEARNT, place])
            other = self.predicted(int(rng.integers(1, len(self.keys)) + place) % len(self.keys))[0]
            examine(label, chances, label.shape, FAULTS, rng, other).save(path)
        return Example.load(path)

    def spoiled(
        self, place: int, draw: int, fault: str, label: np.ndarray, classes: int
    ) -> np.ndarray:
        """The mask with the fault of a draw."""
        rng = np.random.default_rng([JUDGED, draw, place])
        other = self.predicted(int(rng.integers(1, len(self.keys)) + place) % len(self.keys))[0]
        return plant(label, fault, classes, rng, other)


def tell(doing: str, done: int, total: int | None) -> None:
    """Now and then a line."""
    if total and done % max(1, total // 10) == 0:
        print(f"{doing}: {done} of {total}", file=sys.stderr, flush=True)


def faults_of(masks: Masks, draw: int) -> list[str | None]:
    """Return each image's fault in a draw, or None: a share PLANTED get a possible random kind."""
    rng = np.random.default_rng([JUDGED, draw])
    count, faults = len(masks.keys), [None] * len(masks.keys)
    for place in rng.permutation(count)[: round(PLANTED * count)]:
        label, chances = masks.predicted(place)
        for fault in rng.permutation(FAULTS):
            if (masks.spoiled(place, draw, str(fault), label, len(chances)) != label).any():
                faults[place] = str(fault)
                break
    return faults


def one_draw(masks: Masks, draw: int) -> dict[str, Any]:
    """Everything about one draw; the scores are kept under --out."""
    faults = faults_of(masks, draw)
    wrong = np.array([fault is not None for fault in faults])
    kind = np.array([-1 if fault is None else FAULTS.index(fault) for fault in faults])

    def examples(places: np.ndarray, without: int | None = None) -> Iterator[Example]:
        for place in places.tolist():
            example = masks.example(place, draw, faults[place])
            if without is not None:
                copies = np.flatnonzero(example.faults != without)
                rows = np.isin(example.copies, copies)
                example = replace(
                    example,
                    features=example.features[rows],
                    copies=np.searchsorted(copies, example.copies[rows]).astype(np.uint8),
                    changed=example.changed[rows],
                    evidence=example.evidence[copies],
                    faults=example.faults[copies],
                )
            yield example

    every, of_regions = np.arange(len(faults)), dict[int, np.ndarray]()
    for place, _ in enumerate(examples(every)):
        tell(f"draw {draw}: planting", place, len(faults))
    judged = rank_images(examples, masks.folds, FAULTS, of_regions.__setitem__, masks.keys)
    soft = np.array([example.evidence[0][SOFT] for example in examples(every)])

    # Regions: those of wrong masks that were changed, against those of masks as they are
    scores, given, changed = [], [], []
    for place, (example, fault) in enumerate(zip(examples(every), faults, strict=True)):
        share = np.zeros(len(example.kinds))
        if fault is not None:
            label, chances = masks.predicted(place)
            share = regions_of(example.label, Prediction(chances)).share(example.label != label)
        kept = (share >= WRONG) | (fault is None)
        scores.append(of_regions[place][kept])
        given.append(-example.features[example.copies == 0][kept, FEATURES.index("given")])
        changed.append(share[kept] >= WRONG)
    by_region = [
        average_precision(np.concatenate(one), np.concatenate(changed)) for one in (scores, given)
    ]

    def by_kind(values: np.ndarray, number: int) -> float:
        rows = (kind < 0) | (kind == number)
        return round(average_precision(values[rows], wrong[rows]), 4)

    unknown = {}
    for number, name in enumerate(FAULTS if draw < STRICT else ()):
        others = partial(examples, without=number)
        unknown[name] = by_kind(
            rank_images(others, masks.folds, FAULTS, lambda *_: None, masks.keys).images, number
        )
    np.savez_compressed(masks.out / f"draw-{draw}.npz", scores=judged.images, soft=soft, kind=kind)
    first = wrong[np.argsort(-judged.images, kind="stable")[:FIRST]].mean()
    return {
        "average_precision": round(average_precision(judged.images, wrong), 4),
        "soft_minimum": round(average_precision(soft, wrong), 4),
        "by_fault": {name: by_kind(judged.images, number) for number, name in enumerate(FAULTS)},
        "soft_by_fault": {name: by_kind(soft, number) for number, name in enumerate(FAULTS)},
        "unknown": unknown,
        "by_region": round(by_region[0], 4),
        "given_by_region": round(by_region[1], 4),
        "true": round(float(first), 3),
        "self_test": {
            key: asdict(judged.self_test)[key]
            for key in ("average_precision", "chance", "precision_at_50")
        },
        "better_than_chance": judged.self_test.better_than_chance,
    }


def interval(masks: Masks, draws: int, left_out: tuple[str, ...]) -> dict[str, Any]:
    """Return the mean difference of average precision and its interval over clusters and draws."""
    drawn = [np.load(masks.out / f"draw-{draw}.npz") for draw in range(draws)]
    pairs = [(one["scores"], one["soft"], one["kind"] >= 0) for one in drawn]
    kept = np.array([key not in left_out for key in masks.keys])
    clusters = clusters_of(masks.keys).cut(CONSECUTIVE)
    members = [np.flatnonzero((clusters.index == c) & kept) for c in range(clusters.count)]

    def difference(rows: np.ndarray, chosen: np.ndarray) -> float:
        return float(
            np.mean(
                [
                    average_precision(pairs[d][0][rows], pairs[d][2][rows])
                    - average_precision(pairs[d][1][rows], pairs[d][2][rows])
                    for d in chosen
                ]
            )
        )

    rng, values = np.random.default_rng(0), []
    for _ in range(REPLICATES):
        rows = np.concatenate([members[c] for c in rng.integers(0, clusters.count, clusters.count)])
        values.append(difference(rows, rng.integers(0, draws, draws)))
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = difference(np.flatnonzero(kept), np.arange(draws))
    return {
        "difference": round(value, 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "clusters": clusters.count,
        "left_out": list(left_out),
    }


def write_first(masks: Masks) -> None:
    """Write the masks to check by eye, most suspicious first, with their most suspicious region."""
    if (masks.out / "first.jsonl").exists():
        return
    of_regions = dict[int, np.ndarray]()
    as_they_are = partial(map, lambda place: masks.example(int(place), 0, None))
    judged = rank_images(as_they_are, masks.folds, FAULTS, of_regions.__setitem__, masks.keys)
    lines = []
    for place in np.argsort(-judged.images, kind="stable"):
        example, scores = masks.example(int(place), 0, None), of_regions[int(place)]
        region = int(scores.argmax()) if len(scores) else -1
        box = example.boxes[region].tolist() if len(scores) else []
        row = {
            "key": masks.keys[place],
            "score": float(judged.images[place]),
            "place": int(place),
            "box": box,
        }
        lines.append(json.dumps(row))
    (masks.out / "first.jsonl").write_text("\n".join(lines) + "\n")


def print_tables() -> None:
    """A line a dataset and protocol: means over the draws."""
    rows = [json.loads(line) for line in TABLE.read_text().splitlines()] if TABLE.exists() else []
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(json.dumps(row["settings"]), []).append(row)
    for name, group in groups.items():
        draws = [row for row in group if "draw" in row]

        def mean(key: str, fault: str | None = None, draws: list[dict[str, Any]] = draws) -> str:
            values = [row[key] if fault is None else row[key].get(fault) for row in draws]
            known = [value for value in values if value is not None]
            return f"{np.mean(known):.3f}" if known else ""

        print(f"\n{name}, {len(draws)} draws")
        head = [["all", mean("average_precision"), mean("soft_minimum"), ""]]
        kinds = [
            [f, mean("by_fault", f), mean("soft_by_fault", f), mean("unknown", f)] for f in FAULTS
        ]
        for line in [["faults", "audit", "soft-minimum", "kind not learnt"], *head, *kinds]:
            print("".join(f"{cell:16}" for cell in line))
        print(
            f"by region {mean('by_region')} "
            f"(mean probability of the label {mean('given_by_region')})"
        )
        print(f"first {FIRST}: {mean('true')} wrong")
        for row in group:
            if "difference" in row:
                left = f", without {', '.join(row['left_out'])}" if row["left_out"] else ""
                print(
                    f"difference {row['difference']:+.3f} "
                    f"({row['low']:+.3f} to {row['high']:+.3f}){left}"
                )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", nargs="?", choices=list(SEEN_WRONG))
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="of each of the three trainings"
    )
    parser.add_argument("--run", help="a run that never saw the images, instead of trainings")
    parser.add_argument("--split", default="train+val")
    parser.add_argument("--images", type=int, help="so many, evenly spread")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument(
        "--table", action="store_true", help="print what was measured, and nothing else"
    )
    asked = parser.parse_args()
    if asked.table or asked.dataset is None:
        print_tables()
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    name, root = ("camvid", asked.data_root) if asked.dataset == "camvid" else (None, None)
    data = open_dataset(
        name or str(neu_seg.write(asked.data_root, asked.out / "lists")), asked.split, root
    )
    masks = Masks(data, asked)
    settings = {"dataset": asked.dataset, "split": asked.split, "images": len(masks.keys)}
    settings |= {"run": Path(asked.run).name} if asked.run else {"minutes": asked.minutes}

    def write(row: dict[str, Any]) -> None:
        with TABLE.open("a") as file:
            file.write(
                json.dumps({"settings": settings, **row, "commit": commit_of_source()}) + "\n"
            )

    for draw in range(asked.draws):
        if not (asked.out / f"draw-{draw}.npz").exists():
            write({"draw": draw, **one_draw(masks, draw)})
    write_first(masks)
    left_out = tuple(key for key in SEEN_WRONG[asked.dataset] if key in masks.keys)
    for without in [(), left_out] if left_out else [()]:
        write({"draws": asked.draws, **interval(masks, asked.draws, without)})
    print_tables()


if __name__ == "__main__":
    main()
