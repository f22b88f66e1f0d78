"""Losses of several processes equal those of one with all images, for any ignored shares."""

import pytest
import torch

from featherseg.core.types import IGNORE
from featherseg.losses import CrossEntropy, cross_entropy, panoptic
from featherseg.losses.panoptic import weighted_mean

CASES = {
    "plain": {},
    "weights": {"class_weights": [1.0, 5.0, 0.2]},
    "smoothed": {"class_weights": [1.0, 5.0, 0.2], "label_smoothing": 0.1},
    "smoothed, a class of weight 0": {"class_weights": [0.0, 5.0, 0.2], "label_smoothing": 0.1},
    "number": {"class_weights": [1.0, 5.0, 0.2], "mean": "number"},
    "all": {"mean": "all"},
    "hard": {"ohem_threshold": 0.4, "ohem_min_kept": 5},
    "focal": {"class_weights": [1.0, 5.0, 0.2], "focal": 2.0},
    "boundary": {"boundary_weight": 2.0, "mean": "number"},
}


@pytest.fixture
def shared_out(monkeypatch):
    """Call a loss on every part as if each were a process: -> their losses."""

    def run(loss, parts):
        totals: list[list[torch.Tensor]] = []
        for module in (cross_entropy, panoptic):
            monkeypatch.setattr(module, "several_processes", lambda: True, raising=False)
        for part in parts:
            seen = []
            replace_mean(lambda total, seen=seen: (seen.append(total.detach()), total)[1])
            loss(*part)
            totals.append(seen)
        means = [
            torch.stack([t.double() for t in column]).mean() for column in zip(*totals, strict=True)
        ]
        found = []
        for part in parts:
            waiting = iter(means)
            replace_mean(lambda total, waiting=waiting: next(waiting))
            found.append(loss(*part))
        return found

    def replace_mean(function):
        for module in (cross_entropy, panoptic):
            monkeypatch.setattr(module, "mean_over_processes", function)

    return run


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("processes", [2, 4])
def test_unequal_shares_of_ignore_agree_with_one_process(shared_out, case, processes):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 8, 8, generator=generator, requires_grad=True)
    labels = torch.randint(0, 3, (4, 16, 16), generator=generator)
    labels[0, :, 3:] = IGNORE
    labels[1] = IGNORE  # with four processes one has nothing at all
    labels[2] = 0
    loss = CrossEntropy(**CASES[case])
    whole = loss(logits, labels)
    (expected,) = torch.autograd.grad(whole, logits)
    parts = list(zip(logits.chunk(processes), labels.chunk(processes), strict=True))
    mean = torch.stack(shared_out(loss, parts)).mean()
    (found,) = torch.autograd.grad(mean, logits)
    torch.testing.assert_close(mean, whole, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


def test_weighted_means_of_a_panoptic_model_agree_too(shared_out):
    generator = torch.Generator().manual_seed(0)
    losses, weights = (
        torch.rand(4, 5, 5, generator=generator),
        torch.rand(4, 5, 5, generator=generator),
    )
    weights[0] = 0
    weights[1, 2:] = 0
    whole = weighted_mean(losses, weights)
    parts = list(zip(losses.chunk(2), weights.chunk(2), strict=True))
    torch.testing.assert_close(torch.stack(shared_out(weighted_mean, parts)).mean(), whole)


def test_processes_that_have_nothing_to_learn_from_give_0(shared_out):
    logits, labels = torch.randn(2, 3, 4, 4, requires_grad=True), torch.full((2, 8, 8), IGNORE)
    for case in CASES.values():
        found = shared_out(
            CrossEntropy(**case), list(zip(logits.chunk(2), labels.chunk(2), strict=True))
        )
        assert [float(loss.detach()) for loss in found] == [0.0, 0.0]
