"""Losses from teachers, against torch's KLDivLoss and loops over places and classes."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from featherseg.core.types import SegOutput
from featherseg.losses import CrossEntropy, Distillation, DistillationLosses, Hybrid


class Taught(NamedTuple):
    logits: Tensor
    inside: Tensor


def example(kind=torch.float64, classes=4, size=(3, 5)):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, *size, dtype=kind).mul(3).requires_grad_()
    inside = torch.rand(2, *size) < 0.7
    out = SegOutput(logits, (4 * size[0], 4 * size[1]), (4 * size[0], 4 * size[1]), False)
    return out, Taught(3 * torch.randn(2, classes, *size, dtype=kind), inside)


def distillation(logits=0.0, channels=0.0, temperature=1.0):
    return Distillation(
        logits=logits,
        logits_temperature=temperature,
        channels=channels,
        channels_temperature=temperature,
    )


def softmax(values):
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def kl(t, s, temperature):
    t, s = (softmax([value / temperature for value in values]) for values in (t, s))
    return temperature**2 * sum(p * math.log(p / q) for p, q in zip(t, s, strict=True))


def by_loops(out, taught, temperature):
    """The two terms as their equations are printed, place by place and class by class."""
    s, t, inside = out.logits.tolist(), taught.logits.tolist(), taught.inside.tolist()
    images, classes, height, width = out.logits.shape
    places = [
        [(y, x) for y in range(height) for x in range(width) if inside[image][y][x]]
        for image in range(images)
    ]
    logits = [
        kl(*([maps[image][k][y][x] for k in range(classes)] for maps in (t, s)), temperature)
        for image in range(images)
        for y, x in places[image]
    ]
    channels = [
        kl(*([maps[image][k][y][x] for y, x in places[image]] for maps in (t, s)), temperature)
        for image in range(images)
        for k in range(classes)
    ]
    return sum(logits) / len(logits), sum(channels) / len(channels)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_both_terms_are_what_loops_over_the_equations_give(temperature):
    out, taught = example()
    logits, channels = by_loops(out, taught, temperature)
    assert distillation(logits=1, temperature=temperature)(out, taught).item() == pytest.approx(
        logits, rel=1e-12
    )
    assert distillation(channels=1, temperature=temperature)(out, taught).item() == pytest.approx(
        channels, rel=1e-12
    )
    both = distillation(logits=2, channels=3, temperature=temperature)(out, taught)
    assert both.item() == pytest.approx(2 * logits + 3 * channels, rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value_and_gradient_are_those_of_kldivloss(temperature):
    out, taught = example()
    s, loss = out.logits, torch.nn.KLDivLoss(reduction="batchmean", log_target=True)
    rows, target = (
        x.permute(0, 2, 3, 1)[taught.inside] / temperature for x in (s, taught.logits)
    )  # (N, K)
    expected = temperature**2 * loss(rows.log_softmax(1), target.log_softmax(1))
    for image, inside in enumerate(taught.inside):
        rows, target = (x[image][:, inside] / temperature for x in (s, taught.logits))  # (K, N)
        expected = expected + temperature**2 * loss(
            rows.log_softmax(1), target.log_softmax(1)
        ) / len(s)
    found = distillation(logits=1, channels=1, temperature=temperature)(out, taught)
    assert_close(found, expected)
    gradients = [torch.autograd.grad(value, s)[0] for value in (found, expected)]
    assert_close(*gradients)
    assert (
        not gradients[0].permute(0, 2, 3, 1)[~taught.inside].any()
    )  # what fills up teaches nothing


def test_the_gradient_is_that_of_small_steps():
    out, taught = example(size=(2, 3))
    term = distillation(logits=1, channels=1, temperature=2)
    assert torch.autograd.gradcheck(lambda x: term(out._replace(logits=x), taught), (out.logits,))


def test_an_equal_model_has_nothing_to_learn_and_others_have():
    out, taught = example()
    same = Taught(out.logits.detach(), taught.inside)
    term = distillation(logits=1, channels=1)
    assert term(out, same).item() == pytest.approx(0, abs=1e-12)
    assert term(out, taught).item() > 0.1


@pytest.mark.parametrize("empty", [slice(None), slice(0, 1)], ids=["batch", "one image"])
def test_images_without_a_place_give_no_loss_and_no_gradient(empty):
    out, taught = example(torch.float32)
    taught.inside[empty] = False
    term = distillation(logits=1, channels=1)
    loss = term(out, taught)
    loss.backward()
    assert loss.isfinite()
    assert out.logits.grad.isfinite().all()
    assert not out.logits.grad[empty].any()
    if empty == slice(None):
        assert loss.item() == 0


def test_half_precision_is_computed_in_full():
    out, taught = example(torch.float32)
    taught = Taught(taught.logits.half().float(), taught.inside)
    half = Taught(taught.logits.half(), taught.inside)
    term = distillation(logits=1, channels=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(term(out, half), term(out, taught), rtol=0, atol=0)
        assert term(out, half).dtype == torch.float32


def test_beside_masks_the_parts_are_told_and_without_any_class_only_the_teacher_counts():
    out, taught = example(torch.float32)
    labels = torch.full((2, 12, 20), 255)
    found = Hybrid({"ce": CrossEntropy()}, distillation(logits=1))(out, labels, taught)
    assert isinstance(found, DistillationLosses)
    assert found.supervised.item() == 0
    assert found.teacher.item() == found.total.item() > 0
    found.total.backward()
    assert out.logits.grad.isfinite().all()
    assert isinstance(Hybrid({"ce": CrossEntropy()}, distillation(logits=1))(out, labels), Tensor)
