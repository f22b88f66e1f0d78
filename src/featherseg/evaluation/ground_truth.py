"""A dataset's panoptic ground truth beside what a model predicts, as `PanopticQuality` takes the two."""

from typing import Any, Protocol, runtime_checkable

from featherseg.core.types import Sample, SegmentationData
from featherseg.data.panoptic.data import categories
from featherseg.data.panoptic.segments import Panoptic as Segmentation
from featherseg.data.panoptic.segments import from_sample
from featherseg.evaluation.panoptic_quality import PanopticQuality
from featherseg.inference.panoptic import Panoptic


@runtime_checkable
class GroundTruth(Protocol):
    """A dataset with segmentations of its own.

    `categories` are COCO's, one a class in the order of the classes; `rule` is that of its benchmark.
    """

    categories: list[dict[str, Any]]
    rule: str

    def panoptic(self, index: int) -> Segmentation:
        """The segmentation of a sample, as released."""
        ...


class PanopticScorer:
    """Sums up predictions over a dataset: by its own segmentations where it has them, else by those of its samples."""

    def __init__(self, data: SegmentationData) -> None:
        self.classes = data.classes
        self.ground_truth = data if isinstance(data, GroundTruth) else None
        own = categories(data.classes, range(len(data.classes)))
        self.categories = self.ground_truth.categories if self.ground_truth else own
        self.quality = PanopticQuality(self.categories, self.ground_truth.rule if self.ground_truth else "coco")

    def update(self, index: int, sample: Sample, predicted: Panoptic) -> None:
        """Add sample `index`, whose `instances` are known, and what was seen in it: segments with class ids."""
        ids = [category["id"] for category in self.categories]
        segments = [{**segment, "category_id": ids[segment["category_id"]]} for segment in predicted.segments]
        if self.ground_truth:
            ground_truth = self.ground_truth.panoptic(index)
        else:
            assert sample.instances is not None
            ground_truth = from_sample(sample.label, sample.instances, self.classes, ids)
        self.quality.update(*ground_truth, predicted.ids, segments)
