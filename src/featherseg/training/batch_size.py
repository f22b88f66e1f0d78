"""What a training step takes of the device's memory, and how many images a step fit (`train.batch_size = "auto"`)."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import Tensor

from featherseg.core.errors import ConfigError
from featherseg.core.machine import pick_device
from featherseg.core.types import Size
from featherseg.core.wording import counted, size_text
from featherseg.layers.model import SegmentationModel
from featherseg.recipe import Recipe

OVERHEAD = 2.0  # gradients, workspaces, the loss at full resolution: measured 1.3 to 1.8 times what is saved
LEAST = {"fp32": 1.0, "bf16": 0.6, "fp16": 0.6}  # no model takes less: measured 1.2 to 2.4, and 0.75 to 1.6
LIKELY = {"fp32": OVERHEAD, "bf16": 0.6 * OVERHEAD, "fp16": 0.6 * OVERHEAD}
LARGEST = 64
CGROUP = Path("/sys/fs/cgroup")


def fit_batch_size(net: SegmentationModel, crop: Size, device: torch.device, *, ranks: int = 1) -> int:
    """The largest power of two (at most 64 a device) whose training step is estimated to fit, times the devices.

    The estimate: bytes that the forward keeps for the backward, an image, times OVERHEAD, against half of the free
    main memory or 80 % of the free memory of a GPU.
    """
    budget = (0.8 if device.type == "cuda" else 0.5 / ranks) * available_memory(device)
    fitting = budget / (OVERHEAD * saved_bytes(net, crop))
    batch = 1
    while batch * 2 <= min(fitting, LARGEST):
        batch *= 2
    return batch * ranks


def check_memory(net: SegmentationModel, recipe: Recipe, say: Callable[[str], None]) -> None:
    """Say what a step will take of the memory of a device, and what of it is free; crop and batch size are numbers.

    Raises ConfigError where it cannot fit, with what does.
    """
    settings, crop, device = recipe.train, recipe.augment.crop, pick_device(recipe.train.device)
    assert isinstance(settings.batch_size, int)
    assert crop is not None
    own = settings.batch_size // (settings.devices * settings.nodes)  # images of one device
    sharing = 1 if device.type == "cuda" else settings.devices
    available = available_memory(device) / sharing
    # weights are there already; gradients and the optimiser's moments come, and the average
    copies = (3 if settings.optimizer == "adamw" else 2) + (settings.ema > 0)
    fixed = copies * sum(p.numel() * p.element_size() for p in net.parameters())
    image = saved_bytes(net, crop)
    least, likely = (fixed + own * image * factors[settings.precision] for factors in (LEAST, LIKELY))
    takes = f"a step of {counted(own, 'image')} of {size_text(crop)} takes"
    free = f"{available / 1e9:.1f} GB are free on {device}"
    if least > available:
        fitting = int((available - fixed) / (image * LIKELY[settings.precision]))
        side = math.sqrt(max(0.0, available - fixed) / (image * LIKELY[settings.precision]))
        smaller = [max(32, int(length * side) // 32 * 32) for length in crop]
        remedy = (
            f"--set train.batch_size={fitting * settings.devices * settings.nodes}"
            if fitting > 0
            else f"--set train.batch_size={settings.devices * settings.nodes} --set augment.crop={smaller}"
        )
        raise ConfigError(f"{takes} at least {least / 1e9:.1f} GB of memory, and {free}. What fits: {remedy}.")
    doubt = ": it may not fit. A smaller train.batch_size or augment.crop needs less" if likely > available else ""
    say(f"{takes} about {likely / 1e9:.1f} GB of memory, {free}{doubt}")


def available_memory(device: torch.device) -> float:
    """Bytes that may still be taken: of a GPU its free memory, else the main memory, within a container's limit."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    free = float(psutil.virtual_memory().available)
    try:  # cgroup v2, where it has a limit; files that are cached count as used there, and make room when asked
        limit, used = (int((CGROUP / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
        counts = dict(line.split() for line in (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        return min(free, float(limit - used + int(counts["inactive_file"])))
    except (OSError, ValueError, KeyError):
        return free


def saved_bytes(net: SegmentationModel, crop: Size) -> float:
    """Bytes an image that one training forward keeps for its backward, in fp32; parameters not counted.

    Measured on a copy without values (torch's meta device): at once, whatever the crop.
    """
    hollow = copy.deepcopy(net).to("meta").train()
    known = {p.untyped_storage()._cdata for p in hollow.parameters()}
    total = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            known.add(storage._cdata)
            total += storage.nbytes()
        return tensor

    images = torch.zeros(2, len(net.mean), *crop, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = hollow(images, aux=True)
    del out
    return total / len(images)
