"""Time whole models in every runtime in turns: time, ratio, peak memory, difference of the logits.

    python benchmarks/runtimes.py frm-van-s --size 512x1024 --threads 2
    python benchmarks/runtimes.py cgrseg-t --size 512x512 --threads 2
    python benchmarks/runtimes.py RUN --size 512x1024 --threads 2   # a run, and its RUN/export/

A name from the catalogue is a model of 19 classes with random weights. Its files are exported for
the occasion, int8 calibrated on noise, for speed only. A run's files are those that `featherseg
export` wrote, which benchmarks/quantised_miou.py scores.

Each row is a process. The timed step is one forward on one image, up to logits at the model's
stride. The first row is plain eager torch with the system's malloc; "eager+" is eager with our
malloc setting and channels-last, the fairer baseline. Rows of ONNX Runtime and OpenVINO load no
torch into their process, except "featherseg", which opens the file as our commands do. "apart" is
the largest difference of the logits from plain eager as a share of their range. "same" is the share
of positions with the same class on noise. benchmarks/quantised_miou.py gives the mIoU of trained
models.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import paired

TARGETS = ("onnx", "onnx-int8", "openvino", "openvino-int8")
VARIANTS = {
    "eager": ("torch", ""),
    "eager+": ("torch", ""),
    "ours fp32": ("torch", ""),
    "ours bf16": ("torch", ""),
    "ONNX Runtime fp32": ("onnx", "onnx"),
    "ONNX Runtime int8": ("onnx", "onnx-int8"),
    "OpenVINO fp32": ("openvino", "openvino"),
    "OpenVINO bf16": ("openvino", "openvino"),
    "OpenVINO int8": ("openvino", "openvino-int8"),
    "OpenVINO int8, featherseg": ("featherseg", "openvino-int8"),
}
"""Row -> what runs it, and the export target of the file that it runs."""

FRM_GOALS = (
    ("OpenVINO int8", "eager", 6.0),
    ("OpenVINO int8", "eager+", 3.8),
    ("ours bf16", "eager", 3.3),
    ("ours bf16", "eager+", 2.1),
    ("ours fp32", "eager", 1.9),
    ("ours fp32", "ONNX Runtime fp32", 1 / 1.2),
)
FRM_MEMORY = 0.45
GOAL = 3.0
"""Of the other models: the fastest row against eager."""

Step = Callable[[], Any]


def image(size: tuple[int, int]) -> np.ndarray:
    """Normalised noise, (1, 3, H, W) float32, the same in every process."""
    return np.random.default_rng(0).standard_normal((1, 3, *size), dtype=np.float32)


def model_of(source: str) -> Any:
    """A run's model, or one of the catalogue with random weights, the same in every process."""
    import torch

    from featherseg import models
    from featherseg.runs.run import load_run

    if source not in models.MODELS:
        return load_run(source).model.eval()
    torch.manual_seed(0)
    return models.build(source, 19).eval()


def torch_step(row: str, source: str, images: np.ndarray, threads: int) -> Step:
    """A model in torch, in one of four forms."""
    import torch

    from featherseg.inference.optimize import optimize

    torch.set_num_threads(threads)
    model, x = model_of(source), torch.from_numpy(images)
    if row == "eager+":
        model = model.to(memory_format=torch.channels_last)
    elif row != "eager":
        model = optimize(model, "bf16" if row == "ours bf16" else "fp32")
    if row != "eager":
        x = x.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def step() -> np.ndarray:
        return model(x).logits.float().numpy()

    return step


