"""Keep a few lines in full precision under autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off for this kind of device (nothing to do on meta: counting, export)."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def at_least_fp32(x: Tensor) -> Tensor:
    """Convert half precision to float32; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
