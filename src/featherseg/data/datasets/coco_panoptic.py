"""COCO panoptic (Lin et al., ECCV 2014; Kirillov et al., CVPR 2019), images of COCO 2017.

118287 train / 5000 val images, 133 categories, 80 of them things. docs/data/coco-panoptic.md shows
the layout and the licence.
"""

from collections.abc import Sequence
from pathlib import Path

from featherseg.core.errors import DataError, DataNotFound
from featherseg.core.types import DataFacts
from featherseg.data.datasets.class_lists import LazyFacts, read_classes
from featherseg.data.images.pairs import NamedData, files_by_stem
from featherseg.data.panoptic.data import (
    VOID_ALONE,
    PanopticData,
    PanopticListing,
    SegmentIds,
    annotated_pairs,
    check_categories,
)
from featherseg.data.panoptic.files import Annotation, read_panoptic_json

COCO_PANOPTIC_LICENCE = (
    "trained on COCO panoptic: its labels are CC BY 4.0, its images belong to Flickr users, each "
    "under the licence chosen by its owner, some of them non-commercial"
)


class CocoPanoptic(NamedData, PanopticData):
    """COCO panoptic with 133 classes; keys are the stems of the files, "000000142238".

    Raises DataError for a JSON with impossible content.
    """

    facts = LazyFacts(
        lambda: DataFacts(
            "coco-panoptic",
            tuple(read_classes("coco_panoptic").values()),
            COCO_PANOPTIC_LICENCE,
            image_size=(480, 640),
            category_ids=tuple(read_classes("coco_panoptic")),
        )
    )
    no_test = (
        "the labels of the splits test of COCO panoptic are not public, so they cannot be used "
        "for training or evaluation: use val."
    )

    @classmethod
    def list_files(cls, root: Path, splits: Sequence[str]) -> PanopticListing:
        pairs, annotations = {}, dict[str, Annotation]()
        class_of = {category: index for index, category in enumerate(read_classes("coco_panoptic"))}
        for split in splits:
            name = f"panoptic_{split}2017"
            if (path := _first(root / "annotations", root, name=f"{name}.json")) is None:
                continue
            content = read_panoptic_json(path)
            check_categories(path, content, class_of, "the categories of COCO panoptic, 1 to 200")
            folder = f"{split}2017"
            images = files_by_stem(_first(root / "images", root, name=folder) or root / folder)
            masks = _first(path.parent, root, name=name) or path.parent / name
            keys = [Path(annotation.file_name).stem for annotation in content.annotations]
            pairs[split] = annotated_pairs(content, masks, images, keys)
            if shared := annotations.keys() & set(keys):
                problem = f"{min(shared)} is an image of several splits of {root}"
                raise DataError(f"{problem}: give each a name of its own.")
            annotations |= dict(zip(keys, content.annotations, strict=True))
        if not pairs:
            raise DataNotFound(f"{root} {_state(root, splits)} {_EXPECTED}")
        void = SegmentIds(VOID_ALONE, expected="the ids of a panoptic PNG")
        return PanopticListing(
            "coco-panoptic",
            cls.facts.classes,
            void,
            pairs,
            COCO_PANOPTIC_LICENCE,
            class_of=class_of,
            annotations=annotations,
        )


def _first(*folders: Path, name: str) -> Path | None:
    """Return the file or folder `name` in the first of the folders that has it."""
    return next((folder / name for folder in folders if (folder / name).exists()), None)


_EXPECTED = (
    "Expected {train2017,val2017}/*.jpg of COCO (or the same below images/), and, from "
    "panoptic_annotations_trainval2017.zip, annotations/panoptic_{train,val}2017.json with the "
    "folders annotations/panoptic_{train,val}2017/*.png, which are zip files inside that zip "
    "file (cocodataset.org). Set their location with --data-root."
)


def _state(root: Path, splits: Sequence[str]) -> str:
    """Return what is there instead of annotations."""
    if not root.is_dir():
        return "is not a folder."
    if any(root.glob("annotations/instances_*.json")) or any(root.glob("annotations/stuff_*.json")):
        return "has only annotations of other COCO tasks."
    if (root / "annotations").is_dir():
        return f"has no panoptic_{{{','.join(splits)}}}2017.json in annotations."
    return "has no folder annotations."
