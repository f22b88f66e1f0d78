"""The images of a benchmark: of the labelled set, of a run's own validation split, or synthetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from featherseg.core.errors import ConfigError, FeathersegError
from featherseg.core.types import SegmentationData, Size
from featherseg.core.wording import counted, size_text
from featherseg.data import LabelledImages, open_dataset
from featherseg.data.datasets.sequences import OLD_RULES
from featherseg.data.images.image_range import eight_bits, range_above
from featherseg.layers.resize import resize_antialiased

if TYPE_CHECKING:
    from featherseg.recipe.tables import DataTable
    from featherseg.runs.run import Run

LEAST = 3
"""Least number of images for a fidelity."""

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Number of channels -> Pillow's mode of a PNG; other numbers become a TIFF, a page per channel."""


@dataclass(frozen=True)
class Images:
    """Files of one size, and where they are from, as text."""

    files: tuple[Path, ...]
    description: str


def labelled_set(
    tables: Sequence[DataTable], data: str | None, root: Path | None, split: str | None
) -> LabelledImages:
    """Return the labelled set that runs are scored on: by default the one that all validated on.

    If the runs validated on different numbers of images of the split, all its images are scored.

    Args:
        tables: the [data] table of each run.
        data, root, split: what the user names; None for the runs' own.

    Raises:
        ConfigError: the runs differ in dataset or split, and the user names none.
    """
    if data is not None:  # one of the runs may know it under another path
        data = next((t.name for t in tables if LabelledImages(t.name, "").is_of(data)), data)
    names, splits = {t.name for t in tables}, {t.val_split for t in tables}
    if data is None and len(names) != 1:
        reason = "no run is among them"
        if names:
            reason = f"the runs were trained on {', '.join(sorted(names))}"
        raise ConfigError(
            f"{reason}: name the dataset with --data NAME or --data path/to/dataset.toml."
        )
    name = data or tables[0].name
    if split is None and names == {name} and len(splits) > 1:
        raise ConfigError(
            f"the runs were validated on {', '.join(sorted(splits))}: name the split with --split."
        )
    split = split or (splits.pop() if len(splits) == 1 and names == {name} else "val")
    roots = [Path(t.root) for t in tables if t.name == name and t.root]
    sizes = {t.val_size if (t.name, t.val_split) == (name, split) else None for t in tables}
    size = sizes.pop() if len(sizes) == 1 else None
    rules = {t.split_by for t in tables}
    split_by = rules.pop() if len(rules) == 1 else None
    if names != {name} and split_by not in OLD_RULES:  # data of older runs may have been moved
        split_by = None
    return LabelledImages(name, split, root or (roots[0] if roots else None), size, split_by)


def write_own_images(
    folder: Path, size: Size, channels: int, batch: int, run: Run | None
) -> Images:
    """Write images of the split that a run was validated on; synthetic ones if it is not here."""
    if run is None:
        return write_images(folder, size, channels, batch, None)
    table = run.recipe.data
    try:
        root, size_of_split = Path(table.root) if table.root else None, table.val_size
        data = open_dataset(
            table.name, table.val_split, root, size_of_split, split_by=table.split_by
        )
        return write_images(folder, size, channels, batch, data)
    except FeathersegError:
        synthetic = write_images(folder, size, channels, batch, None)
        reason = f"because {run.name}'s data {table.name} were not found (set --data-root)"
        return Images(synthetic.files, f"{synthetic.description}, {reason}")


def write_images(
    folder: Path, size: Size, channels: int, batch: int, data: SegmentationData | None
) -> Images:
    """Write max(LEAST, batch) lossless images, evenly spaced in `data`, else synthetic ones.

    Images are resized to `size` (height, width) without keeping their aspect ratio. If the number
    of channels differs, each channel is the mean of the image's channels.
    """
    count = max(LEAST, batch)
    source = data or open_dataset("shapes", "val", None, count)
    folder.mkdir(parents=True, exist_ok=True)
    places = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int).tolist()
    resized = [_resized(source[i].image, size, channels) for i in places]
    files = [_write(pixels, folder / f"{number}.png") for number, pixels in enumerate(resized)]
    origin = f"{counted(len(files), 'synthetic image')} (shapes val)"
    if data:
        origin = f"{counted(len(files), 'image')} of {data.name}"
    description = f"{origin}, resized to {size_text(size)}"
    return Images(tuple(files[i % len(files)] for i in range(count)), description)


def _resized(image: np.ndarray, size: Size, channels: int) -> np.ndarray:
    """Return (H, W, C) uint8 or uint16 as (*size, channels) uint8."""
    eight_bit = eight_bits(image, range_above(image.max()))
    pixels = eight_bit.transpose(2, 0, 1)[None].astype(np.float32)  # (1, C, H, W)
    if pixels.shape[1] != channels:
        pixels = np.repeat(pixels.mean(axis=1, keepdims=True), channels, axis=1)
    resized = resize_antialiased(pixels, size)[0].transpose(1, 2, 0)
    return np.ascontiguousarray(np.rint(resized).clip(0, 255).astype(np.uint8))


def _write(pixels: np.ndarray, path: Path) -> Path:
    """Write (H, W, C) uint8 as a PNG, or as a TIFF if PNG has no such mode; return the file."""
    if pixels.shape[2] in MODES:
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(path)
        return path
    path = path.with_suffix(".tif")
    pages: Sequence[Image.Image] = [
        Image.fromarray(np.ascontiguousarray(page)) for page in np.moveaxis(pixels, 2, 0)
    ]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return path
