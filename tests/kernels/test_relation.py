"""Pixel to region: the sum over a window by its definition, in float64, whichever code runs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden.relation_case import case
from torch.testing import assert_close

from featherseg import FeathersegError
from featherseg.kernels import pixel_to_region, relation
from featherseg.models.rsp import PixelToRegion

many = settings(max_examples=40)
sides = st.integers(1, 6)
COMPOSABILITIES = ["dot", "difference"]


def by_loop(query, key, value, prior, composability) -> np.ndarray:
    """Loop over pixels, heads and cells of the docstring's equation: (B, C, 2h, 2w) float64."""
    query, key, value, prior = (x.double().numpy() for x in (query, key, value, prior))
    heads, window = len(prior), round(prior.shape[2] ** 0.5)
    depth, value_depth = key.shape[1] // heads, value.shape[1] // heads
    context = np.zeros((*value.shape[:2], *query.shape[2:]))
    for b, head, y, x in np.ndindex(len(query), heads, *query.shape[2:]):
        q = query[b, head * depth : (head + 1) * depth, y, x]
        logits, values = [], []
        for r in range(window**2):
            row, column = y // 2 + r // window - window // 2, x // 2 + r % window - window // 2
            if 0 <= row < key.shape[2] and 0 <= column < key.shape[3]:
                k = key[b, head * depth : (head + 1) * depth, row, column]
                fit = q @ k if composability == "dot" else -((q - k) ** 2).sum()
                logits.append(fit / depth**0.5 + prior[head, 2 * (y % 2) + x % 2, r])
                values.append(value[b, head * value_depth : (head + 1) * value_depth, row, column])
        weights = np.exp(np.array(logits) - max(logits))
        context[b, head * value_depth : (head + 1) * value_depth, y, x] = (
            weights / weights.sum() @ np.array(values)
        )
    return context


def assert_near(found: torch.Tensor, expected: np.ndarray) -> None:
    assert found.dtype == torch.float32
    assert_close(found.double().numpy(), expected, atol=5e-6, rtol=0)


@many
@given(height=sides, width=sides, batch=st.integers(1, 2), heads=st.integers(1, 3),
       depth=st.integers(1, 3),
       value_depth=st.integers(1, 3), window=st.sampled_from(relation.WINDOWS),
       composability=st.sampled_from(COMPOSABILITIES), seed=st.integers(0, 99))  # fmt: skip
def test_the_context_is_that_of_the_definition_at_any_size(every_code, composability, **options):
    arguments = case(**options)
    expected = by_loop(*arguments, composability)
    numpy, *compiled = every_code(lambda: pixel_to_region(*arguments, composability))
    assert_near(numpy, expected)
    for found in compiled:
        assert_near(found, expected)
        assert torch.equal(found, compiled[0])  # the instruction sets agree to the bit


@pytest.mark.parametrize("composability", COMPOSABILITIES)
@pytest.mark.parametrize("width", [63, 64, 65, 81, 130])
def test_maps_wider_than_a_tile_have_no_seams(code, width, composability):
    arguments = case(height=2, width=width, window=5)
    assert_near(pixel_to_region(*arguments, composability), by_loop(*arguments, composability))


def test_maps_of_many_rows_have_no_seams(code, monkeypatch):
    monkeypatch.setattr("featherseg.kernels.portable.CELLS", 20)
    arguments = case(height=23, width=6, window=5)
    assert_near(pixel_to_region(*arguments, "dot"), by_loop(*arguments, "dot"))


def test_no_prior_is_a_prior_of_zeros_and_a_lone_cell_is_copied(code):
    query, key, value, prior = case(window=1)
    enlarged = value.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert_close(
        pixel_to_region(query, key, value, torch.zeros_like(prior)), enlarged, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.stack([x, x + 1], dim=-1)[..., 0],
        lambda x: torch.cat([x, x], dim=3)[..., : x.shape[3]],
        lambda x: x.clone().requires_grad_(),
    ],
    ids=["channels last", "columns first", "every other number", "cut out", "with gradient"],
)
def test_the_layout_in_memory_does_not_matter(code, view):
    *maps, prior = case(batch=2)
    found = pixel_to_region(*(view(x) for x in maps), prior)
    assert torch.equal(found, pixel_to_region(*maps, prior))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert not found.requires_grad


