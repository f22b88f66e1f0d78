"""Hand-written loops for operations that are limited by memory: losses, classes, counts, relations.

Compiled if there was a compiler at installation, else in numpy or torch. Losses, classes and counts
use Triton on a CUDA device. Classes and counts are the same everywhere; losses, relations and
gradients are equal within rounding.
"""

from featherseg.kernels.confusion import confusion_counts, joint_counts
from featherseg.kernels.cross_entropy import upsample_cross_entropy
from featherseg.kernels.depthwise import depthwise_conv2d
from featherseg.kernels.library import native
from featherseg.kernels.norm import norm_act
from featherseg.kernels.relation import pixel_to_region
from featherseg.kernels.resize import resize_bilinear
from featherseg.kernels.upsample import upsample_argmax

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
