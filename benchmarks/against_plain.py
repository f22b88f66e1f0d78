"""Compare `featherseg train --minutes M` with a tuned plain PyTorch loop on one core.

    python benchmarks/against_plain.py DATASET... [--data-root PATH] [--minutes 15]
                                       [--seeds 0 1 2] [--jobs 2]
    python benchmarks/against_plain.py DATASET... --table

DATASET is `camvid`, `shapes` (60 training scenes, written as files) or any dataset.toml with train,
val and test, such as that of neu_seg.py. Both sides start from the same ImageNet weights and see
the same training images. Every process and its loader workers are pinned to one core. featherseg
gets `--minutes` and no other setting. The loop (plain_loop.py) is first tuned on val (CamVid:
trained on subtrain, tuned on dev), one factor after the other, each time for the same minutes; its
best settings are the opponent. The minutes include start, reading, training, and featherseg's
validation and report, but not writing the masks of the test images. One evaluator scores both.

Finished rows are kept in benchmarks/tables/against_plain.jsonl and the pixel counts of each test
image in counts/ beside it, from which intervals are computed. The same command does only what is
missing. A killed training of featherseg continues because its steps are fixed; the loop ends by the
clock and starts again. A row is ignored if featherseg's recipe has changed since, or if the loop
had less than 95 % of its core. Prepared images are not used because the loop cannot use them. With
more than three seeds the interval is corrected for two looks, as the first three were seen before.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import cores
import numpy as np
import plain_loop
import torch
from PIL import Image

from featherseg.core.files import (
    append_line,
    load_json,
    read_lines,
    remove_tree,
    write_json,
    write_text,
)
from featherseg.core.machine import load_average, processor
from featherseg.core.types import Resize, SegmentationData
from featherseg.data import dataset_facts, open_dataset, score_split
from featherseg.data.datasets.dataset_toml import DatasetToml, toml_text
from featherseg.data.datasets.statistics import choose_crop, typical_size
from featherseg.data.images.palettes import color_text
from featherseg.evaluation.bootstrap import MIN_RUNS, Difference, compare_variants
from featherseg.evaluation.clusters import MIN_CLUSTERS, clusters_of
from featherseg.evaluation.scoring import Scores, evaluate_predictions, number
from featherseg.inference.masks import predict_mask
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.settings import own_settings
from featherseg.layers.sizes import resized
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.recipe.tables import TrainTable
from featherseg.reports.record import log_evaluation
from featherseg.runs.run import RESOLVED, load_run
from featherseg.training.resolve import choose_batch_size

TABLE = Path(__file__).parent / "tables" / "against_plain.jsonl"
MODEL, SEEDS = "frm-lite0-light", (0, 1, 2)
FACTORS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("lr", (3e-4, 1e-3, 3e-3)),
    ("area", ("crop", "whole")),
    ("class_weights", ("none", "median")),
    ("length", (1.0, 0.5)),
    ("schedule", ("cosine", "poly")),
)
"""Factors to tune, in this order, from plain_loop's defaults, keeping each best: seven runs."""
SHAPES = {"train": 60, "val": 200, "test": 200}
UNDISTURBED = 0.95
"""Share of its core that a training must have had which ends by the clock."""

MaskOf = Callable[[np.ndarray], np.ndarray]
"""Image (H, W, C) -> classes (H, W) uint8."""


@dataclass(frozen=True)
class Source:
    """A dataset: its name in the table, and as `featherseg train` takes it."""

    label: str
    data: str
    root: Path | None = None

    @property
    def tuning(self) -> tuple[str, str]:
        """(trained on, scored on) while the opponent is tuned."""
        return ("subtrain", "dev") if self.data == "camvid" else ("train", "val")

    def open(self, split: str) -> SegmentationData:
        return open_dataset(self.data, split, self.root)


