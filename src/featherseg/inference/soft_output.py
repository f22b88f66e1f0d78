"""Probabilities of all classes, or the confidence in the mask's class, as files."""

import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from featherseg.core.errors import ConfigError
from featherseg.core.files import write_atomic, write_bytes
from featherseg.core.types import ClassInfo
from featherseg.inference.drawing import png_bytes
from featherseg.inference.runtimes import Runtime

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


def agreeing(probabilities: Tensor, mask: Tensor) -> Tensor:
    """Change probabilities (B, K, H, W) in place: the class of the mask (B, H, W) gets the highest.

    Rounding may make two classes equal, or swap two that are nearly equal. The mask's class gets
    the next number above the highest, and the other class gets its value. Each changes by no more
    than that rounding.
    """
    chosen = mask.long()[:, None]  # (B, 1, H, W)
    highest = probabilities.float().argmax(dim=1, keepdim=True)  # in float16 it takes much longer
    differ = highest != chosen
    if differ.any():
        of_highest, of_chosen = probabilities.gather(1, highest), probabilities.gather(1, chosen)
        integers = torch.int16 if of_highest.dtype.itemsize == 2 else torch.int32
        above = (of_highest.view(integers) + 1).view(of_highest.dtype)  # the next number
        probabilities.scatter_(1, highest, torch.where(differ, of_chosen, of_highest))
        probabilities.scatter_(1, chosen, torch.where(differ, above, of_chosen))
    return probabilities


def soft_output(probabilities: Tensor, mask: Tensor, kind: SoftKind) -> Tensor:
    """Return probabilities (B, K, H, W) as float16, or round(255 p) of the mask's class as uint8.

    The mask's class has the highest probability in float16 too. The latter has shape (B, H, W).
    """
    if kind == "probabilities":
        return agreeing(probabilities.half(), mask)
    chosen = agreeing(probabilities, mask).gather(1, mask.long()[:, None])[:, 0]
    return (chosen * 255).round().to(torch.uint8)


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
