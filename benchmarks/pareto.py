"""Plot the Pareto front of our light models: test mIoU after equal minutes against latency.

    python benchmarks/pareto.py DATASET... [--data-root PATH] --files      # export, score int8
    python benchmarks/pareto.py DATASET... [--data-root PATH] --latencies  # time; run nothing else
    python benchmarks/pareto.py DATASET... [--data-root PATH] [--rows FILE] [--draw docs/front]
                                [--mark]

The models are those that against_ultralytics.py trained from ImageNet weights, and the peers: its
--out contains their runs, its --rows their scores after the same minutes of one core. --files
exports one run of each. A latency is from a decoded image of the dataset's usual size to its mask,
timed in turns (PASSES a turn, each model in its own process), on one core and on all; it needs no
trained weights. It may be of another processor than the scores: both are named, and --draw uses the
latencies of the processor that most runs are of. The score of an int8 file is its model's score
minus the loss of one run's file, that of the first seed found here; files without this figure are
skipped. Rows are kept in tables/front_files.jsonl and front_latency.jsonl; the same command does
what is missing. --mark rewrites what `featherseg models` marks: the means of our models at scale 1
that have at least three seeds on every named DATASET.
"""

import argparse
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import against_plain as plain
import against_ultralytics as both
import numpy as np
import paired
import torch
from against_plain import Source, commit
from against_ultralytics import OURS, PEERS, Bench

import featherseg
from featherseg.comparison.pareto import LATENCY, Point, front_svg, pareto_front
from featherseg.core.files import append_line, read_lines, write_json, write_text
from featherseg.core.machine import usable_cores
from featherseg.costs.catalogue import SCORES
from featherseg.data.datasets.statistics import typical_size
from featherseg.evaluation.bootstrap import MIN_RUNS, compare_files
from featherseg.evaluation.clusters import clusters_of
from featherseg.evaluation.scoring import evaluate
from featherseg.exporters.formats import EXPORTERS
from featherseg.exporters.pipeline import ExportSettings, export_formats
from featherseg.fitting.candidates import resize_of
from featherseg.fitting.latency import write_untrained
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.settings import own_settings
from featherseg.reports.record import log_evaluation
from featherseg.runs.run import WEIGHTS, load_run

FILES = both.TABLE.with_name("front_files.jsonl")
LATENCIES = both.TABLE.with_name("front_latency.jsonl")
FORMATS = ("onnx", "openvino", "onnx-int8", "openvino-int8")
ROUNDS, PASSES = 6, 30


def write_files(bench: Bench, source: Source, table: Path) -> None:
    """Export a run of each model to every format with its check, and score its int8 files.

    A model without a run under --out is named and skipped; the machine that has one must do it.
    """
    test, done = (
        source.open("test"),
        {(row["dataset"], row["weights"]) for row in read_lines(table)},
    )
    for name, settings in [
        (name, settings) for name, settings in bench.sides(source) if name not in PEERS
    ]:
        places = [
            bench.final(source.label, name, settings, seed).folder(bench.out) / "run"
            for seed in bench.seeds
        ]
        folder = next((place for place in places if (place / WEIGHTS).is_file()), None)
        if folder is None:
            print(f"{source.label}: no run of {name} under {bench.out}")
            continue
        run = load_run(str(folder))
        if (source.label, run.weights_sha256) in done:
            continue
        _, errors = export_formats(run, FORMATS, settings=ExportSettings(data_root=source.root))
        row: dict[str, Any] = {"dataset": source.label, "model": name, "minutes": bench.minutes}
        row["weights"] = run.weights_sha256
        row["failed"] = [str(error) for error in errors]
        scores = {"fp32": evaluate(open_runtime(run, "cpu"), test, boundary=False)}
        log_evaluation(
            run, test, "test", own_settings(open_runtime(run, "cpu")), scores["fp32"]
        )  # a look is counted
        for format in FORMATS:
            file = folder / "export" / EXPORTERS[format].main
            if EXPORTERS[format].quantised and file.is_file():
                scores[format] = evaluate(open_runtime(file, "cpu"), test, boundary=False)
                counts = [scores[format].counts, scores["fp32"].counts]
                lost = compare_files(counts, clusters_of(test.keys))[0].miou
                row[format] = {
                    "points": [round(100 * x, 3) for x in (lost.value, lost.low, lost.high)]
                }
        append_line(
            table,
            row | {"scores": {k: round(100 * one.miou, 3) for k, one in scores.items()}} | made(),
        )


