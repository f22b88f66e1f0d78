"""How sure a model is of each pixel: probabilities of all classes, or the confidence in the mask's class, as files."""

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
"""What `--probabilities` takes -> what is computed, and how its file ends: NAME_probabilities.npz."""


def check_soft(runtime: Runtime) -> None:
    """Raises ConfigError for a panoptic model: a pixel's object is not the most probable of a list."""
    if runtime.panoptic:
        raise ConfigError(
            f"{runtime.name} is a panoptic model, whose objects have no probabilities of classes. Leave them out."
        )


def agreeing(probabilities: Tensor, mask: Tensor) -> Tensor:
    """Change probabilities (B, K, H, W) in place so that the class of the mask (B, H, W) has the highest everywhere.

    Rounding may make two classes equal, or swap two that were nearly so. The mask's class gets the next number above
    the highest, the other one its value: each changes by no more than that rounding.
    """
    chosen = mask.long()[:, None]  # (B, 1, H, W)
    highest = probabilities.float().argmax(dim=1, keepdim=True)  # of float16 it takes much longer
    apart = highest != chosen
    if apart.any():
        top, own = probabilities.gather(1, highest), probabilities.gather(1, chosen)
        integers = torch.int16 if top.dtype.itemsize == 2 else torch.int32
        above = (top.view(integers) + 1).view(top.dtype)  # the next number
        probabilities.scatter_(1, highest, torch.where(apart, own, top))
        probabilities.scatter_(1, chosen, torch.where(apart, above, own))
    return probabilities


def soft_output(probabilities: Tensor, mask: Tensor, kind: SoftKind) -> Tensor:
    """Probabilities (B, K, H, W) float32 -> the same as float16, or (B, H, W) uint8: round(255 p) of the mask's class.

    In float16, too, the mask's class has the highest probability everywhere.
    """
    if kind == "probabilities":
        return agreeing(probabilities.half(), mask)
    chosen = agreeing(probabilities, mask).gather(1, mask.long()[:, None])[:, 0]
    return (chosen * 255).round().to(torch.uint8)


def write_probabilities(
    file: BinaryIO, probabilities: np.ndarray, classes: Sequence[ClassInfo]
) -> None:
    """Write (K, H, W) float16 as an .npz: `probabilities`, and `classes`, their names. The same bytes each time.

    Nothing is compressed: deflate saves a fifth, and takes longer than the model.
    """
    arrays = {"probabilities": probabilities, "classes": np.array([info.name for info in classes])}
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def probabilities_npz(probabilities: np.ndarray, classes: Sequence[ClassInfo]) -> bytes:
    """What `write_probabilities` writes."""
    file = BytesIO()
    write_probabilities(file, probabilities, classes)
    return file.getvalue()


def save_soft(soft: np.ndarray, classes: Sequence[ClassInfo], path: Path) -> None:
    """Write `Prediction.soft` of either kind atomically. Raises FeathersegError where the disk refuses."""
    if soft.ndim == 3:
        write_atomic(path, lambda file: write_probabilities(file, soft, classes))
    else:
        write_bytes(path, confidence_png(soft))


def confidence_png(confidence: np.ndarray) -> bytes:
    """(H, W) uint8, 255 = certain, as a grey PNG."""
    return png_bytes(Image.fromarray(confidence))
