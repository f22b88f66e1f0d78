"""The panoptic loss against float64 loops; ignored parts cost nothing; it is differentiable."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from featherseg.core.errors import ConfigError
from featherseg.core.types import SegOutput
from featherseg.losses.panoptic import PanopticLoss


class Targets(NamedTuple):
    center: Tensor
    offset: Tensor
    center_weight: Tensor
    offset_weight: Tensor
    semantic_weight: Tensor


def scene(size=(8, 12), stride=4, padded=None, dtype=torch.float64):
    """Return outputs of three classes, labels with void, targets of all weights, for two images."""
    torch.manual_seed(0)
    padded = padded or size
    h, w = padded[0] // stride, padded[1] // stride
    maps = [
        torch.randn(2, channels, h, w, dtype=dtype, requires_grad=True) for channels in (3, 1, 2)
    ]
    out = SegOutput(maps[0], size, padded, align_corners=False, centers=maps[1], offsets=maps[2])
    labels = torch.randint(0, 3, (2, *size))
    labels[torch.rand(2, *size) < 0.2] = 255
    targets = Targets(
        center=torch.rand(2, *size, dtype=dtype),
        offset=20 * torch.randn(2, 2, *size, dtype=dtype),
        center_weight=(torch.rand(2, *size) < 0.7).to(dtype),
        offset_weight=(torch.rand(2, *size) < 0.4).to(dtype),
        semantic_weight=torch.where(torch.rand(2, *size) < 0.3, 3.0, 1.0).to(dtype),
    )
    return out, labels, targets


def full_size(x, out):
    """Bilinear to the padded image, the image's part of it."""
    height, width = out.image_size
    x = F.interpolate(
        x.detach(), size=out.padded_size, mode="bilinear", align_corners=out.align_corners
    )
    return x[:, :, :height, :width]


def loop(out, labels, targets, hardest, class_weights=(1.0, 1.0, 1.0)):
    """(semantic, centre, offset), pixel by pixel."""
    logits, centers, offsets = (full_size(x, out) for x in (out.logits, out.centers, out.offsets))
    semantic, center, offset, center_share, offset_share = [], 0.0, 0.0, 0.0, 0.0
    for b, y, x in torch.cartesian_prod(*(torch.arange(n) for n in labels.shape)).tolist():
        if labels[b, y, x] != 255:
            weight = float(targets.semantic_weight[b, y, x]) * class_weights[labels[b, y, x]]
            loss = -float(logits[b, :, y, x].log_softmax(0)[labels[b, y, x]])
            semantic.append((loss * weight, weight))
        weight = float(targets.center_weight[b, y, x])
        center += weight * float(centers[b, 0, y, x] - targets.center[b, y, x]) ** 2
        center_share += weight
        weight = float(targets.offset_weight[b, y, x])
        offset += weight * sum(
            abs(float(offsets[b, i, y, x] - targets.offset[b, i, y, x])) / 2 for i in range(2)
        )
        offset_share += weight
    kept = sorted(semantic, reverse=True)[: int(hardest * len(semantic))]
    return (
        sum(loss for loss, _ in kept) / sum(weight for _, weight in kept),
        200 * center / center_share,
        0.01 * offset / offset_share,
    )


@pytest.mark.parametrize("hardest", [1.0, 0.2])
@pytest.mark.parametrize(("size", "padded"), [((8, 12), None), ((7, 10), (8, 12))])
def test_it_is_what_a_loop_over_the_pixels_gives(hardest, size, padded):
    out, labels, targets = scene(size, padded=padded)
    found = PanopticLoss(hardest)(out, labels, targets)
    expected = loop(out, labels, targets, hardest)
    assert [part.item() for part in found] == pytest.approx(expected, rel=1e-10)
    assert found.total.item() == pytest.approx(sum(expected), rel=1e-10)