def time_models(bench: Bench, source: Source, threads: int, table: Path) -> None:
    """Time every untrained model without a row for this thread count, in turns by format.

    Each has a process and many passes a turn, because a runtime's idle threads keep a core busy for
    a while after its last pass, which slows the next model (docs/log.md).
    """
    train = source.open("train")
    size, image = typical_size(source.open("test")), source.open("test")[0].image
    calibration = [train[index].image for index in range(min(8, len(train)))]
    key = {
        "dataset": source.label,
        "threads": threads,
        "size": list(size),
        "processor": plain.machine_name(),
    }
    done = {(r["model"], r["format"]) for r in read_lines(table) if key.items() <= r.items()}
    for format in FORMATS:
        wanted = [
            name
            for name, _ in bench.sides(source)
            if not (name in PEERS and EXPORTERS[format].quantised)
        ]
        if all((name, format) in done for name in wanted):
            continue
        commands: dict[str, list[str]] = {}
        with TemporaryDirectory() as folder:
            np.save(Path(folder) / "image.npy", image)
            for name in wanted:
                if name in PEERS:
                    file = untrained_peer(
                        bench.out / "ultralytics", name, len(train.classes), size, Path(folder)
                    )
                else:
                    place = Path(folder) / name
                    place.mkdir()
                    model, scale = both.split_name(name)
                    resize = resize_of(scale, size)
                    file = write_untrained(
                        (model, scale, format), train.classes, resize, image, calibration, place
                    )
                runtime = format if name in PEERS else ""
                commands[name] = [
                    __file__,
                    "--serve",
                    str(file),
                    f"{folder}/image.npy",
                    str(threads),
                    runtime,
                ]
            timed = paired.processes(commands, ROUNDS)
        print(f"{source.label}, {format}")
        paired.print_table(timed)
        p50s = zip(wanted, timed.p50_ms("wall").tolist(), timed.p50_ms("cpu").tolist(), strict=True)
        for name, wall, cpu in p50s:
            if (name, format) not in done:
                times = {"p50_ms": round(wall, 3), "processor_ms": round(cpu, 3)}
                append_line(table, key | {"model": name, "format": format} | times | made())


def serve(file: str, image: str, threads: str, runtime: str) -> None:
    """Serve `time_models`: predict a mask when asked. runtime: a peer file's, else empty."""
    torch.set_num_threads(int(threads))
    mask_of = (
        both.read_peer(Path(file), runtime) if runtime else featherseg.Predictor(file, device="cpu")
    )
    paired.serve(partial(mask_of, np.load(image)), passes=PASSES)