def test_weights_are_exponentials_to_the_last_bits(code):
    """Images of two cells, 0 and 1, logits 0 and x: the first pixel gathers cell 1's weight."""
    x = torch.linspace(-0.7, 0, 301)
    key, value = torch.zeros(301, 1, 1, 2), torch.tensor([0.0, 1.0]).expand(301, 1, 1, 2)
    key[:, 0, 0, 1] = x
    found = pixel_to_region(torch.ones(301, 1, 2, 4), key, value, torch.zeros(1, 4, 9))[:, 0, 0, 0]
    assert_close(found.double(), x.double().sigmoid(), atol=0, rtol=2.5e-7)


def test_logits_far_apart_leave_the_greatest_alone(code):
    query, key, value, prior = case()
    for factor in (1e2, 1e4, 1e15):
        found = pixel_to_region(factor * query, factor * key, value, prior)
        assert_near(found, by_loop(factor * query, factor * key, value, prior, "dot"))


@pytest.mark.parametrize(
    ("which", "place", "rows", "columns", "channels"),
    [
        (0, (4, 18), (4, 5), (18, 19), 3),
        (1, (2, 9), (2, 8), (16, 22), 3),
        (2, (2, 9), (2, 8), (16, 22), 1),
    ],
    ids=["query", "key", "value"],
)
def test_nan_goes_through_to_what_sees_it_and_nowhere_else(
    code, which, place, rows, columns, channels
):
    arguments = case(height=6, width=20)
    expected = pixel_to_region(*arguments)
    arguments[which][0, 0, place[0], place[1]] = torch.nan
    expected[0, :channels, slice(*rows), slice(*columns)] = torch.nan
    assert_close(pixel_to_region(*arguments), expected, equal_nan=True, atol=0, rtol=0)


def test_bands_of_rows_in_threads_give_the_same(code, monkeypatch):
    arguments = case(batch=2, height=7, width=9)
    expected = pixel_to_region(*arguments)
    monkeypatch.setattr(relation, "THREAD_WORK", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(pixel_to_region(*arguments), expected)


def test_no_image_and_no_data_give_the_shape(code):
    assert pixel_to_region(*case(batch=0)).shape == (0, 6, 8, 12)
    found = pixel_to_region(*(x.to("meta") for x in case()))
    assert (found.device.type, found.shape) == ("meta", (1, 6, 8, 12))


@pytest.mark.parametrize(
    "change",
    [
        lambda q, k, v, p: (q[0], k, v, p),
        lambda q, k, v, p: (q[:, :, :-1], k, v, p),
        lambda q, k, v, p: (q[:, :-1], k, v, p),
        lambda q, k, v, p: (q[:, :3], k[:, :3], v, p),
        lambda q, k, v, p: (q, k, v[:, :5], p),
        lambda q, k, v, p: (q, k, v[:, :0], p),
        lambda q, k, v, p: (q, k, v[:, :, 1:], p),
        lambda q, k, v, p: (q, torch.cat([k, k]), v, p),
        lambda q, k, v, p: (q, k, v, p[:, :3]),
        lambda q, k, v, p: (q, k, v, p[:, :, :4]),
        lambda q, k, v, p: (q, k, v, torch.zeros(2, 4, 121)),
        lambda q, k, v, p: (q, k, v, p[:0]),
        lambda q, k, v, p: (q[:, :, :0], k[:, :, :0], v[:, :, :0], p),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change):
    with pytest.raises(FeathersegError, match=r"expected \(B, n d, 2h, 2w\)"):
        pixel_to_region(*change(*case()))


def test_other_types_and_ways_are_refused_by_name():
    query, key, value, prior = case()
    with pytest.raises(FeathersegError, match=r"torch\.float64 on cpu.*expected torch\.float32"):
        pixel_to_region(query.double(), key, value, prior)
    with pytest.raises(FeathersegError, match=r"'cosine'.*dot, difference"):
        pixel_to_region(query, key, value, prior, "cosine")


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.filterwarnings(
    "ignore:invalid value:RuntimeWarning"
)  # of the loop, which computes what is not finite
def test_what_is_not_finite_comes_out_where_the_definition_has_it(which, broken, every_code):
    arguments = case(height=6, width=10, heads=4)
    arguments[which][0, 5, 3, 4] = broken
    found, expected = pixel_to_region(*arguments), by_loop(*arguments, "dot")
    assert np.array_equal(found.isfinite().numpy(), np.isfinite(expected))
    assert not found.isfinite().all()
    relation = PixelToRegion(8, window=3, heads=4)  # block by block: at least there
    with torch.no_grad():
        assert not relation.gather(*arguments[:3]).isfinite()[~found.isfinite()].any()
