"""The ablations of the FRM paper under the short protocol, on CamVid with frm-lite0: trains what is missing, one table.

    python benchmarks/frm_ablations.py --data-root PATH/camvid --out runs/ablations [--jobs 2]

Short protocol: half-size pictures (180 x 240), 40 epochs on `fit`, scored on `dev` at the labels' full resolution,
seeds 0 to 2. A sign is only said where all three pairs of seeds agree. Kill it at any time: it goes on where it was.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SEEDS = (0, 1, 2)
VARIANTS = {  # name -> overrides; the first is what the others are compared with
    "frm": (),
    "ppm": ('model.context="ppm"',),
    "dappm": ('model.context="dappm"',),
    "none": ('model.context="none"',),
    "last stage": ('model.stages="last"',),
    "contrast": ("loss.contrast=1.0",),
}
SHORT = (
    'data.train_split="fit"',
    'data.val_split="dev"',
    "data.workers=1",
    "augment.scale=[0.375, 1.0]",  # the recipe's [0.75, 2.0] on half-size pictures
    "augment.crop=[180, 240]",
    "train.epochs=40",
    "train.validate_every=40",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each with its share of the cores")
    arguments = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    tasks = [(variant, seed) for seed in SEEDS for variant in VARIANTS]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        scores = list(pool.map(lambda task: score(*task, arguments.data_root, arguments.out, threads), tasks))
    print_table(dict(zip(tasks, scores, strict=True)))


def score(variant: str, seed: int, data_root: Path, out: Path, threads: int) -> float:
    """mIoU on dev, in %, of one training; trained and scored first where that has not been done."""
    run = out / f"{variant.replace(' ', '-')}-{seed}"
    file = run / "short.json"
    if not file.is_file():
        settings = [*SHORT, *VARIANTS[variant], f"train.seed={seed}"]
        overrides = [word for setting in settings for word in ("--set", setting)]
        where = ["--data-root", str(data_root)]
        featherseg(threads, "train", "frm-lite0_camvid", *where, "--out", str(run), "--resume", *overrides)
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


def print_table(scores: dict[tuple[str, int], float]) -> None:
    """Mean and single values of each variant, and its differences from the first, seed by seed."""
    base = next(iter(VARIANTS))
    print(f"{'variant':12} {'mIoU':>6}  {'seeds':20}  less {base}, seed by seed")
    for variant in VARIANTS:
        values = [scores[variant, seed] for seed in SEEDS]
        differences = [scores[variant, seed] - scores[base, seed] for seed in SEEDS]
        told = "" if variant == base else "  ".join(f"{d:+.2f}" for d in differences) + f"  {sign(differences)}"
        print(f"{variant:12} {sum(values) / len(values):6.2f}  {'  '.join(f'{v:5.2f}' for v in values):20}  {told}")


def sign(differences: list[float]) -> str:
    """What three pairs of seeds allow to be said."""
    if all(d > 0 for d in differences):
        return "suggests better"
    if all(d < 0 for d in differences):
        return "suggests worse"
    return "no sign"


if __name__ == "__main__":
    main()
