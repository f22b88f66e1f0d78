"""Ablations under the short protocol on CamVid: trains what is missing, prints one table. Used by *_ablations.py.

Short protocol: half-size images (180 x 240), 40 epochs on `subtrain`, evaluated on `dev` at full label
resolution, seeds 0 to 2. A difference gets a sign only if all three pairs of seeds agree. Can be killed and restarted.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

Variants = Mapping[str, Sequence[str]]
"""Name -> overrides of the recipe; the first is what the others are compared with."""

SEEDS = (0, 1, 2)
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
    """The command line of an ablation: train and score every variant of a CamVid recipe, then print the table."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time; each gets its share of the cores")
    arguments = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    tasks = [(variant, seed) for seed in SEEDS for variant in variants]

    def run(task: tuple[str, int]) -> float:
        variant, seed = task
        out = arguments.out / f"{variant.replace(' ', '-')}-{seed}"
        return score(recipe, [*SHORT, *variants[variant], f"train.seed={seed}"], arguments.data_root, out, threads)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        scores = list(pool.map(run, tasks))
    print_table(variants, dict(zip(tasks, scores, strict=True)))


def score(recipe: str, settings: Sequence[str], data_root: Path, run: Path, threads: int) -> float:
    """mIoU on dev, in %, of one training; trained and scored first where that has not been done."""
    file = run / "short.json"
    if not file.is_file():
        overrides = [word for setting in settings for word in ("--set", setting)]
        where = ["--data-root", str(data_root)]
        featherseg(threads, "train", recipe, *where, "--out", str(run), "--resume", *overrides)
        text = featherseg(threads, "evaluate", str(run), *where, "--split", "dev", "--scales", "0.5", "--json")
        file.write_text(text)
    return 100 * json.loads(file.read_text())["miou"]


def featherseg(threads: int, *arguments: str) -> str:
    """Run one verb in a process of its own; -> what it printed."""
    print("featherseg", " ".join(arguments), file=sys.stderr, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, "-m", "featherseg", *arguments], env=environment, stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"featherseg {arguments[0]} ended with {done.returncode}")
    return done.stdout.decode()


def print_table(variants: Variants, scores: Mapping[tuple[str, int], float]) -> None:
    """Mean and single values of each variant, and its differences from the first, per seed."""
    base, width = next(iter(variants)), max(12, *map(len, variants))
    print(f"{'variant':{width}} {'mIoU':>6}  {'seeds':20}  difference from {base}, per seed")
    for variant in variants:
        values = [scores[variant, seed] for seed in SEEDS]
        differences = [scores[variant, seed] - scores[base, seed] for seed in SEEDS]
        told = "" if variant == base else "  ".join(f"{d:+.2f}" for d in differences) + f"  {sign(differences)}"
        print(
            f"{variant:{width}} {sum(values) / len(values):6.2f}  {'  '.join(f'{v:5.2f}' for v in values):20}  {told}"
        )


def sign(differences: list[float]) -> str:
    """What three pairs of seeds show."""
    if all(d > 0 for d in differences):
        return "suggests better"
    if all(d < 0 for d in differences):
        return "suggests worse"
    return "no consistent sign"
