"""Datasets of panoptic segmentations: samples with instances, and the segmentations themselves for the evaluation."""

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
"""What all masks of ids have in common."""


class SegmentIds(LabelMap):
    """The ids of one mask -> class ids; the mask is read as colours, each of which is an id."""

    def __init__(self, ids: Mapping[int, int], *, expected: str) -> None:
        super().__init__(ids, colors=True, expected=expected)

    def values(self, raw: np.ndarray) -> np.ndarray:
        """(H, W, 3) colours -> ids (H, W)."""
        return from_colors(raw)

    def text(self, value: int) -> str:
        """An id as the JSON writes it."""
        return str(value)


@dataclass(frozen=True)
class PanopticListing(Listing):
    """A listing whose masks hold ids of their own; `annotations` say by key what they are.

    `class_of` maps category ids to class ids.
    """

    class_of: Mapping[int, int] = field(default_factory=dict)
    annotations: Mapping[str, Annotation] = field(default_factory=dict)

    def map_of(self, pair: Pair) -> LabelMap:
        """The ids of this pair's mask -> class ids."""
        segments = self.annotations[pair.key].segments
        known = {i: self.class_of[category] for i, category in segments[:, [ID, CATEGORY]].tolist()}
        return SegmentIds(
            known | VOID_ALONE, expected=f"the {len(known)} segments that its annotation lists"
        )

    def panoptic(self, pair: Pair) -> Panoptic:
        """The segmentation of a pair. Raises DataError where mask and annotation do not hold the same ids."""
        ids, segments = read_ids(pair.files[1]), self.annotations[pair.key].dicts()
        check_agreement(ids, segments, str(pair.files[1]))
        return ids, segments

    def check_objects(self, pair: Pair, ids: np.ndarray) -> None:
        """Raises what `panoptic` raises, but for ids that are outside the map."""
        if ids.min(initial=0) >= 0:
            self.panoptic(pair)


class PanopticData(PairedFiles):
    """One split of a panoptic listing. Of its samples, `instances` has the ids of the masks, below 0 for crowds.

    `categories` are COCO's, `{"id", "name", "isthing", "color"}`, one a class and in the order of the classes; `rule`
    is the one of panoptic quality that its benchmark goes by.
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
        """(H, W) uint8 class ids of sample `index`, 255 = void; the image is not read."""
        return to_sample(*self.panoptic(index), self.listing.class_of, self.classes)[0]

    def panoptic(self, index: int) -> Panoptic:
        """The segmentation of sample `index`, as the evaluation takes it.

        Raises DataError where the ids of its mask are not those that the annotation lists.
        """
        return self.listing.panoptic(self.pairs[index])

    def annotation(self, index: int) -> bytes:
        """The segments that the JSON lists of sample `index`."""
        return self.listing.annotations[self.keys[index]].segments.astype("<i8").tobytes()


def categories(classes: Sequence[ClassInfo], ids: Sequence[int]) -> list[dict[str, Any]]:
    """The classes as the categories of a panoptic JSON; `ids` has the category id of each."""
    return [
        {"id": i, "name": info.name, "isthing": int(info.thing), "color": list(info.color)}
        for i, info in zip(ids, classes, strict=True)
    ]


def annotated_pairs(
    content: PanopticJson, folder: Path, images: Mapping[str, list[Path]], keys: Sequence[str]
) -> list[Pair]:
    """One pair for every annotation: its image by its key, its mask by its file name below `folder`."""
    masks = files_by_stem(folder)
    stems = [
        Path(annotation.file_name).with_suffix("").as_posix() for annotation in content.annotations
    ]
    return make_pairs(
        keys,
        images,
        {key: masks[stem] for key, stem in zip(keys, stems, strict=True) if stem in masks},
    )


def check_categories(
    path: Path, content: PanopticJson, class_of: Mapping[int, int], expected: str
) -> None:
    """Raises DataError naming the first annotation with a category that is not in `class_of`."""
    known = np.array(list(class_of))
    for annotation in content.annotations:
        strangers = annotation.segments[~np.isin(annotation.segments[:, CATEGORY], known), CATEGORY]
        if strangers.size:
            raise DataError(
                f"{path}: {annotation.file_name} has a segment of category {strangers[0]}. Expected {expected}."
            )
