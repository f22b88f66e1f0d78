"""The recorded table that `fit` is judged by: what each candidate reaches after how much training, on several datasets.

    python benchmarks/fit_table.py --data-root PATH/camvid --neu-root PATH/neu --out runs/fit-table [--jobs 2]
    python benchmarks/fit_table.py --data-root PATH/camvid --neu-root PATH/neu --latencies onnx openvino onnx-int8
    python benchmarks/fit_table.py --table

A row is dataset x candidate (model, input scale) x seed. It trains at a constant rate (`train.schedule = "stable"`)
from rung to rung, each twice as long as the one before, in one process on one core; at each rung the weights are scored
on val and test, and a copy of the run goes on for a fifth of the rung's steps at a falling rate and is scored as well.
It ends at the first rung of at least LEAST seconds behind which val gained less than GAIN over the last fifth of the
training, or at the last. Steps of a rung follow from the time of a step, measured when the row begins. Finished rows
stand in tables/fit_table.jsonl; the same command does what is missing, and starts a row anew that was killed.

--latencies times each candidate in these formats as `fit` does, on an image of each dataset, and trains nothing; its
rows stand in tables/fit_latency.jsonl. Nothing else may run then.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from threading import Lock
from typing import Any

import cores
import neu_seg
import numpy as np
import torch
from against_plain import commit, machine_name, recipe_digest

import featherseg
from featherseg.core.files import append_line, read_lines, remove_tree
from featherseg.core.types import Reporter, Size
from featherseg.data import open_dataset
from featherseg.fitting.candidates import resize_of
from featherseg.fitting.feasible import image_of
from featherseg.fitting.latency import here, time_candidate

TABLE = Path(__file__).parent / "tables" / "fit_table.jsonl"
RUNGS = (75, 150, 300, 600, 1200, 2400)
"""Seconds of training at the constant rate."""
DECAY = 0.25
"""Of a rung's steps, those that follow at a falling rate: a fifth of all."""
LEAST, GAIN = 600, 0.3
"""A row is over from so many seconds on where val (points of mIoU) gained less than this in the last fifth."""
TIMED = 20
"""Steps by which a step is timed, behind as many that are not."""
SEEDS = (0, 1)
LATENCIES = TABLE.with_name("fit_latency.jsonl")


@dataclass(frozen=True)
class Data:
    """A dataset of the table: what is trained on, of which size its images are there, and how many."""

    name: str
    size: Size
    train_size: int | None = None


DATA = {
    "camvid-180x240": Data("camvid", (180, 240)),
    "neu": Data("neu", (200, 200)),
    "shapes-60": Data("shapes", (128, 256), 60),
    "shapes-1000": Data("shapes", (128, 256), 1000),
}
CANDIDATES = (
    ("frm-lite0-half-light-w32", 1.0),
    ("frm-lite0-half-light", 1.0),
    ("frm-lite2-half-light", 1.0),
    ("frm-lite0-3quarter-light", 1.0),
    ("frm-lite0-light", 1.0),
    ("frm-lite2-light", 1.0),
    ("frm-lite0-half-light", 2.0),
    ("frm-lite0-light", 1.5),
)
"""Model and input scale."""

Row = tuple[str, str, float, int]
"""Dataset, model, scale, seed."""


def settings_of(row: Row, places: dict[str, str]) -> dict[str, Any]:
    """Keys of the recipe: the images at the candidate's scale, a constant rate, averaged weights kept last."""
    label, _, scale, seed = row
    data = DATA[label]
    fit = [max(32, round(side * scale)) for side in sorted(data.size)]
    crop = [max(32, round(side * scale)) for side in data.size]
    found: dict[str, Any] = {"augment.resize": fit, "data.test_resize": fit, "augment.crop": crop, "data.workers": 0}
    found |= {"train.schedule": "stable", "train.warmup_steps": 50, "train.keep": "last", "train.seed": seed}
    if data.train_size:
        found["data.train_size"] = data.train_size
    if data.name == "camvid":
        found["data.root"] = places["camvid"]
    return found


