"""Keeping a few lines in full precision, whatever autocast says around them."""

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """Autocast switched off on that kind of device; nothing to do where it has none (meta: counting, export)."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
