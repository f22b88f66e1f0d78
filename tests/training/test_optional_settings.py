"""Settings that recipes leave off: a stopped and resumed run ends as one never stopped."""

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from support.models.small_training import Killed, KilledAt, equal_state, request, trained

from featherseg.core.errors import ConfigError
from featherseg.training import run as steps
from featherseg.training import train

pytestmark = pytest.mark.usefixtures("tiny")

OPTIONS = (
    *(
        "train.schedule=cosine",
        "train.floor=0.1",
        "train.clip_norm=0.1",
        "train.ema_share=0.5",
        "train.layer_decay=0.7",
    ),
    *("train.accumulate=2", "train.batch_size=2", "data.workers=1"),
    *(
        "loss.dice=0.5",
        "loss.lovasz=0.5",
        "loss.focal=2.0",
        "loss.boundary_weight=2.0",
        "loss.class_weights=auto",
    ),
    *(
        "augment.rotate=20",
        "augment.cutmix=0.7",
        "augment.copy_paste=0.7",
        "augment.progressive=true",
    ),
)
ALWAYS = ("train.precision=bf16", "train.checkpoint_seconds=1e-9")


@pytest.mark.seconds
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_run_ends_as_the_uninterrupted_one(optimizer, tmp_path):
    settings, found = (*ALWAYS, *OPTIONS, f"train.optimizer={optimizer}"), []
    whole = trained(tmp_path / "whole", *settings)
    with pytest.raises(Killed):
        train(request(*settings), tmp_path / "stopped", KilledAt(3))
    for run in (whole, trained(tmp_path / "stopped", *settings, resume=True)):
        kept = torch.load(run.path / "last.ckpt", weights_only=True)
        parts = {
            key: kept[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "average")
        }
        found.append({"weights": dict(run.model.state_dict()), "metrics": run.metrics(), **parts})
    assert equal_state(*found)


@pytest.mark.seconds
@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_s_whole_gradient_is_clipped_whatever_parts_and_scale_it_came_in(
    scaled, tmp_path, monkeypatch
):
    """One step of plain SGD moves the weights by the rate times the gradient."""
    if scaled:  # as fp16 does on a GPU: the loss, and so the gradient of each part, is times 65,536
        monkeypatch.setitem(steps.PRECISIONS, "fp32", None)
        fp16 = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
        monkeypatch.setattr(steps, "_slurm", lambda: [fp16])
    settings = [
        "train.epochs=1",
        "data.train_size=4",
        "train.keep=last",
        "train.ema=0",
        "train.momentum=0",
    ]
    settings += [
        "train.optimizer=sgd",
        "train.lr=0.5",
        "train.backbone_lr=0.5",
        "train.weight_decay=0",
    ]
    settings += ["train.batch_size=2", "train.accumulate=2"]
    weights = {}
    for norm in (0.0, 1e9, 0.25, 0.125):
        run = trained(tmp_path / str(norm), *settings, f"train.clip_norm={norm}")
        weights[norm] = torch.cat([p.detach().flatten() for p in run.model.parameters()]).double()
    assert torch.equal(weights[0.0], weights[1e9])
    apart = weights[0.25] - weights[0.125]
    assert apart.norm().item() == pytest.approx(0.5 * 0.125, rel=1e-3)
    whole = weights[0.0] - (weights[0.125] - apart)  # from where all began
    assert whole.norm() > 0.5 * 0.25
    assert torch.cosine_similarity(whole, apart, dim=0) > 0.999


def test_a_layer_decay_without_stages_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="ThreeBranches is no row of stages"):
        trained(tmp_path / "run", "model.name=pidnet-s", "train.layer_decay=0.7")
    assert not (tmp_path / "run").exists()
