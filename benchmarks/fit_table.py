"""Record the table that `fit` is judged by: each candidate's score over training time.

    python benchmarks/fit_table.py --data-root PATH/camvid --neu-root PATH/neu --paces
    python benchmarks/fit_table.py --data-root PATH/camvid --neu-root PATH/neu [--jobs 2]
    python benchmarks/fit_table.py --data-root PATH/camvid --neu-root PATH/neu \\
        --latencies onnx openvino onnx-int8
    python benchmarks/fit_table.py --table

A row is dataset x candidate (model, input scale) x seed. It trains at a constant rate
(`train.schedule = "stable"`) in one process on one core, from rung to rung, each twice as long as
the one before. At each rung the weights are scored on val and test; a copy of the run continues for
a fifth of the rung's steps at a falling rate and is scored as well. The row ends at the first rung
of at least LEAST seconds in which val gained less than GAIN over the last fifth of the training
(`gained`), or at the last rung. Seconds are those of a core of the machine of --paces. They fix the
steps of a rung, so a row may be trained elsewhere, also on a GPU, which is used if there is one.
Rows are kept in tables/fit_table.jsonl. The same command does what is missing: it continues a
killed row after its last rung, and continues a row that has not ended by today's rule, which is
then appended again.

--paces times a step and a validation of each candidate in processor seconds, so that other work may
run beside it; rows are kept in tables/fit_pace.jsonl. --latencies times each candidate in these
formats as `fit` does, on an image of each dataset, TURNS times in turns; nothing else may run then.
Rows are kept in tables/fit_latency.jsonl.
"""

import argparse
import json
import math
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from itertools import pairwise, product
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import cores
import neu_seg
import torch
from against_plain import Source, commit, machine_name, recipe_digest, write_shapes

import featherseg
from featherseg.core.allocator import keep_freed_memory
from featherseg.core.files import append_line, load_json, read_lines, remove_tree, write_json
from featherseg.core.types import Reporter, SegmentationData, Size
from featherseg.data import open_dataset
from featherseg.evaluation.scoring import evaluate
from featherseg.fitting.candidates import resize_of
from featherseg.fitting.feasible import image_of
from featherseg.fitting.halving import name_of
from featherseg.fitting.latency import Timing, here, time_file, write_untrained
from featherseg.inference.runtimes import open_runtime

TABLE = Path(__file__).parent / "tables" / "fit_table.jsonl"
PACES, LATENCIES = TABLE.with_name("fit_pace.jsonl"), TABLE.with_name("fit_latency.jsonl")
RUNGS = (75, 150, 300, 600, 1200, 2400)
"""Seconds of training at the constant rate."""
DECAY = 0.25
"""Of a rung's steps, those that follow at a falling rate: a fifth of all."""
LEAST, GAIN = 600, 0.3
"""A row ends after this many seconds once val gained fewer mIoU points than this in a fifth."""
TIMED = 6
"""Steps by which a step is timed, behind as many that are not ..."""
FEW = 24
"""... and images by which a validation is."""
TURNS = 5
"""How often --latencies times a file."""
SEEDS = (0, 1)
RUNGS_FILE = "rungs.json"
SHAPES = {"train": 1000, "val": 200, "test": 200}


@dataclass(frozen=True)
class Data:
    """A dataset of the table: its training split, the size of its images, and their number."""

    name: str
    size: Size
    train_size: int | None = None


DATA = {
    "camvid-180x240": Data("camvid", (180, 240)),
    "neu": Data("neu", (200, 200)),
    "shapes-60": Data("shapes", (128, 256), 60),
    "shapes-1000": Data("shapes", (128, 256)),
}
CANDIDATES = (
    ("frm-lite0-half-light-w32", 1.0),
    ("frm-lite0-half-light", 1.0),
    ("frm-lite2-half-light", 1.0),
    ("frm-lite0-half16-light", 1.0),
    ("frm-mobilenet-v2-light", 1.0),
    ("frm-lite0-light", 1.0),
    ("frm-lite2-light", 1.0),
    ("frm-lite0-half-light", 2.0),
    ("frm-mobilenet-v2-light", 1.5),
)
"""Model and input scale."""

Row = tuple[str, str, float, int]
"""Dataset, model, scale, seed."""


