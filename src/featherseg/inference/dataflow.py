"""Which layer hands its result to one other layer and to nothing else, seen while a model runs once."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from featherseg.core.types import SegOutput
from featherseg.layers.model import SegmentationModel
from featherseg.layers.precision import autocast_off

SIZE = (96, 128)
"""(height, width) of the image that is sent through: no map of it is a single position."""

LOOKS = {Tensor.dim, Tensor.size, Tensor.numel, Tensor.__len__} | {
    getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device")
}
"""What asks about a tensor without reading its values."""


def probe(model: SegmentationModel) -> SegOutput:
    """One small forward, of an image that is zero everywhere."""
    images = torch.zeros(1, len(model.mean), *SIZE, device=next(model.parameters()).device)
    with torch.no_grad(), autocast_off(images.device):
        return model(images)


def links(model: SegmentationModel, kinds: tuple[type[nn.Module], ...]) -> list[tuple[str, str]]:
    """Names (first, second) of layers of `kinds`, in the order they run: all that the first gives goes to the second.

    The result of the first is read once, by the second, and is no output of the model; both run once in a forward.
    The model must be in eval mode.
    """
    names = {layer: name for name, layer in model.named_modules() if isinstance(layer, kinds)}
    calls: list[
        tuple[str, Tensor, Tensor]
    ] = []  # (layer, what it took, what it gave): kept, so that ids stay theirs
    reads = _Reads()

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        reads.count[id(output)] = 0
        calls.append((names[layer], inputs[0], output))

    hooks = [layer.register_forward_hook(note) for layer in names]
    with reads:
        out = probe(model)
    for hook in hooks:
        hook.remove()
    reads.count.update(id(leaf) for leaf in tree_leaves(out))
    runs = Counter(name for name, _, _ in calls)
    source = {id(output): name for name, _, output in calls}
    found = [
        (source[id(x)], name) for name, x, _ in calls if id(x) in source and reads.count[id(x)] == 1
    ]
    return [(first, second) for first, second in found if runs[first] == runs[second] == 1]


class _Reads(TorchFunctionMode):
    """Counts the calls of torch that read each tensor, by id."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in LOOKS:
            self.count.update(
                id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
            )
        return func(*args, **(kwargs or {}))