def onnx_step(row: str, source: str, images: np.ndarray, threads: int) -> Step:
    """A file in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images}
    return lambda: session.run(["logits"], feed)[0]


def openvino_step(row: str, source: str, images: np.ndarray, threads: int) -> Step:
    """Open a file in OpenVINO in fp32, or in bf16 for the layers of an int8 file outside int8."""
    import openvino

    precision = "f32" if row == "OpenVINO fp32" else "bf16"
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(source, "CPU", settings)
    return lambda: compiled([images])["logits"]


def featherseg_step(row: str, source: str, images: np.ndarray, threads: int) -> Step:
    """A file as our commands run it."""
    import torch

    from featherseg.inference.runtimes import open_runtime

    torch.set_num_threads(threads)
    runtime, x = open_runtime(source, "cpu"), torch.from_numpy(images)
    return lambda: runtime(x).logits.numpy()


STEPS = {
    "torch": torch_step,
    "onnx": onnx_step,
    "openvino": openvino_step,
    "featherseg": featherseg_step,
}


def serve(row: str, source: str, size: str, threads: str, answer: str) -> None:
    """Open the model, write its logits to `answer`, then take a step whenever asked."""
    if row != "eager":
        from featherseg.core.allocator import keep_freed_memory  # loads no torch

        keep_freed_memory()
    images = image(parse_size(size))
    step = STEPS[VARIANTS[row][0]](row, source, images, int(threads))
    np.save(answer, step())
    print(f"{row} is ready", file=sys.stderr, flush=True)
    paired.serve(step)


def parse_size(text: str) -> tuple[int, int]:
    """`512x1024` -> (512, 1024), height first."""
    height, width = map(int, text.split("x"))
    return height, width


def write_files(
    name: str, folder: Path, targets: list[str], size: tuple[int, int]
) -> dict[str, Path]:
    """Export a model with random weights; return {target: file}. int8 uses ten images of noise."""
    import torch

    from featherseg.core.types import ClassInfo
    from featherseg.exporters import EXPORTERS
    from featherseg.exporters.job import Facts, Job
    from featherseg.exporters.onnx import to_onnx

    model, files = model_of(name).requires_grad_(False), {}
    facts = Facts(name, tuple(ClassInfo(f"class_{i}", (i, i, i)) for i in range(19)), "not stated")
    noise = [
        torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(i)) for i in range(10)
    ]
    for target in targets:
        print(f"writing {target}", file=sys.stderr, flush=True)
        kind, place = EXPORTERS[target], folder / target
        place.mkdir()
        kind.write(
            Job(
                model, facts, place, partial(to_onnx, model, facts), noise if kind.quantised else ()
            )
        )
        files[target] = place / kind.main
    return files


def files_of(run: Path, targets: list[str]) -> dict[str, Path]:
    """Target -> its file in RUN/export; those that were not exported are left out and named."""
    from featherseg.exporters import EXPORTERS

    files = {target: run / "export" / EXPORTERS[target].main for target in targets}
    for target, file in files.items():
        if not file.exists():
            print(
                f"no {file}: its rows are skipped. "
                f"Write it with: featherseg export {run} --format {target}"
            )
    return {target: file for target, file in files.items() if file.exists()}


def fidelity(answers: dict[str, Path]) -> dict[str, list[str]]:
    """Row -> the file of its logits; -> columns beside the times."""
    logits = [np.load(file) for file in answers.values()]
    first, extent = logits[0], np.ptp(logits[0])
    return {
        "apart": [f"{np.abs(one - first).max() / extent:.1e}" for one in logits],
        "same": [f"{(one.argmax(1) == first.argmax(1)).mean():.2%}" for one in logits],
    }


def print_goals(table: paired.Table, source: str) -> None:
    """Those of the model, as far as its rows are there."""
    if not source.startswith("frm-van-s"):
        fastest = table.names[int(np.argmin(table.p50_ms()))]
        paired.print_goal(table, fastest, GOAL)
        return
    for name, base, goal in FRM_GOALS:
        if name in table.names and base in table.names:
            paired.print_goal(table, name, goal, base)
    if "OpenVINO int8" in table.memory_mib:
        share = table.memory_mib["OpenVINO int8"] / table.memory_mib["eager"]
        word = "reached" if share <= FRM_MEMORY else "missed"
        print(
            f"goal: memory of OpenVINO int8 at most {FRM_MEMORY:.0%} of eager's: "
            f"{share:.0%}: {word}"
        )


def main(arguments: argparse.Namespace, folder: Path) -> None:
    run = Path(arguments.source)
    rows = [
        row for row in VARIANTS if not arguments.rows or row in arguments.rows or row == "eager"
    ]
    targets = [t for t in TARGETS if any(VARIANTS[row][1] == t for row in rows)]
    is_run = (run / "resolved.json").is_file()
    size = parse_size(arguments.size)
    files = (
        files_of(run, targets) if is_run else write_files(arguments.source, folder, targets, size)
    )
    rows = [row for row in rows if not VARIANTS[row][1] or VARIANTS[row][1] in files]
    answers = {row: folder / f"{i}.npy" for i, row in enumerate(rows)}
    commands = {
        row: [
            __file__,
            "--serve",
            row,
            str(files.get(VARIANTS[row][1], arguments.source)),
            arguments.size,
            str(arguments.threads),
            str(answers[row]),
        ]
        for row in rows
    }
    environments = {row: {"FEATHERSEG_ALLOCATOR": "off"} if row == "eager" else {} for row in rows}
    table = paired.processes(
        commands, arguments.rounds, arguments.clock, arguments.starts, environments
    )
    print(
        f"{arguments.source} at {arguments.size}, one image, {arguments.threads} threads a process"
    )
    paired.print_table(table, fidelity(answers))
    for file in files.values():
        size_mib = sum(f.stat().st_size for f in file.parent.glob(f"{file.stem}.*")) / 2**20
        print(f"{file}: {size_mib:.1f} MiB")
    print_goals(table, arguments.source)
    if arguments.json:
        paired.write_json(arguments.json, runtimes=table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
        sys.exit()
    parser = paired.parser(__doc__, rounds=20, clock="wall")
    parser.add_argument("source", help="a name of the catalogue, or a run folder")
    parser.add_argument("--size", default="512x1024", help="height x width")
    parser.add_argument(
        "--starts", type=int, default=1, help="how often all processes are started anew"
    )
    parser.add_argument("--rows", nargs="+", choices=VARIANTS, help="only these rows, and eager")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    with TemporaryDirectory() as temporary:
        main(given, Path(temporary))
