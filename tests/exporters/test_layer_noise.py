"""Which layer suffers most from int8: worked out by hand, and found where it was put."""

from types import SimpleNamespace

import pytest
import torch
from support.models.three_layers import three_layers
from torch import nn

from featherseg.exporters.layer_noise import layer_noise


class One(nn.Module):
    """A model that is one layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, images):
        return SimpleNamespace(logits=self.layer(images))


def test_a_layer_whose_numbers_fall_on_the_steps_has_no_noise():
    layer = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(layer.weight, 127.0)
    image = torch.arange(256.0).reshape(1, 1, 16, 16)
    assert layer_noise(One(layer), [image]) == {"layer": float("inf")}


def test_the_ratio_of_powers_is_that_of_the_definition():
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight[:] = torch.tensor([[127.0, 100.4]])
    x = torch.tensor([[255.0, 0.4], [0.0, 100.0]])  # steps of 1 from 0: 0.4 becomes 0
    exact = torch.tensor([255 * 127 + 0.4 * 100.4, 100 * 100.4])
    rounded = torch.tensor([255 * 127.0, 100 * 100.0])
    expected = exact.square().sum() / (exact - rounded).square().sum()
    assert layer_noise(One(layer), [x])["layer"] == pytest.approx(expected.item(), rel=1e-3)


def test_what_counts_is_what_reaches_the_logits():
    model = three_layers()
    with torch.no_grad():
        model.head.weight *= 1e-6  # what goes wrong before it is not seen
        model.head.bias[:] = torch.tensor([1.0, 2.0, 3.0])
    image = torch.randn(1, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    assert min(layer_noise(model, [image]).values()) > 1e12


def test_the_layer_with_one_wild_channel_before_it_is_named_first():
    model = three_layers()
    with torch.no_grad():
        model.stem.bias[0] = 1e3  # all other channels share the steps of this one
        model.body[1].weight[:, 0] = 0
    images = [
        torch.randn(1, 3, 40, 56, generator=torch.Generator().manual_seed(i)) for i in range(2)
    ]
    noise = layer_noise(model, images)
    assert next(iter(noise)) == "body.1"
    assert set(noise) == {"stem", "body.1", "head"}
    assert list(noise.values()) == sorted(noise.values())


def test_the_model_is_left_without_hooks():
    model = three_layers()
    layer_noise(model, [torch.randn(1, 3, 40, 56)])
    assert not any(module._forward_hooks for module in model.modules())
