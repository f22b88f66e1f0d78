"""How much memory a model needs: its live tensors, counted while it runs on tensors that hold no data, or on few."""

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
"""(height, width) the model is measured at ..."""

SMALL = (256, 512)
"""... and one of one's own that is computed for it."""


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of every storage that operations create while it is alive; `peak` is the most at one time.

    sizes holds those of storage after storage, events what became of them: n where the n-th (from 1) was made, -n where
    it was freed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes: list[int] = []
        self.events: list[int] = []
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here: to skip it, torch would first import its compiler, a second of work."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves(
            (args, kwargs)
        ):  # what comes from outside (weights, input) is no cost of this forward
            if (
                isinstance(leaf, Tensor)
                and (key := (storage := leaf.untyped_storage())._cdata) not in self._known
            ):
                self._known.add(key)
                weakref.finalize(
                    storage, self._known.discard, key
                )  # the next storage may get its address
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
    """Peak of live tensors in a forward of these images, they included, weights apart."""
    with torch.inference_mode(), LiveBytes() as live:
        model(images)
    return live.peak + images.untyped_storage().nbytes()


def peak_bytes_per_pixel(model: SegmentationModel) -> float:
    """Peak of live tensors in an eval forward, input included, in bytes a pixel of input; weights apart.

    Measured on the meta device, at one image of SIZE. Parts that grow with the square of the pixels (attention) are
    counted as they are at that size; scratch memory of the kernels is not seen. A model of one's own that does not run
    there, as it makes tensors itself or looks into them, sees a black image of SMALL where it is.
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
