"""A dataset.toml proposed for a folder of images/ and masks/ that has none, from the values its masks hold."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featherseg.core.errors import DataError
from featherseg.data.datasets.dataset_toml import IGNORE_NAME, DatasetToml, toml_text
from featherseg.data.datasets.folder import list_folder
from featherseg.data.images import image_channels, read_mask
from featherseg.data.pairs import Listing, files_by_stem
from featherseg.data.palettes import color_text, default_palette

MAX_CLASSES = 64
"""Masks with more different values are taken for smoothed or compressed ones: then only common values are classes."""

COMMON = 0.005
"""Share of all pixels from which a value counts as common."""

SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "test", "testing")
"""Folders below images/ that are taken for splits, in this order."""

MASK_SUFFIXES = ("", "_mask", "_label", "_labels", "_seg", "_gt", "_L")
"""What may stand between the stem of an image and the ending of its mask."""


@dataclass(frozen=True)
class Proposal:
    """A dataset.toml as text, the files it describes, and how often each raw value ("12" or "#40a0ff") occurs."""

    text: str
    listing: Listing
    pixels: dict[str, int]


def propose(folder: Path) -> Proposal:
    """Look through images/ and masks/ below `folder` and propose a dataset.toml.

    Masks of 0 and one other value become background and foreground; of other masks each value is a class, and 255 is
    ignored. Raises DataError where no mask can be read, or where its values cannot be classes.
    """
    images, masks = files_by_stem(folder / "images"), files_by_stem(folder / "masks")
    pixels = _raw_values(path for paths in masks.values() for path in paths)
    if not pixels:
        raise DataError(f"{folder / 'masks'} has no readable mask.")
    raw_map = _raw_map(folder, pixels)
    config = DatasetToml(
        name=folder.resolve().name or "folder",
        images="images",
        masks="masks",
        mask_suffix=max(MASK_SUFFIXES, key=lambda suffix: sum(stem + suffix in masks for stem in images)),
        channels=_channels(path for paths in images.values() for path in paths),
        splits=_splits(images),
        classes=_colors(raw_map),
        map=raw_map,
    )
    listing = list_folder(config, folder)
    if not all(listing.splits.values()):  # too few files for shares
        config = config.model_copy(update={"splits": {"train": 1.0}})
        listing = list_folder(config, folder)
    return Proposal(toml_text(config), listing, pixels)


def _raw_values(masks: Iterable[Path]) -> dict[str, int]:
    """Pixels of every raw value over all masks that can be read, in the order of the values.

    If one mask is a colour image, the values of all are colours.
    """
    plain: Counter[int] = Counter()
    coded: Counter[int] = Counter()
    seen_color = False
    for path in masks:
        try:
            colors = read_mask(path, colors=True).astype(np.int32)  # (H, W, 3)
            raw = read_mask(path)
        except DataError:
            continue
        grey = raw.ndim == 2 or bool((raw == raw[:, :, :1]).all())
        seen_color |= not grey
        _count(coded, colors[:, :, 0] << 16 | colors[:, :, 1] << 8 | colors[:, :, 2])
        _count(plain, raw if raw.ndim == 2 else raw[:, :, 0])
    if seen_color:
        return {f"#{value:06x}": coded[value] for value in sorted(coded)}
    return {str(value): plain[value] for value in sorted(plain)}


def _count(counter: Counter[int], values: np.ndarray) -> None:
    for value, pixels in zip(*np.unique(values, return_counts=True), strict=True):
        counter[int(value)] += int(pixels)


def _raw_map(folder: Path, pixels: Mapping[str, int]) -> dict[str, str]:
    """Raw value -> class name for the values that can be classes."""
    values = list(pixels)
    if len(values) > MAX_CLASSES:
        values = [value for value in values if pixels[value] >= COMMON * sum(pixels.values())]
        if len(values) < 2:
            raise DataError(
                f"{folder / 'masks'} holds {len(pixels)} different values, of which {len(values)} cover {COMMON:.1%} "
                "of the pixels. Expected masks whose values are classes: are these photographs, instance ids, or "
                "masks saved as JPEG?"
            )
    if len(values) == 2 and values[0] in ("0", "#000000"):
        return {values[0]: "background", values[1]: "foreground"}
    return {value: IGNORE_NAME if value == "255" else f"class_{value.removeprefix('#')}" for value in values}


def _colors(raw_map: Mapping[str, str]) -> dict[str, str]:
    """Class name -> colour: the mask's own where the values are colours, else the default palette."""
    classes = {name: raw for raw, name in raw_map.items() if name != IGNORE_NAME}
    palette = default_palette(len(classes))
    return {
        name: raw if raw.startswith("#") else color_text(color)
        for (name, raw), color in zip(classes.items(), palette, strict=True)
    }


def _splits(keys: Iterable[str]) -> dict[str, str | float]:
    """The folders below images/ where all of them are named like splits, else shares."""
    folders = {key.split("/")[0] if "/" in key else "" for key in keys}
    if folders and folders <= set(SPLIT_NAMES):
        return {name: name for name in SPLIT_NAMES if name in folders}
    return {"train": 0.8, "val": 0.2}


def _channels(images: Iterable[Path]) -> int:
    """The most channels that a readable image has: grey ones can be read as RGB, not the other way round."""
    found = []
    for path in images:
        try:
            found.append(image_channels(path))
        except DataError:
            continue
    return max(found, default=3)
