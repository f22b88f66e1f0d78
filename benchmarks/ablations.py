"""Train the missing ablations on CamVid under the short protocol and print one table.

Used by *_ablations.py. The short protocol: half-size images (180 x 240), 40 epochs on `subtrain`,
evaluation on `dev` at full label resolution, seeds 0 to 2. Differences from the first row have 95 %
intervals over clusters of images and pairs of seeds, corrected for the number of rows
(`featherseg.evaluation.bootstrap.compare_variants`). Three pairs of one sign claim nothing, because
chance alone gives them to a quarter of the rows. The script can be killed and restarted: the pixel
counts of a scored run are kept in tables/counts, and the run is not trained again.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from featherseg import evaluate
from featherseg.data import open_dataset
from featherseg.evaluation.bootstrap import compare_variants
from featherseg.evaluation.clusters import clusters_of

Variants = Mapping[str, Sequence[str]]
"""Name -> overrides of the recipe; the first is what the others are compared with."""

SEEDS = (0, 1, 2)
COUNTS = Path(__file__).parent / "tables" / "counts"
SHORT = (
    'data.train_split="subtrain"',
    'data.val_split="dev"',
    "data.workers=1",
    "augment.scale=[0.375, 1.0]",  # the recipe's [0.75, 2.0] on half-size images
    "augment.crop=[180, 240]",
    "train.epochs=40",
    "train.validate_every=40",
)


def ablate(description: str | None, recipe: str, variants: Variants) -> None:
    """Parse the command line, train and score every variant of a recipe, and print the table."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--jobs", type=int, default=1, help="trainings at a time; each gets its share of the cores"
    )
    arguments = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    tasks = [(variant, seed) for seed in SEEDS for variant in variants]

    def run(task: tuple[str, int]) -> np.ndarray:
        """Pixel counts of every image of dev, (N, 3, K)."""
        variant, seed = task
        settings = [*SHORT, *variants[variant], f"train.seed={seed}"]
        digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:6]
        name = f"{recipe}-{variant.replace(' ', '-')}-{seed}-{digest}"
        kept = COUNTS / f"{name}.npz"
        if not kept.is_file():
            overrides = [word for setting in settings for word in ("--set", setting)]
            where, out = ["--data-root", str(arguments.data_root)], arguments.out / name
            featherseg(threads, "train", recipe, *where, "--out", str(out), "--resume", *overrides)
            scores = evaluate(
                out, split="dev", data_root=arguments.data_root, inference={"scales": (0.5,)}
            )
            kept.parent.mkdir(exist_ok=True)
            np.savez_compressed(kept, counts=scores.counts.astype(np.int32))
        with np.load(kept) as stored:
            return np.asarray(stored["counts"], np.int64)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        try:
            scored = dict(zip(tasks, pool.map(run, tasks), strict=True))
        finally:  # a training that was stopped or failed ends the others that wait
            pool.shutdown(cancel_futures=True)
    keys = open_dataset("camvid", "dev", arguments.data_root).keys
    print_table(
        {variant: np.stack([scored[variant, seed] for seed in SEEDS]) for variant in variants}, keys
    )


def featherseg(threads: int, *arguments: str) -> None:
    """Run one verb in a process of its own."""
    print("featherseg", " ".join(arguments), file=sys.stderr, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, "-m", "featherseg", *arguments], env=environment)
    if done.returncode:
        sys.exit(f"featherseg {arguments[0]} ended with {done.returncode}")


def print_table(counts: Mapping[str, np.ndarray], keys: Sequence[str]) -> None:
    """Print each variant's mIoU from (m, N, 3, K) counts and its difference from the first."""
    base, width = next(iter(counts)), max(12, *map(len, counts))
    differences = compare_variants(list(counts.values()), clusters_of(keys))
    print(
        f"{'variant':{width}} {'mIoU':>6}  {'seeds':20}  "
        f"points less {base}, 95 % interval over images and seeds"
    )
    for variant, runs, difference in zip(
        counts, counts.values(), [None, *differences], strict=True
    ):
        hits, union = (
            runs[:, :, 1].sum(axis=1),
            (runs[:, :, 0] + runs[:, :, 2] - runs[:, :, 1]).sum(axis=1),
        )
        miou = 100 * np.nanmean(np.where(union > 0, hits / np.maximum(union, 1), np.nan), axis=1)
        told = (
            f"{difference.miou.points()}: {difference.message(list(counts))}" if difference else ""
        )
        print(
            f"{variant:{width}} {miou.mean():6.2f}  "
            f"{'  '.join(f'{v:5.2f}' for v in miou):20}  {told}"
        )
