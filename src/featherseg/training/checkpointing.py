"""Activation checkpointing: the backbone's blocks are computed again in the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from torch import nn

from featherseg.core.errors import ConfigError
from featherseg.layers.model import SegmentationModel


def checkpoint_blocks(model: SegmentationModel) -> None:
    """Keep only the inputs of the backbone's blocks from now on; names of weights do not change.

    Raises ConfigError if the backbone has no module of the classes that it names as its blocks.
    """
    if not _wrap_blocks(model.backbone, model.backbone.checkpointed):
        raise ConfigError(
            "train.checkpoint_activations: the model has no blocks to compute again. A model given "
            "as an object needs a `backbone` with the classes of its blocks as `checkpointed`."
        )


def _wrap_blocks(module: nn.Module, classes: tuple[type[nn.Module], ...]) -> int:
    """Wrap the outermost modules of these classes and return their number."""
    # Imported here because some builds of torch lack torch.distributed. The wrapper hides itself
    # from the names of weights
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    wrapped = 0
    for name, child in module.named_children():
        if isinstance(child, classes):
            recompute = partial(_buffers_kept, child)
            setattr(
                module,
                name,
                checkpoint_wrapper(
                    child, context_fn=lambda again=recompute: (nullcontext(), again())
                ),
            )
            wrapped += 1
        else:
            wrapped += _wrap_blocks(child, classes)
    return wrapped


@contextmanager
def _buffers_kept(block: nn.Module) -> Iterator[None]:
    """Restore running statistics: the forward pass has added the batch to them already."""
    before = [(buffer, buffer.clone()) for buffer in block.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)
