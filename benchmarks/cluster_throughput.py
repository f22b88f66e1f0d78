"""Compare `predict --cluster local` with independent `predict` processes on the same folder.

    python benchmarks/cluster_throughput.py [RUN] [--images 600] [--size 512x1024]
                                            [--workers 2] [--rounds 3]

The images are smooth JPEGs; each independent process predicts its share. Both sides take turns in a
changing order, with one computing thread in each process. The script prints the share of the
independent processes' images that the cluster predicts in the same time, measured three ways: wall
time with the start of all processes (Ray's too), wall time from the first mask to the last, and
processor time with that of Ray's processes (the wall time if every processor were busy and nobody
else computed), sampled twice a second. All masks are compared byte for byte. --json FILE: the
seconds of every turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from PIL import Image

from featherseg.runs.run import STARTER


def make_images(folder: Path, count: int, size: tuple[int, int], shares: int) -> None:
    """All images, and beside them a folder of links for each independent process."""
    height, width = size
    (folder / "all").mkdir(parents=True)
    for share in range(shares):
        (folder / f"share{share}").mkdir()
    for number in range(count):
        coarse = np.random.default_rng(number).integers(
            0, 256, (height // 16, width // 16, 3), dtype=np.uint8
        )
        file = folder / "all" / f"{number:06}.jpg"
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(
            file, quality=90
        )
        os.link(file, folder / f"share{number % shares}" / file.name)


class Turn(NamedTuple):
    """Seconds of one side for all images: wall, first to last mask, processor."""

    clock: float
    masks: float
    processor: float


def timed(commands: list[list[str]], out: Path) -> tuple[Turn, dict[str, bytes]]:
    """Run them at once; -> what it took, and the masks."""
    began, spent = time.monotonic(), {}
    running = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    while any(process.poll() is None for process in running):
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                times = process.cpu_times()
                spent[process] = times.user + times.system
        time.sleep(0.5)
    seconds = time.monotonic() - began
    if any(process.returncode for process in running):
        sys.exit(f"{' '.join(commands[0])} failed")
    masks = list(out.glob("**/*_mask.png"))
    written = [mask.stat().st_mtime for mask in masks]
    turn = Turn(seconds, max(written) - min(written), sum(spent.values()))
    return turn, {mask.name: mask.read_bytes() for mask in masks}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", default=STARTER)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--size", default="512x1024")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1"}
    height, width = map(int, asked.size.split("x"))
    predict = [sys.executable, "-m", "featherseg", "predict", asked.run]
    turns: dict[str, list[Turn]] = {"independent": [], "cluster": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "in", asked.images, (height, width), asked.workers)
        seen = None
        for turn in range(asked.rounds):
            for way in sorted(turns, reverse=turn % 2 == 1):
                out = folder / f"{way}{turn}"
                if way == "cluster":
                    options = ["--cluster", "local", "--workers", str(asked.workers)]
                    commands = [[*predict, str(folder / "in" / "all"), "-o", str(out), *options]]
                else:
                    commands = [
                        [
                            *predict,
                            str(folder / "in" / f"share{i}"),
                            "-o",
                            str(out / str(i)),
                            "--masks",
                        ]
                        for i in range(asked.workers)
                    ]
                seconds, masks = timed(commands, out)
                if len(masks) != asked.images or (seen or masks) != masks:
                    sys.exit(f"{way} wrote other masks")
                seen = masks
                turns[way].append(seconds)
                figures = ", ".join(
                    f"{name} {value:.1f} s" for name, value in seconds._asdict().items()
                )
                print(
                    f"{way}, {asked.images} images: {figures}; load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    for part in Turn._fields:
        pairs = zip(turns["independent"], turns["cluster"], strict=True)
        ratios = [getattr(alone, part) / getattr(cluster, part) for alone, cluster in pairs]
        print(
            f"by {part}: the cluster does {statistics.median(ratios):.1%} "
            f"({min(ratios):.1%} to {max(ratios):.1%})"
        )
    if asked.json:
        asked.json.write_text(json.dumps(turns))


if __name__ == "__main__":
    main()
