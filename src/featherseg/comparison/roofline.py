"""The limits of this machine, measured, and the shortest latency that they allow for a model.

The roofline model (Williams, Waterman, Patterson, CACM 52(4), 2009): arithmetic or memory limits a
program, whichever takes longer. Rates are the best of a few kernels that models consist of. Traffic
counts convolutions and linear layers only: each reads its input and weights once and writes its
output once; all layers between are taken as fused. A multiply-accumulate is two operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.core.types import Size
from featherseg.costs.cost import by_convention, count_layers
from featherseg.costs.latency import Schedule, time_passes
from featherseg.layers.model import SegmentationModel

BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
"""Bytes of an element, by precision."""

MATRIX = {"cpu": 512, "cuda": 8192}
"""Rows and columns of the matrices that are multiplied."""

CONVOLUTION = {"cpu": (1, 128, 32, 128), "cuda": (8, 256, 256, 512)}
"""(B, C, H, W) of the input of the 3x3 convolution."""

COPIED = {"cpu": 2**26, "cuda": 2**30}
"""float32 elements of each copied array: larger than any cache."""

KERNEL = Schedule(warm_up=0, least=5, most=math.inf, seconds=0.4)
"""How often each kernel is repeated after a first time; the best time counts."""


@dataclass(frozen=True)
class Limits:
    """Rates of a machine.

    Args:
        kernels: GFLOP/s (int8: 10^9 operations/s) by precision and name, without kernels that the
            machine or its torch lacks.
        memory: GB/s by name.
    """

    device: str
    threads: int
    kernels: dict[str, dict[str, float]]
    memory: dict[str, float]

    def peak(self, precision: str) -> float | None:
        """Return the best rate in a precision, GFLOP/s; None if none was measured."""
        return max(self.kernels.get(precision, {}).values(), default=None)

    @property
    def bandwidth(self) -> float:
        """The best memory rate, GB/s."""
        return max(self.memory.values())

    def as_json(self) -> dict[str, Any]:
        """Return plain values; `Limits(**values)` reads them."""
        return asdict(self)


@dataclass(frozen=True)
class Work:
    """One pass of a model: MACs, and elements of feature maps and weights that are moved."""

    macs: int
    elements: int

    def intensity(self, precision: str) -> float:
        """Return operations per byte that is moved."""
        return 2 * self.macs / (self.elements * BYTES[precision])

    def limit_ms(self, limits: Limits, precision: str) -> float | None:
        """Return the shortest time that the rates allow; None if the rate is unknown."""
        peak = limits.peak(precision)
        if peak is None:
            return None
        arithmetic, memory = (
            2 * self.macs / peak,
            self.elements * BYTES[precision] / limits.bandwidth,
        )
        return max(arithmetic, memory) / 1e6  # rates are in 10^9 a second


def work_of(model: SegmentationModel, size: Size, batch: int = 1) -> Work:
    """Count one pass at (height, width) on the meta device; raises UnknownName as `cost`."""
    twin = deepcopy(model).to("meta").eval()
    images = torch.empty(batch, len(model.mean), *size, device="meta")
    moved: list[int] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weights = sum(p.numel() for p in layer.parameters(recurse=False))
        moved.append(inputs[0].numel() + output.numel() + weights)

    for layer in twin.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(note)
    layers, _ = count_layers(twin, images)
    return Work(by_convention(layers)["macs"], sum(moved))


@torch.inference_mode()
def measure_limits(device: torch.device) -> Limits:
    """Measure a device with torch's present number of threads; about 5 s, and 1 GB on the CPU."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    generator = torch.Generator().manual_seed(0)
    side = MATRIX[kind]
    a = torch.randn(side, side, generator=generator).to(device)
    x = (
        torch.randn(CONVOLUTION[kind], generator=generator)
        .to(device)
        .contiguous(memory_format=torch.channels_last)
    )
    w = torch.randn(x.shape[1], x.shape[1], 3, 3, generator=generator).to(device)
    w = w.contiguous(memory_format=torch.channels_last)
    kernels: dict[str, dict[str, float]] = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        m, (maps, weights) = a.to(dtype), (x.to(dtype), w.to(dtype))
        convolve = partial(F.conv2d, maps, weights, padding=1)
        rates = {
            "matmul": _rate(partial(torch.mm, m, m), 2 * side**3, device),
            "conv3x3": _rate(convolve, 18 * x.numel() * x.shape[1], device),
        }
        kernels[precision] = {name: rate for name, rate in rates.items() if rate is not None}
    q = (a * 20).clamp(-127, 127).to(torch.int8)
    rate = _rate(lambda: torch._int_mm(q, q), 2 * side**3, device)
    kernels["int8"] = {} if rate is None else {"matmul": rate}
    return Limits(str(device), torch.get_num_threads(), kernels, _memory(COPIED[kind], device))


def _memory(elements: int, device: torch.device) -> dict[str, float]:
    """Return GB/s of copying, of a + s * b (triad) and of reading float32."""
    a, b, c = (torch.ones(elements, device=device) for _ in range(3))
    rates = {
        "copy": _rate(lambda: c.copy_(a), 8 * elements, device),
        "triad": _rate(lambda: torch.add(a, b, alpha=0.5, out=c), 12 * elements, device),
        "read": _rate(a.sum, 4 * elements, device),
    }
    return {name: rate for name, rate in rates.items() if rate is not None}


def _rate(kernel: Callable[[], object], amount: int, device: torch.device) -> float | None:
    """Return the best rate, 10^9 of `amount` per second; None if torch lacks the kernel here."""
    try:
        kernel()
    except (RuntimeError, NotImplementedError):
        return None

    def run() -> None:
        kernel()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return amount / min(time_passes(run, KERNEL).ms) / 1e6
