"""The EMA is on the model's device: Lightning moves the model only after loading a checkpoint."""

import pytest
import torch

from featherseg.losses import CrossEntropy, Hybrid
from featherseg.models import build
from featherseg.recipe.tables import TrainTable
from featherseg.training.module import SegmentationModule


def never(*place):
    raise AssertionError("no batch is asked for here")


def module(ema: float, steps: int = 1, **settings: float) -> SegmentationModule:
    model, table = build("frm-lite0", classes=3), TrainTable(epochs=1, ema=ema, **settings)
    return SegmentationModule(
        model, Hybrid({"ce": CrossEntropy()}), table, steps=steps, make_loader=never
    )


@pytest.mark.parametrize("resumed", [False, True])
def test_the_average_is_where_the_model_was_moved_to(resumed):
    ours = module(ema=0.9)
    if resumed:  # read into the memory of the CPU, as every checkpoint is
        average = module(ema=0.9).model.state_dict()
        ours.on_load_checkpoint({"state_dict": {}, "micro_batch": 7, "average": average})
    ours.to("meta")
    ours.on_fit_start()
    assert ours.average.keys() == ours.model.state_dict().keys()
    assert {value.device.type for value in ours.average.values()} == {"meta"}


def test_the_average_starts_as_a_copy_of_the_weights():
    ours = module(ema=0.9)
    ours.on_fit_start()
    key, value = next(iter(ours.model.state_dict().items()))
    assert torch.equal(ours.average[key], value)
    value.add_(1)
    assert not torch.equal(ours.average[key], value)


def test_without_an_average_the_weights_themselves_are_kept():
    ours = module(ema=0.0)
    ours.on_fit_start()
    assert not ours.average
    assert ours.kept_state().keys() == ours.model.state_dict().keys()


@pytest.mark.parametrize(
    ("settings", "decay"),
    [
        ({"ema": 0.9}, 0.9),
        (
            {"ema": 0.9, "steps": 5000, "ema_share": 0.001},
            0.8,
        ),  # 1 - 1 / 5; the share counts where both are given
        ({"ema": 0.0, "steps": 5000, "ema_share": 1.0}, 1001 / 1010),  # warmed up still
        (
            {"ema": 0.0, "steps": 5, "ema_share": 0.1},
            0.0,
        ),  # less than one step: the weights themselves
    ],
)
def test_the_average_keeps_its_share_of_itself_and_takes_the_rest_of_the_weights(settings, decay):
    class Trainer:
        global_step = 1000

    ours, trainer = module(**settings), Trainer()
    ours.trainer = trainer
    ours.on_fit_start()
    weight = ours.model.classifier.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1)
    ours.optimizer_step(0, 0, torch.optim.SGD([weight], lr=0.0), lambda: None)
    torch.testing.assert_close(ours.average["classifier.weight"], before + (1 - decay))
