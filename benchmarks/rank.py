"""What `featherseg rank` is worth: images are chosen in rounds, a model is trained on, and scored.

    python benchmarks/rank.py --camvid PATH/camvid --neu PATH/neu --out runs/rank [--seeds 0 1 2 3 4]
    python benchmarks/rank.py --table

All images are labelled, but a model sees only the labels of those that were chosen. It starts with 5 % of the images,
drawn at random by sequence; then four times 5 % more are chosen by each way, and the model of the round before is
trained on with all images that the way has by now. The ways: "rank", as the verb does it (uncertainty of regions times
distance to what is labelled, frames of a sequence apart); "diversity", the distance alone; "entropy", the mean entropy
of all pixels alone, the highest first, neighbouring frames or not; "random", frames of a sequence apart as with "rank".
The first model is the same for all ways of a seed. CamVid: subtrain, scored on dev, at 120x160; NEU-Seg: an even 300
of its training images, scored on an even 200 of the 363 for choices, at 96x96 (benchmarks/neu_seg.py). That is small
and short, 170 trainings of 30 steps: it says which way is better here, not how good models get.

A training appends its row to tables/rank.jsonl; kill it at any time, the same command goes on with what has no row.
Several processes may share the work, each with other seeds. --table prints the mean score over the four rounds (the
area under the learning curve) and differences of pairs of seeds with their intervals, corrected for their number.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import neu_seg
import numpy as np
from numpy.random import Generator
from PIL import Image
from recipe_changes import commit_of_source

import featherseg
from featherseg.auditing.probabilities import Subset
from featherseg.core.files import append_line, remove_tree, write_json
from featherseg.core.types import Sample, SegmentationData, Size
from featherseg.data import open_dataset
from featherseg.evaluation.iou import Confusion
from featherseg.inference.masks import predict_masks
from featherseg.inference.runtimes import Runtime, open_runtime
from featherseg.inference.settings import InferenceSettings
from featherseg.ranking.measures import measure
from featherseg.ranking.selection import select
from featherseg.runs import CURVE
from featherseg.training import job, memory, prepare
from featherseg.uncertainty.bootstrap import student_quantile

TABLE = Path(__file__).parent / "tables" / "rank.jsonl"
WAYS = ("rank", "random", "diversity", "entropy")
PAIRS = (("rank", "random"), ("rank", "entropy"), ("diversity", "random"))
"""What is compared, chosen before anything was trained."""

SHARE, ROUNDS, START, SEEDS = 0.05, 4, "start", range(5)
BATCH = 16
SETTINGS: dict[str, Any] = {
    "train.steps": 30,
    "train.batch_size": 8,
    "train.validations": 1,
    "train.keep": "last",
    "train.ema": 0.0,
    "train.device": "cpu",
    "data.workers": 0,
    "augment.crop": [96, 96],
}
MODEL = "frm-lite0"


Place = tuple[str, str, int, int]
"""Dataset, strategy, seed, round."""


@dataclass(frozen=True)
class Task:
    """The images to choose from and those that score, and the (height, width) that both are brought to."""

    pool: SegmentationData
    scored: SegmentationData


class Kept:
    """At most `most` samples of a dataset, evenly spread, in the memory at another size."""

    def __init__(self, data: SegmentationData, size: Size, most: int | None = None) -> None:
        count = min(len(data), most or len(data))
        self.name, self.classes, self.channels, self.licence = data.name, data.classes, data.channels, data.licence
        self.samples = [_resized(data[i * len(data) // count], size) for i in range(count)]
        self.keys = [sample.key for sample in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def label(self, index: int) -> np.ndarray:
        """(H, W) uint8 of sample `index`."""
        return self.samples[index].label


def _resized(sample: Sample, size: Size) -> Sample:
    to = (size[1], size[0])
    image = Image.fromarray(sample.image).resize(to, Image.Resampling.BOX)
    label = Image.fromarray(sample.label).resize(to, Image.Resampling.NEAREST)
    return Sample(sample.key, np.array(image), np.array(label))


def open_task(dataset: str, root: Path, out: Path) -> Task:
    """A dataset as it is used here."""
    if dataset == "camvid":
        return Task(*(Kept(open_dataset("camvid", split, root), (120, 160)) for split in ("subtrain", "dev")))
    toml = str(neu_seg.write(root, out / "neu-lists"))
    return Task(Kept(open_dataset(toml, "train"), (96, 96), 300), Kept(open_dataset(toml, "val"), (96, 96), 200))


@dataclass(frozen=True)
class Measured:
    """Of all images of a pool, in its order: (N,), (N,), (N, F)."""

    uncertainty: np.ndarray
    entropy: np.ndarray
    features: np.ndarray

    @classmethod
    def of(cls, runtime: Runtime, data: SegmentationData) -> "Measured":
        """What a model says of them."""
        found = [measure(runtime, data[number].image, InferenceSettings()) for number in range(len(data))]
        means = np.array([(one.uncertainty, one.entropy.mean()) for one in found])
        return cls(means[:, 0], means[:, 1], np.stack([one.feature for one in found]))


def choose(
    way: str, measured: Callable[[], Measured], names: Sequence[str], chosen: list[int], top: int, rng: Generator
) -> list[int]:
    """`top` more of the pool of these names."""
    rest = sorted(set(range(len(names))) - set(chosen))
    left = [names[number] for number in rest]
    if way == "random":
        return [rest[pick.number] for pick in select(top, "uncertainty", rng.random(len(rest)), None, None, left)]
    found = measured()
    if way == "entropy":
        return [rest[i] for i in np.argsort(-found.entropy[rest], kind="stable")[:top]]
    by = {"rank": "both"}.get(way, way)
    picks = select(top, by, found.uncertainty[rest], found.features[rest], found.features[chosen], left)
    return [rest[pick.number] for pick in picks]


def score(runtime: Runtime, data: SegmentationData) -> float:
    """mIoU in %."""
    confusion = Confusion(len(data.classes))
    for start in range(0, len(data), BATCH):
        samples = [data[i] for i in range(start, min(start + BATCH, len(data)))]
        masks = predict_masks(runtime, np.stack([sample.image for sample in samples]))
        for sample, mask in zip(samples, masks, strict=True):
            confusion.update(sample.label, mask)
    return 100 * confusion.miou()


class Simulation:
    """The rounds of a dataset and a seed, of which what is on disk is not done again."""

    def __init__(self, dataset: str, task: Task, out: Path, table: Path, commit: str) -> None:
        self.dataset, self.task, self.out, self.table, self.commit = dataset, task, out, table, commit
        self.top = round(SHARE * len(task.pool))
        self.first: Measured | None = None
        """What the first model says, the same for all ways."""

    def run(self, seed: int) -> None:
        """The first model, then every way whose rows are not all there."""
        self.first, names = None, self.task.pool.keys
        drawn = select(self.top, "uncertainty", np.random.default_rng(seed).random(len(names)), None, None, names)
        places = [(self.dataset, way, seed, number) for way in WAYS for number in range(1, ROUNDS + 1)]
        missing = {place[1] for place in places if place not in finished(self.table)}
        if not missing and (self.dataset, START, seed, 0) in finished(self.table):
            return
        start = [pick.number for pick in drawn]
        model = self._train((self.dataset, START, seed, 0), start, None)
        for way in (way for way in WAYS if way in missing):
            self._rounds(way, seed, start, model)

    def _rounds(self, way: str, seed: int, chosen: list[int], model: Runtime) -> None:
        rng = np.random.default_rng([seed, WAYS.index(way)])
        for number in range(1, ROUNDS + 1):
            place = (self.dataset, way, seed, number)
            before = (self.dataset, way, seed, number - 1) if number > 1 else (self.dataset, START, seed, 0)
            more = self._folder(place) / "chosen.json"
            if not more.is_file():
                measured = partial(self._measured, model, number)
                write_json(more, choose(way, measured, self.task.pool.keys, chosen, self.top, rng))
            chosen = chosen + json.loads(more.read_text())
            model = self._train(place, chosen, self._folder(before) / "run")

    def _folder(self, place: Place) -> Path:
        return self.out / "-".join(map(str, place))

    def _measured(self, runtime: Runtime, number: int) -> Measured:
        if number > 1:
            return Measured.of(runtime, self.task.pool)
        self.first = self.first or Measured.of(runtime, self.task.pool)
        return self.first

    def _train(self, place: Place, chosen: list[int], before: Path | None) -> Runtime:
        """The model of a round; its row is written where it is missing."""
        dataset, way, seed, number = place
        run, began = self._folder(place) / "run", time.monotonic()
        if not (run / CURVE).is_file():
            remove_tree(run)
            shown = Subset(self.task.scored, np.arange(4))  # training looks at some; that counts nowhere
            featherseg.train(
                MODEL,
                (Subset(self.task.pool, np.array(chosen)), shown),
                out=run,
                init=before,
                settings={**SETTINGS, "train.seed": 10 * seed + number},
                report=False,
            )
        runtime = open_runtime(str(run), "cpu")
        if place not in finished(self.table):
            row = {"dataset": dataset, "strategy": way, "seed": seed, "round": number, "images": len(chosen)}
            row |= {"score": round(score(runtime, self.task.scored), 3)}
            row |= {"seconds": round(time.monotonic() - began), "commit": self.commit}
            append_line(self.table, row | {"settings": settings_text()})
            print(*row.values(), flush=True)
        return runtime


def settings_text() -> str:
    """What all trainings share; rows of other settings do not count."""
    return " ".join([MODEL, *(f"{key}={json.dumps(value)}" for key, value in SETTINGS.items())])


def finished(table: Path) -> dict[Place, float]:
    """The scores that are there."""
    rows = [json.loads(line) for line in table.read_text().splitlines() if line] if table.exists() else []
    return {
        (row["dataset"], row["strategy"], row["seed"], row["round"]): row["score"]
        for row in rows
        if row["settings"] == settings_text()
    }


def cache_estimates() -> Callable[..., Any]:
    """`estimate_memory`, asked once for each number of classes."""
    known: dict[int, Any] = {}

    def estimate(model: Any, *given: Any, **more: Any) -> Any:
        if model.classes not in known:
            known[model.classes] = memory.estimate_memory(model, *given, **more)
        return known[model.classes]

    return estimate


def print_table(done: Mapping[Place, float]) -> None:
    """Scores by round, and what the differences are, over the seeds of which every way is whole."""
    datasets = sorted({place[0] for place in done})
    for dataset in datasets:
        seeds = whole_seeds(done, dataset)
        print(f"\n{dataset}, seeds {', '.join(map(str, seeds)) or 'none'}: mIoU, means over the seeds")
        if not seeds:
            continue
        start = np.mean([done[dataset, START, seed, 0] for seed in seeds])
        print(f"{'':10} " + " ".join(f"{f'{(number + 1) * SHARE:.0%}':>6}" for number in range(ROUNDS + 1)) + "   mean")
        for way in WAYS:
            table = np.array([[done[dataset, way, seed, n] for n in range(1, ROUNDS + 1)] for seed in seeds])
            told = " ".join(f"{value:6.2f}" for value in chain([start], table.mean(axis=0), [table.mean()]))
            print(f"{way:10} {told}   of the seeds {'  '.join(f'{value:.2f}' for value in table.mean(axis=1))}")
        for one, other in PAIRS:
            areas = [
                np.array([np.mean([done[dataset, way, seed, n] for n in range(1, ROUNDS + 1)]) for seed in seeds])
                for way in (one, other)
            ]
            value, low, high = interval(areas[0] - areas[1], len(PAIRS) * len(datasets))
            verdict = "better" if low > 0 else "worse" if high < 0 else "no difference is shown"
            told = "no interval of fewer than 3 seeds" if np.isnan(low) else f"{low:+.2f} to {high:+.2f}: {verdict}"
            print(f"{one} less {other}: {value:+.2f}, {told}")


def whole_seeds(done: Mapping[Place, float], dataset: str) -> list[int]:
    """Those of which every way has every round."""
    rounds = [(way, number) for way in WAYS for number in range(1, ROUNDS + 1)] + [(START, 0)]
    seeds = sorted({place[2] for place in done if place[0] == dataset})
    return [seed for seed in seeds if all((dataset, way, seed, number) in done for way, number in rounds)]


def interval(differences: np.ndarray, comparisons: int) -> tuple[float, float, float]:
    """Mean of paired differences (n,) and its interval by Student's t; with 95 % all `comparisons` hold (Bonferroni).

    NaN bounds for fewer than three pairs.
    """
    count, value = len(differences), float(differences.mean())
    if count < 3:
        return value, np.nan, np.nan
    reach = student_quantile(1 - 0.025 / comparisons, np.array(count - 1.0)) * differences.std(ddof=1) / np.sqrt(count)
    return value, value - float(reach), value + float(reach)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, help="the root of CamVid")
    parser.add_argument("--neu", type=Path, help="the root of NEU-Seg")
    parser.add_argument("--out", type=Path, default=Path("runs/rank"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--table", action="store_true", help="print what is there, train nothing")
    asked = parser.parse_args()
    roots = {name: root for name, root in (("camvid", asked.camvid), ("neu", asked.neu)) if root}
    if not asked.table and not roots:
        parser.error("give --camvid, --neu or both")
    if not asked.table:
        # A training counts what it will hold for four seconds; these are all alike
        job.estimate_memory = prepare.estimate_memory = cache_estimates()
        commit = commit_of_source()
        tasks = {name: open_task(name, root, asked.out) for name, root in roots.items()}
        for seed in asked.seeds:
            for name, task in tasks.items():
                Simulation(name, task, asked.out, TABLE, commit).run(seed)
    print_table(finished(TABLE))


if __name__ == "__main__":
    sys.exit(main())
