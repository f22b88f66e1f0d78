"""24 images that ColorModel predicts right, two with a wrong mask: as an object and as files."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from support.models.color_model import CLASSES

from featherseg.auditing.faults import plant
from featherseg.core.types import Sample

COLORS = np.array([[230, 20, 20], [20, 230, 20], [20, 20, 230]], np.uint8)
WRONG = (4, 17)


class Balls:
    """24 images of a wall, grass and balls in ColorModel's colours; masks of WRONG have a fault."""

    name, classes, channels, licence = "balls", CLASSES, 3, "MIT"
    keys = [f"yard/{number:03}" for number in range(24)]

    def __len__(self) -> int:
        return len(self.keys)

    def right(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(index)
        label = np.zeros((40, 56), np.uint8)
        label[rng.integers(16, 26) :] = 1
        for _ in range(3):
            y, x = rng.integers(0, 30), rng.integers(0, 44)
            label[y : y + 9, x : x + 11] = 2
        return label

    def label(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(0)
        return (
            plant(self.right(index), "dropped", 3, rng, self.right(0))
            if index in WRONG
            else self.right(index)
        )

    def __getitem__(self, index: int) -> Sample:
        noise = np.random.default_rng(index).integers(0, 20, (40, 56, 3), dtype=np.uint8)
        return Sample(self.keys[index], COLORS[self.right(index)] + noise, self.label(index))


def write_balls(folder: Path, things: bool = False) -> Path:
    """Write 18 train, 6 val and 1 test image, a copy of the first; `things` separates the balls."""
    data, names = Balls(), [info.name for info in CLASSES]
    for number, key in enumerate([*data.keys, "yard/test"]):
        label = data.label(number % 24)
        kinds = {"images": data[number % 24].image, "masks": label}
        if things:
            kinds["instances"] = ndimage.label(label == 2)[0].astype(np.uint8)
        for kind, pixels in kinds.items():
            path = folder / kind / f"{key}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    for split, keys in (
        ("train", data.keys[:18]),
        ("val", data.keys[18:]),
        ("test", ["yard/test"]),
    ):
        (folder / f"{split}.txt").write_text("\n".join(keys))
    (folder / "dataset.toml").write_text(
        f'name = "balls"\nimages = "images"\nmasks = "masks"\nclasses = {json.dumps(names)}\n'
        '[splits]\ntrain = "train.txt"\nval = "val.txt"\ntest = "test.txt"\n[map]\n'
        + "".join(f"{number} = {json.dumps(name)}\n" for number, name in enumerate(names))
        + (f'[things]\nclasses = ["{names[2]}"]\ninstances = "instances"\n' if things else "")
    )
    return folder
