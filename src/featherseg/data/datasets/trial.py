"""Trial: two classes, images/SPLIT beside masks/SPLIT."""

from collections.abc import Sequence
from pathlib import Path

from featherseg.core.types import IGNORE, ClassInfo, DataFacts
from featherseg.data.labels import LabelMap
from featherseg.data.pairs import Listing, NamedData, files_by_stem, make_splits


class Trial(NamedData):
    """Keys are the stems of the files."""

    facts = DataFacts("trial", (ClassInfo("a", (1, 2, 3)), ClassInfo("b", (4, 5, 6))), "CC0-1.0", image_size=(4, 6))

    @classmethod
    def list_files(cls, root: Path, splits: Sequence[str]) -> Listing:
        files = {s: (files_by_stem(root / "images" / s), files_by_stem(root / "masks" / s)) for s in splits}
        pairs = make_splits(files, f"{root} holds no image.")
        return Listing(
            "trial", cls.facts.classes, LabelMap({0: 0, 1: 1, 255: IGNORE}, expected="0, 1"), pairs, "CC0-1.0"
        )
