"""Hand-written loops for operations that are limited by memory: losses, classes, counts, relations.

Compiled if there was a compiler at installation, else in numpy or torch. Losses, classes and counts
use Triton on a CUDA device. Classes and counts are the same everywhere; losses, relations and
gradients are equal within rounding.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featherseg.kernels.confusion import confusion_counts, joint_counts
    from featherseg.kernels.cross_entropy import upsample_cross_entropy
    from featherseg.kernels.depthwise import depthwise_conv2d
    from featherseg.kernels.library import native
    from featherseg.kernels.norm import norm_act
    from featherseg.kernels.relation import pixel_to_region
    from featherseg.kernels.resize import resize_bilinear
    from featherseg.kernels.upsample import upsample_argmax

_HOMES = {
    "confusion_counts": "confusion",
    "depthwise_conv2d": "depthwise",
    "joint_counts": "confusion",
    "native": "library",
    "norm_act": "norm",
    "pixel_to_region": "relation",
    "resize_bilinear": "resize",
    "upsample_argmax": "upsample",
    "upsample_cross_entropy": "cross_entropy",
}
"""Name -> its file; files that need torch are imported when a name is first used."""

__all__ = [
    "confusion_counts",
    "depthwise_conv2d",
    "joint_counts",
    "native",
    "norm_act",
    "pixel_to_region",
    "resize_bilinear",
    "upsample_argmax",
    "upsample_cross_entropy",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
