"""Batch norms that see the images of all processes of a training, on GPUs and on CPUs."""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from featherseg.losses.processes import several_processes


class ProcessNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes, for CPUs, where torch's own refuses to run."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, h, w) -> (B, C, h, w)."""
        if not (self.training and several_processes()):
            return super().forward(x)
        values = x.float()
        mean, variance, total = _statistics(values.detach())
        if self.running_mean is not None and self.running_var is not None:
            rate = self._count_batch()
            self.running_mean.lerp_(mean, rate)
            self.running_var.lerp_(variance * (total / (total - 1)), rate)
        scale: Tensor = self.weight
        shift: Tensor = self.bias
        if not self.affine:
            scale, shift = torch.ones_like(mean), torch.zeros_like(mean)
        y: Tensor = _Normalise.apply(values, scale, shift, mean, variance, total, self.eps)
        return y.to(x.dtype)

    def _count_batch(self) -> float:
        """Count a batch, and return its share of the running statistics."""
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        return 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, float]:
    """x (B, C, h, w) -> mean (C,), biased variance (C,) and pixels of the maps of all processes."""
    mean, variance = torch.ops.aten.batch_norm_update_stats(x, None, None, 0.0)
    own = torch.cat([mean, variance, mean.new_full((1,), x.numel() / x.shape[1])])
    every = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(every, own)
    means, variances, counts = torch.stack(every).split([len(mean), len(mean), 1], 1)
    shares = counts / counts.sum()  # (processes, 1)
    mean = (shares * means).sum(0)
    # as in Chan et al., 1979: a mean of squares less the squared mean would lose digits
    variance = (shares * (variances + (means - mean).square())).sum(0)
    return mean, variance, float(counts.sum())


class _Normalise(torch.autograd.Function):
    """Batch norm with statistics of all processes; its gradients are torch's, with their sums.

    Let z be the normalised x, g the gradient of the output and s = weight / deviation. The gradient
    of x is s * (g - mean(g) - z * mean(g * z)), the means over the pixels of all processes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        total: float,
        eps: float,
    ) -> Tensor:
        """x (B, C, h, w), weight, bias, mean and variance (C,) -> (B, C, h, w)."""
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.total, ctx.eps = total, eps
        return _with_statistics(x, weight, bias, mean, variance, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient (B, C, h, w) -> those of forward's arguments; of weight and bias, own sums."""
        x, weight, mean, variance = ctx.saved_tensors
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, mean, variance, False, ctx.eps, [False, True, True]
        )
        sums = torch.cat([of_weight, of_bias])  # of g * z and of g
        distributed.all_reduce(sums)
        scale = weight * (variance + ctx.eps).rsqrt()
        products, plain = (sums / ctx.total).neg_().chunk(2)
        of_x = _with_statistics(x, scale * products, scale * plain, mean, variance, ctx.eps)
        of_x.addcmul_(gradient, scale[:, None, None])
        return of_x, of_weight, of_bias, None, None, None, None


def _with_statistics(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> Tensor:
    """Normalise x (B, C, h, w) with the given statistics (C,), then scale and shift it."""
    return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)


def synchronise_norms(module: nn.Module, local: tuple[type[nn.Module], ...], device: str) -> None:
    """Make batch norms see the images of all processes, except those directly in `local` blocks.

    On a CPU only those of maps, nn.BatchNorm2d: others stay those of each process.
    """
    for block in list(module.modules()):
        for name, norm in list(block.named_children()):
            if not isinstance(norm, _BatchNorm) or isinstance(block, local):
                continue
            if device == "cuda":
                block.add_module(name, nn.SyncBatchNorm.convert_sync_batchnorm(norm))
            elif type(norm) is nn.BatchNorm2d:
                norm.__class__ = ProcessNorm
