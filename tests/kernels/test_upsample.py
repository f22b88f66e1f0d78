"""Upsampling with argmax: the class of float64 bilinear interpolation, by every code."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden.bilinear import interpolated
from torch.nn.functional import interpolate

from featherseg import FeathersegError
from featherseg.kernels import upsample, upsample_argmax

many = settings(max_examples=60)
sides = st.integers(1, 40)


def scores_of(
    logits: torch.Tensor, size: tuple[int, int], align_corners: bool = False
) -> np.ndarray:
    """Interpolated scores by the definition, (B, K, H, W) float64."""
    return interpolated(logits.numpy(), size, align_corners)


def assert_chosen_from(mask: torch.Tensor, scores: np.ndarray, logits: torch.Tensor) -> None:
    """The best class, but for pixels whose best two differ by 1e-5 of the logits' range or less."""
    assert mask.dtype == torch.uint8
    assert mask.shape == (scores.shape[0], *scores.shape[2:])
    taken = np.take_along_axis(scores, mask.numpy()[:, None].astype(np.int64), axis=1)[:, 0]
    allowed = 1e-5 * float(logits.max() - logits.min())
    assert (taken >= scores.max(axis=1) - allowed).all()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@many
@given(h=sides, w=sides, height=sides, width=sides,
       classes=st.integers(1, 6), batch=st.integers(1, 2),
       align=st.booleans(), seed=st.integers(0, 99))  # fmt: skip
def test_classes_are_those_of_the_definition_at_any_size(
    every_code, h, w, height, width, classes, batch, align, seed
):
    logits = noise(batch, classes, h, w, seed=seed)
    scores = scores_of(logits, (height, width), align)
    first, *others = every_code(lambda: upsample_argmax(logits, (height, width), align))
    assert_chosen_from(first, scores, logits)
    assert all(torch.equal(first, other) for other in others)


@many
@given(
    h=sides,
    w=sides,
    factor=st.sampled_from([1, 2, 4, 8, 16, 32]),
    align=st.booleans(),
    seed=st.integers(0, 99),
)
def test_whole_factors_and_true_ties_go_to_the_lowest_class(every_code, h, w, factor, align, seed):
    """Small whole numbers and halvings: float32 is exact here, so that equal is equal."""
    size = ((h - 1) * factor + 1, (w - 1) * factor + 1) if align else (h * factor, w * factor)
    logits = torch.randint(
        0, 3, (1, 4, h, w), generator=torch.Generator().manual_seed(seed)
    ).float()
    expected = scores_of(logits, size, align).argmax(axis=1)  # numpy's argmax: the first of equals
    for mask in every_code(lambda: upsample_argmax(logits, size, align)):
        assert (mask.numpy() == expected).all()


@pytest.mark.parametrize("size", [(96, 256), (191, 509), (40, 50), (24, 64)])
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("classes", [1, 2, 19, 256])
def test_classes_are_those_of_interpolate_and_argmax(code, size, align, classes):
    logits = noise(2, classes, 24, 64)
    scores = interpolate(logits, size=size, mode="bilinear", align_corners=align)
    assert_chosen_from(upsample_argmax(logits, size, align), scores.numpy(), logits)


def test_equal_classes_go_to_the_lowest(code):
    logits = noise(1, 1, 9, 13).expand(1, 256, 9, 13)  # one class 256 times: strides of 0
    assert not upsample_argmax(logits, (37, 41)).any()
    logits = torch.cat([logits[:, :7] - 1, logits[:, 7:]], dim=1)
    assert (upsample_argmax(logits, (36, 52)) == 7).all()


def test_classes_far_below_zero_are_chosen_among(code):
    logits = noise(1, 3, 5, 6) - 1000
    assert_chosen_from(upsample_argmax(logits, (20, 24)), scores_of(logits, (20, 24)), logits)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.stack([x, x + 1], dim=-1)[..., 0],
        lambda x: torch.cat([x, x], dim=3)[..., : x.shape[3]],
        lambda x: x.clone().requires_grad_(),
        lambda x: x.double(),
    ],
    ids=[
        "channels last",
        "columns first",
        "every other number",
        "cut out",
        "with gradient",
        "float64",
    ],
)
@pytest.mark.parametrize("size", [(40, 96), (37, 91)])
def test_the_layout_in_memory_does_not_matter(code, view, size):
    logits = noise(2, 5, 10, 24)
    assert torch.equal(upsample_argmax(view(logits), size), upsample_argmax(logits, size))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_converted(code, dtype):
    logits = noise(1, 5, 10, 24).to(dtype)
    assert torch.equal(upsample_argmax(logits, (37, 91)), upsample_argmax(logits.float(), (37, 91)))


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("crop", [(1, 1), (33, 90), (64, 96), (40, 96)])
def test_a_crop_is_the_upper_left_part(code, align, crop):
    logits = noise(2, 4, 8, 12)
    whole = upsample_argmax(logits, (64, 96), align)
    assert torch.equal(
        upsample_argmax(logits, (64, 96), align, crop=crop), whole[:, : crop[0], : crop[1]]
    )


