"""Train papers' recipes at their crop and batch, kill one run, resume it, and compare the weights.

    python benchmarks/paper_regime.py RECIPE ROOT [--steps 20] [--folder build/regime]

ROOT is a release in its official folders, such as one of tests/support/data/tiny_releases.py. A
step has the recipe's batch, accumulated from one image at a time; backbones start from random
weights. One run takes all steps, another is killed by SIGKILL half way and resumed. The row says
how much memory was estimated and held, and whether both runs ended in the same bytes. Runs that
are there go on; rows are added to tables/paper_regime.jsonl.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from against_plain import commit

from featherseg.core.files import append_line, read_lines
from featherseg.core.machine import processor
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.runs.run import open_run

TABLE = Path(__file__).parent / "tables" / "paper_regime.jsonl"


def train_command(recipe: str, root: Path, steps: int, out: Path) -> list[str]:
    """Return the command that begins the run or goes on with it."""
    batch = parse_recipe(read_recipe(recipe)).train.batch_size
    settings = (
        f"train.steps={steps}",
        "train.batch_size=1",
        f"train.accumulate={batch}",
        "train.validations=1",
        "train.checkpoint_seconds=1",
        "train.device=cpu",
        "model.pretrained=false",
        "data.workers=0",
    )
    command = [sys.executable, "-m", "featherseg", "train", recipe, "--data-root", str(root)]
    command += ["--out", str(out), "--resume", "--no-report"]
    return command + [part for setting in settings for part in ("--set", setting)]


def steps_of(run: Path) -> int:
    """Return the last step in the run's metrics, 0 if there is none."""
    steps = [row["step"] for row in read_lines(run / "metrics.jsonl") if "step" in row]
    return steps[-1] if steps else 0


def kill_at(command: list[str], run: Path, step: int) -> None:
    """Begin the training and kill it after a step."""
    process = subprocess.Popen(command)
    while process.poll() is None and steps_of(run) < step:
        time.sleep(0.2)
    process.kill()
    process.wait()


def measure(recipe: str, root: Path, steps: int, folder: Path) -> dict[str, Any]:
    """Train both runs to their end and return the row."""
    whole, killed = folder / f"{recipe}-whole", folder / f"{recipe}-killed"
    subprocess.run(train_command(recipe, root, steps, whole), check=True)
    command = train_command(recipe, root, steps, killed)
    if steps_of(killed) < steps // 2:
        kill_at(command, killed, steps // 2)
    killed_after = steps_of(killed)
    subprocess.run(command, check=True)
    memory = json.loads((whole / "environment.json").read_text())["memory_gb"]
    weights = [(run / "weights.safetensors").read_bytes() for run in (whole, killed)]
    resolved = open_run(whole).recipe
    return {
        "recipe": recipe,
        "steps": steps,
        "batch": resolved.train.accumulate,
        "crop": resolved.augment.crop,
        "precision": resolved.train.precision,
        "killed_after": killed_after,
        "equal": weights[0] == weights[1],
        "memory_gb": memory,
        "losses": [row["loss"] for row in read_lines(whole / "metrics.jsonl") if "loss" in row],
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "processor": processor()["processor"],
        "date": str(date.today()),
        "commit": commit(),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", metavar="RECIPE")
    parser.add_argument("root", type=Path, metavar="ROOT")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("build/regime"))
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    row = measure(asked.recipe, asked.root, asked.steps, asked.folder)
    append_line(TABLE, row)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
