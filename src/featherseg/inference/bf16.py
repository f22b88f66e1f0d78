"""A model with bf16 weights and maps: half the memory traffic, and twice the products."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from featherseg.core.errors import DeviceError
from featherseg.core.machine import computes_bf16
from featherseg.core.types import SegOutput
from featherseg.inference.dataflow import probe
from featherseg.layers.model import SegmentationModel


def in_bf16(model: SegmentationModel) -> SegmentationModel:
    """Return a copy of an eval model that computes in bf16; images and its outputs stay float32.

    What a model keeps in float32 under autocast (scores, sampling positions), and layers between,
    stay in float32.

    Raises:
        DeviceError: Its device has no instructions for bf16.
    """
    device = next(model.parameters()).device
    if not computes_bf16(device):
        raise DeviceError(
            f"precision 'bf16' was asked for, but this {device.type} does not compute in it (a CPU "
            "needs AVX512-BF16, AMX or Arm's BF16). Use precision 'fp32'."
        )
    narrow = copy.deepcopy(model).to(torch.bfloat16)
    narrow.register_forward_pre_hook(_to_bf16)
    narrow.register_forward_hook(_to_fp32)
    for name in _given_fp32(narrow):
        narrow.set_submodule(name, model.get_submodule(name))
    return narrow


def _given_fp32(narrow: SegmentationModel) -> list[str]:
    """Make layers float32 whose input is float32 in a bf16 model, and return their names."""
    names = {layer: name for name, layer in narrow.named_modules() if not list(layer.children())}
    given_fp32: list[str] = []

    def widen(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(inputs[0], Tensor) and inputs[0].dtype == torch.float32:
            layer.float()
            given_fp32.append(names[layer])

    hooks = [layer.register_forward_pre_hook(widen) for layer in names]
    probe(narrow)
    for hook in hooks:
        hook.remove()
    return given_fp32


def _to_bf16(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].to(torch.bfloat16), *inputs[1:])


def _to_fp32(model: nn.Module, inputs: tuple[Any, ...], out: SegOutput) -> SegOutput:
    centers, offsets = (None if x is None else x.float() for x in (out.centers, out.offsets))
    return out._replace(logits=out.logits.float(), centers=centers, offsets=offsets)
