"""What a model learns from teachers: their logits at temperature, and where in the image each class lies.

Letters: B images, K classes, N places: the pixels of the model's logits at their own stride, as far as they lie in the
image; s its logits, t the teachers', T a temperature. Nothing of the image's size is made.

Logits (Hinton et al., arXiv:1503.02531), a distribution over the classes at each place:
    L_logits = T^2 / N sum_i KL(softmax_k(t_ki / T) || softmax_k(s_ki / T))
Channels (Shu et al., ICCV 2021, arXiv:2011.13256, Eq. 4), a distribution over the places for each class:
    L_channels = T^2 / K sum_k KL(softmax_i(t_ki / T) || softmax_i(s_ki / T)), a mean over the images
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from featherseg.core.types import SegOutput
from featherseg.layers.precision import at_least_fp32, autocast_off


class Taught(Protocol):
    """What teachers say of a batch, at the places of the model's logits; the loader makes it, collate batches it.

    logits (B, K, h, w) of any float type; inside (B, h, w) bool: the places that lie in the image, not in what it was
    filled up with.
    """

    @property
    def logits(self) -> Tensor: ...
    @property
    def inside(self) -> Tensor: ...


class TaughtLosses(NamedTuple):
    """What the masks and what the teachers give to the loss, scalars, weighted; training minimises `total`."""

    supervised: Tensor
    teacher: Tensor

    @property
    def total(self) -> Tensor:
        """The sum of the parts."""
        return self.supervised + self.teacher


class Distillation(nn.Module):
    """logits * L_logits + channels * L_channels, each at its temperature; 0 with zero gradients where no place counts.

    Masks play no part, so pixels without a class are taught as well.
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

    def forward(self, out: SegOutput, taught: Taught) -> Tensor:
        """A model's output and what the teachers say at the same places -> scalar, at least float32."""
        with autocast_off(out.logits.device):
            s = at_least_fp32(
                out.logits
            ).contiguous()  # (B, K, h, w); softmax is slow where K is innermost
            t, inside = taught.logits.detach().to(s), taught.inside  # (B, K, h, w), (B, h, w)
            loss = s.new_zeros(())
            if self.logits:
                each = divergence(t, s, self.logits_temperature, dim=1)  # (B, h, w)
                loss = loss + self.logits * (each * inside).sum() / inside.sum().clamp(min=1)
            if self.channels:
                # The lowest number by either temperature, not -inf: its share is 0, and of an image without any place
                # all are alike
                outside = ~inside[:, None].flatten(2)  # (B, 1, N)
                lowest = torch.finfo(s.dtype).min * min(1.0, self.channels_temperature)
                s, t = (x.flatten(2).masked_fill(outside, lowest) for x in (s, t))  # (B, K, N)
                each = divergence(t, s, self.channels_temperature, dim=2)  # (B, K)
                loss = loss + self.channels * each.mean()
            return loss


class _Divergence(Function):
    """By hand, as autograd would keep twice as many maps, whose memory is most of the time with many classes."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, s: Tensor, temperature: float, dim: int) -> Tensor:
        mine, theirs = ((x / temperature).log_softmax(dim) for x in (s, t))
        share = theirs.exp()  # softmax(t / temperature)
        found = theirs.sub_(mine).mul_(share).sum(dim).mul_(temperature**2)
        ctx.save_for_backward(mine.exp_().sub_(share).mul_(temperature))
        ctx.dim = dim
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return None, slope * upstream.unsqueeze(ctx.dim), None, None


def divergence(t: Tensor, s: Tensor, temperature: float, dim: int) -> Tensor:
    """temperature^2 * KL(softmax(t / temperature) || softmax(s / temperature)) over `dim`, which is summed up.

    Differentiable once, with respect to s.
    """
    found: Tensor = _Divergence.apply(t, s, temperature, dim)
    return found
