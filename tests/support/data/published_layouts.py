"""Our synthetic scenes in the layouts of published folders, without a description."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from featherseg.data import open_dataset

COUNT = 12
SIDE = 8
"""Every so many pixels of a scene are kept."""


@cache
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return image and mask (H, W) of COUNT scenes: 0 elsewhere, 1 road, 2 objects, 3 ignored."""
    data = open_dataset("shapes", "train", size=COUNT)
    things = [index for index, info in enumerate(data.classes) if info.thing]
    found = []
    for index in range(COUNT):
        sample = data[index]
        label = sample.label[::SIDE, ::SIDE]
        mask = np.where(label == 0, 1, np.where(np.isin(label, things), 2, 0))
        found.append(
            (sample.image[::SIDE, ::SIDE], np.where(label == 255, 3, mask).astype(np.uint8))
        )
    return found


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def other_folder_names(folder: Path) -> None:
    """Training_Images/ and Ground_Truth/: no name of ours."""
    for number, (image, mask) in enumerate(scenes()):
        save(folder / f"Training_Images/{number:03}.jpg", image)
        save(folder / f"Ground_Truth/{number:03}.png", mask)


def suffixes_on_both_sides(folder: Path) -> None:
    """Write images/001_image.png, annotations/001_annotation.png, and a folder of 1-bit masks."""
    for number, (image, mask) in enumerate(scenes()):
        save(folder / f"images/{number:03}_image.png", image)
        save(folder / f"annotations/{number:03}_annotation.png", mask)
        save(folder / f"binary/{number:03}_binary.png", mask > 0)


def image_name_and_ending(folder: Path) -> None:
    """images/001.jpg with masks/001.jpg.png, as tools name a mask by its image's whole name."""
    for number, (image, mask) in enumerate(scenes()):
        save(folder / f"images/{number:03}.jpg", image)
        save(folder / f"masks/{number:03}.jpg.png", mask)


def one_folder(folder: Path) -> None:
    """exp1.jpg and exp1.png side by side."""
    for number, (image, mask) in enumerate(scenes()):
        save(folder / f"Imgs/exp{number}.jpg", image)
        save(folder / f"Imgs/exp{number}.png", mask)


def one_folder_by_suffix(folder: Path) -> None:
    """a.png and a_mask.png side by side, at the top."""
    for number, (image, mask) in enumerate(scenes()):
        save(folder / f"photo{number}.png", image)
        save(folder / f"photo{number}_mask.png", mask)


TURNED = {
    "MT_Crack": (1, np.s_[:]),
    "MT_Fray": (2, np.s_[::-1]),
    "MT_Free": (9, np.s_[::-1, ::-1]),
}
"""Folder of a class -> the value of the scenes that stands for it, and how they are turned."""


def class_is_the_folder(folder: Path) -> None:
    """Write MT_Crack/Imgs/, MT_Fray/Imgs/ with masks of 0 and 255, MT_Free/Imgs/ with none."""
    for name, (
        value,
        turn,
    ) in TURNED.items():  # each scene in another position: no two images are the same
        for number, (image, mask) in enumerate(scenes()):
            stem = folder / f"{name}/Imgs/exp{number % 3}_num_{number * 37}"
            save(stem.with_suffix(".png"), np.where(mask[turn] == value, 255, 0).astype(np.uint8))
            save(stem.with_suffix(".jpg"), np.ascontiguousarray(image[turn]), quality=95)


TILES = {"MT_Blowhole": 1, "MT_Break": 2, "MT_Crack": 3, "MT_Fray": 4, "MT_Free": 0, "MT_Uneven": 5}
"""Folder of a class -> how wide its defects are, in pixels times 4."""


