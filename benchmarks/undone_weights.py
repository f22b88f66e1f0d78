"""What runs gain by undoing class weights: a share chosen on one half of the images, scored on the other.

    python benchmarks/undone_weights.py RUN... [--split dev] [--resize 180x240] [--data-root PATH]

The RUNs are trainings of one recipe with other seeds, which undid nothing of their class weights
(training/class_weights.py). Each is scored with every share undone; then the first half of the images, in their order,
chooses the share that the second half is scored with, and the second that of the first, so that no image is scored by a
share that it chose. The difference to undoing nothing comes with its interval over images and runs.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from featherseg.cli.options import parse_resize
from featherseg.core.types import SegmentationData
from featherseg.data import open_dataset
from featherseg.evaluation.iou import Confusion
from featherseg.inference.runtimes import Runtime, open_runtime
from featherseg.runs import load_run
from featherseg.training.class_weights import SHARES, best_share, score_shares
from featherseg.uncertainty.bootstrap import MIN_RUNS, compare_variants, image_counts
from featherseg.uncertainty.clusters import clusters_of


class One:
    """An image of a dataset, as a dataset."""

    def __init__(self, data: SegmentationData, index: int) -> None:
        self.name, self.classes, self.channels = data.name, data.classes, data.channels
        self.sample = data[index]

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        return self.sample


def confusions(runtime: Runtime, data: SegmentationData, weights: list[float]) -> np.ndarray:
    """Of each share and image: (S, N, K, K) pixels."""
    each = [score_shares(runtime, One(data, index), weights, SHARES[0]) for index in range(len(data))]
    return np.array([[one[share].matrix for one in each] for share in SHARES])


def chosen(found: np.ndarray) -> int:
    """The place of the best share on these images: (S, n, K, K)."""
    classes = found.shape[-1]
    return SHARES.index(best_share({s: Confusion(classes, c.sum(axis=0)) for s, c in zip(SHARES, found, strict=True)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--split", help="default: that of validation")
    parser.add_argument("--resize", type=parse_resize, help="short x long side that images are brought to")
    parser.add_argument("--data-root", type=Path)
    asked = parser.parse_args()
    plain, undone = [], []
    for name in asked.runs:
        run = load_run(name)
        if not run.info.class_weights or run.recipe.loss.undo_class_weights != 0:
            sys.exit(f"{name}: expected a run with class weights and loss.undo_class_weights = 0.")
        table, runtime = run.recipe.data, open_runtime(run, "cpu")
        root = asked.data_root or (Path(table.root) if table.root else None)
        data = open_dataset(table.name, asked.split or table.val_split, root, split_by=table.split_by)
        runtime.test_resize = asked.resize or runtime.test_resize
        found = confusions(runtime, data, run.info.class_weights)
        scores = [100 * Confusion(found.shape[-1], one.sum(axis=0)).miou() for one in found]
        half = len(data) // 2
        first, second = chosen(found[:, :half]), chosen(found[:, half:])
        crossed = np.concatenate([found[second, :half], found[first, half:]])
        shares = "  ".join(f"{share:g}: {score:.2f}" for share, score in zip(SHARES, scores, strict=True))
        print(f"{name}: {shares}; the halves choose {SHARES[first]:g} and {SHARES[second]:g}", flush=True)
        plain.append(image_counts(found[0]))
        undone.append(image_counts(crossed))
    if len(plain) >= MIN_RUNS:
        (difference,) = compare_variants([np.stack(plain), np.stack(undone)], clusters_of(data.keys))
        print(f"undone less plain: {difference.miou.points()} (95 %, over images and runs)")


if __name__ == "__main__":
    main()
