"""The losses that teachers add: distances between their logits and the model's.

Letters: B images, K classes, N places (the pixels of the logits that are inside the image), s the
model's logits, t the teachers' logits, T a temperature. All is at the stride of the logits.

Logits (Hinton et al., arXiv:1503.02531), a distribution over the classes at each place:
    L_logits = T^2 / N sum_i KL(softmax_k(t_ki / T) || softmax_k(s_ki / T))
Channels (Shu et al., ICCV 2021, arXiv:2011.13256, Eq. 4), a distribution over the places for each
class, as a mean over the images:
    L_channels = T^2 / K sum_k KL(softmax_i(t_ki / T) || softmax_i(s_ki / T))
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from featherseg.core.types import SegOutput
from featherseg.layers.precision import at_least_fp32, autocast_off


class TeacherOutputs(Protocol):
    """The teachers' outputs for a batch, at the places of the model's logits; made by the loader.

    logits (B, K, h, w) of any float type; inside (B, h, w) bool: the places inside the image, not
    in its padding.
    """

    @property
    def logits(self) -> Tensor: ...
    @property
    def inside(self) -> Tensor: ...


class DistillationLosses(NamedTuple):
    """The losses by masks and by teachers, weighted scalars; training minimises `total`."""

    supervised: Tensor
    teacher: Tensor

    @property
    def total(self) -> Tensor:
        """The sum of the parts."""
        return self.supervised + self.teacher


class Distillation(nn.Module):
    """logits * L_logits + channels * L_channels, each at its temperature.

    Masks are not used, so the model learns pixels without a class too. The loss is 0 with zero
    gradients if no place is inside an image.
    """

    def __init__(
        self,
        *,
        logits: float,
        logits_temperature: float,
        channels: float,
        channels_temperature: float,
    ) -> None:
        super().__init__()
        self.logits, self.logits_temperature = logits, logits_temperature
        self.channels, self.channels_temperature = channels, channels_temperature

    def forward(self, out: SegOutput, teachers: TeacherOutputs) -> Tensor:
        """Return the loss as a scalar, fp32 or better."""
        with autocast_off(out.logits.device):
            # (B, K, h, w); contiguous, because softmax is slow if K is innermost in memory
            s = at_least_fp32(out.logits).contiguous()
            t, inside = teachers.logits.detach().to(s), teachers.inside  # (B, K, h, w), (B, h, w)
            loss = s.new_zeros(())
            if self.logits:
                each = divergence(t, s, self.logits_temperature, dim=1)  # (B, h, w)
                loss = loss + self.logits * (each * inside).sum() / inside.sum().clamp(min=1)
            if self.channels:
                # not -inf, which gives NaN for an image without any place: this has the share 0
                outside = ~inside[:, None].flatten(2)  # (B, 1, N)
                lowest = torch.finfo(s.dtype).min * min(1.0, self.channels_temperature)
                s, t = (x.flatten(2).masked_fill(outside, lowest) for x in (s, t))  # (B, K, N)
                each = divergence(t, s, self.channels_temperature, dim=2)  # (B, K)
                loss = loss + self.channels * each.mean()
            return loss


class _Divergence(Function):
    """Written by hand: autograd keeps twice as many maps, and memory takes most of the time."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, s: Tensor, temperature: float, dim: int) -> Tensor:
        log_student, log_teacher = ((x / temperature).log_softmax(dim) for x in (s, t))
        teacher = log_teacher.exp()
        divergence = log_teacher.sub_(log_student).mul_(teacher).sum(dim).mul_(temperature**2)
        ctx.save_for_backward(log_student.exp_().sub_(teacher).mul_(temperature))
        ctx.dim = dim
        return divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return None, slope * upstream.unsqueeze(ctx.dim), None, None


def divergence(t: Tensor, s: Tensor, temperature: float, dim: int) -> Tensor:
    """Return T^2 * KL(softmax(t / T) || softmax(s / T)), summed over `dim`.

    It is differentiable once, with respect to s.
    """
    summed: Tensor = _Divergence.apply(t, s, temperature, dim)
    return summed
