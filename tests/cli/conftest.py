"""A tiny dataset on disk and a run folder with an untrained model for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.models.small_run import small_info

from featherseg import models
from featherseg.core.types import ClassInfo
from featherseg.runs.run import save_weights, write_info

TOML = """
name = "lawn"
images = "images"
masks = "masks"
classes = ["grass", "path"]
[splits]
val = "val"
test = "test"
[map]
0 = "grass"
1 = "path"
"""
CLASSES = (ClassInfo("grass", (0, 160, 0)), ClassInfo("path", (160, 160, 160)))


@pytest.fixture
def lawn(tmp_path: Path) -> Path:
    """dataset.toml of two splits with two images of 64 x 72 each, half grass, half path."""
    folder = tmp_path / "lawn"
    rng = np.random.default_rng(0)
    label = np.zeros((64, 72), dtype=np.uint8)
    label[:, 30:] = 1
    for split in ("val", "test"):
        for number in range(2):
            pixels = rng.integers(0, 256, (64, 72, 3), dtype=np.uint8)
            for kind, image in (("images", pixels), ("masks", label)):
                path = folder / kind / split / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    (folder / "dataset.toml").write_text(TOML)
    return folder / "dataset.toml"


@pytest.fixture
def lawn_run(tmp_path: Path, lawn: Path, light_models: None) -> Path:
    """A run folder: a light frm-lite0, untrained, whose own data is `lawn`, one image of val."""
    return write_run(tmp_path / "lawn-run", lawn)


@pytest.fixture
def whole_run(tmp_path: Path, lawn: Path) -> Path:
    """The same of the whole frm-lite0, which other processes can open."""
    return write_run(tmp_path / "lawn-run", lawn)


def write_run(path: Path, lawn: Path) -> Path:
    path.mkdir()
    data = {"name": str(lawn), "val_size": 1}
    torch.manual_seed(0)
    save_weights(path, models.build("frm-lite0", 2).state_dict())
    info = small_info(CLASSES, data=data, image_size=(64, 72))
    write_info(path, info)
    return path
