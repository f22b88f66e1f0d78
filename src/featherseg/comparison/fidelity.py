"""How close a variant is to plain float32 PyTorch: its logits, masks and mIoU."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featherseg.core.types import SegmentationData
from featherseg.data.cache.fingerprint import groups_of
from featherseg.evaluation.bootstrap import Interval, compare_files
from featherseg.evaluation.clusters import clusters_of


@dataclass(frozen=True)
class Fidelity:
    """A variant compared with the reference on the same images.

    Args:
        max_difference: largest absolute difference of logits.
        of_range: the same over the range (largest less smallest) of the reference's logits.
        same_class: share of pixels that have the same class in both masks, 0..1.
        images: what it was measured on, as text.
        miou: of the variant on the labelled set, 0..1; None without one.
        miou_difference: the same less the reference's mIoU.
        marks: warnings about that set, such as "selected on these images".
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
    """Scores on a labelled set: mIoU, 0..1, and the pixel counts of every image, (N, 3, K)."""

    miou: float
    counts: np.ndarray


def fidelity_of(reference: Path, variant: Path, images: str) -> Fidelity:
    """Compare two files of `worker.Worker.outputs`; NaN counts as an infinite difference."""
    with np.load(reference) as expected, np.load(variant) as outputs:
        logits = expected["logits"].astype(np.float64)
        differences = np.abs(outputs["logits"] - logits)
        largest = float(np.nan_to_num(differences, nan=np.inf).max())
        span = float(logits.max() - logits.min())
        same_class = float((outputs["masks"] == expected["masks"]).mean())
    return Fidelity(largest, largest / max(span, 1e-30), same_class, images)


def with_miou(
    fidelity: Fidelity, reference: Scored, variant: Scored, data: SegmentationData
) -> Fidelity:
    """Add mIoU, and its difference with a 95 % interval over clusters of images."""
    if variant is reference or (variant.counts == reference.counts).all():
        return replace(fidelity, miou=variant.miou, miou_difference=Interval(0.0, 0.0, 0.0))
    clusters = clusters_of(data.keys, groups_of(data))
    (difference,) = compare_files([variant.counts, reference.counts], clusters)
    return replace(fidelity, miou=variant.miou, miou_difference=difference.miou)
