"""Which device to run on, and the sentence for one that is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featherseg.core.errors import DeviceError

if TYPE_CHECKING:
    import torch


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU; else any device torch knows: "cpu", "cuda:1", "mps".

    Raises DeviceError for a device that this machine does not have.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"unknown device {name!r}. Expected auto, cpu, cuda, cuda:N or mps.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {name!r} was asked for, but torch {torch.__version__} sees {torch.cuda.device_count()} CUDA "
            f"devices here. Use --device cpu or --device auto, or install a CUDA build of torch and a driver."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' was asked for, but this machine has none. Use --device cpu or --device auto.")
    return device
