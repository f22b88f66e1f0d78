"""A table of areas: a line for each class of each image."""

import csv
from pathlib import Path

import numpy as np

from featherseg.converters.masks import IGNORE_CLASS, Masks
from featherseg.core.types import IGNORE

TITLE = "CSV"


def write(folder: Path, masks: Masks, copy: bool) -> None:
    """Write areas.csv: image, class, pixels and the share of the image's pixels, 0..1."""
    names = dict(enumerate(info.name for info in masks.classes)) | {IGNORE: IGNORE_CLASS}
    with open(folder / "areas.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("image", "class", "pixels", "share"))
        for image in masks.images:
            counts = np.bincount(image.mask.ravel(), minlength=IGNORE + 1)  # (256,)
            name = f"{image.split}/{image.name}" if image.split else image.name
            for value, title in names.items():
                if value != IGNORE or counts[value]:
                    share = f"{counts[value] / image.mask.size:.6f}"
                    table.writerow((name, title, counts[value], share))
