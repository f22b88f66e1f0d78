"""Pixel contrast across images (FRM Eq. 6; Wang et al., ICCV 2021, without its memory bank)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.core.types import IGNORE, SegOutput
from featherseg.layers.precision import at_least_fp32, autocast_off


class PixelContrast(nn.Module):
    """Pull the embeddings of pixels of one class together, and push other classes away.

    The embedding head is a 1x1 convolution, used in training only. Pixels are drawn before it, half
    of them mistakes of the model, and only these are embedded.

    Args:
        weight: factor of the loss.
        dim: channels of the embedding.
        max_samples: most pixels of a group.
        max_views: most pixels of a class in an image; a class with fewer pixels does not count.
        groups_of: images that are contrasted with each other; None: all of a batch.
        base_temperature: the loss is multiplied by temperature / base_temperature; None: it is not.
        warmup_steps: optimiser steps before which `Hybrid` does not call it.
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
        base_temperature: float | None = None,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(in_channels, dim, kernel_size=1)
        self.weight, self.classes, self.temperature = weight, classes, temperature
        self.max_samples, self.max_views = max_samples, max_views
        self.groups_of, self.warmup_steps = groups_of, warmup_steps
        self.factor = temperature / base_temperature if base_temperature else 1.0

    def forward(self, out: SegOutput, labels: Tensor) -> Tensor:
        """Return weight * factor * contrast as a scalar >= 0, fp32 or better.

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
            drawn = [  # positions in each flattened group
                sample_pixels(*parts, self.classes, self.max_samples, self.max_views)
                for parts in zip(known.split(group), wrong.split(group), strict=True)
            ]
            step = group * small[0].numel()
            index = torch.cat([one + i * step for i, one in enumerate(drawn)])  # (M,) in the batch
            embedded = self._embed(at_least_fp32(pick(features, index)))  # (M, D)
            sizes = [len(one) for one in drawn]
            parts = zip(embedded.split(sizes), small.flatten()[index].split(sizes), strict=True)
            mean = torch.stack([contrast(*part, self.temperature) for part in parts]).mean()
            return self.weight * self.factor * mean

    def _embed(self, pixels: Tensor) -> Tensor:
        """Return the embeddings (M, D) of pixels (M, C), of unit length."""
        return F.normalize(F.linear(pixels, self.embed.weight.flatten(1), self.embed.bias), dim=1)


def mistakes(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (B, h, w) bool: whether another class scores higher; undefined for the label -1.

    logits (B, K, h, w), labels (B, h, w). argmax takes twelve times as long in the usual layout.
    """
    true_scores = logits.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    return true_scores < logits.amax(1)


def pick(features: Tensor, index: Tensor) -> Tensor:
    """Return the pixels (M, C) of features (B, C, h, w) at positions (M,) in the flattened batch.

    All at once, and in the layout of the map, because the gradient of each gather is a whole map of
    zeros, and one in another layout would have to be copied.
    """
    flat = features.flatten(2)  # (B, C, h w)
    image, position = index // flat.shape[2], index % flat.shape[2]
    if features.is_contiguous(memory_format=torch.channels_last):
        return flat.mT[image, position]
    return flat[image, :, position]


def contrast(embedded: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Return Eq. 6, a scalar: the mean over the anchors that have a positive, 0 if none has.

    embedded (M, D) of unit length, classes (M,). For anchor i and each other sample j of its class:
    -log(exp(s_ij) / (exp(s_ij) + sum_n exp(s_in))), s = e_i e_j / temperature, n over the samples
    of other classes.
    """
    scores = (embedded / temperature) @ embedded.mT  # (M, M)
    same = classes[:, None] == classes[None, :]
    positive = same & ~torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    # not -inf, which gives NaN gradients to an anchor without negatives
    lowest = torch.finfo(scores.dtype).min / 2
    negatives = scores.masked_fill(same, lowest).logsumexp(1, keepdim=True)  # (M, 1)
    gains = F.logsigmoid(scores - negatives).masked_fill(~positive, 0.0)  # (M, M)
    count = positive.sum(1)  # (M,)
    return -(gains.sum(1) / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


@torch.no_grad()
def sample_pixels(
    labels: Tensor, wrong: Tensor, classes: int, max_samples: int, max_views: int
) -> Tensor:
    """Return (M,) positions of drawn pixels in the flattened batch.

    The same number is drawn for each class in each image that has more than max_views pixels of it.
    Half of them are mistakes, as far as there are enough. torch's generator is used.

    Args:
        labels: (B, h, w), -1 = ignore.
        wrong: (B, h, w) bool, the model's mistakes.
    """
    # Count the pixels of each group: image, class, right or wrong
    images = torch.arange(len(labels), device=labels.device).view(-1, 1, 1)
    group = (2 * (images * classes + labels) + wrong).flatten()  # (B h w,)
    known = (labels >= 0).flatten()
    groups = 2 * len(labels) * classes
    counts = torch.bincount(group.masked_fill(~known, groups), minlength=groups + 1)
    counts = counts[:-1].view(-1, 2)  # (B K, 2)

    # How many pixels of each are kept
    frequent = counts.sum(1) > max_views  # (B K,)
    pairs = int(frequent.sum())
    if pairs == 0:
        return torch.empty(0, dtype=torch.long, device=labels.device)
    views = max(1, min(max_samples // pairs, max_views))
    keep = (_share_out(counts[:, 0], counts[:, 1], views) * frequent[:, None]).flatten()  # (2 B K,)

    # Draw them
    index = (known & frequent[group.clamp(min=0) // 2]).nonzero()[:, 0]
    values = torch.rand(len(index), dtype=torch.float64, device=index.device)
    return index[lowest_of_each_group(values, group[index], keep)]


def lowest_of_each_group(values: Tensor, group: Tensor, keep: Tensor) -> Tensor:
    """Return (M,) positions of the keep[g] lowest values of each group g, group by group.

    values (N,) are uniform in 0..1, group (N,), keep (G,). Only values below a limit are sorted:
    the limit is the expected largest kept value and six standard deviations. If a group has too few
    values below it, all are sorted.
    """
    counts = torch.bincount(group, minlength=len(keep))
    share = (keep + 6 * keep.sqrt() + 18) / counts.clamp(min=1)  # (G,) the limits
    low = (values < share[group]).nonzero()[:, 0]
    if (torch.bincount(group[low], minlength=len(keep)) < keep).any():
        low = torch.arange(len(values), device=values.device)
    order = low[(group[low] + values[low]).argsort()]
    group = group[order]
    first = torch.searchsorted(group, torch.arange(len(keep), device=group.device))  # (G,)
    rank = torch.arange(len(group), device=group.device) - first[group]
    return order[rank < keep[group]]


def _share_out(right: Tensor, wrong: Tensor, views: int) -> Tensor:
    """Return (P, 2): how many of the right (P,) and of the wrong pixels (P,) make up `views`."""
    half = views // 2
    few_wrong, few_right = wrong < views / 2, right < views / 2
    take_wrong = torch.where(
        few_wrong, wrong, torch.where(few_right, views - right, torch.full_like(wrong, half))
    )
    return torch.stack([views - take_wrong, take_wrong], dim=1)
