"""Gradients of gathering from windows of cells, against torch's of the float64 definition."""

import pytest
import torch
import torch.nn.functional as F
from support.golden.relation_case import case
from torch.testing import assert_close

from featherseg.kernels import relation
from featherseg.kernels.relation import learnt_pixel_to_region

COMPOSABILITIES = ["dot", "difference"]


def in_torch(query, key, value, prior, composability):
    """The same in torch, differentiable: (B, C, 2h, 2w)."""
    heads, window, (batch, _, height, width) = len(prior), round(prior.shape[2] ** 0.5), key.shape
    keys, values = (
        F.unfold(x, window, padding=window // 2).reshape(
            batch, heads, -1, 1, window**2, height * width
        )
        for x in (key, value)
    )
    children = F.pixel_unshuffle(query, 2).reshape(batch, heads, -1, 4, 1, height * width)
    fit = children * keys if composability == "dot" else -((children - keys) ** 2)
    logits = fit.sum(2) / keys.shape[2] ** 0.5 + prior[None, ..., None]  # (B, n, 4, R, h * w)
    cells = F.unfold(
        torch.ones(1, 1, height, width, dtype=query.dtype), window, padding=window // 2
    )
    weights = logits.masked_fill(cells == 0, -torch.inf).softmax(3)
    return F.pixel_shuffle(
        (weights[:, :, None] * values).sum(4).reshape(batch, -1, height, width), 2
    )


def gradients(arguments, composability, function=learnt_pixel_to_region):
    inputs = [x.clone().requires_grad_() for x in arguments]
    out = function(*inputs, composability)
    pull = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return torch.autograd.grad(out, inputs, pull)


SHAPES = [
    {"height": 1, "width": 1},
    {"height": 3, "width": 16, "window": 5, "batch": 2},
    {"height": 7, "width": 5, "heads": 3, "value_depth": 1},
    {"height": 2, "width": 35, "window": 9, "depth": 5},
    {"height": 4, "width": 17, "window": 1, "batch": 2},
]


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize("composability", COMPOSABILITIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_those_of_the_definition(shape, composability):
    arguments = case(**shape)
    found = gradients(arguments, composability)
    expected = gradients([x.double() for x in arguments], composability, in_torch)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert_close(ours.double(), theirs, rtol=0, atol=5e-6 * max(1.0, float(theirs.abs().max())))


def test_the_bits_of_gradients_depend_on_no_instruction_set_and_no_threads(
    extension, use, monkeypatch
):
    monkeypatch.setattr(relation, "THREAD_WORK", 1)
    before, results = torch.get_num_threads(), []
    for name in extension.clones():
        use(name)
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(gradients(case(batch=2, height=6, width=37, window=5), "dot"))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.usefixtures("clone")
def test_nan_is_passed_on_to_the_gradients_it_takes_part_in():
    query, key, value, prior = case(height=5, width=6, heads=2)
    query[0, 0, 3, 4] = torch.nan  # a pixel of the first head, in cell (1, 2)
    to_query, to_key, to_value, to_prior = gradients((query, key, value, prior), "dot")
    assert not to_query[0, :2, 3, :4].isnan().any()
    assert to_query[0, :2, 3, 4].isnan().all()
    assert to_key[0, :2, :3, 1:4].isnan().all()
    assert to_value[0, :3, :3, 1:4].isnan().all()
    assert to_prior[0].isnan().any()
    second = (to_query[:, 2:], to_key[:, 2:], to_value[:, 3:], to_prior[1:])
    assert not any(x.isnan().any() for x in second)
