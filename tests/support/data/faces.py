"""Folders of photographs with masks of eyes and noses in any layout, and their `check --write`."""

import json
from pathlib import Path

import numpy as np
from support.data.published_layouts import save
from typer.testing import CliRunner

from featherseg.cli import build_app
from featherseg.data.datasets.dataset_toml import DatasetToml, read_dataset_toml

NAMES = [f"leaf{letter}" for letter in "abcdefghij"]
SIZE = 48


def run(*arguments: object):
    return CliRunner().invoke(build_app(), [str(argument) for argument in arguments])


def checked(folder: Path, *options: str) -> dict:
    """What `check --write` says as JSON; it must have written."""
    result = run("check", folder, "--write", "--json", *options)
    report = json.loads(result.stdout) if result.stdout else None
    assert report is not None, result.exception or result.output
    assert report["written"]
    return report


def photo(number: int) -> np.ndarray:
    """(SIZE, SIZE, 3) of coarse blocks with noise, another for each number."""
    rng = np.random.default_rng(number)
    blocks = np.kron(rng.integers(0, 255, (6, 6, 3)), np.ones((SIZE // 6, SIZE // 6, 1)))
    return np.clip(blocks + rng.integers(-9, 9, blocks.shape), 0, 255).astype(np.uint8)


def square(number: int, left: int, side: int) -> np.ndarray:
    """(SIZE, SIZE) of 0 and 255 in a square that lies elsewhere for each number."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[4 + number : 4 + number + side, left : left + side] = 255
    return mask


EYE, NOSE = (2, 20), (16, 12)
"""Left edge and side of two squares that overlap."""


def make(folder: Path, image: str, *masks: str, count: int = 10) -> Path:
    """Write images and masks: {name} is an image's name, {n} its number; eyes first, then noses."""
    for number, name in enumerate(NAMES[:count]):
        save(folder / image.format(name=name, n=number), photo(number))
        for pattern, (left, side) in zip(masks, (EYE, NOSE, (30, 6)), strict=False):
            save(folder / pattern.format(name=name, n=number), square(number, left, side))
    return folder


def written(folder: Path) -> DatasetToml:
    return read_dataset_toml(folder / "dataset.toml")


def nnunet(folder: Path, channels: int = 1) -> Path:
    """Write imagesTr/case_000_0000.png, labelsTr/case_000.png, and test images without labels."""
    for number in range(12):
        for channel in range(channels):
            save(
                folder / f"imagesTr/case_{number:03}_{channel:04}.png", photo(number)[:, :, channel]
            )
        save(folder / f"labelsTr/case_{number:03}.png", square(number, *EYE) // 255)
        save(folder / f"imagesTs/case_{number + 50:03}_0000.png", photo(number + 50)[:, :, 0])
    return folder


def face(number: int) -> np.ndarray:
    """(SIZE, SIZE) of 0, 1 for the eye and 2 for the nose over it."""
    return np.where(square(number, *NOSE), 2, np.where(square(number, *EYE), 1, 0)).astype(np.uint8)


DATA_YAML = (
    "path: .\ntrain: images/part1\nval: images/part2\nmasks_dir: {masks}\n"
    "names: {{0: ground, 1: eye, 2: nose}}\n"
)


def masks_yaml(folder: Path, masks: str = "masks", text: str = DATA_YAML) -> Path:
    """images/part1 and masks/part1 with a data.yaml of Ultralytics, and a folder of other masks."""
    for number, name in enumerate(NAMES):
        part = "part1" if number < 7 else "part2"
        mask = face(number)
        mask[:2] = 255
        save(folder / f"images/{part}/{name}.jpg", photo(number))
        save(folder / f"{masks}/{part}/{name}.png", mask)
        save(
            folder / f"other/{part}/{name}.png",
            3 * face(number) + np.arange(SIZE, dtype=np.uint8) % 3,
        )
    (folder / "data.yaml").write_text(text.format(masks=masks))
    return folder


def nuclei(folder: Path) -> Path:
    """Write stage1_train/HASH/{images,masks}/*.png and stage1_test, as DSB 2018 does."""
    for number in range(14):
        name, stage = f"{number * 7919 + 2**40:x}", "stage1_train" if number < 12 else "stage1_test"
        save(folder / f"{stage}/{name}/images/{name}.png", photo(number))
        for k in range(2 + number % 3) if number < 12 else ():
            save(
                folder / f"{stage}/{name}/masks/{number * 104729 + k * 7 + 2**41:x}.png",
                square(number, 2 + 11 * k, 9),
            )
    return folder


def labelled_nnunet(folder: Path) -> Path:
    """nnU-Net's folders with their dataset.json."""
    labels = {
        "channel_names": {"0": "xray"},
        "labels": {"background": 0, "nodule": 1},
        "file_ending": ".png",
    }
    (nnunet(folder) / "dataset.json").write_text(json.dumps(labels))
    return folder
