"""Compare a run's panoptic quality with that of its classes alone, one region per class.

python benchmarks/panoptic_baseline.py RUN [--split test] [--data-root PATH]

The difference is what the predicted objects add.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.core.types import SegmentationData
from featherseg.data import open_dataset
from featherseg.data.panoptic.segments import list_segments
from featherseg.evaluation.ground_truth import PanopticScorer
from featherseg.inference.masks import predict_panoptic
from featherseg.inference.panoptic import Panoptic
from featherseg.inference.runtimes import Runtime, open_runtime
from featherseg.runs.run import load_run


def regions(mask: np.ndarray) -> Panoptic:
    """(H, W) class ids -> one segment a class, things as well."""
    ids, segments = list_segments(mask.astype(np.int32) + 1, {i + 1: i for i in range(255)})
    return Panoptic(ids, segments)


def score(runtime: Runtime, data: SegmentationData) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `PanopticQuality.compute` with the model's objects and with one region per class."""
    objects, baseline = PanopticScorer(data), PanopticScorer(data)
    for index in range(len(data)):
        sample = data[index]
        ((mask, segments),) = predict_panoptic(runtime, sample.image[None])
        objects.update(index, sample, segments)
        baseline.update(index, sample, regions(mask))
    return objects.quality.compute(), baseline.quality.compute()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--split", default="test")
    parser.add_argument("--data-root", type=Path)
    arguments = parser.parse_args()
    run = load_run(arguments.run)
    data = open_dataset(run.recipe.data.name, arguments.split, arguments.data_root)
    rows = zip(("as predicted", "all stuff"), score(open_runtime(run), data), strict=True)
    print(f"{'PQ on ' + arguments.split + ', %':16}    all  things  stuff")
    for name, quality in rows:
        print(
            f"{name:16} {100 * quality['pq']:6.2f}  "
            f"{100 * quality['things']['pq']:6.2f} {100 * quality['stuff']['pq']:6.2f}"
        )
