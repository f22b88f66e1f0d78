"""Activation checkpointing changes neither results nor names, and lowers the memory."""

import copy

import pytest
import torch
from support.models.own_objects import TwoStrides
from support.models.quick_exports import ONE_OF_EACH
from support.models.small_training import equal_state

from featherseg import models
from featherseg.core.errors import ConfigError
from featherseg.inference.memory import LiveBytes
from featherseg.layers.own_model import OwnModel
from featherseg.losses import CrossEntropy
from featherseg.training.checkpointing import checkpoint_blocks
from featherseg.training.module import compute_loss

pytestmark = pytest.mark.usefixtures("tiny")


# batch norm in our kernels; two branches, torch's batch norm and stochastic depth; attention
@pytest.mark.seconds
@pytest.mark.parametrize("name", ["frm-lite0", "rtformer-slim", "segformer-b0"])
def test_gradients_and_running_statistics_stay_to_the_bit_in_less_memory(name):
    torch.manual_seed(0)
    plain = models.build(name, 3).train().to(memory_format=torch.channels_last)
    again, peaks = copy.deepcopy(plain), []
    checkpoint_blocks(again)
    batch = (
        torch.randint(0, 256, (2, 3, 96, 128), dtype=torch.uint8),
        torch.zeros(2, 96, 128, dtype=torch.uint8),
    )
    for model in (plain, again):
        torch.manual_seed(1)
        with LiveBytes() as live:
            with torch.autocast("cpu", torch.bfloat16):
                loss, _ = compute_loss(model, CrossEntropy(), batch)
            loss.backward()
        peaks.append(live.peak)
    assert equal_state(dict(plain.state_dict()), dict(again.state_dict()))
    gradients = ([p.grad for p in model.parameters()] for model in (plain, again))
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert peaks[1] < peaks[0]


@pytest.mark.seconds
@pytest.mark.parametrize(
    "names",
    [ONE_OF_EACH, pytest.param(tuple(models.MODELS), marks=pytest.mark.slow)],
    ids=["quick", "all"],
)
def test_every_backbone_of_the_catalogue_has_blocks(names):
    for name in {models.entry(name).backbone: name for name in names}.values():
        with torch.device("meta"):
            model = models.build(name, 3)
        keys = list(model.state_dict())
        checkpoint_blocks(model)
        assert list(model.state_dict()) == keys


def test_a_model_of_one_s_own_names_its_blocks_or_is_refused():
    module = TwoStrides()
    with pytest.raises(ConfigError, match="`checkpointed`"):
        checkpoint_blocks(OwnModel(module))
    module.backbone, keys = module.layers, list(module.state_dict())
    module.layers.checkpointed = (torch.nn.Conv2d,)
    checkpoint_blocks(OwnModel(module))
    assert [type(layer).__name__ for layer in module.layers[:2]] == ["CheckpointWrapper", "ReLU"]
    assert [key for key in module.state_dict() if key in keys] == keys
