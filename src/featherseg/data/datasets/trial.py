"""Trial: two classes; images/SPLIT/NAME.png beside masks/SPLIT/NAME.png, values 0, 1 and 255 (docs/data/trial.md)."""

from collections.abc import Sequence
from pathlib import Path

from featherseg.core.errors import DataNotFound
from featherseg.core.types import IGNORE, ClassInfo, DataFacts
from featherseg.data.labels import LabelMap
from featherseg.data.pairs import Listing, NamedData, files_by_stem, make_pairs

TRIAL_CLASSES = (ClassInfo("ground", (128, 64, 0)), ClassInfo("sky", (70, 130, 180)))


class TrialData(NamedData):
    """Keys are the stems of the files."""

    facts = DataFacts("trial", TRIAL_CLASSES, "CC0-1.0", image_size=(24, 32))
    splits = ("train", "val", "test")

    @classmethod
    def list_files(cls, root: Path, splits: Sequence[str]) -> Listing:
        pairs = {}
        for split in splits:
            images, masks = (root / folder / split for folder in ("images", "masks"))
            if not images.is_dir():
                state = f"holds no images/{split}" if root.is_dir() else "is not a folder"
                raise DataNotFound(f"{root} {state}. Expected images/SPLIT/, masks/SPLIT/. Name it with --data-root.")
            found = files_by_stem(images)
            pairs[split] = make_pairs(list(found), found, files_by_stem(masks))
        return Listing(
            "trial", TRIAL_CLASSES, LabelMap({0: 0, 1: 1, 255: IGNORE}, expected="0, 1, 255"), pairs, "CC0-1.0"
        )
