"""Devices that do not train: candidates to be measured there, and their answers."""

import json
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import torch

from featherseg import models
from featherseg.core.errors import ConfigError, FeathersegError
from featherseg.core.files import check_writable
from featherseg.core.types import ClassInfo, Progress, Size
from featherseg.data import open_dataset
from featherseg.data.datasets.statistics import typical_size
from featherseg.data.images.palettes import bright_palette
from featherseg.exporters.job import Facts
from featherseg.exporters.pipeline import describe
from featherseg.fitting.bundle import BundleItem, MeasuredLatency, write_bundle
from featherseg.fitting.candidates import check_size, offers, resize_of
from featherseg.fitting.feasible import image_of
from featherseg.fitting.latency import Timing
from featherseg.runs.run import Run

CLASSES = 19
"""The classes of candidates without data: latency hardly depends on their number."""

SIZE = (360, 480)
"""The (height, width) of the images without data."""


def bundle_candidates(
    out: Path,
    data: str | None = None,
    formats: Sequence[str] = ("onnx",),
    image_size: Size | None = None,
    data_root: Path | None = None,
    progress: Progress | None = None,
) -> list[FeathersegError]:
    """Write every candidate, untrained, to a .zip that measures them on another device.

    Args:
        data: Gives the classes, the channels and the image that is measured with.
        image_size: (height, width) of the images to predict.

    Returns:
        The errors of candidates that are left out.

    Raises:
        UnknownName, DataNotFound, ConfigError, MissingExtra, ExportError.
    """
    check_writable(out)
    if out.suffix != ".zip":
        raise ConfigError(f"--out {out}: a bundle is a .zip, such as bundle.zip.")
    if data is None and data_root is not None:
        raise ConfigError(
            f"--data-root {data_root} has no effect without --data. Add --data, or leave it out."
        )
    if image_size is not None:
        check_size(image_size)
    if data is not None:
        train = open_dataset(data, "train", data_root)
        size, classes = image_size or typical_size(train), train.classes
        check_size(size, data)
        image = image_of(train, size)
    else:
        size = image_size or SIZE
        classes = tuple(
            ClassInfo(f"class_{i}", color) for i, color in enumerate(bright_palette()[:CLASSES])
        )
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    names = list(dict.fromkeys(offer.model for offer in offers(size)))
    items = []
    for name in names:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(0)
            model = models.build(name, len(classes), image.shape[2]).eval()
        scales = {
            offer.scale: resize_of(offer.scale, size)
            for offer in offers(size)
            if offer.model == name
        }
        items += [
            BundleItem(model, name, Facts(name, classes, "untrained"), scales, format)
            for format in formats
        ]
    return list(write_bundle(out, items, image, progress))


def bundle_chosen(
    out: Path, run: Run, scale: float, format: str, image: np.ndarray, threads: int
) -> str:
    """Write the trained model to a .zip that measures it on the device; return the bundle's id.

    Args:
        image: (H, W, C) as the device takes it.
        threads: Those that the candidates were measured with.
    """
    resizes = {scale: run.recipe.data.test_resize}
    item = BundleItem(
        run.model, run.recipe.model.name, describe(run.model, run, None), resizes, format
    )
    write_bundle(out, [item], image, threads=threads)
    with ZipFile(out) as archive:
        return str(json.loads(archive.read("bundle.json"))["id"])


def timings_of(measured: MeasuredLatency, format: str) -> list[Timing]:
    """Return the timings of another device in a format. Raises ConfigError if there are none."""
    rows = [row for row in measured.candidates if row.format == format]
    if not rows:
        formats = ", ".join(sorted({row.format for row in measured.candidates}))
        raise ConfigError(
            f"latency.json holds no {format}, but {formats}: name one of these with --format."
        )
    return [
        Timing(
            row.model,
            row.scale,
            row.format,
            row.latency_ms.p50,
            row.latency_ms.p95,
            *row.latency_ms.interval,
            row.memory_mib,
            row.file_mib,
        )
        for row in rows
    ]
