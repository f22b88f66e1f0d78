"""What can be seen of a training in its run folder: classes, first batch, predictions over time.

Nothing here changes a training: no random number is drawn, and the loader is not asked.
"""

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from featherseg.core.files import write_bytes, write_json
from featherseg.core.types import ClassInfo, SegmentationData
from featherseg.data.datasets.statistics import ClassStatistics
from featherseg.inference.drawing import hatch_ignored, overlay, rgb_view
from featherseg.inference.masks import predict_mask, predict_panoptic
from featherseg.inference.runtimes import Runtime
from featherseg.layers.normalise import FULL_RANGE
from featherseg.reports.progress import IMAGE, LABEL, PROGRESS, strip_name
from featherseg.runs.run import BATCH, LABELS

COUNTED, COUNTED_PIXELS = 64, 50_000_000
"""Most masks of the training that are counted for the report, and most of their pixels: 1 s."""

BATCH_IMAGES, BATCH_SIDE = 16, 320
"""Most images of the first batch that are drawn, and their longer side in pixels."""

STRIP_IMAGES, STRIP_SIDE = 4, 160
"""Number of validation images that are drawn over time, and their longer side in pixels."""


def count_labels(data: SegmentationData) -> dict[str, Any]:
    """Return the content of labels.json: the classes in masks spread over the training's split.

    pixels and images_with have a number for each class; ignored is a share of all pixels.
    """
    statistics, ignored, total = ClassStatistics.empty(len(data.classes)), 0, 0
    number = min(len(data), COUNTED, max(1, COUNTED_PIXELS // data.label(0).size))
    for i in range(number):
        label = data.label(i * len(data) // number)
        ignored, total = ignored + statistics.add(label), total + label.size
    return {
        "images": len(data),
        "counted": number,
        "pixels": statistics.pixels,
        "images_with": statistics.images,
        "ignored": ignored / total,
    }


def write_beginning(out: Path, data: SegmentationData, loader: Any, image_range: int) -> None:
    """Write labels.json and batch.jpg, the first batch of `loader`, as a training begins."""
    write_json(out / LABELS, count_labels(data))
    file = BytesIO()
    mosaic = draw_batch(loader, data.classes, image_range)
    mosaic.save(file, "JPEG", quality=88)
    write_bytes(out / BATCH, file.getvalue())


def draw_batch(
    loader: Any, classes: Sequence[ClassInfo], image_range: int = FULL_RANGE
) -> Image.Image:
    """Return the first images of a loader's first batch as a training sees them, with their labels.

    The samples are made again, so that the loader and all random states stay as they are.
    """
    samples = copy(loader.dataset)  # it remembers what it has read
    with _random_states_kept():
        places = next(iter(loader.batch_sampler))[:BATCH_IMAGES]
        crops = [samples[place][:2] for place in places]
    tiles = [
        _tile(image.permute(1, 2, 0).numpy(), label.numpy(), classes, BATCH_SIDE, image_range)
        for image, label in crops
    ]
    return _grid(tiles, columns=math.ceil(math.sqrt(len(tiles))))


def is_drawn(validation: int, last: bool) -> bool:
    """Return whether predictions are drawn at a validation: the first, second, fourth, ..., last.

    A long training has few drawings, which cost little.
    """
    return last or validation.bit_count() == 1


def draw_predictions(out: Path, runtime: Runtime, val: SegmentationData, step: int) -> None:
    """Draw what the weights of a step predict for a few validation images into RUN/progress.

    A file is a column of the same images; the first time also the images and their labels.
    """
    number = min(STRIP_IMAGES, len(val))
    columns: dict[str, list[Image.Image]] = {}
    for i in range(number):
        sample = val[i * len(val) // number]
        image, label = sample.image, sample.label
        if runtime.panoptic is None or sample.instances is None:
            mask = predict_mask(runtime, image)
        else:
            ((mask, _),) = predict_panoptic(runtime, image[None])
        drawn = {IMAGE: np.zeros_like(mask), LABEL: label, strip_name(step): mask}
        for name, ids in drawn.items():
            classes = () if name == IMAGE else val.classes
            tile = _tile(image, ids, classes, STRIP_SIDE, runtime.image_range)
            columns.setdefault(name, []).append(tile)
    for name, tiles in columns.items():
        file = out / PROGRESS / name
        if name == strip_name(step) or not file.is_file():
            content = BytesIO()
            _grid(tiles, columns=1).save(content, "WEBP", quality=80)
            write_bytes(file, content.getvalue())


def _tile(
    image: np.ndarray, label: np.ndarray, classes: Sequence[ClassInfo], side: int, image_range: int
) -> Image.Image:
    """Return an image (H, W, C) under its label (H, W), with a longer side of at most `side`.

    Without classes it is the image alone.
    """
    seen = rgb_view(image, image_range)
    factor = min(1.0, side / max(seen.size))
    size = (max(1, round(seen.width * factor)), max(1, round(seen.height * factor)))
    small = seen.resize(size, Image.Resampling.LANCZOS)
    if not classes:
        return small
    ids = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
    return hatch_ignored(overlay(np.asarray(small), ids, classes), ids)


def _grid(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Return the tiles in rows of `columns`, 4 pixels apart."""
    width, height = (max(sides) + 4 for sides in zip(*(tile.size for tile in tiles), strict=True))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width - 4, rows * height - 4), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * width, i // columns * height))
    return sheet


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Restore the global random states, which a user's own dataset or augmentation may use."""
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)
