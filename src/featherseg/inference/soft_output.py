"""Probabilities of all classes, or the confidence in the mask's class, as files."""

import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image

from featherseg.core.arrays import Array, as_float, as_half, highest, like, to_numpy
from featherseg.core.errors import ConfigError
from featherseg.core.files import write_atomic, write_bytes
from featherseg.core.types import ClassInfo
from featherseg.inference.drawing import png_bytes
from featherseg.inference.runtimes import Runtime
from featherseg.kernels.upsample import upsample_argmax

SoftKind = Literal["probabilities", "confidence"]

SOFT_FILES: dict[str, tuple[SoftKind, str]] = {
    "npz": ("probabilities", "_probabilities.npz"),
    "png": ("confidence", "_confidence.png"),
}
"""Value of `--probabilities` -> what is computed, and the end of its file's name."""


def check_soft(runtime: Runtime) -> None:
    """Raise ConfigError for a panoptic model: objects are not chosen from a list of classes."""
    if runtime.panoptic:
        raise ConfigError(
            f"{runtime.name} is a panoptic model, whose objects have no probabilities of classes. "
            "Leave them out."
        )


def agreeing(probabilities: Array, mask: np.ndarray) -> Array:
    """Change probabilities (B, K, H, W) in place: the class of the mask (B, H, W) gets the highest.

    Rounding may make two classes equal, or swap two that are nearly equal. The mask's class gets
    the next number above the highest, and the other class gets its value. Each changes by no more
    than that rounding.
    """
    size = (probabilities.shape[2], probabilities.shape[3])
    best = to_numpy(upsample_argmax(as_float(probabilities), size))  # in float16 it takes longer
    image, row, column = np.nonzero(best != mask)  # few pixels
    of_best, of_mask = (
        tuple(
            like(index, probabilities)
            for index in (image, classes[image, row, column].astype(np.int64), row, column)
        )
        for classes in (best, mask)
    )
    values, lower = to_numpy(probabilities[of_best]), probabilities[of_mask]
    probabilities[of_mask] = like(np.nextafter(values, values.dtype.type(np.inf)), probabilities)
    probabilities[of_best] = lower
    return probabilities


def soft_output(probabilities: Array, mask: np.ndarray, kind: SoftKind) -> np.ndarray:
    """Return probabilities (B, K, H, W) as float16, or round(255 p) of the mask's class as uint8.

    The mask's class has the highest probability in float16 too. The latter has shape (B, H, W).
    """
    if kind == "probabilities":
        return to_numpy(agreeing(as_half(probabilities), mask))
    chosen = highest(agreeing(probabilities, mask))  # (B, H, W)
    return np.rint(to_numpy(chosen) * np.float32(255)).astype(np.uint8)


def write_probabilities(
    file: BinaryIO, probabilities: np.ndarray, classes: Sequence[ClassInfo]
) -> None:
    """Write (K, H, W) float16 as an .npz with `probabilities` and `classes`, their names.

    The bytes are always the same. Nothing is compressed: deflate saves a fifth, and takes longer
    than the model.
    """
    arrays = {"probabilities": probabilities, "classes": np.array([info.name for info in classes])}
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def probabilities_npz(probabilities: np.ndarray, classes: Sequence[ClassInfo]) -> bytes:
    """Return what `write_probabilities` writes."""
    file = BytesIO()
    write_probabilities(file, probabilities, classes)
    return file.getvalue()


def save_soft(soft: np.ndarray, classes: Sequence[ClassInfo], path: Path) -> None:
    """Write `Prediction.soft` of either kind atomically."""
    if soft.ndim == 3:
        write_atomic(path, lambda file: write_probabilities(file, soft, classes))
    else:
        write_bytes(path, confidence_png(soft))


def confidence_png(confidence: np.ndarray) -> bytes:
    """Return confidence (H, W) uint8, 255 = certain, as a grey PNG."""
    return png_bytes(Image.fromarray(confidence))
