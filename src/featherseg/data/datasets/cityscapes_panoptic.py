"""Cityscapes panoptic (Cordts et al., CVPR 2016): Cityscapes' images, 19 classes, 8 of them things.

Masks are read as cityscapesscripts' csCreatePanopticImgs or `featherseg convert --from
cityscapes-panoptic` make them from the release, with label ids or train ids as categories;
docs/data/cityscapes-panoptic.md shows layout and licence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featherseg.core.errors import DataError, DataNotFound
from featherseg.core.types import DataFacts
from featherseg.data.datasets.cityscapes import CITYSCAPES_LICENCE, IMAGE_SUFFIX
from featherseg.data.datasets.cityscapes_labels import CITYSCAPES_CLASSES, LABEL_IDS
from featherseg.data.images.pairs import NamedData, files_by_stem
from featherseg.data.panoptic.data import (
    VOID_ALONE,
    PanopticData,
    PanopticListing,
    SegmentIds,
    annotated_pairs,
    check_categories,
)
from featherseg.data.panoptic.files import Annotation, PanopticJson, read_panoptic_json

TRAIN_IDS = tuple(range(len(CITYSCAPES_CLASSES)))


@dataclass(frozen=True)
class Layout:
    """One form of the converted masks: end of their folder's name, category ids of the classes."""

    ending: str
    category_ids: tuple[int, ...]


LAYOUTS = (Layout("", LABEL_IDS), Layout("_trainId", TRAIN_IDS))  # the first that is there is read


class CityscapesPanoptic(NamedData, PanopticData):
    """Cityscapes panoptic with 19 classes; keys are as in `cityscapes`.

    Raises DataError for a JSON with impossible content.
    """

    facts = DataFacts(
        "cityscapes-panoptic",
        CITYSCAPES_CLASSES,
        CITYSCAPES_LICENCE,
        image_size=(1024, 2048),
        category_ids=LABEL_IDS,
    )
    no_test = (
        "the labels of the split test of Cityscapes are not public, so it cannot be used for "
        "training or evaluation: use val."
    )

    @classmethod
    def list_files(cls, root: Path, splits: Sequence[str]) -> PanopticListing:
        # The first layout that has any of the splits.
        for layout in LAYOUTS:
            names = {split: f"cityscapes_panoptic_{split}{layout.ending}" for split in splits}
            folders = {split: root / "gtFine" / name for split, name in names.items()}
            files = {split: root / "gtFine" / f"{name}.json" for split, name in names.items()}
            present = [split for split in splits if files[split].is_file()]
            if present:
                break
        else:
            raise DataNotFound(f"{root} {_state(root)} {_EXPECTED}")

        # For each split: its JSON, its images, and the masks that it names. The JSON names images
        # without their city, which is part of a key.
        class_of = {category: index for index, category in enumerate(layout.category_ids)}
        pairs, annotations = {}, dict[str, Annotation]()
        for split in present:
            content = read_panoptic_json(files[split])
            _check_names(files[split], content, layout)
            known = f"the ids {sorted(class_of)} (according to the file name)"
            check_categories(files[split], content, class_of, known)
            images = files_by_stem(root / "leftImg8bit" / split, IMAGE_SUFFIX)
            key_of = {Path(key).name: key for key in images}  # "ulm_0_19" -> "ulm/ulm_0_19"
            stems = [str(annotation.image_id) for annotation in content.annotations]
            # an image that is missing gets the key it would have: the stem begins with the city
            keys = [key_of.get(stem, f"{stem.partition('_')[0]}/{stem}") for stem in stems]
            pairs[split] = annotated_pairs(content, folders[split], images, keys)
            annotations |= dict(zip(keys, content.annotations, strict=True))
        void = SegmentIds(VOID_ALONE, expected="the ids of a panoptic PNG")
        return PanopticListing(
            "cityscapes-panoptic",
            CITYSCAPES_CLASSES,
            void,
            pairs,
            CITYSCAPES_LICENCE,
            class_of=class_of,
            annotations=annotations,
        )


def _check_names(path: Path, content: PanopticJson, layout: Layout) -> None:
    """Raise DataError if the JSON gives its categories other names than the layout does.

    Label ids and train ids overlap, so the ids alone do not show which of the two the file has.
    """
    for category, info in zip(layout.category_ids, CITYSCAPES_CLASSES, strict=True):
        named = content.categories.get(category, {}).get("name", info.name)
        if named != info.name:
            raise DataError(
                f"{path} says that category {category} is {named!r}, but according to the file "
                f"name it is {info.name!r}. Train ids are expected in *_trainId.json, label ids "
                "in a file without this suffix."
            )


_EXPECTED = (
    "Expected leftImg8bit/{train,val}/<city>/*_leftImg8bit.png and "
    "gtFine/cityscapes_panoptic_{train,val}.json with the folders of that name, or the same with "
    "_trainId. Make them from the release with: featherseg convert ROOT --from cityscapes-panoptic "
    "--out ROOT/gtFine. Set their location with --data-root."
)


def _state(root: Path) -> str:
    """Return what is there instead of converted masks."""
    if not root.is_dir():
        return "is not a folder."
    if (root / "gtFine").is_dir():
        return "has gtFine, but without panoptic masks."
    return "has no gtFine."
