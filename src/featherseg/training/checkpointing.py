"""Activation checkpointing: what a block of the backbone computes is not kept for its backward, but computed again."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from torch import nn

from featherseg.core.errors import ConfigError
from featherseg.layers.model import SegmentationModel


def checkpoint_blocks(model: SegmentationModel) -> None:
    """Of the backbone's blocks keep only what goes in, from now on; weights keep their names.

    Raises ConfigError for a backbone that has none of the modules that it says are its blocks.
    """
    if not _wrap_blocks(model.backbone, model.backbone.checkpointed):
        raise ConfigError(
            "train.checkpoint_activations: found no blocks to compute again. A model of one's own has a `backbone`, "
            "which names the classes of its blocks as `checkpointed`."
        )


def _wrap_blocks(module: nn.Module, classes: tuple[type[nn.Module], ...]) -> int:
    """The outermost modules of these classes; -> how many."""
    # here, as some builds of torch come without torch.distributed; its wrapper hides itself from names of weights
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    found = 0
    for name, child in module.named_children():
        if isinstance(child, classes):
            twice = partial(_buffers_kept, child)
            setattr(
                module,
                name,
                checkpoint_wrapper(child, context_fn=lambda twice=twice: (nullcontext(), twice())),
            )
            found += 1
        else:
            found += _wrap_blocks(child, classes)
    return found


@contextmanager
def _buffers_kept(block: nn.Module) -> Iterator[None]:
    """Put back running statistics: the batch has gone into them in the forward."""
    before = [(buffer, buffer.clone()) for buffer in block.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)