class Clock(Reporter):
    """Notes when each step was done, and what validations found."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def message(self, text: str) -> None:
        """Not shown."""

    def step(self, step: int, steps: int, record: dict[str, Any]) -> None:
        """One step further."""
        self.ends.append(time.monotonic())

    def progress(self, doing: str, done: int, total: int | None) -> None:
        """Of work between two steps."""


def record(row: Row, places: dict[str, str], out: Path) -> dict[str, Any]:
    """Train and score one row, from its first rung to its last."""
    label, model, scale, seed = row
    data = places["neu"] if DATA[label].name == "neu" else DATA[label].name
    settings, clock = settings_of(row, places), Clock()

    def train(run: Path, steps: int, decay: int = 0) -> None:
        asked = settings | {"train.steps": steps, "train.decay_steps": decay}
        begun = run.is_dir()
        featherseg.train(model, data, out=run, settings=asked, resume=begun, report=False, progress=clock)

    # The time of a step, in a run that is thrown away
    remove_tree(out)
    train(out / "trial", 2 * TIMED)
    pace = median(end - begin for begin, end in pairwise(clock.ends[TIMED - 1 :]))  # some have a validation before them
    remove_tree(out / "trial")

    rungs, begun = [], time.monotonic()
    for seconds in RUNGS:
        steps = max(1, round(seconds / pace))
        train(out / "run", steps)
        decay = max(1, round(DECAY * steps))
        remove_tree(out / "branch")
        shutil.copytree(out / "run", out / "branch")
        train(out / "branch", steps + decay, decay)
        scoring = time.monotonic()
        scores = {f"val{kind}": score(out / run, "val") for run, kind in KINDS.items()}
        validation = (time.monotonic() - scoring) / len(KINDS)
        scores |= {f"test{kind}": score(out / run, "test") for run, kind in KINDS.items()}
        rungs.append({"seconds": seconds, "steps": steps, "ended": steps + decay, **scores})
        curve = {
            step: r["val_miou"] for step, r in featherseg.load_run(out / "run").metrics().items() if "val_miou" in r
        }
        gain = 100 * (curve[steps] - score_at(curve, 0.8 * steps))
        if seconds >= LEAST and gain < GAIN:
            break
    facts = {"dataset": label, "model": model, "scale": scale, "seed": seed, "step_seconds": round(pace, 4)}
    facts |= {"val_seconds": round(validation, 2), "last_gain": round(gain, 3), "converged": gain < GAIN}
    facts |= {"recipe": recipe_digest(model), "images": images_of(label, places)}
    facts |= {"rungs": rungs, "seconds": round(time.monotonic() - begun), "processor": machine_name()}
    return facts | {"curve": {str(step): round(100 * value, 3) for step, value in curve.items()}, "commit": commit()}


def images_of(label: str, places: dict[str, str]) -> int:
    """Images of all splits, which every training looks through before its first step."""
    data, root = DATA[label], Path(places["camvid"]) if DATA[label].name == "camvid" else None
    name = places["neu"] if data.name == "neu" else data.name
    sizes = {split: len(open_dataset(name, split, root)) for split in ("train", "val", "test")}
    return sum(sizes.values()) if data.train_size is None else data.train_size + sizes["val"] + sizes["test"]


KINDS = {"run": "", "branch": "_decayed"}


def score(run: Path, split: str) -> float:
    """mIoU in %."""
    return round(100 * featherseg.evaluate(run, split=split).miou, 3)


def score_at(curve: dict[int, float], step: float) -> float:
    """The score at a step, on a line between the validations before and behind it."""
    return float(np.interp(step, sorted(curve), [curve[s] for s in sorted(curve)]))


def record_missing(rows: list[Row], places: dict[str, str], out: Path, table: Path, jobs: int) -> None:
    """Every row that is not in the table, in a process of its own on a core of its own."""
    lock, own = Lock(), SimpleQueue[int]()
    for core in cores.take_cores(jobs):
        own.put(core)

    def one(row: Row) -> None:
        words = [sys.executable, __file__, "--row", json.dumps(row), "--out", str(out), "--places", json.dumps(places)]
        with tempfile.TemporaryFile("w+") as log:
            code, _ = cores.run(words, os.environ, log)
            log.seek(0)
            said = log.read()
        if code:
            print(f"{row}: {said[-500:]}", file=sys.stderr, flush=True)
            return
        with lock:
            table.parent.mkdir(parents=True, exist_ok=True)
            append_line(table, json.loads([line for line in said.splitlines() if line.startswith("{")][-1]))

    known = [row for row in read_lines(table) if row["recipe"] == recipe_digest(row["model"])]
    done = {(row["dataset"], row["model"], row["scale"], row["seed"]) for row in known}
    with ThreadPoolExecutor(jobs, initializer=lambda: cores.pin(own.get_nowait())) as pool:
        list(pool.map(one, [row for row in rows if row not in done]))


def time_missing(labels: list[str], places: dict[str, str], formats: list[str], table: Path) -> None:
    """Every candidate of every dataset in every format without a row, in processes one after the other."""
    done = {(r["dataset"], r["model"], r["scale"], r["format"]) for r in read_lines(table)}
    device, threads = here()
    for label in labels:
        data = DATA[label]
        root = Path(places[data.name]) if data.name == "camvid" else None
        train = open_dataset(places["neu"] if data.name == "neu" else data.name, "train", root)
        image = image_of(train, data.size)
        for model, scale in CANDIDATES:
            for name in ((model, scale, format) for format in formats if (label, model, scale, format) not in done):
                resize = resize_of(scale, data.size)
                timing = time_candidate(name, train.classes, resize, image, [image], lambda _: False).as_dict()
                p50, p95 = (timing["latency_ms"][key] for key in ("p50", "p95"))
                row = {
                    "dataset": label,
                    "model": model,
                    "scale": scale,
                    "format": name[2],
                    "p50_ms": p50,
                    "p95_ms": p95,
                }
                row |= {"image_size": data.size, "device": device, "threads": threads, "commit": commit()}
                append_line(table, row | {"processor": machine_name(), "date": date.today().isoformat()})


def print_table(table: Path) -> None:
    """Test mIoU behind the falling rate, by rung."""
    for row in sorted(read_lines(table), key=lambda row: (row["dataset"], row["model"], row["scale"], row["seed"])):
        name = f"{row['dataset']:12} {row['model']} at {row['scale']:g}, seed {row['seed']}"
        scores = "  ".join(f"{r['seconds']} s {r['test_decayed']:.2f}" for r in row["rungs"])
        print(f"{name:52}", scores + ("" if row["converged"] else f"  still gains {row['last_gain']:.1f}"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="of CamVid; left out: without it")
    parser.add_argument("--neu-root", type=Path, help="of NEU-Seg; left out: without it")
    parser.add_argument("--out", type=Path, default=Path("runs/fit-table"))
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time, each on a core of its own")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--rows", type=Path, default=TABLE, help="where finished rows are appended")
    parser.add_argument("--table", action="store_true", help="train nothing, print what is there")
    parser.add_argument("--latencies", nargs="+", metavar="FORMAT", help="train nothing, time the candidates")
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--places", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.row:
        torch.set_num_threads(1)
        label, model, scale, seed = asked.row
        folder = asked.out / f"{label}-{model}-{scale:g}-{seed}"
        print(json.dumps(record((label, model, scale, seed), asked.places, folder)))
        return
    if not asked.table:
        places = {"camvid": str(asked.data_root.absolute())} if asked.data_root else {}
        if asked.neu_root:
            places["neu"] = str(neu_seg.write(asked.neu_root, asked.out / "neu-lists"))
        labels = [label for label, data in DATA.items() if data.name == "shapes" or data.name in places]
        if asked.latencies:
            time_missing(labels, places, asked.latencies, LATENCIES)
            return
        rows = [(label, *one, seed) for seed in asked.seeds for label in labels for one in CANDIDATES]
        record_missing(rows, places, asked.out, asked.rows, asked.jobs)
    print_table(asked.rows)


if __name__ == "__main__":
    main()
