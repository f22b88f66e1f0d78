"""comma10k (comma.ai, 2020, MIT licence): photographs from cars in the United States, 5 classes.

Its folders imgs/ and masks/ are read. docs/data/comma10k.md shows the layout and the licence.
"""

from collections.abc import Sequence
from pathlib import Path

from featherseg.core.errors import DataNotFound
from featherseg.core.types import ClassInfo, DataFacts
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.pairs import FilesByStem, Listing, NamedData, files_by_stem, make_splits

COMMA10K_CLASSES = (  # the colours are those of the masks
    ClassInfo("road", (0x40, 0x20, 0x20)),
    ClassInfo("lane markings", (0xFF, 0x00, 0x00)),
    ClassInfo("undrivable", (0x80, 0x80, 0x60)),
    ClassInfo("movable", (0x00, 0xFF, 0x66)),
    ClassInfo("my car", (0xCC, 0x00, 0xFF)),
)

COMMA10K_LICENCE = "MIT: trained on comma10k, (c) 2020 comma.ai"

FROM_COLORS = LabelMap(
    {
        red << 16 | green << 8 | blue: index
        for index, (red, green, blue) in enumerate(info.color for info in COMMA10K_CLASSES)
    },
    colors=True,
    expected="comma10k's five colours of imgs/",
)


class Comma10k(NamedData):
    """comma10k with 5 classes; keys are the stems of the files."""

    facts = DataFacts("comma10k", COMMA10K_CLASSES, COMMA10K_LICENCE, image_size=(874, 1164))
    no_test = "comma10k has no split test: use val, the images whose names end in 9."

    @classmethod
    def list_files(cls, root: Path, splits: Sequence[str]) -> Listing:
        base = _find_base(root)
        images, masks = files_by_stem(base / "imgs"), files_by_stem(base / "masks")
        files = {split: (_part(images, split), _part(masks, split)) for split in splits}
        missing = f"{base / 'imgs'} has no images of {' or '.join(splits)}. {_EXPECTED}"
        pairs = make_splits(files, missing)
        return Listing("comma10k", COMMA10K_CLASSES, FROM_COLORS, pairs, COMMA10K_LICENCE)


def _part(files: FilesByStem, split: str) -> FilesByStem:
    """Return the files of a split; comma.ai validates on images whose names end in 9.png."""
    return {stem: paths for stem, paths in files.items() if stem.endswith("9") == (split == "val")}


_EXPECTED = (
    "Expected, in this folder or in comma10k/ below it, imgs/*.png and masks/*.png "
    "(github.com/commaai/comma10k). Set their location with --data-root."
)


def _find_base(root: Path) -> Path:
    """Return `root` or its folder comma10k, the one with the two folders.

    Raises DataNotFound if neither has them.
    """
    for base in (root, root / "comma10k"):
        if all((base / part).is_dir() for part in ("imgs", "masks")):
            return base
    state = "has no imgs/ beside masks/." if root.is_dir() else "is not a folder."
    raise DataNotFound(f"{root} {state} {_EXPECTED}")
