"""How many pixels of a thin class are found to within a few pixels, at several sizes.

    python benchmarks/thin_classes.py RUN DATA CLASS [--split test] [--pixels 5] [--scales 0.5 1 2]

A crack is one to three pixels wide, so that its IoU falls with each pixel that its mask is beside
it. Recall: the share of labelled pixels with a predicted one within so many pixels. Precision: the
share of predicted pixels with a labelled one as near. Both are counted over all images, in pixels
of the labels; pixels without a label count nowhere. Scales resize what the model sees.
"""

import argparse

import numpy as np
from scipy.ndimage import distance_transform_edt

from featherseg import Predictor
from featherseg.core.types import IGNORE
from featherseg.data import open_dataset
from featherseg.inference.settings import InferenceSettings


def near(pixels: np.ndarray, others: np.ndarray, distance: float) -> int:
    """Return how many of `pixels` have one of `others` within the distance; both (H, W) bool."""
    if not others.any():
        return 0
    return int((distance_transform_edt(~others)[pixels] <= distance).sum())


def main() -> None:
    """Print a row for each scale."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("run", "data", "name"):
        parser.add_argument(name)
    parser.add_argument("--split", default="test")
    parser.add_argument("--pixels", type=float, default=5)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0])
    arguments = parser.parse_args()
    data = open_dataset(arguments.data, arguments.split)
    index = [info.name for info in data.classes].index(arguments.name)
    print(f"{'scale':>6} {'recall':>8} {'precision':>10}")
    for scale in arguments.scales:
        settings = InferenceSettings(scales=(scale,))
        predictor = Predictor(arguments.run, device="cpu", inference=settings)
        found = labelled = right = predicted = 0
        for sample in map(data.__getitem__, range(len(data))):
            mask = predictor(sample.image).mask
            truth = sample.label == index
            guess = (mask == index) & (sample.label != IGNORE)
            found += near(truth, guess, arguments.pixels)
            right += near(guess, truth, arguments.pixels)
            labelled += int(truth.sum())
            predicted += int(guess.sum())
        recall, precision = found / max(labelled, 1), right / max(predicted, 1)
        print(f"{scale:6g} {recall:8.1%} {precision:10.1%}", flush=True)


if __name__ == "__main__":
    main()
