"""Held against loops over pixels, written from the definitions."""

import math

import pytest
import torch
from support.models.seeded import seeded
from torch.testing import assert_close

from featherseg.core.types import IGNORE
from featherseg.losses.boundary import boundary_loss, boundary_targets, labels_at_boundaries


def drawn(*shape):
    """Labels in rectangles, a stripe of them ignored."""
    labels = torch.zeros(shape, dtype=torch.int64)
    labels[:, 3:, 5:] = 2
    labels[0, :2, :4] = 1
    labels[-1, -2:] = IGNORE
    return labels


@pytest.mark.parametrize("reach", [1, 2])
def test_a_boundary_is_where_the_square_around_a_pixel_holds_two_labels(reach):
    labels = drawn(2, 11, 13)
    expected = torch.zeros(2, 11, 13)
    for b in range(2):
        for r in range(11):
            for c in range(13):
                rows = range(max(r - reach, 0), min(r + reach + 1, 11))
                columns = range(max(c - reach, 0), min(c + reach + 1, 13))
                expected[b, r, c] = len({int(labels[b, y, x]) for y in rows for x in columns}) > 1
    assert torch.equal(boundary_targets(labels, reach), expected)
    assert 0 < expected.mean() < 1


def test_the_line_between_two_halves_is_four_pixels_wide():
    labels = torch.zeros(1, 9, 20, dtype=torch.int64)
    labels[:, :, 10:] = 7
    assert boundary_targets(labels)[0].sum(1).tolist() == [4] * 9


def cross_entropy(logit, target):
    p = 1 / (1 + math.exp(-logit))
    return -math.log(p if target else 1 - p)


def test_the_boundary_loss_weighs_each_kind_of_pixel_by_the_share_of_the_other():
    logits, targets = 2 * seeded(2, 1, 5, 6), (seeded(2, 5, 6) > 0.8).float()
    pixels = list(zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True))
    boundary = sum(target for _, target in pixels)
    total = 0.0
    for logit, target in pixels:
        others = len(pixels) - boundary if target else boundary
        total += others / len(pixels) * cross_entropy(logit, target)
    assert_close(boundary_loss(logits, targets), torch.tensor(total / len(pixels)))


def test_without_a_boundary_there_is_nothing_to_learn_of_boundaries():
    logits = seeded(1, 1, 4, 4).requires_grad_()
    boundary_loss(logits, torch.zeros(1, 4, 4)).backward()
    assert logits.grad.abs().sum() == 0


def test_classes_at_boundaries_are_those_with_a_probability_above_0_8():
    labels, logits = drawn(2, 6, 7), 3 * seeded(2, 1, 6, 7)
    found = labels_at_boundaries(labels, logits)
    for b in range(2):
        for r in range(6):
            for c in range(7):
                near = 1 / (1 + math.exp(-float(logits[b, 0, r, c]))) > 0.8
                assert found[b, r, c] == (labels[b, r, c] if near else IGNORE)


def test_half_precision_logits_are_taken_in_full_precision():
    logits, targets = seeded(1, 1, 5, 6).bfloat16(), (seeded(1, 5, 6) > 0).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(boundary_loss(logits, targets), boundary_loss(logits.float(), targets))
