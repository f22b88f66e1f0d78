"""Measure the share of the work in the processor time of `featherseg predict RUN FOLDER`.

python benchmarks/predict_folder.py RUN FOLDER [ROUNDS] [IMAGES]

The work is to decode every image, to run the model up to the mask, and to encode the mask as PNG,
timed image by image in one process after one warm-up image. It is compared with the time of the
command from start to end (user and system, all threads), with masks alone and with colours and
overlays. The start-up time is the command with a single image, minus the work of one image and
minus `import torch`. One thread computes. All take turns, a process each; the median is printed
with the lowest and the highest round. BEFORE=/path/to/src adds the command of an earlier state.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

COMMAND = "import sys; from featherseg.cli import main; sys.argv[0] = 'featherseg'; main()"


def processor_seconds(whose: int) -> float:
    usage = resource.getrusage(whose)
    return usage.ru_utime + usage.ru_stime


def work(run: str, files: list[str]) -> None:
    """Print the seconds of an image for decoding, for the model, and for encoding the mask."""
    from featherseg import Predictor
    from featherseg.data.images.decoding import read_image
    from featherseg.inference.drawing import index_image, png_bytes
    from featherseg.inference.masks import predict_mask

    runtime, laps = Predictor(run).runtime, []
    for file in [files[0], *files]:
        times = [processor_seconds(resource.RUSAGE_SELF)]
        pixels = read_image(Path(file))
        times.append(processor_seconds(resource.RUSAGE_SELF))
        mask = predict_mask(runtime, pixels)
        times.append(processor_seconds(resource.RUSAGE_SELF))
        png_bytes(index_image(mask, runtime.classes))
        times.append(processor_seconds(resource.RUSAGE_SELF))
        laps.append([end - begin for begin, end in pairwise(times)])
    print(json.dumps([statistics.fmean(lap) for lap in zip(*laps[1:], strict=True)]))


def run_python(arguments: list[str], source: str | None = None) -> tuple[float, float, str]:
    """Run Python with one computing thread; return processor seconds, wall seconds and output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | (
        {"PYTHONPATH": source} if source else {}
    )
    environment.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # as pip leaves it, which compiles what it installs
    begin, before = os.times().elapsed, processor_seconds(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    used = processor_seconds(resource.RUSAGE_CHILDREN) - before
    return used, os.times().elapsed - begin, done.stdout.decode()


def main(run: str, folder: str, rounds: str = "5", images: str = "1000000") -> None:
    files = [str(file) for file in sorted(Path(folder).iterdir())][: int(images)]
    commands = {"masks": (["--masks"], None), "masks, colours, overlays": ([], None)}
    if "BEFORE" in os.environ:
        commands["before: masks, colours, overlays"] = ([], os.environ["BEFORE"])
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as out:
        for _ in range(int(rounds)):
            laps = json.loads(run_python([__file__, "--work", run, *files])[2])
            torch, torch_wall, _ = run_python(["-c", "import torch"])
            found["import torch: s"].append(torch)
            for name, lap in zip(("decode", "model", "encode the mask"), laps, strict=True):
                found[f"{name}: ms an image"].append(1e3 * lap)
            for name, (options, source) in commands.items():
                predict = ["-c", COMMAND, "predict", run, "-o", out, "--overwrite", *options]
                used, wall, _ = run_python([*predict, files[0]], source)
                found[f"{name}: start, s"].append(used - torch - sum(laps))
                found[f"{name}: one image, wall s beyond import torch"].append(wall - torch_wall)
                used, wall, _ = run_python([*predict, *files], source)
                found[f"{name}: s"].append(used)
                found[f"{name}: wall s"].append(wall)
                found[f"{name}: % of it the work"].append(100 * len(files) * sum(laps) / used)
    print(f"{len(files)} images, {rounds} rounds")
    for name, values in found.items():
        print(
            f"{name:76} {statistics.median(values):7.2f} ({min(values):.2f} to {max(values):.2f})"
        )


if __name__ == "__main__":
    if sys.argv[1] == "--work":
        work(sys.argv[2], sys.argv[3:])
    else:
        main(*sys.argv[1:])
