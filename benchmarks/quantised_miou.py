"""Score a run's exported files beside its model, and time the same files.

    python benchmarks/quantised_miou.py RUN [--split test] [--data-root PATH] [--threads 2]
                                        [--json FILE]

RUN/export/ must contain the files: featherseg export RUN --format openvino-int8,onnx-int8. They are
scored at the run's validation size on full-resolution labels. "difference" is file minus model in
points of mIoU with its 95 % interval over whole sequences, or over blocks of consecutive images if
there are too few sequences. Each file is opened once, scored, and then timed against the plain
model in eager torch on one image at the model's input size, so speed and mIoU are of the same file;
its sha256 is printed. Times need a quiet machine; --rounds 0 skips them.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paired
import torch

from featherseg.core.allocator import keep_freed_memory
from featherseg.core.machine import computes_bf16
from featherseg.core.types import SegmentationData
from featherseg.data import open_dataset
from featherseg.evaluation.bootstrap import Difference, compare_files
from featherseg.evaluation.clusters import clusters_of
from featherseg.evaluation.scoring import Scores, evaluate, number
from featherseg.exporters import EXPORTERS
from featherseg.inference.optimize import optimize
from featherseg.inference.runtimes import Runtime, open_runtime
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.inference.settings import own_settings
from featherseg.inference.test_time_augmentation import passes_over
from featherseg.reports.record import log_evaluation
from featherseg.runs.run import Run, load_run

FILES = ("openvino-int8", "onnx-int8")
LIMITS = {"int8": (1.0, 1.5), "bf16": (0.2, None)}
"""Points of mIoU that may be lost, and the most that the interval may reach."""


def bf16_runtime(run: Run) -> TorchRuntime:
    """The run's model as `featherseg.optimize(model, "bf16")` makes it."""
    runtime = open_runtime(run, "cpu")
    assert isinstance(runtime, TorchRuntime)
    runtime.model = optimize(run.model, "bf16")
    return runtime


def runtimes_of(run: Run) -> dict[str, Runtime]:
    """The model, and what is compared with it: bf16, and the int8 files that are there."""
    runtimes: dict[str, Runtime] = {"model": open_runtime(run, "cpu")}
    if computes_bf16(torch.device("cpu")):
        runtimes["bf16"] = bf16_runtime(run)
    for target in FILES:
        file = run.path / "export" / EXPORTERS[target].main
        if file.is_file():
            runtimes[target] = open_runtime(file, "cpu")
            print(f"{target}: {file}, sha256 {sha256(file)}")
        else:
            print(
                f"{target}: no {file}. "
                f"Write it with: featherseg export {run.path} --format {target}"
            )
    return runtimes


def sha256(file: Path) -> str:
    """Of a file and of those that belong to it, as an .xml has its .bin."""
    digest = hashlib.sha256()
    for part in sorted({file, *file.parent.glob(f"{file.stem}.bin")}):
        digest.update(part.read_bytes())
    return digest.hexdigest()


def score(runtimes: dict[str, Runtime], data: SegmentationData) -> dict[str, Scores]:
    """Every runtime on every image, with the settings of the run's validation."""
    scores = {}
    for name, runtime in runtimes.items():
        print(f"scoring {name}", file=sys.stderr, flush=True)
        scores[name] = evaluate(runtime, data, boundary=False)
    return scores


def plain_step(run: Run, images: torch.Tensor) -> Callable[[], Any]:
    """The baseline: the model as it is, eager, in the usual layout."""
    model = run.model.float().eval()

    @torch.inference_mode()
    def step() -> None:
        model(images)

    return step


def seen_image(runtime: Runtime, data: SegmentationData) -> torch.Tensor:
    """What the model is given of the first image, (1, C, h, w)."""
    seen: list[torch.Tensor] = []

    class Ear:
        def __getattr__(self, name: str) -> Any:
            return getattr(runtime, name)

        def __call__(self, images: Any) -> Any:
            seen.append(images)
            return runtime(images)

    passes_over(Ear(), data[0].image[None], own_settings(runtime))
    return seen[0].contiguous()


def time_files(
    run: Run, runtimes: dict[str, Runtime], data: SegmentationData, given: argparse.Namespace
) -> paired.Table:
    """Those very runtimes against the plain model."""
    images = seen_image(runtimes["model"], data)
    steps = {"plain eager": plain_step(run, images)}
    for name, runtime in runtimes.items():
        given_images = images if runtime.device else images.numpy()
        steps[name] = partial(runtime, given_images)
    print(f"\none forward at {images.shape[2]}x{images.shape[3]}, {given.threads} threads")
    return paired.compare(steps, given.rounds, given.clock)


def verdict(name: str, difference: Difference) -> str:
    """Whether the loss is within what is allowed."""
    loss, worst = -100 * difference.miou.value, -100 * difference.miou.low
    allowed, reach = LIMITS["bf16" if name == "bf16" else "int8"]
    kept = loss <= allowed and (reach is None or worst <= reach)
    limit = f"at most {allowed} lost" + (f", interval to {reach} at most" if reach else "")
    return f"{'within' if kept else 'OUTSIDE'} the limit ({limit})"


def print_scores(scores: dict[str, Scores], data: SegmentationData) -> dict[str, Any]:
    """mIoU in % of each, and its difference from the model's; -> the same as plain values."""
    units, base = clusters_of(data.keys), scores["model"]
    print(
        f"\n{data.name}, {base.images} images; {units.description}\n"
        f"{'model':14} {100 * base.miou:6.2f}"
    )
    report: dict[str, Any] = {"model": {"miou": base.miou}}
    for name, one in scores.items():
        if name == "model":
            continue
        (difference,) = compare_files([one.counts, base.counts], units)
        value, low, high = (
            100 * x for x in (difference.miou.value, difference.miou.low, difference.miou.high)
        )
        verdict_text = verdict(name, difference)
        print(
            f"{name:14} {100 * one.miou:6.2f}  "
            f"difference {value:+.2f} ({low:+.2f} to {high:+.2f}): {verdict_text}"
        )
        report[name] = {
            "miou": one.miou,
            "points": [number(x) for x in (value, low, high)],
            "verdict": verdict_text,
        }
    return report


def main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    data = open_dataset(run.recipe.data.name, given.split, given.data_root)
    runtimes = runtimes_of(run)
    scores = score(runtimes, data)
    log_evaluation(
        run, data, given.split, own_settings(runtimes["model"]), scores["model"]
    )  # a look is counted
    report = print_scores(scores, data)
    if given.rounds:
        table = time_files(run, runtimes, data, given)
        paired.print_table(table)
        report["p50_ms"] = dict(zip(table.names, np.round(table.p50_ms(), 3).tolist(), strict=True))
        report["machine"] = table.machine
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    parser = paired.parser(__doc__, rounds=20, clock="wall")
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--data-root", type=Path)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    main(arguments)
