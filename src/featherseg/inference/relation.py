"""RSP's relation for inference on a CPU."""

import torch
from torch import Tensor

from featherseg.kernels import pixel_to_region
from featherseg.layers.precision import at_least_fp32
from featherseg.models.rsp import PixelToRegion


class FusedPixelToRegion(PixelToRegion):
    """A PixelToRegion whose gathering is one kernel, without copies of the windows; the same within rounding.

    Its parts are those of the layer that it is made from, whose weights must not change any more: the geometric prior
    is computed once. Where there are gradients, in float64, on other devices, and in a graph that is compiled or
    exported, it computes as that layer does.
    """

    table: Tensor  # (n, 4, R)

    def __init__(self, plain: PixelToRegion) -> None:
        super().__init__(
            plain.query.in_channels,
            window=plain.window,
            heads=plain.heads,
            prior=plain.prior is not None,
            composability=plain.composability,
        )
        for name, part in plain.named_children():
            self.add_module(name, part)
        with torch.no_grad():
            none = plain.query.weight.new_zeros(plain.heads, 4, plain.window**2)
            table = none if plain.prior is None else plain.priors()
        self.register_buffer("table", table, persistent=False)
        self.train(plain.training)

    def gather(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        trained = query.requires_grad or key.requires_grad or value.requires_grad
        takes = query.dtype == torch.float32 and query.device.type in ("cpu", "meta")
        if trained or not takes or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return super().gather(query, key, value)
        return pixel_to_region(query, key, value, at_least_fp32(self.table), self.composability)  # (B, C, 2h, 2w)
