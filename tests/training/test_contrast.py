"""Pixel contrast in a run: its embedding head learns, resumes, and is not exported."""

import pytest
import torch
from support.models.small_training import Silent, trained

from featherseg.costs.cost import cost_of
from featherseg.runs.run import open_run

pytestmark = pytest.mark.usefixtures("tiny")

CONTRAST = ("loss.contrast=1.0", "loss.contrast_views=4", "loss.contrast_dim=8")
HEAD = "loss.contrast.embed.weight"


class HeadAt(Silent):
    """Keeps the embedding head as it is after every step."""

    def __init__(self, out):
        super().__init__()
        self.out, self.heads = out, []

    def step(self, step, steps, record):
        super().step(step, steps, record)
        if (self.out / "last.ckpt").is_file():
            self.heads.append(
                torch.load(self.out / "last.ckpt", weights_only=True)["state_dict"][HEAD]
            )


@pytest.mark.seconds
def test_the_embedding_head_learns_and_is_passed_on_nowhere(tmp_path):
    out = tmp_path / "run"
    reporter = HeadAt(out)
    run = trained(out, *CONTRAST, "train.checkpoint_seconds=1e-9", reporter=reporter)
    assert reporter.heads[0].shape == (8, 16, 1, 1)
    assert not torch.equal(reporter.heads[0], reporter.heads[-1])
    assert not [key for key in run.model.state_dict() if "embed" in key]
    plain = open_run(out).untrained_model()
    assert set(run.model.state_dict()) == set(plain.state_dict())
    assert cost_of(run.model, "run", (64, 96)).params == sum(p.numel() for p in plain.parameters())


def test_the_contrast_changes_what_is_learnt(small_run, tmp_path):
    weights = trained(tmp_path / "run", *CONTRAST).model.state_dict()["classifier.weight"]
    assert not torch.equal(weights, small_run.model.state_dict()["classifier.weight"])


def test_a_warm_up_counts_optimiser_steps_and_leaves_them_as_they_are(tmp_path):
    settings = ("train.epochs=4", "train.batch_size=2", "train.accumulate=2")  # 8 steps of 2
    plain = trained(tmp_path / "plain", *settings).metrics()
    warmed = trained(
        tmp_path / "run", *settings, *CONTRAST, "loss.contrast_warmup_steps=3"
    ).metrics()
    added = [warmed[step]["loss"] - plain[step]["loss"] for step in range(1, 9)]
    assert added[:3] == [0, 0, 0]
    assert min(added[3:]) > 0.1


@pytest.mark.slow
def test_a_switch_of_the_model_is_kept_by_the_run(tmp_path):
    run = trained(
        tmp_path / "run",
        "model.name=frm-lite0-half-light-w32",
        "model.context=none",
        "model.stages=last",
        "train.epochs=1",
    )
    again = open_run(tmp_path / "run")
    assert again.recipe.model.options == {"context": "none", "stages": "last"}
    assert again.model.context[0].in_channels == run.model.context[0].in_channels == 320