@dataclass(frozen=True)
class Task:
    """One training of one side, scored on one split; what of a row tells it from others."""

    dataset: str
    side: str
    settings: Mapping[str, Any]
    seed: int
    minutes: float  # 0: as long as the recipe says
    trained_on: str
    scored_on: str

    def folder(self, out: Path) -> Path:
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]
        return (
            out
            / self.dataset
            / f"{self.side.replace(' ', '-')}-{self.scored_on}-{self.seed}-{digest}"
        )

    def counts(self, table: Path) -> Path:
        """Where its pixels of each image stand, once it is scored."""
        return table.parent / "counts" / f"{self.dataset}-{self.folder(Path()).name}.npz"

    def find(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """Its row, where it is finished and was not disturbed."""
        own = asdict(self)
        same = (row for row in rows if own.items() <= {k: row.get(k) for k in own}.items())
        return next((row for row in same if not row.get("disturbed")), None)


def open_source(name: str, root: Path | None, out: Path) -> Source:
    """Open the named dataset and write `shapes` as files first; exit if it has no test masks."""
    if name == "shapes":
        return Source("shapes-60", str(write_shapes(out.absolute() / "shapes-60" / "data")))
    source = Source(dataset_facts(name).name, name, None if name.endswith(".toml") else root)
    if score_split(name, source.root) != "test":
        sys.exit(f"{name} has no test split with masks, and both sides use val to choose.")
    return source


def write_shapes(folder: Path, counts: Mapping[str, int] = SHAPES) -> Path:
    """Write the first scenes of each split as PNGs, so that neither side draws; return the TOML."""
    path = folder / "dataset.toml"
    if path.is_file():
        return path
    for split, count in counts.items():
        data = open_dataset("shapes", split, None, count)
        for part in ("images", "masks"):
            (folder / part / split).mkdir(parents=True, exist_ok=True)
        for index, key in enumerate(data.keys):
            sample = data[index]
            Image.fromarray(sample.image).save(folder / "images" / f"{key}.png")
            Image.fromarray(sample.label).save(folder / "masks" / f"{key}.png")
        (folder / f"{split}.txt").write_text("\n".join(data.keys) + "\n")
    toml = DatasetToml(
        name="shapes-60",
        images="images",
        masks="masks",
        splits={split: f"{split}.txt" for split in counts},
        classes={info.name: color_text(info.color) for info in data.classes},
        map={str(i): info.name for i, info in enumerate(data.classes)} | {"255": "ignore"},
    )
    write_text(path, toml_text(toml))
    return path


def train_featherseg(task: Task, source: Source, folder: Path) -> None:
    """The command of a user who sets nothing but the minutes (the seed apart)."""
    where = [] if source.root is None else ["--data-root", str(source.root)]
    asked = [
        "--data",
        source.data,
        *where,
        "--minutes",
        str(task.minutes),
        "--set",
        f"train.seed={task.seed}",
    ]
    start(
        folder, "-m", "featherseg", "train", MODEL, *asked, "--resume", "--out", str(folder / "run")
    )


def train_plain(task: Task, source: Source, folder: Path) -> None:
    where = [] if source.root is None else ["--data-root", str(source.root)]
    asked = [
        "--data",
        source.data,
        *where,
        "--split",
        task.trained_on,
        "--minutes",
        str(task.minutes),
    ]
    asked += ["--seed", str(task.seed), "--settings", json.dumps(dict(task.settings))]
    start(folder, str(Path(plain_loop.__file__)), str(folder), *asked)


def length_of(task: Task) -> list[str]:
    """As `featherseg train` takes it."""
    return ["--minutes", str(task.minutes)] if task.minutes else []


def start(folder: Path, *command: str, cache: str = "off", gpus: bool = False) -> None:
    """Run Python on this thread's core and add its processor seconds to FOLDER/processor.json.

    cache: FEATHERSEG_CACHE, the folder of prepared images.
    """
    environment = {**os.environ, "FEATHERSEG_CACHE": cache}
    with open(folder / "log.txt", "a") as log:
        code, seconds = cores.run([sys.executable, *command], environment, log, gpus=gpus)
    note_processor(folder, seconds)
    if code:
        last = "\n".join((folder / "log.txt").read_text(errors="replace").splitlines()[-5:])
        raise RuntimeError(f"{' '.join(command)} ended with {code}; {folder}/log.txt:\n{last}")


def note_processor(folder: Path, seconds: float) -> None:
    """Add the processor seconds of a row's finished trainings; those of killed ones are unknown."""
    file = folder / "processor.json"
    before = load_json(file)["seconds"] if file.is_file() else 0.0
    write_json(file, {"seconds": before + seconds})


def open_featherseg(source: Source, folder: Path) -> tuple[MaskOf, dict[str, Any]]:
    run = load_run(str(folder / "run"))
    runtime, recipe = open_runtime(run, "cpu"), run.recipe
    facts = {
        "steps": recipe.train.steps,
        "crop": recipe.augment.crop,
        "precision": recipe.train.precision,
    }
    facts |= {} if run.info.device == "cpu" else {"device": run.info.device}
    return lambda image: predict_mask(runtime, image), facts


def open_plain(source: Source, folder: Path) -> tuple[MaskOf, dict[str, Any]]:
    facts = dataset_facts(source.data)
    model = plain_loop.UNet(len(facts.classes), facts.channels, pretrained=False)
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    model.eval()
    log = json.loads((folder / "log.json").read_text())
    return lambda image: plain_loop.predict(model, image), {
        "steps": log["steps"],
        "precision": log["precision"],
    }


TRAIN = {"featherseg": train_featherseg, "plain": train_plain}
OPEN = {"featherseg": open_featherseg, "plain": open_plain}


def score(mask_of: MaskOf, data: SegmentationData, folder: Path) -> Scores:
    """Write the masks of all images as index PNGs, and score these."""
    folder.mkdir()
    for index, key in enumerate(data.keys):
        Image.fromarray(mask_of(data[index].image)).save(folder / f"{key.replace('/', '_')}.png")
    return evaluate_predictions(folder, data, boundary=False)


class Bench:
    """Runs tasks, one a core at a time, and keeps the rows of those that are finished."""

    clocked: Collection[str] = ("plain",)
    """Sides that end by the clock; featherseg's steps are fixed."""

    seeds: Sequence[int] = SEEDS

    def __init__(
        self, sources: Sequence[Source], minutes: float, out: Path, table: Path, jobs: int
    ) -> None:
        self.sources = {source.label: source for source in sources}
        self.minutes, self.out, self.table, self.appending = minutes, out, table, threading.Lock()
        own: SimpleQueue[int] = SimpleQueue()
        for core in cores.take_cores(jobs):
            own.put(core)
        self.pool = ThreadPoolExecutor(jobs, initializer=lambda: cores.pin(own.get_nowait()))

    def run(self) -> None:
        """Run every task of every dataset: featherseg's first, the loop's as it is tuned."""
        recipe, train = (
            {"recipe": MODEL, "sha256": recipe_digest(MODEL)},
            parse_recipe(read_recipe(MODEL)).train,
        )
        recipes = {
            label: recipe | step_settings(train, source) for label, source in self.sources.items()
        }
        with ThreadPoolExecutor(len(self.sources)) as drivers:
            plain = [drivers.submit(self.oppose, source) for source in self.sources.values()]
            ours = [
                self.submit(self.final(s, "featherseg", recipes[s], n))
                for n in self.seeds
                for s in self.sources
            ]
            self.await_all([*plain, *ours])

    def final(self, dataset: str, side: str, settings: Mapping[str, Any], seed: int) -> Task:
        return Task(dataset, side, dict(settings), seed, self.minutes, "train", "test")

    def oppose(self, source: Source) -> None:
        """Tune the plain loop one factor after the other, then train the best with every seed."""
        best = asdict(plain_loop.Settings())
        for name, values in FACTORS:
            tasks = [
                Task(
                    source.label, "plain", best | {name: v}, SEEDS[0], self.minutes, *source.tuning
                )
                for v in values
            ]
            rows = [future.result() for future in [self.submit(task) for task in tasks]]
            best = max(rows, key=lambda row: row["score"] or 0.0)["settings"]
        for future in [
            self.submit(self.final(source.label, "plain", best, seed)) for seed in self.seeds
        ]:
            future.result()

    def finish(self, tasks: Sequence[Task]) -> None:
        """Every one of these that has no row yet."""
        self.await_all([self.submit(task) for task in tasks])

    def await_all(self, futures: Sequence["Future[Any]"]) -> None:
        """What fails stops nothing else; it is told in the end, when the program ends with 1."""
        failed = []
        try:
            for future in as_completed(futures):
                if error := future.exception():
                    say(f"failed: {error}")
                    failed.append(error)
        finally:  # of what was stopped nothing more is started
            self.pool.shutdown(wait=False, cancel_futures=True)
        if failed:
            sys.exit(f"{len(failed)} failed; the same command tries them again.")

    def submit(self, task: Task) -> "Future[dict[str, Any]]":
        """Its row: the one in the table, or a new one as soon as a core has made it."""
        if row := task.find(read_lines(self.table)):
            finished: Future[dict[str, Any]] = Future()
            finished.set_result(row)
            return finished
        return self.pool.submit(self.do, task)

    def train(self, task: Task, source: Source, folder: Path) -> None:
        TRAIN[task.side](task, source, folder)

    def open(self, task: Task, source: Source, folder: Path) -> tuple[MaskOf, dict[str, Any]]:
        return OPEN[task.side](source, folder)

    def do(self, task: Task) -> dict[str, Any]:
        """Train, write masks, score; the counts of test images beside the table, then the row."""
        source, folder = self.sources[task.dataset], task.folder(self.out)
        say(
            f"{task.dataset}: {task.side}, seed {task.seed}, for {task.scored_on}: "
            f"{dict(task.settings)}"
        )
        trained, log = folder / "trained.json", folder / "log.txt"
        if not trained.is_file() and not (folder / "run" / RESOLVED).is_file():
            remove_tree(folder)  # what was killed had a part of its minutes only
        folder.mkdir(parents=True, exist_ok=True)
        if not trained.is_file():
            begun_before, before = folder / "begun.json", {"seconds": 0.0, "commit": commit()}
            if (
                begun_before.is_file() and log.is_file()
            ):  # the last line is of about when it was killed
                before = load_json(begun_before)
                before["seconds"] += max(0.0, log.stat().st_mtime - before["began"])
            write_json(begun_before, before | {"began": time.time()})
            begun = time.monotonic()
            self.train(task, source, folder)
            seconds = before["seconds"] + time.monotonic() - begun
            write_json(trained, {"seconds": seconds, "commit": before.get("commit", "unknown")})
        seconds, code = (load_json(trained)[key] for key in ("seconds", "commit"))
        used = folder / "processor.json"
        processor_seconds = round(load_json(used)["seconds"], 1) if used.is_file() else None
        disturbed = (
            task.side in self.clocked and (processor_seconds or seconds) < UNDISTURBED * seconds
        )
        remove_tree(folder / "masks")
        mask_of, facts = self.open(task, source, folder)
        data = source.open(task.scored_on)
        scores = score(mask_of, data, folder / "masks")
        if (folder / "run" / RESOLVED).is_file():
            run = load_run(str(folder / "run"))  # counts the look as well
            log_evaluation(
                run, data, task.scored_on, own_settings(open_runtime(run, "cpu")), scores
            )
        remove_tree(folder / "masks")
        if task.scored_on == "test":
            kept = task.counts(self.table)
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(kept, counts=scores.counts.astype(np.int32), keys=data.keys)
        with self.appending:
            tables = {self.table.resolve(), *TABLE.resolve().parent.rglob("*.jsonl")}
            every = [row for table in tables for row in read_lines(table)]
            looks = sum(
                r.get("dataset") == task.dataset and r.get("scored_on") == "test" for r in every
            )
            row = asdict(task) | {
                "images": [len(source.open(task.trained_on)), len(data)],
                "score": number(scores.miou),
                "iou": dict(zip(scores.classes, map(number, scores.iou.tolist()), strict=True)),
                "seconds": round(seconds, 1),
                "processor_seconds": processor_seconds,
                **({"disturbed": True} if disturbed else {}),
                **facts,
                "look": looks + 1 if task.scored_on == "test" else None,
                "load": load_average(),
                "processor": machine_name(),
                "commit": code,
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            self.table.parent.mkdir(parents=True, exist_ok=True)
            append_line(self.table, row)
        if disturbed:  # so that the next one who asks for it has it trained anew
            trained.unlink()
        say(
            f"{task.dataset}: {task.side} {100 * scores.miou:.2f} on {task.scored_on}, "
            f"{seconds:.0f} s"
        )
        return row


def say(text: str) -> None:
    """One line in one write, as several threads tell how they go."""
    print(text + "\n", end="", file=sys.stderr, flush=True)


def format_difference(difference: Difference) -> str:
    """mIoU in points with its interval, and where that carries no claim."""
    few = (
        f", on fewer than {MIN_CLUSTERS} clusters of images: no claim"
        if difference.miou.few
        else ""
    )
    return f"{difference.miou.points()}{few}"


def machine_name() -> str:
    """Of the processor, by more than its name, which two generations share."""
    cpuinfo, name = Path("/proc/cpuinfo"), str(processor()["processor"])
    known = (
        dict(re.findall(r"^(cpu family|model)\s*: (\d+)$", cpuinfo.read_text(), re.M))
        if cpuinfo.is_file()
        else {}
    )
    return ", ".join([name, *(f"{key} {value}" for key, value in known.items())])


def recipe_digest(name: str) -> str:
    """Return the digest of a recipe's settings, without comments and other models.

    Open settings get the values of older rows: AdamW, bf16 and 8 images a step. Rows with others
    record them: `step_settings`, `scratch_settings`.
    """
    values = tomllib.loads(read_recipe(name).text)
    values.pop("models", None)
    train = values["train"]
    if train.get("optimizer") == "auto":
        del train["optimizer"]
    if train.get("precision") == "auto":
        train["precision"] = "bf16"
    if train.get("batch_size") == "auto":
        train["batch_size"] = train.pop("lr_batch_size")
    return hashlib.sha256(json.dumps([name, values], sort_keys=True).encode()).hexdigest()[:12]


def scratch_settings(train: TrainTable) -> dict[str, Any]:
    """What a recipe says of training from scratch alone, and rows from before do not have."""
    return {
        "backbone_lr": train.backbone_lr,
        "optimizer": "muon" if train.optimizer == "auto" else train.optimizer,
    }


def step_settings(
    train: TrainTable, source: Source, resize: Resize | None = None
) -> dict[str, Any]:
    """Return the batch size if the recipe leaves it open and its rates are for another one.

    resize: the size that images are resized to.
    """
    if train.batch_size != "auto":
        return {}
    data = source.open("train")
    batch = choose_batch_size(None, choose_crop(resized(typical_size(data), resize)), len(data))
    return {} if batch == train.lr_batch_size else {"batch_size": batch}


def commit() -> str:
    """Of the code; with "+" where it was changed since."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    asked = (
        ["rev-parse", "--short=10", "HEAD"],
        ["status", "--porcelain", "src", "benchmarks/*.py"],
    )
    head, changed = (
        subprocess.run(git + a, capture_output=True, encoding="utf-8").stdout.strip() for a in asked
    )
    return (head or "unknown") + "+" * bool(changed)


def read_counts(rows: Sequence[dict[str, Any]], table: Path) -> tuple[np.ndarray, list[str]] | None:
    """Return (m, N, 3, K) pixel counts by row and image keys; None if too few for an interval."""
    files = [
        Task(**{part.name: row[part.name] for part in fields(Task)}).counts(table) for row in rows
    ]
    if len(files) < MIN_RUNS or not all(file.is_file() for file in files):
        return None
    stored = [np.load(file) for file in files]
    return np.stack([file["counts"] for file in stored]), stored[0]["keys"].tolist()


def print_table(source: Source, minutes: float, table: Path) -> None:
    """What was tuned, both sides' scores, and featherseg less the plain loop with its interval."""
    rows = [
        row
        for row in read_lines(table)
        if row["dataset"] == source.label and row["minutes"] == minutes
    ]
    tuned = [row for row in rows if row["scored_on"] != "test"]
    print(f"\n{source.label}: {minutes:g} minutes of one core")
    for row in tuned:
        changed = ", ".join(f"{name} {row['settings'][name]}" for name, _ in FACTORS)
        less = f", had less than {UNDISTURBED:.0%} of its core" * ("disturbed" in row)
        print(
            f"  plain on {row['scored_on']} {100 * (row['score'] or 0):6.2f}  {changed}, "
            f"{row['steps']} steps{less}"
        )
    if len(processors := {row["processor"] for row in rows}) > 1:
        print(f"  rows are of several machines: {', '.join(sorted(processors))}")

    # Of either side the rows of its newest settings: of the last recipe, of the best that was tuned
    counts: dict[str, dict[int, np.ndarray]] = {"plain": {}, "featherseg": {}}
    keys: list[str] = []
    for side, by_seed in counts.items():
        final = [
            r
            for r in rows
            if r["side"] == side and r["scored_on"] == "test" and "disturbed" not in r
        ]
        kept = {row["seed"]: row for row in final if row["settings"] == final[-1]["settings"]}
        scores = [100 * (kept[seed]["score"] or 0) for seed in sorted(kept)]
        if scores:
            longest = max(row["seconds"] for row in kept.values()) / 60
            each = "  ".join(f"{v:5.2f}" for v in scores)
            print(
                f"  {side:10} on test {np.mean(scores):6.2f}  ({each}), {longest:.1f} min at most"
            )
        for seed, row in kept.items():
            file = Task(**{part.name: row[part.name] for part in fields(Task)}).counts(table)
            if file.is_file():
                with np.load(file) as stored:
                    by_seed[seed], keys = stored["counts"], stored["keys"].tolist()
    both = sorted(set.intersection(*map(set, counts.values())))
    if len(both) < MIN_RUNS:
        print(f"  seeds of both sides: {len(both)}, of which an interval needs {MIN_RUNS}")
        return
    plain, ours = (np.stack([by_seed[seed] for seed in both]) for by_seed in counts.values())
    looks = (
        2 if len(both) > len(SEEDS) else 1
    )  # seeds are added by who saw the interval of the first
    difference, *_ = compare_variants([plain, *[ours] * looks], clusters_of(keys))
    correction = ", corrected for two looks" if looks == 2 else ""
    print(
        f"  featherseg less plain: {format_difference(difference)} "
        f"(95 %, over images and seeds{correction})"
    )
    print(f"  {difference.message(list(counts))}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+", metavar="DATASET")
    parser.add_argument("--data-root", type=Path, help="where a dataset with a name lies")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="of both sides")
    parser.add_argument(
        "--jobs", type=int, default=1, help="trainings at a time, each on a core of its own"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/against-plain"))
    parser.add_argument("--rows", type=Path, default=TABLE, help="where finished rows are appended")
    parser.add_argument("--table", action="store_true", help="train nothing, print what is there")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    sources = [open_source(name, asked.data_root, asked.out) for name in asked.datasets]
    if not asked.table:
        bench = Bench(sources, asked.minutes, asked.out, asked.rows, asked.jobs)
        bench.seeds = asked.seeds
        bench.run()
    for source in sources:
        print_table(source, asked.minutes, asked.rows)


if __name__ == "__main__":
    main()
