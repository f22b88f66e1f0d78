"""What a run folder tells, and that older ones still load."""

from pathlib import Path

import pytest
import torch
from small_run import small_info

from featherseg import models, runs
from featherseg.core.errors import RunError, WeightsError
from featherseg.core.types import ClassInfo
from featherseg.runs import find_run, open_run, runs_by_name, save_weights, write_info

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


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """As pip leaves it: the package below lib/, one run in it; -> that run's folder."""
    monkeypatch.delenv("FEATHERSEG_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "lib" / "python3" / "site-packages" / "featherseg"
    (package / "weights").mkdir(parents=True)
    (package.parents[1] / "weights").mkdir()
    folder(package.parents[1] / "weights" / "not-ours")
    monkeypatch.setattr(runs, "__file__", str(package / "runs.py"))
    monkeypatch.setattr(runs, "SHIPPED", package / "weights")
    return folder(package / "weights" / "streets")


def test_a_run_that_comes_with_the_package_is_found_by_its_name(installed, tmp_path, monkeypatch):
    assert runs_by_name() == {"streets": installed}
    assert find_run("streets") == installed
    assert (open_run(installed).shipped, open_run(installed).spelling) == (True, "streets")
    mine = folder(tmp_path / "streets")
    assert find_run("streets") == Path("streets")  # what lies here comes first
    assert (open_run(mine).shipped, open_run(mine).spelling) == (False, str(mine))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("frm-lite0-camvid", "folder weights/frm-lite0-camvid of featherseg's repository"),
        ("weights/frm-lite0-camvid", "for research only"),
        ("street", "Did you mean 'streets'?"),
        ("qqq", "Known: streets."),
    ],
)
def test_a_missing_run_is_told_without_a_path_inside_the_package(installed, name, said):
    with pytest.raises(RunError) as refused:
        find_run(name)
    assert said in str(refused.value)
    assert "lib" not in str(refused.value)


def test_a_checkout_finds_the_runs_of_its_repository(monkeypatch):
    monkeypatch.delenv("FEATHERSEG_HOME", raising=False)
    assert runs_by_name()["frm-lite0-camvid"] == Path(__file__).parents[1] / "weights" / "frm-lite0-camvid"
