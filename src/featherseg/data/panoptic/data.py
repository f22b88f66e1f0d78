"""Panoptic datasets: samples with instances, and the segmentations for the evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.core.errors import DataError
from featherseg.core.types import IGNORE, ClassInfo, Sample
from featherseg.data.images.decoding import read_image
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.pairs import (
    Listing,
    Pair,
    PairedFiles,
    files_by_stem,
    make_pairs,
    other_size,
)
from featherseg.data.panoptic.files import (
    CATEGORY,
    ID,
    Annotation,
    PanopticJson,
    from_colors,
    read_ids,
)
from featherseg.data.panoptic.segments import Panoptic, check_agreement, to_sample

VOID_ALONE = {0: IGNORE}
"""What the ids of all masks have in common."""


class SegmentIds(LabelMap):
    """Maps the ids of one mask to class ids; the mask is read as colours, which are ids."""

    def __init__(self, ids: Mapping[int, int], *, expected: str) -> None:
        super().__init__(ids, colors=True, expected=expected)

    def values(self, raw: np.ndarray) -> np.ndarray:
        """Return colours (H, W, 3) as ids (H, W)."""
        return from_colors(raw)

    def text(self, value: int) -> str:
        """Return an id as in the JSON."""
        return str(value)


@dataclass(frozen=True)
class PanopticListing(Listing):
    """A listing whose masks have ids of segments; `annotations` are {key: what these are}.

    `class_of` maps category ids to class ids.
    """

    class_of: Mapping[int, int] = field(default_factory=dict)
    annotations: Mapping[str, Annotation] = field(default_factory=dict)

    def map_of(self, pair: Pair) -> LabelMap:
        """Return the map from ids of this pair's mask to class ids."""
        segments = self.annotations[pair.key].segments
        known = {i: self.class_of[category] for i, category in segments[:, [ID, CATEGORY]].tolist()}
        expected = f"the {len(known)} segments that its annotation lists"
        return SegmentIds(known | VOID_ALONE, expected=expected)

    def panoptic(self, pair: Pair) -> Panoptic:
        """Return the segmentation of a pair. Raises DataError if mask and annotation differ."""
        ids, segments = read_ids(pair.files[1]), self.annotations[pair.key].dicts()
        check_agreement(ids, segments, str(pair.files[1]))
        return ids, segments

    def check_objects(self, pair: Pair, ids: np.ndarray) -> None:
        """Raise as `panoptic`, but not for ids outside the map."""
        if ids.min(initial=0) >= 0:
            self.panoptic(pair)


class PanopticData(PairedFiles):
    """One split of a panoptic listing; `instances` of a sample are ids of masks, crowds below 0.

    `categories` are COCO's, `{"id", "name", "isthing", "color"}`, in the order of the classes;
    `rule` is the rule of panoptic quality that the benchmark uses.
    """

    rule = "coco"

    def __init__(self, listing: PanopticListing, split: str, size: int | None = None) -> None:
        super().__init__(listing, split, size)
        self.listing = listing
        self.categories = categories(listing.classes, list(listing.class_of))

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.files[0], self.channels)  # (H, W, C)
        label, instances = to_sample(*self.panoptic(index), self.listing.class_of, self.classes)
        if image.shape[:2] != label.shape:
            raise DataError(f"{pair.files[1]} {other_size(pair, image.shape[:2], label.shape)}")
        return Sample(pair.key, image, label, instances)

    def label(self, index: int) -> np.ndarray:
        """Return class ids (H, W) uint8, 255 = void, without reading the image."""
        return to_sample(*self.panoptic(index), self.listing.class_of, self.classes)[0]

    def panoptic(self, index: int) -> Panoptic:
        """Return the segmentation of a sample for the evaluation.

        Raises DataError if the ids of its mask are not those that the annotation lists.
        """
        return self.listing.panoptic(self.pairs[index])

    def annotation(self, index: int) -> bytes:
        """Return the segments that the JSON lists for a sample."""
        return self.listing.annotations[self.keys[index]].segments.astype("<i8").tobytes()


def categories(classes: Sequence[ClassInfo], ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return the classes as categories of a panoptic JSON; `ids` has the category id of each."""
    return [
        {"id": i, "name": info.name, "isthing": int(info.thing), "color": list(info.color)}
        for i, info in zip(ids, classes, strict=True)
    ]


def annotated_pairs(
    content: PanopticJson, folder: Path, images: Mapping[str, list[Path]], keys: Sequence[str]
) -> list[Pair]:
    """Return a pair for each annotation: its image by key, its mask by file name in `folder`."""
    by_stem = files_by_stem(folder)
    stems = [
        Path(annotation.file_name).with_suffix("").as_posix() for annotation in content.annotations
    ]
    masks = {key: by_stem[stem] for key, stem in zip(keys, stems, strict=True) if stem in by_stem}
    return make_pairs(keys, images, masks)


def check_categories(
    path: Path, content: PanopticJson, class_of: Mapping[int, int], expected: str
) -> None:
    """Raise DataError for the first annotation with a category that is not in `class_of`."""
    known = np.array(list(class_of))
    for annotation in content.annotations:
        strangers = annotation.segments[~np.isin(annotation.segments[:, CATEGORY], known), CATEGORY]
        if strangers.size:
            raise DataError(
                f"{path}: {annotation.file_name} has a segment of category {strangers[0]}. "
                f"Expected {expected}."
            )
