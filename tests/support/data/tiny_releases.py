"""The papers' datasets as released, with a few small images a split: ROOT/cityscapes and so on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from support.data.matlab_file import write_matrix

from featherseg.data.datasets.cityscapes_convert import convert_cityscapes
from featherseg.data.datasets.cityscapes_labels import LABEL_IDS
from featherseg.data.datasets.class_lists import read_classes
from featherseg.data.panoptic.files import PanopticWriter
from featherseg.data.panoptic.segments import list_segments

COUNT, SIZE, PATCH = 4, (64, 96), 16
"""Images a split; their (height, width) and the side of a patch of one class, in pixels."""


def scenes(split: str, classes: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield number, image (H, W, 3) and class ids (H, W) uint8 of each image of a split."""
    for number in range(COUNT):
        rng = np.random.default_rng([number, len(split)])
        patches = rng.integers(0, classes, [side // PATCH for side in SIZE]).astype(np.uint8)
        image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        yield number, image, patches.repeat(PATCH, 0).repeat(PATCH, 1)


def save(path: Path, pixels: np.ndarray) -> None:
    """Write an image or a mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def cityscapes(root: Path) -> None:
    """Write masks of label ids and instance ids, and the panoptic masks made of these."""
    for split, city in (("train", "ulm"), ("val", "bonn")):
        for number, image, label in scenes(split, len(LABEL_IDS)):
            key, ids = f"{city}/{city}_{number:06}_000019", np.array(LABEL_IDS)[label]
            save(root / f"leftImg8bit/{split}/{key}_leftImg8bit.png", image)
            save(root / f"gtFine/{split}/{key}_gtFine_labelIds.png", ids.astype(np.uint8))
            instances = np.where(ids >= 24, 1000 * ids, ids).astype(np.uint16)
            save(root / f"gtFine/{split}/{key}_gtFine_instanceIds.png", instances)
    convert_cityscapes(root)


def bdd100k(root: Path) -> None:
    """Write masks of train ids."""
    for split in ("train", "val"):
        for number, image, label in scenes(split, 19):
            save(root / f"images/10k/{split}/{split}-{number}.jpg", image)
            save(root / f"labels/sem_seg/masks/{split}/{split}-{number}.png", label)


def ade20k(root: Path) -> None:
    """Write masks of 1 to 150 in the folder that the archive has."""
    base = root / "ADEChallengeData2016"
    for split, folder in (("train", "training"), ("val", "validation")):
        for number, image, label in scenes(split, 150):
            save(base / f"images/{folder}/ADE_{split}_{number:08}.jpg", image)
            save(base / f"annotations/{folder}/ADE_{split}_{number:08}.png", label + 1)


def coco_stuff_10k(root: Path) -> None:
    """Write MATLAB files of category ids, and the lists of both splits."""
    ids = np.array(list(read_classes("coco_stuff")), np.uint16)
    (root / "imageLists").mkdir(parents=True)
    for split, part in (("train", "train"), ("val", "test")):
        stems = []
        for number, image, label in scenes(split, len(ids)):
            stems.append(f"COCO_{part}2014_{number:012}")
            save(root / f"images/{stems[-1]}.jpg", image)
            write_matrix(root / f"annotations/{stems[-1]}.mat", ids[label])
        (root / f"imageLists/{part}.txt").write_text("\n".join(stems))


def pascal_context(root: Path) -> None:
    """Write masks of 0 to 59 in the folder that the archive has."""
    base = root / "VOCdevkit/VOC2010"
    lists = base / "ImageSets/SegmentationContext"
    lists.mkdir(parents=True)
    for split, year in (("train", 2008), ("val", 2009)):
        stems = []
        for number, image, label in scenes(split, 60):
            stems.append(f"{year}_{number:06}")
            save(base / f"JPEGImages/{stems[-1]}.jpg", image)
            save(base / f"SegmentationClassContext/{stems[-1]}.png", label)
        (lists / f"{split}.txt").write_text("\n".join(stems))


def coco_panoptic(root: Path) -> None:
    """Write panoptic masks with one segment a class."""
    categories = np.array(list(read_classes("coco_panoptic")))
    for first, split in enumerate(("train", "val")):
        writer = PanopticWriter(root / f"annotations/panoptic_{split}2017", [])
        for number, image, label in scenes(split, len(categories)):
            stem, ids = f"{100 * first + number:012}", categories[label]
            category_of = {int(category): int(category) for category in np.unique(ids)}
            save(root / f"{split}2017/{stem}.jpg", image)
            writer.add(int(stem), f"{stem}.jpg", f"{stem}.png", list_segments(ids, category_of))
        writer.finish()


RELEASES: dict[str, Callable[[Path], None]] = {
    "cityscapes": cityscapes,
    "cityscapes-panoptic": cityscapes,
    "bdd100k": bdd100k,
    "ade20k": ade20k,
    "coco-stuff-10k": coco_stuff_10k,
    "pascal-context-59": pascal_context,
    "coco-panoptic": coco_panoptic,
}
"""Name of a dataset -> what writes its release into a folder."""
