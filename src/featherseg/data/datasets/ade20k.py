"""ADE20K SceneParsing (Zhou et al., CVPR 2017 and IJCV 2019): 20210 train / 2000 val images.

Images of many sizes with the 150 classes of the MIT scene parsing benchmark. The full release of
ADE20K, with all its object names, is another dataset in another layout: it is recognised and
refused. docs/data/ade20k.md shows the layout and the licence.
"""

from collections.abc import Sequence
from pathlib import Path

from featherseg.core.errors import DataNotFound
from featherseg.core.types import IGNORE, DataFacts
from featherseg.data.datasets.class_lists import LazyFacts, read_classes
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.pairs import Listing, NamedData, files_by_stem, make_splits

ADE20K_FOLDERS = {"train": "training", "val": "validation"}
"""The folder of each split whose labels are public."""

ADE20K_LICENCE = (
    "research and other non-commercial use only: trained on ADE20K, whose terms allow "
    "non-commercial research and educational purposes"
)

FROM_ADE20K = LabelMap(
    {0: IGNORE, **{value: value - 1 for value in range(1, 151)}},
    expected="the values of ADE20K SceneParsing (1 to 150, and 0 = other objects; "
    "ADEChallengeData2016.zip). Colours of the full release (*_seg.png) and masks shifted to 0 "
    "to 149 and 255 are not read",
)


class ADE20K(NamedData):
    """ADE20K with 150 classes; keys are the stems of the files, "ADE_val_00000001".

    Raises DataNotFound for the full release too.
    """

    facts = LazyFacts(
        lambda: DataFacts(
            "ade20k",
            tuple(read_classes("ade20k").values()),
            ADE20K_LICENCE,
            image_size=(512, 683),
        )
    )
    no_test = (
        "the labels of the split test of ADE20K are not public, so it cannot be used for "
        "training or evaluation: use val, as in the literature."
    )

    @classmethod
    def list_files(cls, root: Path, splits: Sequence[str]) -> Listing:
        base = _find_base(root)
        files = {
            split: (
                files_by_stem(base / "images" / ADE20K_FOLDERS[split]),
                files_by_stem(base / "annotations" / ADE20K_FOLDERS[split]),
            )
            for split in splits
        }
        missing = f"{base / 'images'} has no images of {' or '.join(splits)}. {_EXPECTED}"
        pairs = make_splits(files, missing)
        return Listing("ade20k", cls.facts.classes, FROM_ADE20K, pairs, ADE20K_LICENCE)


_EXPECTED = (
    "Expected, in this folder or in ADEChallengeData2016/ below it, "
    "images/{training,validation}/*.jpg and annotations/{training,validation}/*.png from "
    "ADEChallengeData2016.zip (sceneparsing.csail.mit.edu). Set their location with --data-root."
)


def _find_base(root: Path) -> Path:
    """Return `root` or its folder ADEChallengeData2016, the one with the two folders.

    Raises DataNotFound if neither has them.
    """
    bases = (root, root / "ADEChallengeData2016")
    for base in bases:
        if all((base / part).is_dir() for part in ("images", "annotations")):
            return base
    if not root.is_dir():
        state = "is not a folder."
    elif next(root.rglob("*_seg.png"), None):  # a colour mask beside its image
        state = (
            "is the full release of ADE20K, whose masks (*_seg.png) encode some 3000 object "
            "names as colours instead of the 150 classes. Download SceneParsing, or convert it "
            "as described in docs/data/ade20k.md."
        )
    elif any((base / "images").is_dir() for base in bases):
        state = "has images but no annotations: unpack both from ADEChallengeData2016.zip."
    else:
        state = "has neither images nor annotations."
    raise DataNotFound(f"{root} {state} {_EXPECTED}")
