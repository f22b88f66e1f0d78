"""Which layer passes its result to one other layer and nothing else, seen in one forward."""

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
"""(height, width) of the image of that forward: no map of it is a single position."""

LOOKS = {Tensor.dim, Tensor.size, Tensor.numel, Tensor.__len__} | {
    getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device")
}
"""Operations that do not read the values of a tensor."""


def probe(model: SegmentationModel) -> SegOutput:
    """Run the model on a small image of zeros."""
    images = torch.zeros(1, len(model.mean), *SIZE, device=next(model.parameters()).device)
    with torch.no_grad(), autocast_off(images.device):
        return model(images)


def links(model: SegmentationModel, kinds: tuple[type[nn.Module], ...]) -> list[tuple[str, str]]:
    """Return pairs of layers of `kinds` by name: the second gets all that the first returns.

    Pairs are in the order in which they run. The result of the first is read once, by the second,
    and is no output of the model; both run once in a forward. The model must be in eval mode.
    """
    names = {layer: name for name, layer in model.named_modules() if isinstance(layer, kinds)}
    # (layer, its input, its output): kept, so that no other tensor gets their ids
    calls: list[tuple[str, Tensor, Tensor]] = []
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
    pairs = [
        (source[id(x)], name) for name, x, _ in calls if id(x) in source and reads.count[id(x)] == 1
    ]
    return [(first, second) for first, second in pairs if runs[first] == runs[second] == 1]


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