def settings_of(row: Row, source: Source) -> dict[str, Any]:
    """Return recipe settings: images at the candidate's scale, a constant rate, EMA kept last."""
    label, _, scale, seed = row
    data = DATA[label]
    fit = [max(32, round(side * scale)) for side in sorted(data.size)]
    crop = [max(32, round(side * scale)) for side in data.size]
    settings: dict[str, Any] = {
        "augment.resize": fit,
        "data.test_resize": fit,
        "augment.crop": crop,
        "data.workers": 0,
    }
    settings |= {
        "train.schedule": "stable",
        "train.warmup_steps": 50,
        "train.keep": "last",
        "train.seed": seed,
    }
    settings |= {"train.validations": 1}  # at the end
    settings |= {"data.train_size": data.train_size} if data.train_size else {}
    return settings | ({"data.root": str(source.root)} if source.root else {})


class Clock(Reporter):
    """Notes how many seconds the processor had worked for this process when each step was done."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def message(self, text: str) -> None:
        """Not shown."""

    def step(self, step: int, steps: int, record: dict[str, Any]) -> None:
        """One step further."""
        self.ends.append(time.process_time())

    def progress(self, doing: str, done: int, total: int | None) -> None:
        """Of work between two steps."""


def time_pace(row: Row, source: Source, out: Path) -> dict[str, Any]:
    """What a step and a validation take, by a run that is thrown away."""
    (label, model, scale, _), clock = row, Clock()
    remove_tree(out)
    settings = settings_of(row, source) | {
        "train.steps": 2 * TIMED,
        "train.device": "cpu",
        "data.val_size": FEW,
    }
    featherseg.train(model, source.data, out=out, settings=settings, report=False, progress=clock)
    step = median(
        end - begin for begin, end in pairwise(clock.ends[TIMED - 1 :])
    )  # some have a validation before them
    few, began = open_dataset(source.data, "val", source.root, FEW), time.process_time()
    score(out, few)
    each, sizes = (
        (time.process_time() - began) / FEW,
        {split: len(source.open(split)) for split in SHAPES},
    )
    images = sum(sizes.values()) - sizes["train"] + (DATA[label].train_size or sizes["train"])
    remove_tree(out)
    facts = {"dataset": label, "model": model, "scale": scale, "step_seconds": round(step, 4)}
    facts |= {"val_seconds": round(each * sizes["val"], 2), "images": images}
    return facts | {"recipe": recipe_digest(model), "processor": machine_name(), "commit": commit()}


def record(row: Row, source: Source, pace: dict[str, Any], out: Path) -> dict[str, Any]:
    """Train and score one row, from its first rung to its last, or from where it was killed."""
    label, model, scale, seed = row
    facts: dict[str, Any] = {"dataset": label, "model": model, "scale": scale, "seed": seed}
    facts |= {key: pace[key] for key in ("step_seconds", "val_seconds", "images", "recipe")}
    facts |= {"rungs": [], "seconds": 0.0}
    if (out / RUNGS_FILE).is_file():
        kept = load_json(out / RUNGS_FILE)
        if is_over(kept) or (
            (out / "run").is_dir() and kept["step_seconds"] == pace["step_seconds"]
        ):
            facts = kept
    if is_over(facts):
        return facts
    if not facts["rungs"]:
        remove_tree(out)
    test, began = source.open("test"), time.monotonic()

    def train(run: Path, steps: int, decay: int = 0) -> float:
        """What val has, in %, at the end of so many steps."""
        asked = settings_of(row, source) | {"train.steps": steps, "train.decay_steps": decay}
        featherseg.train(
            model,
            source.data,
            out=run,
            settings=asked,
            resume=run.is_dir(),
            report=False,
            progress=Clock(),
        )
        return round(100 * featherseg.load_run(run).metrics()[steps]["val_miou"], 3)

    for seconds in RUNGS[len(facts["rungs"]) :]:
        steps = max(1, round(seconds / pace["step_seconds"]))
        decay = max(1, round(DECAY * steps))
        rung: dict[str, Any] = {"seconds": seconds, "steps": steps, "ended": steps + decay}
        rung["val"] = train(out / "run", steps)
        remove_tree(out / "branch")
        shutil.copytree(out / "run", out / "branch")
        rung["val_decayed"] = train(out / "branch", steps + decay, decay)
        rung |= {"test": score(out / "run", test), "test_decayed": score(out / "branch", test)}
        facts["rungs"].append(rung)
        elapsed, began = time.monotonic() - began, time.monotonic()
        facts["seconds"] = round(facts["seconds"] + elapsed, 1)
        gpu = (
            f"{torch.cuda.get_device_name()}, one core of an " if torch.cuda.is_available() else ""
        )
        precision = featherseg.load_run(out / "run").recipe.train.precision
        facts |= {"processor": gpu + machine_name(), "precision": precision, "commit": commit()}
        write_json(out / RUNGS_FILE, facts)
        if is_over(facts):
            break
    return facts


def gained(rungs: list[dict[str, Any]]) -> float:
    """Return the val points gained in the last fifth of the time, from the last doubling.

    Scores after the falling rate rise about evenly over the logarithm of the time, so the gain is
    log(1.25) / log(2) of the difference of two rungs. This has a third of their noise; the
    difference of two scores a fifth apart would have more noise than GAIN.
    """
    before, last = rungs[-2:]
    share = math.log(1.25) / math.log(last["ended"] / before["ended"])
    return float(last["val_decayed"] - before["val_decayed"]) * share


def is_over(facts: dict[str, Any]) -> bool:
    """Whether a row needs no further rung."""
    rungs = facts["rungs"]
    last = rungs[-1]["seconds"] if rungs else 0
    return last == RUNGS[-1] or (last >= LEAST and gained(rungs) < GAIN)


def score(run: Path, data: SegmentationData) -> float:
    """mIoU in %."""
    return round(
        100 * evaluate(open_runtime(featherseg.load_run(run), "auto"), data, boundary=False).miou, 3
    )


def record_missing(
    rows: list[Row], places: dict[str, str], out: Path, table: Path, jobs: int
) -> None:
    """Train every unfinished row in its own process and core; by seed, most steps first."""
    lock, free_cores = Lock(), SimpleQueue[int]()
    for core in cores.take_cores(jobs):
        free_cores.put(core)
    paces = {(r["dataset"], r["model"], r["scale"]): r for r in read_lines(PACES) if is_current(r)}
    if missing := {row[:3] for row in rows} - set(paces):
        raise SystemExit(f"{PACES} has no pace of {sorted(missing)[0]}: time it with --paces.")

    def one(row: Row) -> None:
        words = [
            sys.executable,
            __file__,
            "--row",
            json.dumps(row),
            "--out",
            str(out),
            "--places",
            json.dumps(places),
        ]
        with open(out / f"{folder_of(row)}.txt", "w+") as log:
            code, _ = cores.run(words, os.environ, log, gpus=True)
            log.seek(0)
            said = log.read()
        if code:
            print(f"{row}: {said[-500:]}", file=sys.stderr, flush=True)
            return
        with lock:
            table.parent.mkdir(parents=True, exist_ok=True)
            append_line(
                table, json.loads([line for line in said.splitlines() if line.startswith("{")][-1])
            )

    done = {key for key, row in read_table(table).items() if is_over(row)}
    rows = sorted(
        (row for row in rows if row not in done),
        key=lambda row: (row[3], paces[row[:3]]["step_seconds"]),
    )
    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs, initializer=lambda: cores.pin(free_cores.get_nowait())) as pool:
        list(pool.map(one, rows))


def read_table(table: Path) -> dict[Row, dict[str, Any]]:
    """The rows of today's recipes; of one that was taken further, the last."""
    rows = [row for row in read_lines(table) if is_current(row)]
    return {(row["dataset"], row["model"], row["scale"], row["seed"]): row for row in rows}


