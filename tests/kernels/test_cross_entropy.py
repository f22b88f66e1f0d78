"""Upsampling with cross-entropy against its float64 definition; every code gives the same bits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden.bilinear import brought_back, interpolated
from torch.testing import assert_close

from featherseg import FeathersegError
from featherseg.core.errors import DataError
from featherseg.kernels import cross_entropy, upsample_cross_entropy

many = settings(max_examples=80)
sides, label_sides = st.integers(1, 20), st.integers(1, 45)


def definition(
    logits, labels, weights=None, smoothing=0.0, align=False, reduction="mean", upstream=None
):
    """Return (loss, gradient) in float64 of -sum_k target_k w_k log p_k over pixels that count."""
    x, labels = logits.detach().double().numpy(), labels.long().numpy()
    classes = x.shape[1]
    weights = np.ones(classes) if weights is None else weights.double().numpy()
    scores = interpolated(x, labels.shape[1:], align)
    scores -= scores.max(axis=1, keepdims=True)
    p = np.exp(scores)
    p /= p.sum(axis=1, keepdims=True)
    counts = labels != 255
    own = np.moveaxis(np.eye(classes)[np.where(counts, labels, 0)], 3, 1)  # (B, K, H, W)
    target = (
        ((1 - smoothing) * own + smoothing / classes) * weights[:, None, None] * counts[:, None]
    )
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    losses = -(target * log_p).sum(axis=1)
    slopes = p * target.sum(axis=1, keepdims=True) - target
    if reduction == "none":
        return losses, brought_back(slopes * upstream.double().numpy()[:, None], x.shape[2:], align)
    whole = (weights[np.where(counts, labels, 0)] * counts).sum() if reduction == "mean" else 1.0
    whole = whole or 1.0
    return losses.sum() / whole, brought_back(slopes, x.shape[2:], align) / whole


def scene(batch=2, classes=5, size=(6, 7), label_size=(24, 28), ignored=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, *size, generator=generator)
    labels = torch.randint(0, classes, (batch, *label_size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    return logits, labels


def found(logits, labels, upstream=None, **options):
    """(loss, gradient) of a call."""
    leaf = logits.detach().requires_grad_()
    loss = upsample_cross_entropy(leaf, labels, **options)
    loss.backward(upstream)
    return loss.detach(), leaf.grad


def assert_defined(result, expected, scale=1.0):
    """Compare within rounding of the largest value; slopes are differences; scale: of logits."""
    for value, right in zip(result, expected, strict=True):
        allowed = 2e-6 * scale * max(np.abs(right).max(), 0.2)
        np.testing.assert_allclose(value.double().numpy(), right, rtol=0, atol=allowed)


@pytest.mark.seconds
@many
@given(h=sides, w=sides, height=label_sides, width=label_sides,
       classes=st.integers(1, 20), batch=st.integers(1, 2),
       ignored=st.sampled_from([0.0, 0.3, 0.97, 1.0]), smoothing=st.sampled_from([0.0, 0.1, 1.0]),
       weighted=st.booleans(), align=st.booleans(),
       reduction=st.sampled_from(["mean", "sum", "none"]),
       scale=st.sampled_from([1.0, 30.0]), seed=st.integers(0, 99))  # fmt: skip
def test_loss_and_gradient_are_those_of_the_definition_at_any_size(
    every_code,
    h,
    w,
    height,
    width,
    classes,
    batch,
    ignored,
    smoothing,
    weighted,
    align,
    reduction,
    scale,
    seed,
):
    logits, labels = scene(batch, classes, (h, w), (height, width), ignored, seed)
    logits *= scale
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(classes, generator=generator) + 0.1 if weighted else None
    upstream = torch.randn(labels.shape, generator=generator) if reduction == "none" else None
    expected = definition(logits, labels, weights, smoothing, align, reduction, upstream)
    options = {
        "class_weights": weights,
        "label_smoothing": smoothing,
        "align_corners": align,
        "reduction": reduction,
    }
    torchs, *compiled = every_code(lambda: found(logits, labels, upstream, **options))
    for result in (torchs, *compiled[:1]):
        assert_defined(result, expected, scale)
    for other in compiled[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, compiled[0], strict=True))


@pytest.mark.parametrize("size", [(24, 28), (23, 29), (6, 7), (3, 4)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_torch_s_interpolate_and_cross_entropy(code, size, smoothing):
    logits, labels = scene(label_size=size)
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.0])
    expected, options = logits.clone().requires_grad_(), {"label_smoothing": smoothing}
    scores = F.interpolate(expected, size, mode="bilinear")
    usual = F.cross_entropy(scores, labels, weights, ignore_index=255, **options)
    usual.backward()
    assert_close(
        found(logits, labels, class_weights=weights, **options), (usual.detach(), expected.grad)
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("align", [False, True])
def test_float64_is_differentiated_exactly(reduction, align):
    logits, labels = scene(1, 3, (3, 4), (7, 9))
    weights = torch.tensor([0.5, 2.0, 1.0])

    def loss(x):
        return upsample_cross_entropy(
            x,
            labels,
            class_weights=weights,
            label_smoothing=0.1,
            align_corners=align,
            reduction=reduction,
        )

    assert torch.autograd.gradcheck(loss, logits.double().requires_grad_())


@pytest.mark.parametrize("far", [1e2, 1e4, 1e30])
def test_logits_far_apart_are_exact(code, far):
    """Between neighbours sure of different classes, no class is near the maximum of either."""
    logits = torch.zeros(1, 40, 4, 6)
    classes = torch.randint(0, 40, (4, 6), generator=torch.Generator().manual_seed(1))
    logits[0, classes, torch.arange(4)[:, None],
           torch.arange(6)] = far  # fmt: skip
    _, labels = scene(1, 40, label_size=(32, 48))
    assert_defined(found(logits, labels), definition(logits, labels))


def test_every_number_of_threads_gives_the_same_bits(code, monkeypatch):
    monkeypatch.setattr(cross_entropy, "THREAD_WORK", 1)
    logits, labels = scene(3, 7, (50, 9), (203, 36))
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(
            (
                *found(logits, labels),
                *found(logits, labels, torch.ones(labels.shape), reduction="none"),
            )
        )
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))
    assert_defined(results[0][:2], definition(logits, labels))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_nothing_but_ignored_pixels_costs_nothing(code, reduction, dtype):
    logits, labels = scene()
    options = {"class_weights": torch.rand(5), "label_smoothing": 0.1, "reduction": reduction}
    upstream = torch.ones(labels.shape) if reduction == "none" else None
    loss, gradient = found(logits.to(dtype), torch.full_like(labels, 255), upstream, **options)
    assert (loss == 0).all()
    assert gradient.dtype == dtype
    assert (gradient == 0).all()


def test_bytes_as_labels_any_ignored_value_and_unlabelled_classes(code):
    logits, labels = scene()
    expected = found(logits, labels)
    assert_close(found(logits, labels.to(torch.uint8)), expected, rtol=0, atol=0)
    assert_close(
        found(logits, labels.masked_fill(labels == 255, -100), ignore_index=-100),
        expected,
        rtol=0,
        atol=0,
    )
    assert_close(
        found(logits, labels.transpose(1, 2).contiguous().transpose(1, 2)), expected, rtol=0, atol=0
    )
    third = found(logits, labels.masked_fill(labels == 3, 255))
    assert_close(
        found(logits, labels.masked_fill(labels == 255, 3), ignore_index=3), third, rtol=0, atol=0
    )


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.stack([x, x + 1], dim=-1)[..., 0],
        lambda x: torch.cat([x, x], dim=3)[..., : x.shape[3]],
    ],
    ids=["channels last", "columns first", "every other number", "cut out"],
)
def test_the_layout_in_memory_does_not_matter(code, view):
    logits, labels = scene(size=(20, 7), label_size=(80, 28))
    assert_close(
        found(view(logits), labels),
        found(logits, labels),
        rtol=0,
        atol=0 if code != "numpy" else 1e-6,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_converted_and_its_gradient_comes_back_in_it(code, dtype):
    logits, labels = scene()
    loss, gradient = found(logits.to(dtype), labels)
    expected, slopes = found(logits.to(dtype).float(), labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert torch.equal(gradient, slopes.to(dtype))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nan_goes_through(code, reduction):
    logits, labels = scene(ignored=0.0)
    logits[1, 2, 3, 4] = torch.nan
    upstream = torch.ones(labels.shape) if reduction == "none" else None
    loss, gradient = found(logits, labels, upstream, reduction=reduction)
    if reduction == "none":
        assert loss[1, 14, 18].isnan()
        assert loss[0].isfinite().all()
        loss = loss.sum()
    assert loss.isnan()
    assert gradient[1, :, 3, 4].isnan().all()


def test_a_loss_can_be_scaled_and_differentiated_twice_from_one_pass(code):
    logits, labels = scene()
    leaf = logits.clone().requires_grad_()
    loss = upsample_cross_entropy(leaf, labels)
    first, second = (
        torch.autograd.grad(scale * loss, leaf, retain_graph=True)[0] for scale in (1.0, 3.0)
    )
    assert_close(second, 3 * first)
    with torch.no_grad():
        assert torch.equal(upsample_cross_entropy(leaf, labels), loss)


def test_no_image_costs_nothing(code):
    logits, labels = scene(batch=0)
    loss, gradient = found(logits, labels)
    assert loss == 0
    assert gradient.shape == logits.shape


@pytest.mark.parametrize("value", [5, 254, -1, 2**40])
def test_labels_that_are_no_class_are_refused(code, value):
    logits, labels = scene()
    labels[1, 23, 27] = value
    with pytest.raises(
        DataError, match=rf"{value} \(1 pixels\): expected class ids 0..4, or 255 to ignore"
    ):
        upsample_cross_entropy(logits, labels)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"logits": torch.zeros(3, 4, 4)}, r"\(3, 4, 4\)"),
        ({"logits": torch.zeros(1, 0, 4, 4)}, r"\(1, 0, 4, 4\)"),
        ({"logits": torch.zeros(1, 2, 4, 4, dtype=torch.int64)}, "int64"),
        ({"labels": torch.zeros(2, 8, 8, dtype=torch.int64)}, r"\(2, 8, 8\).*\(1, H, W\)"),
        ({"labels": torch.zeros(1, 8, 8)}, "float32"),
        ({"class_weights": torch.ones(3)}, r"\(3,\).*\(2,\)"),
        ({"label_smoothing": 1.5}, "1.5"),
        ({"label_smoothing": float("nan")}, "nan"),
        ({"reduction": "max"}, "'max'"),
    ],
)
def test_what_cannot_be_is_refused_by_its_value(change, named):
    right = {"logits": torch.zeros(1, 2, 4, 4), "labels": torch.zeros(1, 8, 8, dtype=torch.int64)}
    with pytest.raises(FeathersegError, match=named):
        upsample_cross_entropy(**right | change)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("align", [False, True])
def test_a_cuda_device_gives_the_same(layout, align):
    for size in ((132, 188), (97, 301), (10, 12)):
        logits, labels = scene(2, 19, (33, 47), size)
        options = {
            "class_weights": torch.rand(19) + 0.1,
            "label_smoothing": 0.1,
            "align_corners": align,
        }
        on_it = options | {"class_weights": options["class_weights"].cuda()}
        for reduction in ("mean", "none"):
            upstream = torch.randn(labels.shape) if reduction == "none" else None
            expected = found(logits, labels, upstream, **options, reduction=reduction)
            there = logits.to("cuda", memory_format=layout)
            slope = None if upstream is None else upstream.cuda()
            result = found(there, labels.cuda(), slope, **on_it, reduction=reduction)
            again = found(there, labels.cuda(), slope, **on_it, reduction=reduction)
            assert_close([x.cpu() for x in result], list(expected), rtol=1e-5, atol=1e-6)
            assert all(torch.equal(a, b) for a, b in zip(result, again, strict=True))
