"""Measure what runs gain by undoing class weights, with the share chosen on other images.

    python benchmarks/undone_weights.py RUN... [--split dev] [--resize 180x240] [--data-root PATH]

The RUNs are trainings of one recipe with other seeds, which undid none of their class weights
(training/class_weights.py). Each is scored with every share undone. The first half of the images,
in their order, chooses the share for the second half, and the second that for the first, so that no
image is scored by a share that it chose. The difference from undoing nothing comes with its
interval over images and runs.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from featherseg.cli.options import parse_resize
from featherseg.data import open_dataset
from featherseg.data.cache.fingerprint import groups_of
from featherseg.evaluation.bootstrap import MIN_RUNS, compare_variants, score_interval
from featherseg.evaluation.clusters import clusters_of
from featherseg.inference.runtimes import open_runtime
from featherseg.runs.run import load_run
from featherseg.training.class_weights import SHARES, best_share, score_shares


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--split", help="default: that of validation")
    parser.add_argument(
        "--resize", type=parse_resize, help="short x long side that images are brought to"
    )
    parser.add_argument("--data-root", type=Path)
    asked = parser.parse_args()
    plain, undone = [], []
    for name in asked.runs:
        run = load_run(name)
        if not run.info.class_weights or run.recipe.loss.undo_class_weights != 0:
            sys.exit(f"{name}: expected a run with class weights and loss.undo_class_weights = 0.")
        table, runtime = run.recipe.data, open_runtime(run, "cpu")
        root = asked.data_root or (Path(table.root) if table.root else None)
        data = open_dataset(
            table.name, asked.split or table.val_split, root, split_by=table.split_by
        )
        runtime.test_resize = asked.resize or runtime.test_resize
        counts, groups = (
            score_shares(runtime, data, run.info.class_weights, SHARES[0])[1],
            groups_of(data),
        )
        shares = [
            f"{share:g}: {100 * score_interval(c, clusters_of(data.keys, groups)).value:.2f}"
            for share, c in counts.items()
        ]
        half = len(data) // 2
        halves = slice(0, half), slice(half, None)
        chosen = [
            best_share(
                {s: c[part] for s, c in counts.items()}, clusters_of(data.keys[part], groups)
            )
            for part in halves
        ]
        print(
            f"{name}: {'  '.join(shares)}; the halves choose {chosen[0]:g} and {chosen[1]:g}",
            flush=True,
        )
        plain.append(counts[0.0])
        undone.append(
            np.concatenate(
                [counts[other][part] for part, other in zip(halves, reversed(chosen), strict=True)]
            )
        )
    if len(plain) >= MIN_RUNS:
        (difference,) = compare_variants(
            [np.stack(plain), np.stack(undone)], clusters_of(data.keys, groups)
        )
        print(f"undone less plain: {difference.miou.points()} (95 %, over images and runs)")


if __name__ == "__main__":
    main()