def test_what_is_cropped_away_may_be_nan(code):
    logits = noise(1, 3, 8, 12)
    expected = upsample_argmax(logits, (64, 96), crop=(30, 40))
    logits[:, :, 6:], logits[..., 8:] = torch.nan, torch.nan
    assert torch.equal(upsample_argmax(logits, (64, 96), crop=(30, 40)), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("size", [(40, 48), (37, 45), (10, 12)])
def test_nan_and_infinite_values_are_refused_wherever_they_are(code, value, size):
    for place in [(0, 0, 0, 0), (1, 2, 9, 11), (0, 1, 4, 7), (1, 0, 0, 11), (0, 2, 9, 0)]:
        logits = noise(2, 3, 10, 12)
        logits[place] = value
        with pytest.raises(FeathersegError, match=r"NaN or infinite.*finite"):
            upsample_argmax(logits, size)


def test_bands_of_rows_in_threads_give_the_same(code, monkeypatch):
    logits = noise(2, 5, 21, 30)
    expected = [upsample_argmax(logits, size) for size in ((84, 120), (3, 5))]
    monkeypatch.setattr(upsample, "THREAD_WORK", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    found = [upsample_argmax(logits, size) for size in ((84, 120), (3, 5))]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_no_image_gives_no_mask(code):
    assert upsample_argmax(torch.empty(0, 3, 4, 4), (8, 8)).shape == (0, 8, 8)


@pytest.mark.parametrize(
    ("shape", "options", "named"),
    [
        ((3, 4, 4), {}, r"\(3, 4, 4\)"),
        ((1, 0, 4, 4), {}, r"\(1, 0, 4, 4\)"),
        ((1, 257, 4, 4), {}, "257 classes"),
        ((1, 3, 4, 4), {"size": (0, 8)}, r"\(0, 8\)"),
        ((1, 3, 4, 4), {"size": (8,)}, r"\(8,\)"),
        ((1, 3, 4, 4), {"crop": (9, 8)}, r"\(9, 8\).*\(8, 8\)"),
    ],
)
def test_what_cannot_be_is_refused_by_its_value(shape, options, named):
    with pytest.raises(FeathersegError, match=named):
        upsample_argmax(torch.zeros(shape), **{"size": (8, 8), **options})
    with pytest.raises(FeathersegError, match="int64"):
        upsample_argmax(torch.zeros(1, 2, 3, 4, dtype=torch.int64), (8, 8))


@pytest.mark.parametrize("align", [False, True])
def test_blocks_for_other_devices_give_the_same(align):
    """What runs on a CUDA device without Triton, here on the CPU."""
    from featherseg.kernels import cuda

    logits = noise(2, 5, 10, 24)
    rows, columns = upsample.axis(10, 37, 30, align), upsample.axis(24, 91, 91, align)
    mask, finite = cuda.upsample_argmax(logits, rows, columns)
    assert finite
    assert_chosen_from(mask, scores_of(logits, (37, 91), align)[:, :, :30], logits)
    logits[1, 2, 3, 4] = torch.nan
    assert not cuda.upsample_argmax(logits, rows, columns)[1]


@pytest.mark.gpu
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_cuda_device_gives_the_same(align, layout):
    logits = noise(2, 19, 33, 47).to("cuda", memory_format=layout)
    for size in ((132, 188), (97, 301), (10, 12)):
        mask = upsample_argmax(logits, size, align)
        assert mask.device == logits.device
        assert_chosen_from(mask.cpu(), scores_of(logits.cpu(), size, align), logits.cpu())
    logits[0, 1, 2, 3] = torch.nan
    with pytest.raises(FeathersegError, match="NaN"):
        upsample_argmax(logits, (132, 188))
