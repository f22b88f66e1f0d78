"""Keep a few lines in full precision under autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off for this kind of device (nothing to do on meta: counting).

    Nor in an export, whose file runs without autocast: torch.export would make a part of its graph
    of the block, and cannot write one that takes a size divided by another.
    """
    if torch.amp.is_autocast_available(device.type) and not torch.compiler.is_exporting():
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def at_least_fp32(x: Tensor) -> Tensor:
    """Convert half precision to float32; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
