"""What a recipe reaches in a number of minutes of one core, with several seeds.

    python benchmarks/minutes.py camvid --data-root PATH/camvid --recipe frm-lite0_camvid \\
        --minutes 30 60 120 [--jobs 2]
    python benchmarks/minutes.py neu/dataset.toml --minutes 80 [--split val] [--set KEY=VALUE ...]
    python benchmarks/minutes.py DATASET... --table

DATASET is as for against_plain.py. Each training is `featherseg train RECIPE --minutes M` with its
seed and the settings of --set, in a process pinned to one core. On `--split test` every row counts
its look; choices are made on `--split val`. For CamVid this is dev, and the model trains on
subtrain. On val the same weights are also scored on enlarged images. Finished rows are kept in
tables/minutes.jsonl and the pixel counts of each image in counts/ beside it; rows of other settings
or minutes are never pooled. Several --minutes show what more time gives.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import against_plain as plain
import numpy as np
import torch
from against_plain import Source, Task

from featherseg.core.files import read_lines
from featherseg.evaluation.scoring import evaluate
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.settings import InferenceSettings
from featherseg.recipe.reading import parse_recipe, read_recipe

TABLE = Path(__file__).parent / "tables" / "minutes.jsonl"
ENLARGED = 1.5
"""Times the images' sides."""


def task_of(
    recipe: str,
    overrides: Sequence[str],
    split: str,
    source: Source,
    minutes: float,
    seed: int,
    **more: Any,
) -> Task:
    """Return the training of a recipe with overrides; more: what else tells its row from others."""
    trained_on, scored_on = ("train", "test") if split == "test" else source.tuning
    asked = parse_recipe(read_recipe(recipe), overrides)
    settings = {"sha256": plain.recipe_digest(recipe), "overrides": list(overrides), **more}
    settings |= plain.step_settings(asked.train, source)
    if asked.train.optimizer == "auto" and not asked.model.pretrained:
        settings |= plain.scratch_settings(asked.train)
    return Task(source.label, recipe, settings, seed, minutes, trained_on, scored_on)


class Bench(plain.Bench):
    """Tasks of `task_of`."""

    cache = "off"

    def train(self, task: Task, source: Source, folder: Path, *more: str) -> None:
        where = [] if source.root is None else ["--data-root", str(source.root)]
        changes = [f"train.seed={task.seed}", f"data.train_split={json.dumps(task.trained_on)}"]
        changes += [f'data.val_split="{task.scored_on}"'] * (task.scored_on != "test")
        words = [
            word for change in (*changes, *task.settings["overrides"]) for word in ("--set", change)
        ]
        asked = ["--data", source.data, *where, *plain.length_of(task), *words, *more]
        out = ["--resume", "--out", str(folder / "run")]
        command = ["-m", "featherseg", "train", task.side, *asked, *out]
        plain.start(folder, *command, cache=self.cache, gpus=not task.minutes)

    def open(self, task: Task, source: Source, folder: Path) -> tuple[plain.MaskOf, dict[str, Any]]:
        mask_of, facts = plain.open_featherseg(source, folder)
        if task.scored_on == "test":
            return mask_of, facts
        runtime, data = open_runtime(str(folder / "run"), "cpu"), source.open(task.scored_on)
        enlarged = evaluate(
            runtime, data, boundary=False, inference=InferenceSettings(scales=(ENLARGED,))
        )
        return mask_of, facts | {"enlarged": enlarged.miou}


def print_table(rows: Sequence[dict[str, Any]], label: str) -> None:
    """Mean and scores by recipe, settings, minutes and split."""
    print(f"\n{label}")
    by_kind: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["dataset"] == label:
            step = [f"steps of {images}"] if (images := row["settings"].get("batch_size")) else []
            changed = ", ".join([*row["settings"]["overrides"], *step]) or "as it is"
            kind = (
                row["side"],
                row["settings"]["sha256"],
                changed,
                row["scored_on"],
                row["minutes"],
            )
            by_kind.setdefault(kind, []).append(row)
    for (recipe, sha256, changed, split, minutes), same in sorted(by_kind.items()):
        same.sort(key=lambda row: row["seed"])
        scores = [100 * (row["score"] or 0) for row in same]
        steps = " ".join(str(row["steps"]) for row in same)
        summary = f"{minutes:g} min, {steps} steps, {split} {np.mean(scores):.2f}"
        at = [f"{100 * row['enlarged']:.2f}" for row in same if "enlarged" in row]
        longest = max(row["seconds"] for row in same) / 60
        more = f", {longest:.0f} min at most" + (
            f", enlarged {ENLARGED:g} times: {'  '.join(at)}" if at else ""
        )
        print(
            f"  {recipe} ({sha256[:6]}), {changed}: {summary}  "
            f"({'  '.join(f'{v:.2f}' for v in scores)}){more}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+", metavar="DATASET")
    parser.add_argument("--data-root", type=Path, help="where a dataset with a name lies")
    parser.add_argument("--recipe", default=plain.MODEL)
    parser.add_argument("--minutes", type=float, nargs="+", default=[30.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(plain.SEEDS))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument(
        "--jobs", type=int, default=1, help="trainings at a time, each on a core of its own"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/minutes"))
    parser.add_argument("--rows", type=Path, default=TABLE, help="where finished rows are appended")
    parser.add_argument("--table", action="store_true", help="train nothing, print what is there")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    sources = [plain.open_source(name, asked.data_root, asked.out) for name in asked.datasets]
    if not asked.table:
        runs = [
            (s, m, seed) for seed in asked.seeds for m in sorted(asked.minutes) for s in sources
        ]
        bench = Bench(sources, 0.0, asked.out, asked.rows, asked.jobs)
        bench.finish([task_of(asked.recipe, asked.overrides, asked.split, *run) for run in runs])
    for source in sources:
        print_table(read_lines(asked.rows), source.label)


if __name__ == "__main__":
    main()
