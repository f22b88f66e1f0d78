"""The images that a benchmark runs on: of the labelled set where one is named, a run's own, or synthetic ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from featherseg.core.errors import ConfigError, FeathersegError
from featherseg.core.types import SegmentationData, Size
from featherseg.core.wording import counted, size_text
from featherseg.data import LabelledImages, open_dataset
from featherseg.data.datasets.sequences import OLD_RULES
from featherseg.data.images.image_range import eight_bits, range_above
from featherseg.recipe.tables import DataTable
from featherseg.runs.run import Run

LEAST = 3
"""Images that a fidelity is measured on, at least."""

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Channels -> what Pillow calls a PNG of them; others become a TIFF with a page a channel."""


@dataclass(frozen=True)
class Images:
    """Files of one size, and what they show."""

    files: tuple[Path, ...]
    description: str


def labelled_set(
    own: Sequence[DataTable], data: str | None, root: Path | None, split: str | None
) -> LabelledImages:
    """What several runs are scored on: their own data and split where they agree and nothing else is named.

    own are the [data] tables of the runs. Of a split of which not all validate on the same number of images, all are
    scored. Raises ConfigError where it is not clear which dataset or which split is meant.
    """
    data = next(
        (d.name for d in own if data is not None and LabelledImages(d.name, "").is_of(data)), data
    )
    names, splits = {d.name for d in own}, {d.val_split for d in own}
    if data is None and len(names) != 1:
        found = (
            f"the runs were trained on {', '.join(sorted(names))}"
            if names
            else "no run is among them"
        )
        raise ConfigError(
            f"{found}: name the dataset with --data NAME or --data path/to/dataset.toml."
        )
    name = data or own[0].name
    if split is None and names == {name} and len(splits) > 1:
        raise ConfigError(
            f"the runs were validated on {', '.join(sorted(splits))}: name the split with --split."
        )
    split = split or (splits.pop() if len(splits) == 1 and names == {name} else "val")
    roots = [Path(d.root) for d in own if d.name == name and d.root]
    sizes = {d.val_size if (d.name, d.val_split) == (name, split) else None for d in own}
    size = sizes.pop() if len(sizes) == 1 else None
    rules = {d.split_by for d in own}
    by = rules.pop() if len(rules) == 1 else None
    by = (
        by if names == {name} or by in OLD_RULES else None
    )  # older runs' own data may have been moved
    return LabelledImages(name, split, root or (roots[0] if roots else None), size, by)


def write_own_images(
    folder: Path, size: Size, channels: int, batch: int, run: Run | None
) -> Images:
    """`write_images` of the split that a run was validated on; where it cannot be read, synthetic ones."""
    if run is None:
        return write_images(folder, size, channels, batch, None)
    own = run.recipe.data
    try:
        root = Path(own.root) if own.root else None
        data = open_dataset(own.name, own.val_split, root, own.val_size, split_by=own.split_by)
        return write_images(folder, size, channels, batch, data)
    except FeathersegError:
        found = write_images(folder, size, channels, batch, None)
        description = (
            f"{found.description}, as {run.name}'s own {own.name} was not found (set --data-root)"
        )
        return Images(found.files, description)


def write_images(
    folder: Path, size: Size, channels: int, batch: int, data: SegmentationData | None
) -> Images:
    """Write max(LEAST, batch) images of (height, width), lossless: evenly spaced ones of `data`, else synthetic ones.

    Images of another size are resized, their ratio not kept; synthetic ones have other than three channels in grey.
    """
    count = max(LEAST, batch)
    source = data or open_dataset("shapes", "val", None, count)
    folder.mkdir(parents=True, exist_ok=True)
    places = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int).tolist()
    resized = [_resized(source[i].image, size, channels) for i in places]
    files = [_write(pixels, folder / f"{number}.png") for number, pixels in enumerate(resized)]
    of = (
        f"{counted(len(files), 'image')} of {data.name}"
        if data
        else f"{counted(len(files), 'synthetic image')}"
    )
    description = f"{of}{'' if data else ' (shapes val)'}, brought to {size_text(size)}"
    return Images(tuple(files[i % len(files)] for i in range(count)), description)


def _resized(image: np.ndarray, size: Size, channels: int) -> np.ndarray:
    """(H, W, C) uint8 or uint16 -> (*size, channels) uint8."""
    eight_bit = eight_bits(image, range_above(image.max()))
    pixels = torch.from_numpy(eight_bit).permute(2, 0, 1)[None].float()  # (1, C, H, W)
    if pixels.shape[1] != channels:
        pixels = pixels.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)
    pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
    return np.ascontiguousarray(
        pixels[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()
    )


def _write(pixels: np.ndarray, path: Path) -> Path:
    """(H, W, C) uint8 as a PNG, or a TIFF with one page per channel if PNG has no such mode; -> the file."""
    if pixels.shape[2] in MODES:
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(path)
        return path
    path = path.with_suffix(".tif")
    pages: Sequence[Image.Image] = [
        Image.fromarray(np.ascontiguousarray(page)) for page in np.moveaxis(pixels, 2, 0)
    ]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return path
