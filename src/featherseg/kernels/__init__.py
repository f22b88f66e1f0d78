"""Two loops that are written by hand, as the usual operations spend their time on memory: classes, counts.

Compiled where a compiler was at install, in numpy otherwise, Triton on a CUDA device; all with the same results.
"""

from featherseg.kernels.confusion import confusion_counts, joint_counts
from featherseg.kernels.library import native
from featherseg.kernels.upsample import upsample_argmax

__all__ = ["confusion_counts", "joint_counts", "native", "upsample_argmax"]
