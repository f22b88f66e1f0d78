"""Describe the free photographs of roads and corridors that the shipped models are trained on.

    python benchmarks/photographs.py DATA OUT       # DATA has road/, indoor/ and indoor2/

Writes folders with a dataset.toml and lists below OUT:

    road            train: two sections but for their last tenths by position, val: a third section,
                    test: two other sections, never seen
    road-same       test: the last tenths
    road-all        train: all but test
    indoor          train: the first four fifths of a walk, val: a frame in ten of them, test:
                    the last fifth
    indoor-other    test: another building, never seen
    indoor-all      train: both buildings but for test: the last fifth and a part of the other

The classes of `indoor` are those that both buildings share. In both, "background" is the seam
between two areas and what nobody labelled, so it is ignored.
"""

import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from featherseg.core.types import IGNORE

ROAD_LICENCE = (
    "MIT: Cracks and Potholes in Road Images, Passos et al. (UNIVALI), images by the Brazilian "
    "National Department of Transport Infrastructure"
)
INDOOR_LICENCE = (
    "CC BY 4.0: Roboflow projects DHCN_dataset (tqbdataset) and TQB data-500 (cttnhh-1-mnh-t)"
)

INDOOR_CLASSES = {
    "floor": "#3a86ff",
    "wall": "#e6c229",
    "ceiling": "#7fc8f8",
    "door": "#d1495b",
    "furniture": "#2a9d8f",
    "other": "#8338ec",
}
BUILDINGS = {  # folder -> class -> raw values; 0, "background", is ignored
    "indoor": {
        "floor": [7],
        "wall": [10],
        "ceiling": [2],
        "door": [4],
        "furniture": [1, 3],  # cabinet, chair
        "other": [5, 6, 8, 9],  # elevator, railing, stair, tree
    },
    "indoor2": {
        "floor": [1],
        "wall": [11],
        "ceiling": [3],
        "door": [5],
        "furniture": [4, 9],  # chair, table
        "other": [2, 6, 7, 8, 10],  # bin, fire extinguisher, pane, picture, vending machine
    },
}
SHOWN = (400, 520)
"""Frames of the other building that no model sees: two of them are in examples/photos."""


def main() -> None:
    """Write them."""
    data, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    write_roads(data / "road", out)
    write_corridors(data, out)


def write_roads(road: Path, out: Path) -> None:
    """Write road, road-same and road-all; a name is NUMBER_STATE_ROAD_SECTION_POSITION."""
    lists = {part: (road / f"{part}.txt").read_text().split() for part in ("train", "val", "test")}
    sections = defaultdict[str, list[str]](list)
    for name in lists["train"]:
        sections[name.split("_")[3]].append(name)
    train, same = list[str](), list[str]()
    for names in sections.values():
        names.sort(key=lambda name: int(name.split("_")[4]))
        cut = len(names) - len(names) // 10
        train += names[:cut]
        same += names[cut:]
    text = f"""
images = "{road / "Dataset"}"
masks = "{road / "Dataset"}"
image_suffix = "_RAW"
licence = "{ROAD_LICENCE}"

[classes]
background = "#000000"
lane = "#3a86ff"
crack = "#ffbe0b"
pothole = "#ff006e"

[map]
0 = "background"
255 = "lane"
"""
    text += "".join(
        f'\n[[layer]]\nclass = "{name}"\nsuffix = "_{name.upper()}"\n'
        for name in ("lane", "crack", "pothole")
    )

    def keys(names: Sequence[str]) -> list[str]:
        return [f"{name}/{name}" for name in names]

    rest = {"val": keys(lists["val"]), "test": keys(lists["test"])}
    write(out / "road", text, {"train": keys(train), **rest})
    write(out / "road-same", text, {"train": keys(train), "test": keys(same)})
    write(out / "road-all", text, {"train": keys(train + same + lists["val"]), **rest})


def write_corridors(data: Path, out: Path) -> None:
    """Write indoor, indoor-other and indoor-all, and masks of the shared classes."""
    names = dict[str, list[str]]()
    for building, classes in BUILDINGS.items():
        lookup = np.full(256, IGNORE, np.uint8)
        for index, name in enumerate(INDOOR_CLASSES):
            lookup[classes[name]] = index
        paths = sorted((data / building).rglob("*.jpg"), key=frame_number)
        names[building] = [f"{building}/{frame_number(path):04}" for path in paths]
        for path, name in zip(paths, names[building], strict=True):
            image, mask = (
                out / "corridors/images" / f"{name}.jpg",
                out / "corridors/masks" / f"{name}.png",
            )
            image.parent.mkdir(parents=True, exist_ok=True)
            mask.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, image)
            raw = np.array(Image.open(path.with_name(f"{path.stem}_mask.png")))  # (H, W)
            Image.fromarray(lookup[raw]).save(mask)
    walk, other = names.values()
    begin, end = walk[: len(walk) * 4 // 5], walk[len(walk) * 4 // 5 :]
    looks = begin[5::10]
    train = [name for name in begin if name not in looks]

    text = f"""
images = "{(out / "corridors/images").resolve()}"
masks = "{(out / "corridors/masks").resolve()}"
licence = "{INDOOR_LICENCE}"

[classes]
"""
    text += "".join(f'{name} = "{color}"\n' for name, color in INDOOR_CLASSES.items())
    text += '\n[map]\n255 = "ignore"\n'
    text += "".join(f'{index} = "{name}"\n' for index, name in enumerate(INDOOR_CLASSES))
    write(out / "indoor", text, {"train": train, "val": looks, "test": end})
    write(out / "indoor-other", text, {"train": train, "test": other})
    part = [name for name in other if SHOWN[0] <= int(name[-4:]) < SHOWN[1]]
    both = begin + [name for name in other if name not in part]
    write(out / "indoor-all", text, {"train": both, "val": both[5::50], "test": end + part})


def frame_number(path: Path) -> int:
    """Return the number of frame_NUMBER_jpg.rf.HASH.jpg."""
    return int(path.name.split("_")[1])


def write(folder: Path, text: str, splits: Mapping[str, Sequence[str]]) -> None:
    """Write a dataset.toml and a list of names for each split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, names in splits.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    lists = "".join(f'{split} = "{split}.txt"\n' for split in splits)
    head = f'name = "{folder.name.removesuffix("-all")}"'
    (folder / "dataset.toml").write_text(f"{head}{text}\n[splits]\n{lists}")


if __name__ == "__main__":
    main()