@pytest.mark.parametrize("hardest", [1.0, 0.2])
def test_the_weight_of_a_class_multiplies_that_of_its_pixels(hardest):
    out, labels, targets = scene()
    weights = [0.5, 2.0, 1.25]  # exact in float32
    found = PanopticLoss(hardest, weights)(out, labels, targets)
    assert found.semantic.item() == pytest.approx(
        loop(out, labels, targets, hardest, weights)[0], rel=1e-10
    )
    assert_close(found[1:], PanopticLoss(hardest)(out, labels, targets)[1:])


def test_exact_centres_and_offsets_cost_nothing():
    out, labels, targets = scene(stride=1)
    exact = targets._replace(center=out.centers[:, 0].detach(), offset=out.offsets.detach())
    found = PanopticLoss()(out, labels, exact)
    assert found.center == found.offset == 0
    assert found.semantic > 0


def test_offsets_count_in_pixels_of_the_image_whatever_the_stride():
    out, labels, targets = scene()
    five = out._replace(offsets=torch.full_like(out.offsets, 5.0))
    three = targets._replace(offset=torch.full_like(targets.offset, 3.0))
    assert PanopticLoss()(five, labels, three).offset.item() == pytest.approx(0.01 * 2)


@pytest.mark.parametrize("hardest", [1.0, 0.2])
def test_where_nothing_counts_it_is_0_and_can_be_differentiated(hardest):
    out, labels, targets = scene(dtype=torch.float32)
    nothing = targets._replace(
        center_weight=torch.zeros_like(targets.center_weight),
        offset_weight=torch.zeros_like(targets.offset_weight),
    )
    total = PanopticLoss(hardest)(out, torch.full_like(labels, 255), nothing).total
    total.backward()
    assert total == 0
    for x in (out.logits, out.centers, out.offsets):
        assert (x.grad == 0).all()


@pytest.mark.parametrize("hardest", [1.0, 0.2])
def test_each_part_pulls_at_its_own_map(hardest):
    for number in range(3):
        out, labels, targets = scene()
        PanopticLoss(hardest)(out, labels, targets)[number].backward()
        pulled = [
            x.grad is not None and bool((x.grad != 0).any())
            for x in (out.logits, out.centers, out.offsets)
        ]
        assert pulled == [i == number for i in range(3)]


def test_what_is_left_out_has_no_gradient():
    out, labels, targets = scene(stride=1)
    PanopticLoss(0.2)(out, labels, targets).total.backward()
    assert (out.centers.grad[:, 0] != 0).equal(targets.center_weight > 0)
    assert (out.offsets.grad != 0).all(1).equal(targets.offset_weight > 0)
    assert int((out.logits.grad != 0).any(1).sum()) == int(0.2 * int((labels != 255).sum()))


def test_it_is_in_full_precision_whatever_autocast_says():
    out, labels, targets = scene(dtype=torch.float32)
    half = out._replace(
        **{key: getattr(out, key).bfloat16() for key in ("logits", "centers", "offsets")}
    )
    rounded = half._replace(
        **{key: getattr(half, key).float() for key in ("logits", "centers", "offsets")}
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = PanopticLoss(0.2)(half, labels, targets)
    assert all(part.dtype == torch.float32 for part in found)
    assert_close(found, PanopticLoss(0.2)(rounded, labels, targets), rtol=0, atol=0)


@pytest.mark.parametrize("share", [0.0, -0.2, 1.1, float("nan")])
def test_a_share_of_hard_pixels_that_cannot_be_is_refused(share):
    with pytest.raises(ConfigError, match="hardest = "):
        PanopticLoss(share)


@pytest.mark.parametrize(
    "weights", [[-1.0, 1.0], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]]
)
def test_class_weights_that_cannot_be_are_refused(weights):
    with pytest.raises(ConfigError, match="expected finite values >= 0, not all 0"):
        PanopticLoss(class_weights=weights)


def test_a_smaller_sigma_lets_distances_count_as_those_of_a_larger_image():
    out, labels, targets = scene((16, 24))
    usual, halved = (PanopticLoss(center_sigma=sigma)(out, labels, targets) for sigma in (8, 4))
    assert usual.offset > 0
    assert_close(halved.offset, 2 * usual.offset)
    assert_close(halved[:2], usual[:2])
