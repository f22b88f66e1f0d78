import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import golden_rule
from support.golden.golden_make import GOLDEN
from torch.testing import assert_close

from featherseg.core.errors import ConfigError
from featherseg.core.types import SegOutput
from featherseg.kernels import library
from featherseg.layers import resize as resizing
from featherseg.layers.resize import resize, to_image
from featherseg.losses import AuxiliaryLoss, CrossEntropy, Hybrid, cross_entropy


def scene(seed=0, classes=4, size=(5, 6), ignored=0.3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, *size, generator=generator, requires_grad=True)
    labels = torch.randint(0, classes, (2, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    return logits, labels


def loop(logits, labels, weights=None, smoothing=0.0, counts=None, mean="labelled"):
    """The weighted, smoothed mean, pixel by pixel."""
    classes = logits.shape[1]
    weights = weights or [1.0] * classes
    total = share = number = 0.0
    for b, y, x in torch.nonzero(labels != 255).tolist():
        if counts is not None and not counts[b, y, x]:
            continue
        log_p = logits[b, :, y, x].detach().double().log_softmax(0)
        true = int(labels[b, y, x])
        total += -(1 - smoothing) * weights[true] * float(log_p[true])
        total += -smoothing / classes * sum(weights[c] * float(log_p[c]) for c in range(classes))
        share += weights[true]
        number += 1
    return total / {"labelled": share, "number": number, "all": labels.numel()}[mean]


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 3.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_it_is_the_weighted_mean_over_labelled_pixels(weights, smoothing):
    logits, labels = scene()
    loss = CrossEntropy(weights, label_smoothing=smoothing)(logits, labels)
    assert loss.item() == pytest.approx(loop(logits, labels, weights, smoothing), rel=1e-5)
    if not smoothing:
        tensor = None if weights is None else torch.tensor(weights)
        assert_close(
            loss, torch.nn.functional.cross_entropy(logits, labels, tensor, ignore_index=255)
        )


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 3.0]])
@pytest.mark.parametrize("ohem", [None, 0.4])
@pytest.mark.parametrize("mean", ["labelled", "number", "all"])
def test_the_sum_is_divided_by_weights_or_number_of_the_pixels_that_count_or_by_all(
    weights, ohem, mean
):
    logits, labels = scene()
    p = logits.softmax(1).gather(1, labels.masked_fill(labels == 255, 0)[:, None])[:, 0]
    found = CrossEntropy(weights, ohem_threshold=ohem, ohem_min_kept=1, mean=mean)(logits, labels)
    expected = loop(logits, labels, weights, counts=None if ohem is None else p < ohem, mean=mean)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_both_means_are_those_of_the_golden():
    case = json.loads((GOLDEN / "parity/cgrseg_t.json").read_text())["cases"][1]
    _, _, *size = case["input_shape"]
    labels = torch.from_numpy(golden_rule.labels(case["input_tag"], (1, *size), 150))
    with np.load(GOLDEN / "parity/cgrseg_t.npz", allow_pickle=False) as arrays:
        values = torch.from_numpy(arrays["case1_logits"])
    logits = resize(
        values.view(case["outputs"]["logits"]["shape"]), tuple(size), align_corners=False
    )
    for mean, key in (("labelled", "ce_mean_valid_pixels"), ("all", "ce_mean_all_pixels")):
        loss = CrossEntropy(mean=mean)(logits, labels)
        assert loss.item() == pytest.approx(case["loss"][key], abs=1e-5)


@pytest.mark.parametrize("ohem", [None, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mean", ["labelled", "number", "all"])
def test_a_batch_without_labels_costs_nothing_and_can_be_differentiated(ohem, dtype, mean):
    logits = torch.randn(2, 3, 4, 4, dtype=dtype, requires_grad=True)
    labels = torch.full((2, 4, 4), 255)
    loss = CrossEntropy([1.0, 2.0, 3.0], ohem_threshold=ohem, mean=mean)(logits, labels)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.abs().sum() == 0


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"boundary_weight": 1.0}, {"ohem_threshold": 0.7, "ohem_min_kept": 10}]
)
def test_a_batch_of_a_class_of_weight_0_costs_nothing_where_labels_are_smoothed(
    monkeypatch, native, processes, options
):
    monkeypatch.setattr(cross_entropy, "several_processes", lambda: processes)
    if not native:
        monkeypatch.setattr(library, "native", lambda: None)
    logits = torch.randn(2, 2, 4, 4, requires_grad=True)
    loss = CrossEntropy([0.0, 1.0], label_smoothing=0.1, **options)(
        logits, torch.zeros(2, 8, 8).long()
    )
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.abs().sum() == 0


