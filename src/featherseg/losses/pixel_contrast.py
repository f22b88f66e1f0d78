"""Pixel contrast across images (FRM Eq. 6; Wang et al., ICCV 2021, without its memory bank)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.core.types import IGNORE, SegOutput
from featherseg.layers.precision import at_least_fp32, autocast_off


class PixelContrast(nn.Module):
    """Pulls the embeddings of pixels of one class together and pushes those of other classes away.

    The embedding head is one 1x1 convolution, used in training only. Pixels are drawn before it, half of them such as
    the model gets wrong, and only they are embedded: the same values as embedding the whole map.
    max_samples: anchors of a group at most; max_views: of a class in one image at most, and a class counts only where
    it has more pixels than that. groups_of: images that are contrasted with each other, all of a batch where None.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        weight: float = 1.0,
        dim: int = 256,
        temperature: float = 0.1,
        max_samples: int = 1024,
        max_views: int = 100,
        groups_of: int | None = None,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(in_channels, dim, kernel_size=1)
        self.weight, self.classes, self.temperature = weight, classes, temperature
        self.max_samples, self.max_views = max_samples, max_views
        self.groups_of = groups_of

    def forward(self, out: SegOutput, labels: Tensor) -> Tensor:
        """Return weight * contrast as a scalar >= 0, fp32 or better.

        It is 0 with zero gradients if nothing can be contrasted: no class has enough pixels, or
        only one has.

        Args:
            out: features (B, C, h, w) and logits (B, K, h, w) at the same places.
            labels: (B, H, W) integer.
        """
        features, logits = out.features, out.logits
        assert features is not None  # refused before training starts
        group = self.groups_of or len(features)
        rows, columns = (
            padded - image for padded, image in zip(out.padded_size, out.image_size, strict=True)
        )
        covered = F.pad(labels, (0, columns, 0, rows), value=IGNORE)  # (B, H', W'): of the features
        with autocast_off(features.device):
            small = F.interpolate(covered[:, None].float(), size=logits.shape[2:], mode="nearest")
            small = small[:, 0].long()  # (B, h, w)
            known = small.masked_fill(small == IGNORE, -1)  # (B, h, w)
            wrong = mistakes(logits.detach(), known)
            drawn = [  # positions in the flattened group
                sample_pixels(*parts, self.classes, self.max_samples, self.max_views)
                for parts in zip(known.split(group), wrong.split(group), strict=True)
            ]
            pixels = small[0].numel()
            index = torch.cat(
                [one + i * group * pixels for i, one in enumerate(drawn)]
            )  # (M,) into B * h * w
            embedded = self._embed(at_least_fp32(pick(features, index)))  # (M, D)
            sizes = [len(one) for one in drawn]
            parts = zip(embedded.split(sizes), small.flatten()[index].split(sizes), strict=True)
            mean = torch.stack([contrast(*part, self.temperature) for part in parts]).mean()
            return self.weight * mean

    def _embed(self, pixels: Tensor) -> Tensor:
        """(M, C) -> (M, D), of unit length."""
        return F.normalize(F.linear(pixels, self.embed.weight.flatten(1), self.embed.bias), dim=1)


def mistakes(logits: Tensor, labels: Tensor) -> Tensor:
    """Where another class has a higher score than the true one: (B, K, h, w), (B, h, w) -> (B, h, w) bool.

    Not argmax, which reads a map in the usual layout twelve times as long. Where the label is -1 it says nothing.
    """
    own = logits.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    return own < logits.amax(1)


def pick(features: Tensor, index: Tensor) -> Tensor:
    """Single pixels: (B, C, h, w), positions (M,) in the flattened batch -> (M, C).

    Once for all of them, and from a view in the layout that the map has: the gradient of each gather is a whole map of
    zeros, and one in another layout would have to be turned.
    """
    flat = features.flatten(2)  # (B, C, h w)
    image, position = index // flat.shape[2], index % flat.shape[2]
    if features.is_contiguous(memory_format=torch.channels_last):
        return flat.mT[image, position]
    return flat[image, :, position]


