"""PIDNet's four losses against a loop over pixels; what learns from which."""

import pytest
import torch
from support.models.seeded import seeded
from torch.testing import assert_close

from featherseg.core.types import IGNORE, SegOutput
from featherseg.layers.resize import to_image
from featherseg.losses import AuxiliaryLoss, CrossEntropy, Hybrid
from featherseg.losses.boundary import boundary_loss, boundary_targets, labels_at_boundaries

SIZE = (6, 7)


def drawn(images):
    """Labels in rectangles, a stripe of them ignored."""
    labels = torch.zeros(images, *SIZE, dtype=torch.int64)
    labels[:, 3:, 5:] = 2
    labels[0, :2, :4] = 1
    labels[-1, -2:] = IGNORE
    return labels


def mean_loss(logits, labels):
    """Mean of -log p(label) over the labelled pixels, pixel by pixel."""
    values = []
    for b, r, c in torch.nonzero(labels != IGNORE).tolist():
        scores = logits[b, :, r, c]
        values.append(float(scores.exp().sum().log() - scores[labels[b, r, c]]))
    return sum(values) / max(len(values), 1)


def pidnet(hard=None):
    """PIDNet's loss as its recipes have it."""
    hard = hard or CrossEntropy()
    auxiliary = AuxiliaryLoss(
        CrossEntropy(), hard, heads=0.4, boundaries=20.0, boundary_head="aux_d"
    )
    return Hybrid({"ce": hard, "auxiliary": auxiliary})


def output(logits, **aux):
    return SegOutput(logits, SIZE, SIZE, False, aux=aux)


def test_pidnet_s_loss_is_the_sum_of_its_four_parts():
    labels = drawn(2)
    logits, aux_p, aux_d = seeded(2, 3, *SIZE), seeded(2, 3, *SIZE).flip(1), 3 * seeded(2, 1, *SIZE)
    parts = (
        0.4 * mean_loss(aux_p, labels)
        + 20 * float(boundary_loss(aux_d, boundary_targets(labels)))
        + mean_loss(logits, labels)
        + mean_loss(logits, labels_at_boundaries(labels, aux_d))
    )
    assert_close(pidnet()(output(logits, aux_p=aux_p, aux_d=aux_d), labels), torch.tensor(parts))


def test_only_the_logits_and_the_extra_head_learn_classes_and_only_the_boundary_head_boundaries():
    labels = drawn(1)
    logits, aux_p, aux_d = (seeded(1, k, *SIZE).requires_grad_() for k in (3, 3, 1))
    hard = CrossEntropy(ohem_threshold=0.9, ohem_min_kept=5)
    pidnet(hard)(output(logits, aux_p=aux_p, aux_d=aux_d), labels).backward()
    assert all(x.grad.abs().sum() > 0 for x in (logits, aux_p, aux_d))
    alone = aux_d.detach().requires_grad_()
    (20 * boundary_loss(alone, boundary_targets(labels))).backward()
    assert_close(aux_d.grad, alone.grad)  # nothing comes back through the choice of L_3's pixels


def test_a_batch_without_labels_gives_a_finite_loss():
    labels = torch.full((1, *SIZE), IGNORE)
    logits, aux_p, aux_d = (seeded(1, k, *SIZE) for k in (3, 3, 1))
    assert float(pidnet()(output(logits, aux_p=aux_p, aux_d=aux_d), labels)) == 0


@pytest.mark.parametrize("weight", [0.4, 1.0])
def test_every_head_of_classes_counts_as_it_is_weighted_at_the_image_s_size(weight):
    labels, logits = drawn(2), seeded(2, 3, *SIZE)
    first, second = seeded(2, 3, 3, 4), seeded(2, 3, 2, 2)  # of other strides
    plain = CrossEntropy()
    auxiliary = AuxiliaryLoss(plain, plain, heads=weight, boundaries=0.0, boundary_head=None)
    found = Hybrid({"ce": plain, "auxiliary": auxiliary})(
        output(logits, dsn_4=first, dsn_8=second), labels
    )
    enlarged = [to_image(output(x), SIZE) for x in (first, second)]
    expected = mean_loss(logits, labels) + weight * sum(mean_loss(x, labels) for x in enlarged)
    assert_close(found, torch.tensor(expected))
