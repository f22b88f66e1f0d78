"""Batch norms that see the images of all processes of a training, on GPUs and on CPUs."""

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from featherseg.losses.processes import several_processes


class ProcessNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes, for CPUs, where torch's own refuses to run."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, h, w) -> (B, C, h, w)."""
        if not (self.training and several_processes()):
            return super().forward(x)
        values = x.float()
        count = values.new_full((1,), x.numel() / x.shape[1])
        sums = all_reduce(torch.cat([values.sum((0, 2, 3)), count]))
        mean, total = sums[:-1] / sums[-1], sums[-1]  # (C,), scalar
        centred = values - _as_map(mean)  # (B, C, h, w); its squares lose no digits
        variance = all_reduce(centred.square().sum((0, 2, 3))) / total  # (C,)

        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                rate = self._count_batch()
                self.running_mean.lerp_(mean, rate)
                self.running_var.lerp_(variance * total / (total - 1), rate)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * _as_map(scale) + _as_map(self.bias)).to(x.dtype)

    def _count_batch(self) -> float:
        """Count a batch, and return its share of the running statistics."""
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        return 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum


def _as_map(values: Tensor) -> Tensor:
    """(C,) -> (C, 1, 1), which any map (B, C, h, w) takes."""
    return values[:, None, None]


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
