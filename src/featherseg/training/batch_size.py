"""`train.batch_size = "auto"`: how many pictures a step fit into the memory of the device."""

import copy
import os

import torch
from torch import Tensor

from featherseg.core.types import Size
from featherseg.layers.network import SegmentationNetwork

OVERHEAD = 2.0  # gradients, workspaces, the loss at full resolution: measured 1.3 to 1.8 times what is saved
LARGEST = 64


def fit_batch_size(net: SegmentationNetwork, crop: Size, device: torch.device, *, ranks: int = 1) -> int:
    """The largest power of two (at most 64 a device) whose training step is estimated to fit, times the devices.

    The estimate: bytes that the forward keeps for the backward, a picture, times OVERHEAD, against half of the free
    main memory or 80 % of the free memory of a GPU.
    """
    if device.type == "cuda":
        budget = 0.8 * torch.cuda.mem_get_info(device)[0]
    else:
        budget = 0.5 * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / ranks
    fitting = budget / (OVERHEAD * saved_bytes(net, crop))
    batch = 1
    while batch * 2 <= min(fitting, LARGEST):
        batch *= 2
    return batch * ranks


def saved_bytes(net: SegmentationNetwork, crop: Size) -> float:
    """Bytes a picture that one training forward keeps for its backward, in fp32; parameters not counted.

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

    pictures = torch.zeros(2, len(net.mean), *crop, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = hollow(pictures, aux=True)
    del out
    return total / len(pictures)
