import pytest
import torch
from torch.testing import assert_close

from featherseg.core.types import SegOutput
from featherseg.losses import AuxiliaryLoss, CrossEntropy, Hybrid, PixelContrast


def output(size, padded):
    torch.manual_seed(0)
    shape = (padded[0] // 4, padded[1] // 4)
    return SegOutput(
        torch.randn(2, 3, *shape), size, padded, False, features=torch.randn(2, 4, *shape)
    )


def test_it_is_cross_entropy_plus_the_weighted_contrast():  # FRM Eq. 4
    out, labels = output((32, 32), (32, 32)), torch.randint(0, 3, (2, 32, 32))
    contrast = PixelContrast(4, 3, max_views=5)
    torch.manual_seed(1)
    own = contrast(out, labels)
    assert own > 0
    values = []
    for contrast.weight in (0.0, 1.0, 3.0):
        torch.manual_seed(1)
        values.append(Hybrid({"ce": CrossEntropy(), "contrast": contrast})(out, labels))
    assert_close(values[0], Hybrid({"ce": CrossEntropy()})(out, labels))
    assert_close(values[1], values[0] + own)
    assert_close(values[2], values[0] + 3 * own)


def test_before_its_warm_up_the_contrast_is_zero_with_zero_gradients():
    out, labels = output((32, 32), (32, 32)), torch.randint(0, 3, (2, 32, 32))
    contrast = PixelContrast(4, 3, max_views=5, warmup_steps=2)
    loss, plain = Hybrid({"ce": CrossEntropy(), "contrast": contrast}), CrossEntropy()(out, labels)
    for step in range(4):
        contrast.zero_grad()
        value = loss(out, labels, step=step)
        value.backward()
        assert (value == plain) == (step < 2)
        # processes wait for a gradient of every parameter
        assert all(p.grad.any() == (step >= 2) for p in contrast.parameters())
    assert loss(out, labels) > plain  # with no step the warm-up is over


def test_features_over_the_padding_are_not_drawn():
    out, labels = output((16, 64), (64, 64)), torch.randint(0, 2, (2, 16, 64))
    hybrid = Hybrid({"ce": CrossEntropy(), "contrast": PixelContrast(4, 3, max_views=2)})
    out.features.requires_grad_()
    hybrid(out, labels).backward()
    assert out.features.grad[:, :, :4].any()
    assert not out.features.grad[:, :, 4:].any()


@pytest.mark.parametrize("size", [(96, 128), (90, 120)])
@pytest.mark.parametrize("label_size", [(96, 128), (61, 87)])
def test_gradients_of_half_precision_are_those_of_full_precision_rounded(size, label_size):
    torch.manual_seed(0)
    drawn = torch.randn(2, 11, 24, 32).bfloat16(), torch.randn(2, 1, 24, 32).bfloat16()
    labels = torch.randint(0, 11, (2, label_size[0], 1)).repeat_interleave(label_size[1], 2)
    labels[:, 20:] = 3  # not all of it is a boundary
    heads = AuxiliaryLoss(CrossEntropy(), CrossEntropy(), heads=1, boundaries=1, boundary_head="d")
    loss = Hybrid({"ce": CrossEntropy(), "auxiliary": heads})
    gradients = []
    for dtype in (torch.bfloat16, torch.float32):
        logits, edges, head = (
            x.detach().clone().to(dtype).requires_grad_() for x in (*drawn, drawn[0])
        )
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss(
                SegOutput(logits, size, (96, 128), False, aux={"d": edges, "p": head}), labels
            ).backward()
        gradients.append([x.grad.double() for x in (logits, edges, head)])
    for half, full, limit in zip(
        *gradients, (1.8, 1.05, 1.05), strict=True
    ):  # the logits are in L_3 too, and added up
        once = (full.bfloat16().double() - full).norm()
        assert 0 < (half - full).norm() < limit * once