def test_mining_keeps_what_is_below_the_threshold():
    logits, labels = scene(ignored=0.2)
    p = logits.softmax(1).gather(1, labels.masked_fill(labels == 255, 0)[:, None])[:, 0]
    loss = CrossEntropy(ohem_threshold=0.4, ohem_min_kept=1)(logits, labels)
    hard = (p < 0.4) & (labels != 255)
    assert hard.any(dim=(1, 2)).all()
    assert loss.item() == pytest.approx(loop(logits, labels, counts=hard), rel=1e-5)


def test_mining_keeps_at_least_so_many_of_the_hardest_in_each_image():
    logits, labels = scene(ignored=0.2)
    p = logits.softmax(1).gather(1, labels.masked_fill(labels == 255, 0)[:, None])[:, 0].detach()
    p[labels == 255] = 2
    kept = torch.zeros_like(p, dtype=torch.bool)
    for b in range(2):
        kept[b].view(-1)[p[b].flatten().argsort()[:7]] = True
    loss = CrossEntropy(ohem_threshold=0.0, ohem_min_kept=7)(logits, labels)
    assert loss.item() == pytest.approx(loop(logits, labels, counts=kept), rel=1e-5)


def test_it_is_in_full_precision_whatever_autocast_says():
    logits, labels = scene()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = CrossEntropy()(logits, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, CrossEntropy()(logits, labels))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    ignored=st.floats(0, 1),
    ohem=st.sampled_from([None, 0.0, 0.5, 1.0]),
)
def test_it_is_always_finite_and_never_negative(seed, ignored, ohem):
    logits, labels = scene(seed, ignored=ignored)
    loss = CrossEntropy([0.0, 1.0, 2.0, 0.5], ohem_threshold=ohem, ohem_min_kept=3)(
        logits * 50, labels
    )
    loss.backward()
    assert math.isfinite(loss.item())
    assert loss >= 0
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("weights", [[1.0, float("nan")], [-1.0, 1.0], [0.0, 0.0]])
def test_weights_that_cannot_be_are_refused(weights):
    with pytest.raises(ConfigError, match="class weights"):
        CrossEntropy(weights)


def test_the_number_of_weights_must_be_that_of_the_classes():
    with pytest.raises(ConfigError, match="3 class weights were given for 4 classes"):
        CrossEntropy([1.0, 1.0, 1.0])(*scene())


@pytest.mark.parametrize("size", [(24, 32), (21, 30), (42, 60)])
@pytest.mark.parametrize("image", [(24, 32), (21, 30)])
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"mean": "number"}, {"mean": "all"}, {"ohem_threshold": 0.4}]
)
def test_logits_of_a_model_give_what_they_give_at_the_image_s_size(size, image, align, options):
    logits = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    _, labels = scene(size=size)
    out = SegOutput(logits, image, (24, 32), align)
    loss = CrossEntropy([0.5, 2.0, 1.0, 3.0], ohem_min_kept=9, **options)
    found, expected = loss(out, labels), loss(to_image(out, size), labels)
    assert_close(found, expected)
    assert_close(*(torch.autograd.grad(value, logits)[0] for value in (found, expected)))


@pytest.mark.parametrize("image", [(24, 32), (21, 30)])
def test_logits_of_the_image_s_size_are_never_made(image, monkeypatch):
    monkeypatch.setattr(resizing, "resize", None)
    hard = CrossEntropy([1.0, 2.0, 3.0], ohem_threshold=0.7, ohem_min_kept=5, label_smoothing=0.1)
    heads = AuxiliaryLoss(hard, hard, heads=0.4, boundaries=0.0, boundary_head=None)
    loss = Hybrid({"ce": hard, "auxiliary": heads})
    logits = torch.randn(2, 3, 6, 8, requires_grad=True)
    loss(
        SegOutput(logits, image, (24, 32), False, aux={"p": logits}), torch.ones(2, *image).long()
    ).backward()
    assert logits.grad.any()


