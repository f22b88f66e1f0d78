"""What this machine can do at most, measured, and the shortest time that leaves for a model.

The roofline model (Williams, Waterman, Patterson, CACM 52(4), 2009): a program is limited by the arithmetic rate or by
the memory, whichever takes longer. Rates are the best of a few kernels that a model is made of; traffic is that of a
model whose convolutions and linear layers each read their input and weights once and write their output once, with
all that lies between fused into them. A multiply-accumulate counts as two operations.
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
"""Of one element, by precision."""

MATRIX = {"cpu": 512, "cuda": 8192}
CONVOLUTION = {"cpu": (1, 128, 32, 128), "cuda": (8, 256, 256, 512)}
"""Size of what is measured with: rows and columns of matrices; (B, C, H, W) of a 3x3 convolution."""

COPIED = {"cpu": 2**26, "cuda": 2**30}
"""float32 elements of each array that is copied: more than any cache holds."""

KERNEL = Schedule(warm_up=0, least=5, most=math.inf, seconds=0.4)
"""How often each kernel is repeated after a first time; the best time counts."""


@dataclass(frozen=True)
class Limits:
    """Rates of a machine: kernels in GFLOP/s (int8: 10^9 operations/s) by precision and name, memory in GB/s by name.

    A kernel that the machine or its torch does not have is left out.
    """

    device: str
    threads: int
    kernels: dict[str, dict[str, float]]
    memory: dict[str, float]

    def peak(self, precision: str) -> float | None:
        """The best rate in a precision, GFLOP/s; None where none could be measured."""
        return max(self.kernels.get(precision, {}).values(), default=None)

    @property
    def bandwidth(self) -> float:
        """The best memory rate, GB/s."""
        return max(self.memory.values())

    def as_json(self) -> dict[str, Any]:
        """Plain values; `Limits(**values)` is the way back."""
        return asdict(self)


@dataclass(frozen=True)
class Work:
    """What one pass of a model at a size and batch has to do: MACs, and elements that move (maps, and weights)."""

    macs: int
    elements: int

    def intensity(self, precision: str) -> float:
        """Operations for every byte that moves."""
        return 2 * self.macs / (self.elements * BYTES[precision])

    def limit_ms(self, limits: Limits, precision: str) -> float | None:
        """The shortest time that the machine's rates allow; None where its rate is not known."""
        peak = limits.peak(precision)
        if peak is None:
            return None
        arithmetic, memory = (
            2 * self.macs / peak,
            self.elements * BYTES[precision] / limits.bandwidth,
        )
        return max(arithmetic, memory) / 1e6  # rates are in 10^9 a second


def work_of(model: SegmentationModel, size: Size, batch: int = 1) -> Work:
    """Count a model at (height, width) on the meta device: nothing is computed. Raises UnknownName as `cost` does."""
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
    """Measure this machine with as many threads as torch has just now; about 5 seconds, 1 GB on the CPU."""
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
        found = {
            "matmul": _rate(partial(torch.mm, m, m), 2 * side**3, device),
            "conv3x3": _rate(
                partial(F.conv2d, maps, weights, padding=1), 18 * x.numel() * x.shape[1], device
            ),
        }
        kernels[precision] = {name: rate for name, rate in found.items() if rate is not None}
    q = (a * 20).clamp(-127, 127).to(torch.int8)
    rate = _rate(lambda: torch._int_mm(q, q), 2 * side**3, device)
    kernels["int8"] = {} if rate is None else {"matmul": rate}
    return Limits(str(device), torch.get_num_threads(), kernels, _memory(COPIED[kind], device))


def _memory(elements: int, device: torch.device) -> dict[str, float]:
    """GB/s of copying, of a + s * b (triad) and of reading, float32."""
    a, b, c = (torch.ones(elements, device=device) for _ in range(3))
    found = {
        "copy": _rate(lambda: c.copy_(a), 8 * elements, device),
        "triad": _rate(lambda: torch.add(a, b, alpha=0.5, out=c), 12 * elements, device),
        "read": _rate(a.sum, 4 * elements, device),
    }
    return {name: rate for name, rate in found.items() if rate is not None}


def _rate(kernel: Callable[[], object], amount: int, device: torch.device) -> float | None:
    """10^9 of `amount` a second at best; None where torch has no such kernel here."""
    try:
        kernel()
    except (RuntimeError, NotImplementedError):
        return None

    def run() -> None:
        kernel()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return amount / min(time_passes(run, KERNEL).ms) / 1e6
