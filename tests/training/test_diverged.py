"""A training whose numbers are no longer finite stops at once, and what it kept before stays."""

import pytest
import torch
from support.models.small_training import Silent, request, trained

from featherseg.core.errors import ConfigError, TrainingError
from featherseg.training import train
from featherseg.training.module import SegmentationModule

pytestmark = pytest.mark.usefixtures("tiny")


def test_a_loss_that_is_not_finite_stops_at_its_step_and_keeps_the_checkpoint(tmp_path):
    reporter = Silent()
    with pytest.raises(TrainingError) as told:
        trained(
            tmp_path / "run",
            "train.lr=1e30",
            "train.epochs=6",
            "train.checkpoint_seconds=1e-9",
            reporter=reporter,
        )
    assert "the loss is nan at step 2, with a learning rate of 9.25e+29" in str(told.value)
    assert "--set train.lr=1e+29" in str(told.value)
    assert reporter.steps == [1]
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 1
    assert all(v.isfinite().all() for v in checkpoint["state_dict"].values())
    with pytest.raises(
        TrainingError, match="at step 2"
    ):  # the checkpoint is taken up, and comes to the same step
        train(request("train.lr=1e30", "train.epochs=6"), tmp_path / "run", Silent(), resume=True)


def test_a_learning_rate_beyond_fp32_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.lr"):
        trained(tmp_path / "run", "train.lr=1e39")


@pytest.mark.parametrize("where", ["weights", "average", "optimizer"])
def test_what_is_not_finite_under_a_finite_loss_is_never_kept(tmp_path, monkeypatch, where):
    original = SegmentationModule.optimizer_step

    def spoil(self, *args, **kwargs):
        original(self, *args, **kwargs)
        tensors = {
            "weights": next(self.model.parameters()),
            "average": next(iter(self.average.values())),
            "optimizer": next(iter(self.trainer.optimizers[0].state.values()))[
                "momentum"
            ],  # Muon's
        }
        with torch.no_grad():
            tensors[where].fill_(float("inf"))

    monkeypatch.setattr(SegmentationModule, "optimizer_step", spoil)
    named = {
        "weights": r"^backbone\.",
        "average": "^EMA of ",
        "optimizer": r"^optimizer\.0\.momentum",
    }[where]
    with pytest.raises(
        TrainingError,
        match=rf"{named}.* has values that are not finite at step 1, .* rate of 0\.004",
    ):
        trained(
            tmp_path / "run",
            "train.ema=0.9",
            "train.precision=bf16",
            "train.checkpoint_seconds=1e-9",
        )
    assert not (tmp_path / "run" / "last.ckpt").exists()
    assert not (tmp_path / "run" / "weights.safetensors").exists()
