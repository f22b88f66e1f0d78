"""Measure single changes of the training recipe under a short protocol on CamVid and NEU-Seg.

    python benchmarks/recipe_changes.py --data-root PATH/camvid --neu-root PATH/neu \\
        --out runs/changes [--light]
    python benchmarks/recipe_changes.py --out runs/changes --table

CamVid uses the short protocol of benchmarks/ablations.py. NEU-Seg uses 750 steps of eight whole
images of 200x200, on the lists of benchmarks/neu_seg.py. The recipes are those in screened/, the
shipped ones before any change; --light uses that of frm-lite0-light after the first changes, on
NEU-Seg for 1,000 steps. The last weights are scored on dev images. Each change is compared alone
with the unchanged recipe. A finished run appends its row to tables/recipe_changes.jsonl and the
pixel counts of its dev images to counts/ there. A run with a row is not trained again; the script
can be killed at any time. One seed screens (--seeds 0), three decide (--seeds 0 1 2). --table
prints the differences of pairs of seeds, with intervals over images and seeds, corrected for the
number of changes.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import neu_seg
import numpy as np
from ablations import SHORT, featherseg, print_table

from featherseg import evaluate

TABLE = Path(__file__).parent / "tables" / "recipe_changes.jsonl"
SCREENED = Path(__file__).parent / "screened"
BASE = "recipe"
LIGHT = " light"
CHANGES: dict[str, tuple[str, ...] | dict[str, tuple[str, ...]]] = {
    BASE: (),
    "cosine": ('train.schedule="cosine"',),
    "cosine with floor": ('train.schedule="cosine"', "train.floor=0.05"),
    "clipping": ("train.clip_norm=1.0",),
    "average over a tenth": ("train.ema_share=0.1",),
    "average over a thirtieth": ("train.ema_share=0.033",),
    "dice": ("loss.dice=0.5",),
    "lovasz": ("loss.lovasz=0.5",),
    "focal": ("loss.focal=1.0",),
    "boundary weight": ("loss.boundary_weight=1.0",),
    "rotation": ("augment.rotate=10",),
    "cutmix": ("augment.cutmix=0.5",),
    "copy-paste": ("augment.copy_paste=0.5",),
    "no class weights": ('loss.class_weights="none"',),
    "weaker class weights": ("loss.class_weight_power=0.25",),
    "hard examples": ("loss.ohem_threshold=0.7",),
    "label smoothing": ("loss.label_smoothing=0.1",),
    "class-uniform": ("data.class_uniform=0.5",),
    "smaller scales": {
        "camvid": ("augment.scale=[0.25, 1.0]",),
        "neu": ("augment.scale=[0.5, 2.0]",),
    },
    "uniform scales": ('augment.scale_drawn="uniformly"',),
    "blur": ("augment.blur=0.3",),
    "stronger colours": ("augment.photometric=true",),
    "layer decay": ("train.layer_decay=0.8",),
    "half the rate": ("train.lr=1e-3", "train.backbone_lr=2.5e-4"),
    "lovasz, no class weights": ("loss.lovasz=0.5", 'loss.class_weights="none"'),
    "twice the rate and lovasz": ("train.lr=4e-3", "train.backbone_lr=1e-3", "loss.lovasz=0.5"),
    "twice the rate": ("train.lr=4e-3", "train.backbone_lr=1e-3"),
    "lovasz 1": ("loss.lovasz=1.0",),
    "lovasz 1, weaker class weights": ("loss.lovasz=1.0", "loss.class_weight_power=0.25"),
    "narrower scales": {
        "camvid": ("augment.scale=[0.375, 0.75]",),
        "neu": ("augment.scale=[0.75, 1.5]",),
    },
    "smaller and narrower scales": {
        "camvid": ("augment.scale=[0.25, 0.75]",),
        "neu": ("augment.scale=[0.5, 1.5]",),
    },
    "progressive": ("augment.progressive=true",),
}
"""Name -> overrides of the recipe, by dataset where they differ."""


@dataclass(frozen=True)
class Protocol:
    """One dataset: the recipe, what is set for every run, and how its dev images are scored."""

    recipe: str
    settings: tuple[str, ...]
    split: str
    scales: tuple[float, ...]


PROTOCOLS = {
    "camvid": Protocol(str(SCREENED / "camvid.toml"), SHORT, "dev", (0.5,)),
    "neu": Protocol(
        str(SCREENED / "own-images.toml"),
        ("data.workers=1", "augment.crop=[200, 200]", "train.steps=750", "train.validations=1"),
        "val",
        (1.0,),
    ),
}
PROTOCOLS |= {
    f"camvid{LIGHT}": Protocol(
        str(SCREENED / "light.toml"), (*SHORT, 'data.name="camvid"'), "dev", (0.5,)
    ),
    f"neu{LIGHT}": Protocol(
        str(SCREENED / "light.toml"),
        ("data.workers=1", "augment.crop=[200, 200]", "train.steps=1000", "train.validations=1"),
        "val",
        (1.0,),
    ),
}
Run = tuple[str, str, int]
"""Dataset, change, seed."""


def settings_of(run: Run) -> list[str]:
    """All overrides of a run."""
    dataset, change, seed = run
    own = CHANGES[change]
    own = own[dataset.removesuffix(LIGHT)] if isinstance(own, dict) else own
    return [*PROTOCOLS[dataset].settings, *own, f"train.seed={seed}"]


def folder_of(run: Run, out: Path) -> Path:
    """Where a run lies; with other settings it is another folder."""
    dataset, change, seed = run
    settings = hashlib.sha256(json.dumps(settings_of(run)).encode()).hexdigest()[:6]
    return out / f"{dataset}-{change}-{seed}-{settings}".replace(" ", "-")


def counts_of(run: Run, table: Path) -> Path:
    """Where the pixels of its dev images stand, once it is scored."""
    return table.parent / "counts" / f"{folder_of(run, Path()).name}.npz"


def finished(table: Path) -> dict[Run, dict[str, Any]]:
    """Return the rows whose settings are those the run would have today; others are ignored."""
    rows = [json.loads(line) for line in table.read_text().splitlines()] if table.exists() else []
    known = [((row["dataset"], row["change"], row["seed"]), row) for row in rows]
    return {
        run: row for run, row in known if run[1] in CHANGES and row["settings"] == settings_of(run)
    }


def train_missing(
    runs: list[Run], data: Mapping[str, tuple[str, ...]], out: Path, table: Path, jobs: int
) -> None:
    """Train, score and record every run without a row; a failed run is named and stays missing."""
    commit, lock = commit_of_source(), Lock()

    def one(run: Run) -> None:
        dataset, change, seed = run
        protocol, folder = PROTOCOLS[dataset], folder_of(run, out)
        overrides = [word for setting in settings_of(run) for word in ("--set", setting)]
        resumed, began = (folder / "resolved.json").exists(), time.monotonic()
        try:
            featherseg(
                1,
                "train",
                protocol.recipe,
                *data[dataset],
                "--out",
                str(folder),
                "--resume",
                *overrides,
            )
        except SystemExit as failure:
            print(f"{run}: {failure}", file=sys.stderr, flush=True)
            return
        seconds = time.monotonic() - began
        root = Path(data[dataset][1]) if data[dataset][0] == "--data-root" else None
        scores = evaluate(
            folder, split=protocol.split, data_root=root, inference={"scales": protocol.scales}
        )
        kept = counts_of(run, table)
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            kept, counts=scores.counts.astype(np.int32), keys=list(scores.per_image)
        )
        row = {"dataset": dataset, "change": change, "settings": settings_of(run), "seed": seed}
        row |= {
            "score": round(100 * scores.miou, 3),
            "seconds": None if resumed else round(seconds),
            "commit": commit,
        }
        with lock, table.open("a") as file:
            file.write(json.dumps(row) + "\n")

    done = finished(table)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, [run for run in runs if run not in done]))


def commit_of_source() -> str:
    """The commit that runs, with a + where the package was changed since."""
    here = Path(__file__).parents[1]
    git = [
        subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True
        ).stdout.strip()
        for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--", "src"))
    ]
    return git[0] + ("+" if git[1] else "")


def print_tables(datasets: list[str], seeds: list[int], table: Path) -> None:
    """A table a dataset: the changes of which all seeds have been trained."""
    done = finished(table)
    for dataset in datasets:
        changes = [
            change for change in CHANGES if all((dataset, change, seed) in done for seed in seeds)
        ]
        print(f"\n{dataset}, seeds {', '.join(map(str, seeds))}")
        files = {c: [counts_of((dataset, c, seed), table) for seed in seeds] for c in changes}
        counted = [c for c in changes if all(file.exists() for file in files[c])]
        if len(seeds) >= 3 and BASE in counted and len(counted) > 1:
            counts = {c: np.stack([np.load(file)["counts"] for file in files[c]]) for c in counted}
            print_table(counts, np.load(files[BASE][0])["keys"].tolist())
        else:
            counted = []
        for change in changes:
            if change not in counted:
                scores = [done[dataset, change, seed]["score"] for seed in seeds]
                base = (
                    [done[dataset, BASE, seed]["score"] for seed in seeds]
                    if BASE in changes
                    else scores
                )
                effect = f"  {np.mean(scores) - np.mean(base):+.2f} points, no interval"
                print(
                    f"{change:25} {np.mean(scores):6.2f}  "
                    f"{'  '.join(f'{v:5.2f}' for v in scores):20}{effect}"
                )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, help="of CamVid; left out: NEU-Seg alone")
    parser.add_argument("--neu-root", type=Path, help="of NEU-Seg; left out: CamVid alone")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--jobs", type=int, default=1, help="trainings at a time, each on one thread"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--only", choices=list(CHANGES), nargs="+", metavar="NAME", help="besides the recipe"
    )
    parser.add_argument(
        "--light",
        action="store_true",
        help="change frm-lite0-light's recipe, not frm-lite0's of before",
    )
    parser.add_argument("--table", action="store_true", help="print what is there, train nothing")
    asked = parser.parse_args()
    if not asked.table:
        data: dict[str, tuple[str, ...]] = {}
        if asked.data_root:
            data["camvid"] = ("--data-root", str(asked.data_root))
        if asked.neu_root:
            data["neu"] = ("--data", str(neu_seg.write(asked.neu_root, asked.out / "neu-lists")))
        if not data:
            parser.error("give --data-root, --neu-root or both")
        if asked.light:
            data = {f"{dataset}{LIGHT}": where for dataset, where in data.items()}
        changes = [change for change in CHANGES if not asked.only or change in (BASE, *asked.only)]
        runs = [
            (dataset, change, seed)
            for seed in asked.seeds
            for change in changes
            for dataset in data
        ]
        train_missing(runs, data, asked.out, TABLE, asked.jobs)
    print_tables(list(PROTOCOLS), asked.seeds, TABLE)


if __name__ == "__main__":
    main()
