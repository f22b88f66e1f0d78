"""Losses of regions against loops in float64 that follow their equations."""

import pytest
import torch

from featherseg.core.types import SegOutput
from featherseg.losses import CrossEntropy, Hybrid, OverlapLoss
from featherseg.losses.overlap import lovasz_softmax

KINDS = ["dice", "lovasz"]


def loss_of(kind):
    return OverlapLoss(**{kind: 1.0})


def scene(classes=4, ignored=0.3, seed=0):
    """Logits, and labels of their size; class 2 does not occur."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 5, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (2, 5, 6), generator=generator)
    labels[labels == 2] = 0
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    return logits.requires_grad_(), labels


def places(logits, labels):
    """(probabilities of the classes, true class) of every labelled place."""
    p = logits.detach().softmax(1)
    return [
        (p[b, :, y, x].tolist(), int(labels[b, y, x]))
        for b, y, x in torch.nonzero(labels != 255).tolist()
    ]


def dice(found, k):
    hits = sum(p[k] for p, true in found if true == k)
    return 1 - 2 * hits / (sum(p[k] for p, _ in found) + sum(true == k for _, true in found))


def lovasz(found, k):
    """The Lovasz extension of Delta(errors) = |errors| / |truth and errors|: summed differences."""
    errors = [abs((true == k) - p[k]) for p, true in found]
    truth = {i for i, (_, true) in enumerate(found) if true == k}
    total, made, before = 0.0, set(), 0.0
    for i in sorted(range(len(found)), key=lambda i: -errors[i]):
        made.add(i)
        delta = len(made) / len(truth | made)
        total += errors[i] * (delta - before)
        before = delta
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_mean_of_its_equation_over_the_classes_present(kind, seed):
    logits, labels = scene(seed=seed)
    found = places(logits, labels)
    present = sorted({true for _, true in found})
    assert 2 not in present
    expected = sum(globals()[kind](found, k) for k in present) / len(present)
    assert loss_of(kind)(logits, labels).item() == pytest.approx(
        expected, abs=1e-12 if kind == "dice" else 1e-4
    )


def by_sorting(probabilities, truth):
    """Lovasz-softmax as its authors compute it, with the errors of each class in order."""
    losses = []
    for k in range(probabilities.shape[1]):
        errors, order = (truth[:, k].double() - probabilities[:, k]).abs().sort(descending=True)
        own = truth[order, k].double()
        iou = (own.sum() - own.cumsum(0)) / (own.sum() + (1 - own).cumsum(0))
        losses.append((errors * (1 - iou).diff(prepend=iou.new_zeros(1))).sum())
    return torch.stack(losses)


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("sure", [0.1, 2.0, 12.0])
def test_lovasz_is_that_of_sorting_as_far_as_errors_are_told_apart(classes, sure):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (5000,), generator=generator) // 2
    logits = sure * torch.randn(5000, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(5000), labels] += sure
    truth = torch.nn.functional.one_hot(labels, classes).bool()
    truth, here = truth[:, truth.any(0)], truth.any(0)
    losses, gradients = [], []
    for form in (lovasz_softmax, by_sorting):
        x = logits.clone().requires_grad_()
        losses.append(form(x.softmax(1)[:, here], truth))
        losses[-1].sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-4)
    assert (gradients[0] - gradients[1]).norm() < 5e-3 * gradients[1].norm()


@pytest.mark.seconds
@pytest.mark.parametrize("kind", KINDS)
def test_its_gradient_is_that_of_the_values(kind):
    logits, labels = scene()
    assert torch.autograd.gradcheck(lambda x: loss_of(kind)(x, labels), logits)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_0_where_all_is_ignored_right_or_of_one_class(kind):
    logits, labels = scene()
    nothing = loss_of(kind)(logits, torch.full_like(labels, 255))
    nothing.backward()
    assert nothing == 0
    assert not logits.grad.any()
    right = (
        torch.nn.functional.one_hot(labels.masked_fill(labels == 255, 1), 4).movedim(-1, 1) * 200.0
    )
    assert loss_of(kind)(right, labels) == pytest.approx(0, abs=1e-12)
    assert (
        loss_of(kind)(logits[:, :1], labels.clamp(min=0, max=255).masked_fill(labels < 255, 0)) == 0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_labels_count_at_the_middle_of_each_of_the_logits_places(kind):
    logits, labels = scene()
    large = torch.full((2, 15, 18), 255)
    large[:, 1::3, 1::3] = labels
    assert loss_of(kind)(logits, large) == loss_of(kind)(logits, labels)
    padded = SegOutput(logits, (12, 18), (15, 18), False)
    labels[:, 4:] = 255
    assert loss_of(kind)(padded, large[:, :12]) == loss_of(kind)(logits, labels)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_gives_the_gradient_of_full_precision_rounded_and_it_is_added(kind):
    logits, labels = scene()
    gradients = []
    for dtype in (torch.bfloat16, torch.float32):
        x = logits.detach().bfloat16().to(dtype).requires_grad_()
        out = SegOutput(x, (5, 6), (5, 6), False)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            total = Hybrid({"ce": CrossEntropy(), "overlap": loss_of(kind)})(out, labels)
            assert total == CrossEntropy()(out, labels) + loss_of(kind)(out, labels)
            loss_of(kind)(out, labels).backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[0], gradients[1].bfloat16(), rtol=0, atol=0)
