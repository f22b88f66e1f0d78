from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from featherseg.core.types import SegOutput
from featherseg.losses import PixelContrast
from featherseg.losses.pixel_contrast import (
    contrast,
    lowest_of_each_group,
    mistakes,
    pick,
    sample_pixels,
)


def output(features, logits):
    """Both at the same places, one a pixel of the image."""
    size = tuple(logits.shape[2:])
    return SegOutput(logits, size, size, False, features)


def equation_6(embedded, classes, temperature):
    """Anchor by anchor, positive by positive, as the paper writes it."""
    losses = []
    for i, own in enumerate(classes):
        positives = [j for j, other in enumerate(classes) if other == own and j != i]
        negatives = [j for j, other in enumerate(classes) if other != own]
        if not positives:
            continue
        similar = [(embedded[i] @ e / temperature).exp() for e in embedded]
        against = sum((similar[n] for n in negatives), torch.zeros((), dtype=embedded.dtype))
        losses.append(
            sum(-(similar[j] / (similar[j] + against)).log() for j in positives) / len(positives)
        )
    return sum(losses) / len(losses)


def embedding(count, dim=5):
    torch.manual_seed(count)
    return F.normalize(torch.randn(count, dim, dtype=torch.float64), dim=1).requires_grad_()


@pytest.mark.parametrize("classes", [(0, 0, 1, 1, 2, 0, 1), (3, 3, 3, 4), (0, 1, 1)])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_it_is_equation_6_in_value_and_gradient(classes, temperature):
    e, expected = embedding(len(classes)), embedding(len(classes))
    ours, theirs = (
        contrast(e, torch.tensor(classes), temperature),
        equation_6(expected, classes, temperature),
    )
    assert_close(ours, theirs, atol=1e-9, rtol=0)
    assert_close(
        *(torch.autograd.grad(*pair)[0] for pair in ((ours, e), (theirs, expected))),
        atol=1e-9,
        rtol=0,
    )


@pytest.mark.parametrize(("base", "factor"), [(None, 1.0), (0.07, 0.1 / 0.07)])
def test_sampling_before_the_embedding_is_embedding_everything_first(base, factor):
    torch.manual_seed(0)
    loss = PixelContrast(6, 3, dim=4, max_samples=60, max_views=5, base_temperature=base).double()
    features = torch.randn(2, 6, 8, 8, dtype=torch.float64, requires_grad=True)
    logits, labels = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    torch.manual_seed(1)
    value = loss(output(features, logits), labels)
    torch.manual_seed(1)
    index = sample_pixels(labels, logits.argmax(1) != labels, 3, 60, 5)
    whole = F.normalize(loss.embed(features), dim=1).permute(0, 2, 3, 1).flatten(0, 2)  # (B h w, D)
    expected = factor * equation_6(whole[index], labels.flatten()[index].tolist(), 0.1)
    assert_close(value, expected, atol=1e-9, rtol=0)
    assert_close(
        *(torch.autograd.grad(v, features)[0] for v in (value, expected)), atol=1e-9, rtol=0
    )


def official_share(right, wrong, views):
    """ContrastiveSeg's rule, case by case: (right, wrong) pixels of a draw."""
    if wrong >= views / 2 and right >= views / 2:
        return views - views // 2, views // 2
    return (right, views - right) if wrong >= views / 2 else (views - wrong, wrong)


