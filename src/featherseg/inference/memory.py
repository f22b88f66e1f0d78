"""How much memory a model needs: its live tensors, counted in a forward without data, or small."""

import copy
import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from featherseg.core.errors import FeathersegError
from featherseg.layers.model import SegmentationModel

SIZE = (512, 1024)
"""(height, width) at which models are measured."""

SMALL = (256, 512)
"""(height, width) for a model that has to compute for it."""


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of every storage that operations create, while it is alive.

    Attributes:
        now: Bytes at present.
        peak: Most bytes at one time.
        sizes: Bytes of each storage.
        events: n when the n-th storage (from 1) was created, -n when it was freed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes: list[int] = []
        self.events: list[int] = []
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False, because to skip its compiler torch would import it, a second of work."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Tensors from outside (weights, input) are no cost of this forward
        for leaf in tree_leaves((args, kwargs)):
            if (
                isinstance(leaf, Tensor)
                and (key := (storage := leaf.untyped_storage())._cdata) not in self._known
            ):
                self._known.add(key)
                # The next storage may get its address
                weakref.finalize(storage, self._known.discard, key)
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if not isinstance(leaf, Tensor):
                continue
            storage = leaf.untyped_storage()
            if (key := storage._cdata) in self._known:
                continue
            self._known.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            self.sizes.append(storage.nbytes())
            self.events.append(len(self.sizes))
            weakref.finalize(storage, self._remove, key, len(self.sizes))
        return result

    def _remove(self, key: int, number: int) -> None:
        self._known.discard(key)
        self.now -= self.sizes[number - 1]
        self.events.append(-number)


def peak_bytes(model: Callable[[Tensor], object], images: Tensor) -> int:
    """Return the peak bytes of live tensors in a forward, with the images, without weights."""
    with torch.inference_mode(), LiveBytes() as live:
        model(images)
    return live.peak + images.untyped_storage().nbytes()


def peak_bytes_per_pixel(model: SegmentationModel) -> float:
    """Return the peak of live tensors in an eval forward, in bytes per pixel of input.

    The input counts, weights do not. Measured on the meta device with one image of SIZE. Parts that
    grow with the square of the pixels (attention) are counted at that size; scratch memory of
    kernels is not seen. A user's model that does not run there, because it creates tensors or reads
    their values, runs on a black image of SMALL on its device.
    """
    shadow = copy.deepcopy(model).eval()
    try:
        black = torch.empty(1, len(shadow.mean), *SIZE, device="meta")
        return peak_bytes(shadow.to("meta"), black) / math.prod(SIZE)
    except FeathersegError:
        raise
    except Exception:  # whatever it raises
        black = torch.zeros(1, len(model.mean), *SMALL, device=next(model.parameters()).device)
        return peak_bytes(copy.deepcopy(model).eval(), black) / math.prod(SMALL)
