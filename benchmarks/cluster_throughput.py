"""`predict --cluster local` beside independent `predict` processes, each on its share of the same folder.

    python benchmarks/cluster_throughput.py [RUN] [--images 600] [--size 512x1024] [--workers 2] [--rounds 3]

The images are smooth JPEGs. Both take turns, in an order that changes; one thread computes in each process. Printed are
images a second with the start of all processes (Ray's too) and without, and the median of the rounds' ratios. Without:
from the first mask to the last, of the independent ones from the first of all to the last of all. All masks are
compared byte for byte. --json FILE: images a second of every turn, with and without the start.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from featherseg.runs import STARTER


def make_images(folder: Path, count: int, size: tuple[int, int], shares: int) -> None:
    """All images, and beside them a folder of links for each independent process."""
    height, width = size
    (folder / "all").mkdir(parents=True)
    for share in range(shares):
        (folder / f"share{share}").mkdir()
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        file = folder / "all" / f"{number:06}.jpg"
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, quality=90)
        os.link(file, folder / f"share{number % shares}" / file.name)


def timed(commands: list[list[str]], out: Path) -> tuple[float, float, dict[str, bytes]]:
    """Run them at once -> (seconds, seconds from the first mask to the last, the masks)."""
    began = time.monotonic()
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    if any(process.wait() for process in running):
        sys.exit(f"{' '.join(commands[0])} failed")
    seconds = time.monotonic() - began
    masks = list(out.glob("**/*_mask.png"))
    written = [mask.stat().st_mtime for mask in masks]
    return seconds, max(written) - min(written), {mask.name: mask.read_bytes() for mask in masks}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    rates: dict[str, list[tuple[float, float]]] = {"independent": [], "cluster": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "in", asked.images, (height, width), asked.workers)
        seen = None
        for turn in range(asked.rounds):
            for way in sorted(rates, reverse=turn % 2 == 1):
                out = folder / f"{way}{turn}"
                if way == "cluster":
                    rest = ["--cluster", "local", "--workers", str(asked.workers)]
                    commands = [[*predict, str(folder / "in" / "all"), "-o", str(out), *rest]]
                else:
                    commands = [
                        [*predict, str(folder / "in" / f"share{i}"), "-o", str(out / str(i)), "--masks"]
                        for i in range(asked.workers)
                    ]
                seconds, steady, masks = timed(commands, out)
                if len(masks) != asked.images or (seen or masks) != masks:
                    sys.exit(f"{way} wrote other masks")
                seen = masks
                rates[way].append((asked.images / seconds, asked.images / steady))
                print(f"{way}: {asked.images} images in {seconds:.1f} s, {steady:.1f} s of them masks", flush=True)
    for part, label in enumerate(("with its start", "without its start")):
        ratios = [c[part] / i[part] for c, i in zip(rates["cluster"], rates["independent"], strict=True)]
        each = ", ".join(f"{way} {statistics.median(r[part] for r in found):.2f}/s" for way, found in rates.items())
        print(f"{label}: {each}; the cluster {statistics.median(ratios):.1%} ({min(ratios):.1%} to {max(ratios):.1%})")
    if asked.json:
        asked.json.write_text(json.dumps(rates))


if __name__ == "__main__":
    main()