def is_current(row: dict[str, Any]) -> bool:
    """Whether a row is of today's recipe."""
    return bool(row["recipe"] == recipe_digest(row["model"]))


def folder_of(row: Row) -> str:
    """The name of a row's folder."""
    label, model, scale, seed = row
    return f"{label}-{model}-{scale:g}-{seed}"


def source_of(label: str, places: dict[str, str]) -> Source:
    """The dataset of a label, where it lies: CamVid's folder, the dataset.toml of others."""
    name = DATA[label].name
    return (
        Source(label, name, Path(places[name])) if name == "camvid" else Source(label, places[name])
    )


def time_paces(labels: list[str], places: dict[str, str], out: Path, table: Path) -> None:
    """Time a step and a validation of every candidate without a row, one after the other."""
    done = {(r["dataset"], r["model"], r["scale"]) for r in read_lines(table) if is_current(r)}
    for label in labels:
        for one in CANDIDATES:
            if (label, *one) not in done:
                append_line(
                    table,
                    time_pace((label, *one, SEEDS[0]), source_of(label, places), out / "pace"),
                )


def time_missing(
    labels: list[str], places: dict[str, str], formats: list[str], table: Path
) -> None:
    """Time every candidate without a row here, in turns by dataset and format.

    A row has the median over the turns, so that a machine of changing speed keeps their order.
    """
    (device, threads), processor = here(), machine_name()
    here_rows = (row for row in read_lines(table) if row["processor"] == processor)
    done = {(row["dataset"], row["model"], row["scale"], row["format"]) for row in here_rows}
    for label, format in product(labels, formats):
        size, train = DATA[label].size, source_of(label, places).open("train")
        image = image_of(train, size)
        missing = [(*one, format) for one in CANDIDATES if (label, *one, format) not in done]
        with TemporaryDirectory(prefix="fit-table-") as folder:
            files = {}
            for name in missing:
                model_folder = Path(folder) / name_of(*name[:2]).replace(" ", "-")
                model_folder.mkdir()
                files[name] = write_untrained(
                    name, train.classes, resize_of(name[1], size), image, [image], model_folder
                )
            by_name: dict[tuple[str, float, str], list[Timing]] = {name: [] for name in missing}
            for name in missing * TURNS:
                by_name[name].append(time_file(files[name], image, name))
        for (model, scale, _), timings in by_name.items():
            row: dict[str, Any] = {
                "dataset": label,
                "model": model,
                "scale": scale,
                "format": format,
            }
            row |= {
                key: round(median(getattr(one, key[:-3]) for one in timings), 3)
                for key in ("p50_ms", "p95_ms")
            }
            row |= {"turns": [round(one.p50, 3) for one in timings]}
            row |= {"image_size": size, "device": device, "threads": threads, "commit": commit()}
            append_line(table, row | {"processor": processor, "date": date.today().isoformat()})


