"""Feed a dataset's panoptic ground truth and a model's predictions to `PanopticQuality`."""

from typing import Any, Protocol, runtime_checkable

from featherseg.core.types import Sample, SegmentationData
from featherseg.data.panoptic.data import categories
from featherseg.data.panoptic.segments import Panoptic as Segmentation
from featherseg.data.panoptic.segments import from_sample
from featherseg.evaluation.panoptic_quality import PanopticQuality
from featherseg.inference.panoptic import Panoptic


@runtime_checkable
class GroundTruth(Protocol):
    """A dataset that has panoptic segmentations besides its samples.

    `categories` are in COCO's form, one for each class in order; `rule` is the benchmark's.
    """

    categories: list[dict[str, Any]]
    rule: str

    def panoptic(self, index: int) -> Segmentation:
        """Return the segmentation of a sample, as released."""
        ...


class PanopticScorer:
    """Panoptic quality over a dataset, by its own segmentations or else by those of its samples."""

    def __init__(self, data: SegmentationData) -> None:
        self.classes = data.classes
        self.ground_truth = data if isinstance(data, GroundTruth) else None
        if self.ground_truth:
            self.categories, rule = self.ground_truth.categories, self.ground_truth.rule
        else:
            self.categories, rule = categories(data.classes, range(len(data.classes))), "coco"
        self.quality = PanopticQuality(self.categories, rule)

    def update(self, index: int, sample: Sample, predicted: Panoptic) -> None:
        """Add sample `index`, which has `instances`, and its predicted segments with class ids."""
        ids = [category["id"] for category in self.categories]
        segments = [
            {**segment, "category_id": ids[segment["category_id"]]}  # class id -> category id
            for segment in predicted.segments
        ]
        if self.ground_truth:
            ground_truth = self.ground_truth.panoptic(index)
        else:
            assert sample.instances is not None
            ground_truth = from_sample(sample.label, sample.instances, self.classes, ids)
        self.quality.update(*ground_truth, predicted.ids, segments)
