"""What every network of the catalogue keeps to."""

import copy

import pytest
import torch
from support.models.quick_exports import EVERY_MODEL
from support.models.shallow import once_each, shallow
from torch.testing import assert_close

from featherseg import models
from featherseg.core.errors import ConfigError, UnknownName
from featherseg.layers.resize import to_image
from featherseg.models.ifa import IFA
from featherseg.recipe.reading import parse_recipe, read_recipe

SHIFTS = ("attention.key.bias", "attention.unary.bias", "read.0.frequencies")
"""FRM's attention: they shift all scores of a softmax alike, which changes nothing. IFA: of offsets
that are all 0, because the finest stage lies on the grid itself."""


@pytest.fixture(scope="module", params=EVERY_MODEL)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    torch.manual_seed(0)
    return shallow(name, classes=5).eval()


@pytest.fixture(scope="module")
def stride(model):
    with torch.no_grad():
        return round(128 / model(torch.zeros(1, 3, 128, 128)).logits.shape[2])


def sides_at(stride, size, model):
    """The sides that logits at 1 / stride may have: rounded up, or by IFA's stem one more."""
    more = {0, 1} if isinstance(model, IFA) else {0}
    rounded = [-(-side // stride) for side in size]
    return {(rounded[0] + i, rounded[1] + j) for i in more for j in more}


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (65, 99), (1, 1), (7, 201)])
def test_any_size_goes_in_and_comes_back(model, stride, size):
    with torch.no_grad():
        out = model(torch.randn(2, 3, *size))
    assert out.logits.shape[:2] == (2, 5)
    assert tuple(out.logits.shape[2:]) in sides_at(stride, out.padded_size, model)
    assert out.image_size == size
    assert (out.padded_size == size) or model.size_divisor > 1 or min(size) < model.minimum_size
    assert to_image(out, size).shape == (2, 5, *size)


def test_an_image_is_judged_alone(model):
    exact = copy.deepcopy(
        model
    ).double()  # untrained gates may be steep: in fp32 they show its rounding
    images = torch.randn(3, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        together, alone = exact(images).logits, exact(images[1:2]).logits
    assert_close(together[1:2], alone, atol=1e-9 * float(alone.max() - alone.min()), rtol=0)


@pytest.mark.slow
def test_every_parameter_learns(model):
    training = copy.deepcopy(model).train()
    for parameter in training.parameters():
        if not parameter.any():  # a gate at zero would hold gradients back
            torch.nn.init.normal_(parameter, std=0.1)
    size = (
        (192, 320) if model.minimum_size > 64 else (96, 160)
    )  # at which attention has more than one place
    out = training(
        torch.randn(5, 3, *size), aux=True
    )  # so many that stochastic depth leaves no layer out of all
    beside = [*(out.aux or {}).values(), *(x for x in (out.centers, out.offsets) if x is not None)]
    maps = [to_image(out, size), *beside]
    sum(x.square().mean() for x in maps).backward()
    still = {
        name
        for name, p in training.named_parameters()
        if p.grad is None or not p.grad.abs().sum() > 0
    }
    assert {name for name in still if not name.endswith(SHIFTS)} == set()


@pytest.mark.parametrize("largest", [False, True])
def test_one_step_on_one_image_moves_the_weights_and_leaves_all_finite(model, largest):
    torch.manual_seed(0)
    # one position is left of these at the coarsest stride: a batch norm has no variance there
    size = (model.lone_side or 32, model.lone_side or 32) if largest else (7, 9)
    training, images = copy.deepcopy(model).train(), torch.randn(1, 3, *size)
    before = [parameter.clone() for parameter in training.parameters()]
    optimiser = torch.optim.AdamW(training.parameters(), lr=1e-4)
    out = training(images, aux=True)
    beside = [*(out.aux or {}).values(), *(x for x in (out.centers, out.offsets) if x is not None)]
    loss = sum(x.square().mean() for x in (to_image(out, size), *beside))
    loss.backward()
    optimiser.step()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in training.parameters())
    assert any(
        not torch.equal(p, old) for p, old in zip(training.parameters(), before, strict=True)
    )
    with torch.no_grad():
        assert training.eval()(images).logits.isfinite().all()


def test_a_copy_with_the_same_weights_gives_the_same_logits(name, model):
    images = torch.randn(1, 3, 64, 64)
    fresh = shallow(name, classes=5).eval()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh(images).logits, model(images).logits)


@pytest.mark.seconds
@pytest.mark.parametrize("channels", [pytest.param(1, marks=pytest.mark.slow), 6])
def test_other_channels_are_taken(name, channels):
    with torch.device("meta"):
        model = once_each(models.build(name, classes=2, channels=channels)).eval()
        assert model(torch.zeros(1, channels, 64, 64)).logits.shape[1] == 2
    assert len(model.mean) == len(model.std) == channels


@torch.no_grad()
def test_features_and_auxiliary_logits_come_with_training_and_when_asked_for(model):
    images = torch.randn(2, 3, 64, 96)
    for each in (copy.deepcopy(model).train(), model):
        out = each(images)
        assert out.aux is None
        if model.feature_channels is None or not each.training:
            assert out.features is None
        else:
            assert out.features.shape[:2] == (2, model.feature_channels)
    aux = model(images, aux=True).aux or {}
    assert set(aux) == set(model.aux_heads)
    for head, logits in aux.items():
        maps = range(1, 4) if head == model.boundary_head else [5]
        assert len(logits) == 2
        assert logits.shape[1] in maps


@torch.no_grad()
def test_the_bias_of_its_classes_is_added_to_the_logits_last(model):
    images, shift = torch.randn(1, 3, 64, 96), torch.tensor([0.5, -1.0, 0.0, 2.0, 3.0])
    moved, bias = copy.deepcopy(model), model.state_dict()[model.class_bias]
    by_class = shift.repeat_interleave(len(bias) // 5)  # a shuffled head has several a class
    moved.load_state_dict(model.state_dict() | {model.class_bias: bias + by_class})
    expected = model(images).logits + shift.view(-1, 1, 1)
    assert_close(moved(images).logits, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


def test_it_has_a_recipe_of_its_name(name):
    assert parse_recipe(read_recipe(name)).model.name == name


def test_a_typo_is_answered_with_the_name_that_was_meant():
    with pytest.raises(UnknownName, match="Did you mean 'frm-lite0'"):
        models.build("frm-lite-0", classes=2)


@pytest.mark.parametrize(("classes", "channels"), [(0, 3), (256, 3), (2, 0)])
def test_impossible_numbers_are_refused(classes, channels):
    with pytest.raises(ConfigError, match="expected"):
        models.build("frm-lite0", classes=classes, channels=channels)