@pytest.mark.seconds
@settings(max_examples=60)
@given(st.data())
def test_every_class_of_every_image_gives_the_same_number_half_of_them_mistakes(data):
    classes, max_views = data.draw(st.sampled_from([1, 3, 171])), data.draw(st.integers(1, 12))
    max_samples = data.draw(st.integers(1, 200))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    labels = torch.randint(-1, classes, (2, 9, 8))
    wrong = torch.rand(2, 9, 8) < data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    index = sample_pixels(labels, wrong, classes, max_samples, max_views).tolist()
    assert len(set(index)) == len(index)
    drawn = Counter((i // 72, int(labels.flatten()[i]), bool(wrong.flatten()[i])) for i in index)
    there = Counter(
        (i // 72, int(labels.flatten()[i]), bool(wrong.flatten()[i])) for i in range(144)
    )
    pairs = {
        (p, c) for p, c, _ in there if c >= 0 and there[p, c, False] + there[p, c, True] > max_views
    }
    assert {(p, c) for p, c, _ in drawn} == pairs
    for p, c in pairs:
        views = max(1, min(max_samples // len(pairs), max_views))
        expected = official_share(there[p, c, False], there[p, c, True], views)
        assert (drawn[p, c, False], drawn[p, c, True]) == expected


def test_every_pixel_of_a_class_may_be_drawn():
    torch.manual_seed(0)
    labels, wrong = torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(1, 4, 4, dtype=torch.bool)
    drawn = Counter(i for _ in range(400) for i in sample_pixels(labels, wrong, 1, 100, 4).tolist())
    assert len(drawn) == 16
    assert all(60 < count < 140 for count in drawn.values())  # 100 each on average


NOTHING = {
    "all ignored": (torch.full((2, 16, 16), 255), 3),
    "one class": (torch.zeros(2, 16, 16, dtype=torch.long), 3),
    "one pixel a class": (torch.arange(256).view(1, 16, 16).repeat(2, 1, 1), 255),
}


@pytest.mark.parametrize("case", NOTHING)
def test_where_nothing_can_be_contrasted_it_is_zero_with_zero_gradients(case):
    labels, classes = NOTHING[case]
    loss, features = (
        PixelContrast(4, classes, max_views=2),
        torch.randn(2, 4, 16, 16, requires_grad=True),
    )
    value = loss(output(features, torch.randn(2, classes, 16, 16)), labels)
    value.backward()
    assert value == 0
    gradients = [features.grad, loss.embed.weight.grad]
    assert all(g is None or (torch.isfinite(g).all() and not g.any()) for g in gradients)


@settings(max_examples=25)
@given(
    classes=st.sampled_from([2, 19, 171]),
    scale=st.sampled_from([1e-4, 1.0, 6e4]),
    temperature=st.sampled_from([0.01, 0.1, 1.0]),
    group=st.sampled_from([None, 1, 2]),
    seed=st.integers(0, 99),
)
def test_it_is_finite_over_the_range_of_half_precision(classes, scale, temperature, group, seed):
    torch.manual_seed(seed)
    features = (torch.rand(3, 4, 12, 12) * 2 - 1).mul(scale).half().requires_grad_()
    labels = torch.randint(0, classes, (3, 48, 48))
    labels[torch.rand(3, 48, 48) < 0.2] = 255
    loss = PixelContrast(4, classes, dim=8, temperature=temperature, max_views=3, groups_of=group)
    with torch.autocast("cpu", dtype=torch.float16):
        value = loss(output(features, torch.randn(3, classes, 12, 12).half()), labels)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert value >= 0
    assert torch.isfinite(loss.embed.weight.grad).all()
    if features.grad is None:  # nothing to contrast: no class has more than 3 pixels in an image
        assert classes == 171
        assert value == 0
    else:
        assert torch.isfinite(features.grad).all()


def test_more_classes_than_samples_still_give_one_view_each():
    labels = (
        torch.arange(171).view(1, 171, 1).repeat(8, 1, 4)
    )  # 8 x 171 pairs of (image, class) > 1024
    assert len(sample_pixels(labels, labels < 0, 171, 1024, 2)) == 8 * 171


def test_groups_are_contrasted_among_themselves():
    torch.manual_seed(0)
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    labels[1] = 1  # one class an image: alone, neither has negatives
    features, logits = torch.randn(2, 4, 8, 8), torch.randn(2, 2, 8, 8)
    together, alone = (
        PixelContrast(4, 2, max_views=9),
        PixelContrast(4, 2, max_views=9, groups_of=1),
    )
    assert together(output(features, logits), labels) > 0
    assert alone(output(features, logits), labels) == 0


def test_labels_are_read_at_the_size_of_the_logits():
    torch.manual_seed(0)
    loss, features, logits = (
        PixelContrast(4, 2, max_views=3),
        torch.randn(1, 4, 5, 6),
        torch.randn(1, 2, 5, 6),
    )
    labels = torch.randint(0, 2, (1, 5, 6))
    values = []
    for given_labels in (labels, labels.repeat_interleave(4, 1).repeat_interleave(4, 2)):
        torch.manual_seed(1)
        values.append(loss(output(features, logits), given_labels))
    assert_close(values[0], values[1])


def test_a_mistake_is_where_another_class_scores_higher():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 7, 6), torch.randint(0, 5, (2, 7, 6))
    assert mistakes(logits, labels).equal(logits.argmax(1) != labels)
    assert not mistakes(torch.zeros(2, 5, 7, 6), labels).any()  # a tie is none
    unknown = torch.full_like(labels, -1)
    assert mistakes(logits, unknown).shape == labels.shape


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pixels_are_picked_from_either_layout_and_the_gradient_comes_in_it(layout):
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4, 5).contiguous(memory_format=layout).requires_grad_()
    index = torch.tensor([0, 39, 7, 20, 7])
    picked = pick(features, index)
    expected = torch.stack([features[i // 20, :, i // 5 % 4, i % 5] for i in index.tolist()])
    assert picked.equal(expected)
    weight = torch.randn(5, 3)
    (gradient,) = torch.autograd.grad((picked * weight).sum(), features)
    assert_close(gradient, torch.autograd.grad((expected * weight).sum(), features)[0])
    assert gradient.is_contiguous(memory_format=layout)


@pytest.mark.seconds
@settings(max_examples=60)
@given(seed=st.integers(0, 999), power=st.sampled_from([0.001, 1.0, 5.0]))
def test_the_lowest_of_each_group_are_found_whatever_the_values(seed, power):
    torch.manual_seed(
        seed
    )  # power 0.001: all values near 1, more than the sorting without most of them counts on
    values, group = torch.rand(600, dtype=torch.float64) ** power, torch.randint(0, 4, (600,))
    keep = torch.minimum(torch.bincount(group, minlength=5), torch.randint(0, 90, (5,)))
    expected = []
    for g, count in enumerate(keep.tolist()):
        own = sorted((i for i in range(600) if group[i] == g), key=values.tolist().__getitem__)
        expected += own[:count]
    assert lowest_of_each_group(values, group, keep).tolist() == expected


def test_groups_draw_as_if_each_were_alone():
    torch.manual_seed(0)
    loss = PixelContrast(4, 3, dim=4, max_views=5, groups_of=2)
    features, logits, labels = (
        torch.randn(5, 4, 9, 9),
        torch.randn(5, 3, 9, 9),
        torch.randint(0, 3, (5, 9, 9)),
    )
    torch.manual_seed(1)
    together = loss(output(features, logits), labels)
    torch.manual_seed(1)
    alone = [
        loss(output(*maps), labels)
        for *maps, labels in zip(features.split(2), logits.split(2), labels.split(2), strict=True)
    ]
    assert_close(together, torch.stack(alone).mean())