def contrast(embedded: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Eq. 6, averaged over the anchors that have a positive: embedded (M, D), unit length, classes (M,) -> scalar.

    For anchor i and each other sample j of its class: -log(exp(s_ij) / (exp(s_ij) + sum_n exp(s_in))), s = e_i e_j /
    temperature, n over the samples of other classes. 0 where no anchor has a positive.
    """
    scores = (embedded / temperature) @ embedded.mT  # (M, M)
    same = classes[:, None] == classes[None, :]
    positive = same & ~torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    lowest = (
        torch.finfo(scores.dtype).min / 2
    )  # not -inf: an anchor without negatives would get NaN gradients
    negatives = scores.masked_fill(same, lowest).logsumexp(1, keepdim=True)  # (M, 1)
    gains = F.logsigmoid(scores - negatives).masked_fill(~positive, 0.0)  # (M, M)
    count = positive.sum(1)  # (M,)
    return -(gains.sum(1) / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


@torch.no_grad()
def sample_pixels(
    labels: Tensor, wrong: Tensor, classes: int, max_samples: int, max_views: int
) -> Tensor:
    """Draw the pixels to contrast, the same number of every class of every image that has more than max_views of it.

    labels (B, h, w) with -1 = ignore, wrong (B, h, w) bool: the model's mistakes -> (M,) positions in the flattened
    batch. Half of a draw are mistakes, or as near to it as there are. Drawn with torch's generator.
    """
    images = torch.arange(len(labels), device=labels.device).view(-1, 1, 1)
    group = (
        2 * (images * classes + labels) + wrong
    ).flatten()  # (B h w,): image, class, right or wrong
    known = (labels >= 0).flatten()
    groups = 2 * len(labels) * classes
    counts = torch.bincount(group.masked_fill(~known, groups), minlength=groups + 1)[:-1].view(
        -1, 2
    )  # (B K, 2)
    taking = counts.sum(1) > max_views
    pairs = int(taking.sum())
    if pairs == 0:
        return torch.empty(0, dtype=torch.long, device=labels.device)
    views = max(1, min(max_samples // pairs, max_views))
    keep = (_share_out(counts[:, 0], counts[:, 1], views) * taking[:, None]).flatten()  # (2 B K,)
    index = (known & taking[group.clamp(min=0) // 2]).nonzero()[:, 0]  # candidates
    return index[
        lowest_of_each_group(
            torch.rand(len(index), dtype=torch.float64, device=index.device), group[index], keep
        )
    ]


def lowest_of_each_group(values: Tensor, group: Tensor, keep: Tensor) -> Tensor:
    """Positions of the keep[g] lowest values of each group g, one group after the other: (N,), (N,), (G,) -> (M,).

    values are drawn evenly from 0..1, so that nearly all can be left out of the sorting unseen: those above what the
    wanted number lies below, with six standard deviations to spare. Should a group come short, all are sorted.
    """
    counts = torch.bincount(group, minlength=len(keep))
    share = (keep + 6 * keep.sqrt() + 18) / counts.clamp(min=1)  # (G,)
    low = (values < share[group]).nonzero()[:, 0]
    if (torch.bincount(group[low], minlength=len(keep)) < keep).any():
        low = torch.arange(len(values), device=values.device)
    order = low[(group[low] + values[low]).argsort()]
    group = group[order]
    first = torch.searchsorted(group, torch.arange(len(keep), device=group.device))  # (G,)
    rank = torch.arange(len(group), device=group.device) - first[group]
    return order[rank < keep[group]]


def _share_out(right: Tensor, wrong: Tensor, views: int) -> Tensor:
    """How many of the right and of the wrong pixels make up `views`: (P,), (P,) -> (P, 2)."""
    half = views // 2
    few_wrong, few_right = wrong < views / 2, right < views / 2
    take_wrong = torch.where(
        few_wrong, wrong, torch.where(few_right, views - right, torch.full_like(wrong, half))
    )
    return torch.stack([views - take_wrong, take_wrong], dim=1)