def print_table(table: Path) -> None:
    """Test mIoU behind the falling rate, by rung."""
    for (dataset, model, scale, seed), row in sorted(read_table(table).items()):
        name = f"{dataset:12} {model} at {scale:g}, seed {seed}"
        scores = "  ".join(f"{r['seconds']} s {r['test_decayed']:.2f}" for r in row["rungs"])
        gain = gained(row["rungs"])
        print(f"{name:52}", scores + (f"  still gained {gain:.1f}" if gain >= GAIN else ""))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, help="of CamVid; left out: without it")
    parser.add_argument("--neu-root", type=Path, help="of NEU-Seg; left out: without it")
    parser.add_argument("--out", type=Path, default=Path("runs/fit-table"))
    parser.add_argument(
        "--jobs", type=int, default=1, help="rows at a time, each on a core of its own"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--rows", type=Path, default=TABLE, help="where finished rows are appended")
    parser.add_argument("--table", action="store_true", help="train nothing, print what is there")
    parser.add_argument("--paces", action="store_true", help="train nothing to its end, time steps")
    parser.add_argument(
        "--latencies", nargs="+", metavar="FORMAT", help="train nothing, time the candidates"
    )
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--places", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.row or asked.paces:
        torch.set_num_threads(1)
    if asked.row:
        # As `featherseg fit` does: mapping pages again took a seventh of a row of NEU-Seg.
        keep_freed_memory()
        row = tuple(asked.row)
        pace = next(
            r
            for r in read_lines(PACES)
            if is_current(r) and (r["dataset"], r["model"], r["scale"]) == row[:3]
        )
        print(
            json.dumps(
                record(row, source_of(row[0], asked.places), pace, asked.out / folder_of(row))
            )
        )
        return
    if not asked.table:
        places = {"shapes": str(write_shapes(asked.out.absolute() / "shapes", SHAPES))}
        places |= {"camvid": str(asked.data_root.absolute())} if asked.data_root else {}
        places |= (
            {"neu": str(neu_seg.write(asked.neu_root, asked.out / "neu-lists"))}
            if asked.neu_root
            else {}
        )
        labels = [label for label, data in DATA.items() if data.name in places]
        if asked.latencies:
            time_missing(labels, places, asked.latencies, LATENCIES)
            return
        if asked.paces:
            time_paces(labels, places, asked.out, PACES)
            return
        rows = [
            (label, *one, seed) for seed in asked.seeds for label in labels for one in CANDIDATES
        ]
        record_missing(rows, places, asked.out, asked.rows, asked.jobs)
    print_table(asked.rows)


if __name__ == "__main__":
    main()
