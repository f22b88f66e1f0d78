"""Is it still the same model: logits, masks and mIoU of a variant against plain float32 PyTorch."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featherseg.core.types import SegmentationData
from featherseg.data.cache.fingerprint import groups_of
from featherseg.evaluation.bootstrap import Interval, compare_files
from featherseg.evaluation.clusters import clusters_of


@dataclass(frozen=True)
class Fidelity:
    """A variant against the reference on the same images.

    max_difference is the largest of its logits, of_range that over the range (largest less smallest) of the
    reference's; same_class the share of pixels of one class in both masks, 0..1; images names what it was measured on.
    miou is its own on the labelled set, miou_difference that less the reference's, both as fractions, None without one;
    marks is what a reader has to know of that set: "selected on these images".
    """

    max_difference: float
    of_range: float
    same_class: float
    images: str
    miou: float | None = None
    miou_difference: Interval | None = None
    marks: str = ""


@dataclass(frozen=True)
class Scored:
    """A variant on a labelled set: its mIoU, 0..1, and the pixel counts of every image, (N, 3, K)."""

    miou: float
    counts: np.ndarray


def fidelity_of(reference: Path, own: Path, images: str) -> Fidelity:
    """Two files as `worker.Worker.outputs` writes them; what is not finite counts as infinitely far off."""
    with np.load(reference) as wanted, np.load(own) as found:
        logits = wanted["logits"].astype(np.float64)
        gap = np.abs(found["logits"] - logits)
        off = float(np.nan_to_num(gap, nan=np.inf).max())
        span = float(logits.max() - logits.min())
        same = float((found["masks"] == wanted["masks"]).mean())
    return Fidelity(off, off / max(span, 1e-30), same, images)


def with_miou(found: Fidelity, reference: Scored, own: Scored, data: SegmentationData) -> Fidelity:
    """The same with its mIoU, and the difference with its 95 % interval over sequences or blocks of images."""
    if own is reference or (own.counts == reference.counts).all():
        return replace(found, miou=own.miou, miou_difference=Interval(0.0, 0.0, 0.0))
    (difference,) = compare_files(
        [own.counts, reference.counts], clusters_of(data.keys, groups_of(data))
    )
    return replace(found, miou=own.miou, miou_difference=difference.miou)
