"""Parity: the exported file must give the network's own logits, at sizes that it was not exported at."""

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf, prod, sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featherseg.core.types import SegOutput
from featherseg.inference.runtimes import open_runtime
from featherseg.layers.network import SegmentationNetwork
from featherseg.layers.scale import LayerScale

TOLERANCE = 1e-4
"""Largest error that passes, as a share of the range (maximum - minimum) of the network's logits."""

SHAPES = ((1, 64, 96), (1, 97, 131), (2, 65, 99), (3, 128, 72), (1, 33, 70), (1, 7, 201))
"""(batch, height, width) of the pictures: odd, even, and shorter than the 64 pixels that a network may pad to."""


@dataclass(frozen=True)
class ParityRow:
    """One batch of pictures through both.

    max_error is that of the map that is farthest off (logits, or a panoptic network's centres or offsets; infinite
    where the shapes differ), relative_error its share of the range of the network's own map, same_class the fraction of
    logit positions whose highest class is the same.
    """

    batch: int
    height: int
    width: int
    max_error: float
    relative_error: float
    same_class: float

    @property
    def ok(self) -> bool:
        """Within TOLERANCE; a NaN is not."""
        return self.relative_error <= TOLERANCE


@dataclass(frozen=True)
class ParityReport:
    """The rows of one comparison."""

    rows: tuple[ParityRow, ...]

    @property
    def ok(self) -> bool:
        """Every row is within TOLERANCE."""
        return all(row.ok for row in self.rows)

    @property
    def worst(self) -> ParityRow:
        """The row that is farthest off."""
        return max(self.rows, key=lambda row: inf if row.relative_error != row.relative_error else row.relative_error)

    def as_json(self) -> dict[str, Any]:
        """{"tolerance", "ok", "rows": [{"batch", "height", "width", "max_error", ..., "ok"}]}."""
        return {"tolerance": TOLERANCE, "ok": self.ok, "rows": [{**asdict(row), "ok": row.ok} for row in self.rows]}


def verify(model: SegmentationNetwork, file: Path, shapes: Sequence[tuple[int, int, int]] = SHAPES) -> ParityReport:
    """Run an exported file beside its network, on the CPU, on seeded noise of (batch, height, width).

    The network must be in eval mode, in fp32, on the CPU. The file is run as `predict` and `evaluate` run it. Raises
    MissingExtra where its runtime is not installed, ExportError where the runtime refuses it.
    """
    runtime = open_runtime(file, "cpu")
    rows = []
    for number, (batch, height, width) in enumerate(shapes):
        images = torch.randn(batch, runtime.channels, height, width, generator=torch.Generator().manual_seed(number))
        with torch.no_grad():
            expected = model(images)
        rows.append(ParityRow(batch, height, width, *_compare(runtime(images), expected)))
    return ParityReport(tuple(rows))


def _compare(found: SegOutput, expected: SegOutput) -> tuple[float, float, float]:
    """-> (largest error, its share of the range of `expected`, fraction of positions with the same highest class)."""
    theirs, ours = _maps(found), _maps(expected)
    if [x.shape for x in theirs] != [x.shape for x in ours] or found.padded_size != expected.padded_size:
        return inf, inf, 0.0
    errors = [_error(a, b) for a, b in zip(theirs, ours, strict=True)]
    error, relative = max(errors, key=lambda pair: inf if pair[1] != pair[1] else pair[1])
    return error, relative, (found.logits.argmax(1) == expected.logits.argmax(1)).float().mean().item()


def _maps(out: SegOutput) -> list[Tensor]:
    """What a network gives: logits, and a panoptic one centres and offsets."""
    return [x for x in (out.logits, out.centers, out.offsets) if x is not None]


def _error(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """(largest error, its share of the range of `expected`)."""
    error = (found - expected).abs().max().item()
    spread = (expected.max() - expected.min()).item()
    return error, error / spread if spread > 0 else (0.0 if error == 0 else inf)


def perturb(model: nn.Module) -> nn.Module:
    """Fill a network with seeded noise, in place, so that nothing is at its initial value; -> the network in eval mode.

    A zero gate or a fresh batch norm hides what an export gets wrong behind it. Every entry is drawn by its own name:
    kernels N(0, 1 / fan_in), scales of norms and running variances U(0.5, 1.5), layer scales U(0.02, 0.1) (a deep
    network would run out of fp32 with larger ones), all else (biases, gates, running means) N(0, 0.1^2).
    """
    layer_scales = {f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, LayerScale)}
    with torch.no_grad():
        for key, value in model.state_dict().items():  # shares its memory with the network
            generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
            kind = key.rsplit(".", 1)[-1]
            if kind == "num_batches_tracked":
                continue
            if key in layer_scales:
                value.uniform_(0.02, 0.1, generator=generator)
            elif kind == "weight" and value.dim() > 1:
                value.normal_(0, 1 / sqrt(prod(value.shape[1:])), generator=generator)
            elif kind in ("weight", "running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            else:
                value.normal_(0, 0.1, generator=generator)
    return model.eval()