def test_one_pixel_that_is_no_number_is_seen():
    logits, labels = scene(ignored=0)
    with torch.no_grad():
        logits[0, 1, 2, 3] = torch.nan
    for options in ({}, {"mean": "number"}, {"ohem_threshold": 0.7, "ohem_min_kept": 2}):
        assert CrossEntropy(**options)(logits, labels).isnan()


@pytest.mark.parametrize("focal", [0.5, 2.0])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 3.0]])
@pytest.mark.parametrize("mean", ["labelled", "number", "all"])
def test_the_focal_loss_is_its_equation(focal, weights, mean):
    logits, labels = scene()
    exact, total, share = logits.detach().double().requires_grad_(), 0.0, 0.0
    places = torch.nonzero(labels != 255).tolist()
    for b, y, x in places:
        p = float(exact.detach()[b, :, y, x].softmax(0)[labels[b, y, x]])
        weight = 1.0 if weights is None else weights[int(labels[b, y, x])]
        total += -weight * (1 - p) ** focal * math.log(p)
        share += weight
    loss = CrossEntropy(weights, focal=focal, mean=mean)
    expected = total / {"labelled": share, "number": len(places), "all": labels.numel()}[mean]
    assert loss(exact, labels).item() == pytest.approx(expected, rel=1e-9)
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), exact)


def test_the_focal_loss_has_finite_gradients_where_nothing_is_to_learn():
    logits, labels = scene()
    for values, targets in (
        (logits, torch.full_like(labels, 255)),
        (logits[:, :1], torch.zeros_like(labels)),
    ):
        x = values.detach().requires_grad_()
        loss = CrossEntropy(focal=0.5)(x, targets)
        loss.backward()
        assert loss == 0
        assert not x.grad.any()
    with pytest.raises(ConfigError, match="give one"):
        CrossEntropy(focal=2.0, label_smoothing=0.1)


def is_near(labels, b, y, x, reach=2):
    """Whether another class than that of one pixel stands in the square around it."""
    square = labels[b, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
    return len(set(square.flatten().tolist()) - {255}) > 1


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 3.0]])
@pytest.mark.parametrize("mean", ["labelled", "number", "all"])
@pytest.mark.parametrize(
    "others", [{}, {"focal": 2.0}, {"label_smoothing": 0.2}, {"ohem_threshold": 0.3}]
)
def test_pixels_near_another_class_weigh_more(weights, mean, others):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 12, 13, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.zeros(2, 12, 13, dtype=torch.long)
    labels[:, :, 9:], labels[1, 8:, :4], labels[0, :4, :5] = 3, 1, 255
    total = share = number = 0.0
    for b, y, x in torch.nonzero(labels != 255).tolist():
        log_p, true = logits.detach()[b, :, y, x].log_softmax(0), int(labels[b, y, x])
        own, factor = weights or [1.0] * 4, 1 + 1.5 * is_near(labels, b, y, x)
        p, smooth = math.exp(log_p[true]), others.get("label_smoothing", 0.0)
        if p >= others.get("ohem_threshold", 1.0):
            continue
        loss = -(1 - smooth) * own[true] * float(log_p[true])
        loss -= smooth / 4 * sum(w * float(v) for w, v in zip(own, log_p, strict=True))
        total += factor * loss * (1 - p) ** others.get("focal", 0.0)
        share, number = share + factor * own[true], number + factor
    ours = CrossEntropy(weights, mean=mean, boundary_weight=1.5, ohem_min_kept=1, **others)
    expected = total / {"labelled": share, "number": number, "all": labels.numel()}[mean]
    assert 0 < number < (labels != 255).sum() * 2.5
    assert ours(logits, labels).item() == pytest.approx(expected, rel=1e-9)


def test_a_boundary_with_what_is_ignored_is_none_and_without_labels_there_is_no_loss():
    logits, _ = scene()
    labels = torch.zeros(2, 5, 6, dtype=torch.long)
    labels[:, :, 3:] = 255
    assert_close(CrossEntropy(boundary_weight=9.0)(logits, labels), CrossEntropy()(logits, labels))
    loss = CrossEntropy(boundary_weight=9.0)(logits, torch.full_like(labels, 255))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()
