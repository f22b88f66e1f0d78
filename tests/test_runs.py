"""What a run folder tells, and that older ones still load."""

import pytest
import torch
from small_run import small_info

from featherseg import models
from featherseg.core.errors import WeightsError
from featherseg.core.types import ClassInfo
from featherseg.runs import open_run, save_weights, write_info

CLASSES = [ClassInfo("a", (0, 0, 0)), ClassInfo("b", (9, 9, 9))]


def folder(path, model="ddrnet-23-slim", loaded=None):
    path.mkdir()
    write_info(path, small_info(CLASSES, model=model).model_copy(update={"loaded": loaded or {}}))
    return path


def test_a_run_from_before_its_network_had_auxiliary_heads_still_loads(tmp_path):
    path, network = folder(tmp_path / "run"), models.build("ddrnet-23-slim", 2).eval()
    state = network.state_dict()
    save_weights(path, {key: value for key, value in state.items() if not key.startswith("aux_heads.")})
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(open_run(path).model(images).logits, network(images).logits)
    for key in ("aux_heads.aux.0.0.weight", "head.0.0.weight"):  # of one that has them, none may be missing
        save_weights(path, {name: value for name, value in state.items() if name != key})
        with pytest.raises(WeightsError, match=f"missing: {key}"):
            _ = open_run(path).model


@pytest.mark.parametrize(
    ("loaded", "start"),
    [
        ({}, "from scratch"),
        ({"file": "lite0.pth"}, "ImageNet weights"),
        ({"init": "/home/me/runs/a"}, "weights of runs/a"),
        ({"imported": "best.pt"}, None),
    ],
)
def test_what_a_training_started_from_is_told(tmp_path, loaded, start):
    assert open_run(folder(tmp_path / "run", loaded=loaded)).start == start


def test_a_training_that_can_go_on_is_unfinished_until_its_curve_is_drawn(tmp_path):
    run = open_run(folder(tmp_path / "run"))
    assert not run.unfinished
    (run.path / "last.ckpt").touch()
    assert run.unfinished
    (run.path / "curve.svg").touch()
    assert not run.unfinished
