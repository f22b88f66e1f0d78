"""What every backbone of the catalogue satisfies, without weights, so that large ones are cheap."""

import pytest
import torch

from featherseg import backbones
from featherseg.backbones.weights import load_official
from featherseg.core.errors import WeightsError

FAMILIES: dict[object, list[str]] = {}
for name, make in backbones.BACKBONES.items():
    FAMILIES.setdefault(getattr(make, "func", make), []).append(name)


def empty(name):
    with torch.device("meta"):
        return backbones.build(name).eval()


every = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (number > 0))
        for names in FAMILIES.values()
        for number, name in enumerate(names)
    ],
)


@every
def test_other_channels_are_taken(name):
    backbone = empty(name)
    backbone.widen(6)
    with torch.no_grad():
        stages = backbone(torch.zeros(1, 6, 64, 96, device="meta"))
    sizes = [(64 // stride, 96 // stride) for stride in (4, 8, 16, 32)]
    shapes = [(c, *s) for c, s in zip(backbone.stage_channels, sizes, strict=True)]
    assert [tuple(x.shape[1:]) for x in stages] == shapes


@every
def test_a_key_of_another_network_is_refused(name):
    backbone = empty(name)
    with pytest.raises(WeightsError, match=r"unexpected: layer9\.0\.strange\.weight"):
        load_official(
            backbone, {**backbone.state_dict(), "layer9.0.strange.weight": torch.zeros(1)}
        )


@pytest.mark.parametrize(
    "names", [names for names in FAMILIES.values() if len(names) > 1], ids=lambda names: names[0]
)
def test_the_weights_of_another_size_are_refused(names):
    with pytest.raises(WeightsError, match=r"these weights do not fit"):
        load_official(empty(names[0]), empty(names[-1]).state_dict())
