"""Settings that recipes leave off: a run that is stopped and resumed with them ends as if it had never been stopped."""

import pytest
import torch
from small_training import Killed, KilledAt, equal_state, request, trained

from featherseg.training import train

OPTIONS = {
    "schedule": ("train.schedule=cosine", "train.floor=0.1"),
}
ALWAYS = ("train.ema=0.9", "train.precision=bf16", "train.checkpoint_seconds=1e-9")


@pytest.mark.parametrize("name", OPTIONS)
def test_a_stopped_run_ends_as_the_uninterrupted_one(name, tmp_path):
    settings, found = (*ALWAYS, *OPTIONS[name]), []
    whole = trained(tmp_path / "whole", *settings)
    with pytest.raises(Killed):
        train(request(*settings), tmp_path / "stopped", KilledAt(3))
    for run in (whole, trained(tmp_path / "stopped", *settings, resume=True)):
        kept = torch.load(run.path / "last.ckpt", weights_only=True)
        parts = {key: kept[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "average")}
        found.append({"weights": dict(run.model.state_dict()), "metrics": run.metrics(), **parts})
    assert equal_state(*found)