def magnetic_tiles(folder: Path, count: int = 6) -> None:
    """Write MT_Crack/Imgs/exp1_num_37.jpg and .png by class, smoothed masks of 0 and 255.

    The layout is that of the magnetic tiles of Huang et al., 1,344 single photographs.
    """
    rng = np.random.default_rng(0)
    for name, width in TILES.items():
        for number in range(count):
            stem = folder / f"{name}/Imgs/exp{1 + number % 6}_num_{rng.integers(1000, 400000)}"
            blocks = np.kron(rng.integers(60, 200, (8, 6)), np.ones((12, 12)))
            image, mask = (
                blocks + rng.integers(-20, 20, blocks.shape),
                np.zeros(blocks.shape, np.uint8),
            )
            if width:
                top, left = rng.integers(4, 40, 2)
                mask[top : top + 30, left : left + 4 * width] = 255
                image[mask > 0] = 10 * width
            image = np.clip(image, 0, 255).astype(np.uint8)
            save(stem.with_suffix(".jpg"), image, quality=95)
            save(
                stem.with_suffix(".png"),
                np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(0.8))),
            )


def splits_above(folder: Path) -> None:
    """train/images, train/masks, val/..., test/..., each counting from 0."""
    for split, part in (("train", slice(0, 6)), ("valid", slice(6, 9)), ("test", slice(9, 12))):
        for number, (image, mask) in enumerate(scenes()[part]):
            save(folder / f"{split}/images/{number:04}.jpg", image)
            save(folder / f"{split}/masks/{number:04}.png", mask)


def splits_below(folder: Path) -> None:
    """images/training and images/test, no validation part."""
    for number, (image, mask) in enumerate(scenes()):
        split = "test" if number > 9 else "training"
        save(folder / f"images/{split}/p{number}q.jpg", image)
        save(folder / f"annotations/{split}/p{number}q.png", mask)


def lists_of_numbers(folder: Path) -> None:
    """A YAML that lists numbers; one is in train and in test."""
    for number, (image, mask) in enumerate(scenes()):
        save(folder / f"JPEGImages/tile_{number:03}.jpg", image)
        save(folder / f"SegmentationClass/tile_{number:03}.png", mask)
    (folder / "split.yaml").write_text(
        "train: [0, 1, 2, 3, 4, 5, 6]\nval:\n- 7\n- 8\ntest: [9, 10, 11, 3]\n"
    )


def lists_of_paths(folder: Path) -> None:
    """train.txt with "image mask" lines from another machine, and a JSON for the rest."""
    for number, (image, mask) in enumerate(scenes()):
        save(folder / f"imgs/t{number}.jpg", image)
        save(folder / f"labels/t{number}.png", mask)
    lines = [f"/data/imgs/t{number}.jpg /data/labels/t{number}.png" for number in range(9)]
    (folder / "train.txt").write_text(
        "\n".join(lines), encoding="utf-8-sig"
    )  # as Windows writes it
    (folder / "rest.json").write_text(
        json.dumps({"splits": {"test": [f"t{number}.jpg" for number in range(9, 12)]}})
    )


def smoothed(folder: Path) -> None:
    """0 and 255, blurred along the edges by resizing and saved as JPEG."""
    for number, (image, mask) in enumerate(scenes()):
        save(folder / f"images/{number}.png", image)
        large = Image.fromarray(np.where(mask == 2, 255, 0).astype(np.uint8)).filter(
            ImageFilter.GaussianBlur(0.6)
        )
        path = folder / f"masks/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        large.save(path, quality=95)


def rgb_masks(folder: Path) -> None:
    """Black, red and green."""
    colors = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 0)], np.uint8)
    for number, (image, mask) in enumerate(scenes()):
        save(folder / f"img/{number}.png", image)
        save(folder / f"gt/{number}.png", colors[mask])


LAYOUTS: dict[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in (
        other_folder_names,
        suffixes_on_both_sides,
        image_name_and_ending,
        one_folder,
        one_folder_by_suffix,
        class_is_the_folder,
        splits_above,
        splits_below,
        lists_of_numbers,
        lists_of_paths,
        smoothed,
        rgb_masks,
    )
}