def untrained_peer(
    environment: Path, name: str, classes: int, size: Sequence[int], folder: Path
) -> Path:
    """The peer's ONNX file for images of that size, from its YAML with so many classes."""
    file = folder / f"{name}.onnx"
    if not file.is_file():
        command, family = (
            both.install(environment),
            f"{name[:6]}-sem.yaml",
        )  # of all sizes: yolo26-sem.yaml
        text = next(environment.rglob(family)).read_text()
        (folder / family).write_text(re.sub(r"(?m)^nc: *\d+", f"nc: {classes}", text))
        sides = str([-(-side // both.STRIDE) * both.STRIDE for side in size]).replace(" ", "")
        words = both.arguments({"format": "onnx", "model": f"{name}.yaml", "imgsz": sides})
        # it writes into the current folder
        with open(folder / "log.txt", "a") as log:
            both.start_peer(["env", f"--chdir={folder}", command], ["export", *words], log, folder)
    return file


def made() -> dict[str, Any]:
    """Where and of which code a row is."""
    return {"processor": plain.machine_name(), "commit": commit()}


def print_front(label: str, minutes: float, table: Path, draw: Path | None) -> None:
    """Print ms and mIoU by threads and format; mark the front; compare fp32 with cheaper models."""
    by_side = both.read_table(label, minutes, table)
    rows = {
        name: same for (name, pretrained), same in by_side.items() if pretrained or name in PEERS
    }
    trained = Counter(row["processor"] for same in rows.values() for row in same.values())
    lost = {
        row["model"]: row
        for row in read_lines(FILES)
        if (row["dataset"], row["minutes"]) == (label, minutes)
    }
    times = [
        row for row in read_lines(LATENCIES) if row["dataset"] == label and row["model"] in rows
    ]
    own = ("threads", "format", "processor", "size")
    for threads, format, processor, size in dict.fromkeys(
        tuple(str(row[key]) for key in own) for row in times
    ):
        points = []
        for row in times:
            name, quantised = row["model"], EXPORTERS[format].quantised
            known = not quantised or format in lost.get(name, {})
            if known and tuple(str(row[key]) for key in own) == (threads, format, processor, size):
                less = lost[name][format]["points"][0] if quantised else 0.0
                points.append(
                    Point(name, row["p50_ms"], (np.mean(both.scores_of(rows[name])) + less) / 100)
                )
        if not points:
            continue
        front, best = pareto_front(points), None
        print(f"\n{label}, {format}, threads: {threads}, {processor}, {size}")
        runs = ", ".join(f"{count} on {name}" for name, count in trained.most_common())
        print(f"ms, mIoU after {minutes:g} minutes (runs: {runs}), * on the front")
        for point in sorted(points, key=lambda point: point.cost):
            line = (
                f"{'*' if point in front else ' '} {point.name:24} {point.cost:7.1f} "
                f"{100 * point.miou:6.2f}"
            )
            if best and not EXPORTERS[format].quantised:
                for gain in both.compare_sides(rows[best.name], [rows[point.name]], table):
                    line += f"   less {best.name}: {plain.format_difference(gain)}"
            print(line)
            best = point if best is None or point.miou > best.miou else best
        if draw and (threads, format, processor) == ("1", FORMATS[0], trained.most_common(1)[0][0]):
            write_text(Path(f"{draw}-{label}.svg"), front_svg(points, LATENCY))


def mark_front(labels: Sequence[str], minutes: float, table: Path, path: Path) -> None:
    """Rewrite costs/scores.json by the table of against_ultralytics.py."""
    by_label = {label: both.read_table(label, minutes, table) for label in labels}
    complete = [
        {n for (n, weights), own in by_side.items() if weights and len(own) >= MIN_RUNS}
        for by_side in by_label.values()
    ]
    names = {name for name in set.intersection(*complete) if both.split_name(name)[1] == 1}
    miou = {
        label: {
            n: round(float(np.mean(both.scores_of(by_side[n, True]))) / 100, 6)
            for n in sorted(names)
        }
        for label, by_side in by_label.items()
    }
    write_json(path, {"minutes": minutes, "seeds": MIN_RUNS, "miou": miou})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+", metavar="DATASET")
    parser.add_argument("--data-root", type=Path, help="where a dataset with a name lies")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--models", nargs="+", default=[*PEERS, *OURS], help="of both sides")
    parser.add_argument("--out", type=Path, default=Path("runs/against-ultralytics"))
    parser.add_argument("--rows", type=Path, default=both.TABLE, help="of against_ultralytics.py")
    parser.add_argument("--files", action="store_true", help="export, and score int8")
    parser.add_argument("--latencies", action="store_true", help="time the models")
    parser.add_argument("--threads", type=int, help="only with so many, in this process")
    parser.add_argument(
        "--draw", type=Path, metavar="PREFIX", help="PREFIX-DATASET.svg: one thread, ONNX Runtime"
    )
    parser.add_argument(
        "--mark", action="store_true", help="rewrite the scores that `featherseg models` marks"
    )
    asked = parser.parse_args()
    if asked.threads not in (
        None,
        count := usable_cores(),
    ):  # runtimes take as many threads as they find cores
        parser.error(
            f"--threads {asked.threads}: this process may use {count} cores. "
            "Leave the option out, or use taskset."
        )
    if (
        asked.latencies and asked.threads is None
    ):  # a process each: runtimes keep the cores that they find at first
        usable = sorted(os.sched_getaffinity(0))
        for count in dict.fromkeys((1, len(usable))):
            words = ["taskset", "-c", ",".join(map(str, usable[:count])), sys.executable, *sys.argv]
            subprocess.run([*words, "--threads", str(count)], check=True)
        return
    sources = [plain.open_source(name, asked.data_root, asked.out) for name in asked.datasets]
    if asked.files or asked.latencies:  # takes a core
        seeds = sorted({row["seed"] for row in read_lines(asked.rows)})
        bench = Bench(asked.models, (), seeds, sources, asked.minutes, asked.out, asked.rows, 1)
    if asked.files:
        for source in sources:
            write_files(bench, source, FILES)
    if asked.latencies:
        torch.set_num_threads(asked.threads)
        for source in sources:
            time_models(bench, source, asked.threads, LATENCIES)
    for source in sources:
        print_front(source.label, asked.minutes, asked.rows, asked.draw)
    if asked.mark:
        mark_front([source.label for source in sources], asked.minutes, asked.rows, SCORES)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        main()
