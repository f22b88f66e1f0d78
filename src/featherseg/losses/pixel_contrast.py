"""Pixel contrast across pictures (FRM Eq. 6; Wang et al., ICCV 2021, without its memory bank)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.core.types import IGNORE
from featherseg.layers.precision import at_least_fp32, autocast_off


class PixelContrast(nn.Module):
    """Pulls the embeddings of pixels of one class together and pushes those of other classes away.

    The embedding head is one 1x1 convolution, used in training only. Pixels are drawn before it, half of them such as
    the network gets wrong, and only they are embedded: the same values as embedding the whole map.
    max_samples: anchors of a group at most; max_views: of a class in one picture at most, and a class counts only where
    it has more pixels than that. groups_of: pictures that are contrasted with each other, all of a batch where None.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        dim: int = 256,
        temperature: float = 0.1,
        max_samples: int = 1024,
        max_views: int = 100,
        groups_of: int | None = None,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(in_channels, dim, kernel_size=1)
        self.classes, self.temperature = classes, temperature
        self.max_samples, self.max_views = max_samples, max_views
        self.groups_of, self.ignore_index = groups_of, ignore_index

    def forward(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """features (B, C, h, w), logits (B, K, h, w), labels (B, H, W) integer -> scalar >= 0, fp32 or better.

        0 with zero gradients where nothing can be contrasted: no class has enough pixels, or only one has.
        """
        group = self.groups_of or len(features)
        with autocast_off(features.device):
            small = F.interpolate(labels[:, None].float(), size=logits.shape[2:], mode="nearest")[:, 0].long()
            wrong = logits.detach().argmax(1) != small  # (B, h, w)
            losses = [
                self._group(*parts)
                for parts in zip(features.split(group), small.split(group), wrong.split(group), strict=True)
            ]
            return torch.stack(losses).mean()

    def _group(self, features: Tensor, labels: Tensor, wrong: Tensor) -> Tensor:
        """(b, C, h, w), (b, h, w), (b, h, w) -> scalar."""
        index = sample_pixels(
            labels.masked_fill(labels == self.ignore_index, -1), wrong, self.classes, self.max_samples, self.max_views
        )  # (M,) into b * h * w
        if len(index) == 0:
            attached = torch.stack([p.sum() for p in self.parameters()])  # so that every process can go backward
            return 0.0 * attached.sum()
        picture, row, column = torch.unravel_index(index, labels.shape)
        pixels = at_least_fp32(features.permute(0, 2, 3, 1)[picture, row, column])  # (M, C)
        weight, bias = self.embed.weight.flatten(1), self.embed.bias
        embedded = F.normalize(F.linear(pixels, weight, bias), dim=1)  # (M, D)
        return contrast(embedded, labels.flatten()[index], self.temperature)


def contrast(embedded: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Eq. 6, averaged over the anchors that have a positive: embedded (M, D), unit length, classes (M,) -> scalar.

    For anchor i and each other sample j of its class: -log(exp(s_ij) / (exp(s_ij) + sum_n exp(s_in))), s = e_i e_j /
    temperature, n over the samples of other classes. 0 where no anchor has a positive.
    """
    scores = embedded @ embedded.mT / temperature  # (M, M)
    same = classes[:, None] == classes[None, :]
    positive = same & ~torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    lowest = torch.finfo(scores.dtype).min / 2  # not -inf: an anchor without negatives would get NaN gradients
    negatives = scores.masked_fill(same, lowest).logsumexp(1, keepdim=True)  # (M, 1)
    losses = (torch.logaddexp(scores, negatives) - scores).masked_fill(~positive, 0.0)  # (M, M)
    count = positive.sum(1)  # (M,)
    return (losses.sum(1) / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


@torch.no_grad()
def sample_pixels(labels: Tensor, wrong: Tensor, classes: int, max_samples: int, max_views: int) -> Tensor:
    """Draw the pixels to contrast, the same number of every class of every picture that has more than max_views of it.

    labels (B, h, w) with -1 = ignore, wrong (B, h, w) bool: the network's mistakes -> (M,) positions in the flattened
    batch. Half of a draw are mistakes, or as near to it as there are. Drawn with torch's generator.
    """
    pictures = torch.arange(len(labels), device=labels.device).view(-1, 1, 1)
    pair = (pictures * classes + labels).flatten()  # (B h w,): (picture, class)
    known = (labels >= 0).flatten()
    sub = 2 * pair + wrong.flatten()  # (picture, class, right or wrong)
    counts = torch.bincount(sub[known], minlength=2 * len(labels) * classes).view(-1, 2)  # (B K, 2)
    taking = counts.sum(1) > max_views
    pairs = int(taking.sum())
    if pairs == 0:
        return torch.empty(0, dtype=torch.long, device=labels.device)
    views = max(1, min(max_samples // pairs, max_views))
    keep = _share_out(counts[:, 0], counts[:, 1], views) * taking[:, None]  # (B K, 2)
    index = (known & taking[pair.clamp(min=0)]).nonzero()[:, 0]  # candidates
    key = sub[index]
    order = (key + torch.rand(len(key), dtype=torch.float64, device=key.device)).argsort()  # each group shuffled
    index, key = index[order], key[order]
    sizes = (counts * taking[:, None]).flatten()
    rank = torch.arange(len(key), device=key.device) - (sizes.cumsum(0) - sizes)[key]
    return index[rank < keep.flatten()[key]]


def _share_out(right: Tensor, wrong: Tensor, views: int) -> Tensor:
    """How many of the right and of the wrong pixels make up `views`: (P,), (P,) -> (P, 2)."""
    half = views // 2
    few_wrong, few_right = wrong < views / 2, right < views / 2
    take_wrong = torch.where(few_wrong, wrong, torch.where(few_right, views - right, torch.full_like(wrong, half)))
    return torch.stack([views - take_wrong, take_wrong], dim=1)
