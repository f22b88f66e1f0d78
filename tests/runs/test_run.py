"""What a run folder tells, and that older ones still load."""

import functools
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from support.models.small_run import small_info
from torch.overrides import TorchFunctionMode

from featherseg import models
from featherseg.core.errors import ConfigError, RunError, WeightsError
from featherseg.core.files import append_line, locked
from featherseg.core.types import ClassInfo
from featherseg.evaluation.scored_split import times_scored
from featherseg.fitting.results import read_fit
from featherseg.runs import run as runs
from featherseg.runs.run import (
    RESOLVED,
    SHIPPED,
    SHIPPED_LIMITS,
    find_run,
    open_run,
    runs_by_name,
    save_weights,
    write_info,
)

CLASSES = [ClassInfo("a", (0, 0, 0)), ClassInfo("b", (9, 9, 9))]


def folder(path, model="ddrnet-23-slim", loaded=None):
    path.mkdir()
    write_info(path, small_info(CLASSES, model=model).model_copy(update={"loaded": loaded or {}}))
    return path


@pytest.mark.seconds
def test_a_run_from_before_its_model_had_auxiliary_heads_still_loads(tmp_path):
    path, model = folder(tmp_path / "run"), models.build("ddrnet-23-slim", 2).eval()
    state = model.state_dict()
    save_weights(
        path, {key: value for key, value in state.items() if not key.startswith("aux_heads.")}
    )
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(open_run(path).model(images).logits, model(images).logits)
    for key in (
        "aux_heads.aux.0.0.weight",
        "head.0.0.weight",
    ):  # of one that has them, none may be missing
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
    assert open_run(folder(tmp_path / "run", loaded=loaded)).init == start


def test_a_training_that_can_go_on_is_unfinished_until_its_curve_is_drawn(tmp_path):
    run = open_run(folder(tmp_path / "run"))
    assert not run.unfinished
    (run.path / "last.ckpt").touch()
    assert run.unfinished
    (run.path / "curve.svg").touch()
    assert not run.unfinished


def test_a_training_that_was_stopped_before_its_first_checkpoint_is_unfinished_as_well(tmp_path):
    run = open_run(folder(tmp_path / "run"))
    train = run.recipe.train.model_copy(update={"epochs": None, "steps": 20})
    write_info(
        run.path,
        run.info.model_copy(update={"recipe": run.recipe.model_copy(update={"train": train})}),
    )
    append_line(run.path / "metrics.jsonl", {"step": 3, "val_miou": 0.1})
    run = open_run(run.path)
    assert run.unfinished
    goes_on = f"featherseg train --resume --out {run.path} goes on"
    assert run.how_far == f"its training was stopped at step 3 of 20; {goes_on}"
    assert run.how_far in run._repr_html_()
    append_line(run.path / "metrics.jsonl", {"step": 20, "val_miou": 0.2})
    assert not open_run(run.path).unfinished
    assert "unfinished" not in open_run(run.path)._repr_html_()


def test_a_run_that_a_process_trains_is_not_called_stopped(tmp_path):
    run = open_run(folder(tmp_path / "run"))
    append_line(run.path / "metrics.jsonl", {"step": 18})
    (run.path / "last.ckpt").touch()
    with locked(run.path / ".lock", RunError("taken")):
        assert (
            run.how_far
            == "it is still training (step 18); its weights are those of its last validation"
        )
        with pytest.raises(
            RunError, match=r"not reached the first validation\. It is still running: wait for that"
        ):
            _ = run.model
    assert run.how_far.startswith("its training was stopped at step 18; ")
    with pytest.raises(
        RunError,
        match=r"not reached the first validation\. Continue with: featherseg train --resume",
    ):
        _ = run.model
    for name in ("metrics.jsonl", "last.ckpt"):  # before its first step
        (run.path / name).unlink()
    assert not run.unfinished
    with locked(run.path / ".lock", RunError("taken")):
        assert run.how_far.startswith("it is still training; ")
    (run.path / "curve.svg").touch()
    assert not run.unfinished
    (run.path / "resolved.json").unlink()
    with (
        locked(run.path / ".lock", RunError("taken")),
        pytest.raises(RunError, match="is being prepared"),
    ):
        open_run(run.path)


def test_a_fit_that_still_runs_is_not_called_stopped(tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    with locked(tmp_path / ".fit.lock", RunError("taken")):
        for read in (open_run, read_fit):
            with pytest.raises(RunError, match=r"its fit is still running\. Wait for its end"):
                read(tmp_path)
    with pytest.raises(RunError, match=r"its fit has not ended\. Go on with"):
        read_fit(tmp_path)


def test_a_fit_that_has_not_ended_is_called_so(tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(
        RunError, match=r"its fit has not ended\. Go on with: featherseg fit --resume --out"
    ):
        open_run(tmp_path)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """As pip leaves it: the package below lib/, one run in it; -> that run's folder."""
    monkeypatch.delenv("FEATHERSEG_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "lib" / "python3" / "site-packages" / "featherseg"
    (package / "weights").mkdir(parents=True)
    (package.parents[1] / "weights").mkdir()
    folder(package.parents[1] / "weights" / "not-ours")
    monkeypatch.setattr(runs, "__file__", str(package / "runs" / "run.py"))
    monkeypatch.setattr(runs, "SHIPPED", package / "weights")
    return folder(package / "weights" / "streets")


def test_a_run_that_comes_with_the_package_is_found_by_its_name(installed, tmp_path, caplog):
    assert runs_by_name() == {"streets": installed}
    assert find_run("streets") == installed
    assert (open_run(installed).shipped, open_run(installed).spelling) == (True, "streets")
    with caplog.at_level("WARNING", "featherseg"):
        mine = folder(tmp_path / "streets")
        assert find_run(mine) == mine  # a path hides nothing
        assert not caplog.records
        assert find_run("streets") == Path("streets")  # what lies here comes first
    assert "streets: the run in this folder is taken" in caplog.text
    assert (open_run(mine).shipped, open_run(mine).spelling) == (False, str(mine))


def test_a_folder_that_is_no_run_and_hides_one_says_so(installed, tmp_path):
    (tmp_path / "streets").mkdir()
    with pytest.raises(RunError, match="own model streets, work in another folder"):
        open_run(find_run("streets"))


def test_every_run_that_ships_says_how_far_it_may_be_trusted():
    assert set(SHIPPED_LIMITS) >= {path.parent.name for path in SHIPPED.glob(f"*/{RESOLVED}")}


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
    assert (
        runs_by_name()["frm-lite0-camvid"]
        == Path(__file__).parents[2] / "weights" / "frm-lite0-camvid"
    )


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("channels", 2**40, "channels = 1099511627776: input should be less than or equal to 512"),
        ("channels", -1, "channels = -1: input should be greater than or equal to 1"),
        ("channels", 10**400, "channels = "),
        (
            "classes",
            [{"name": str(i), "color": (0, 0, 0)} for i in range(256)],
            "at most 255 items",
        ),
        ("classes", [], "at least 1 item"),
        ("image_size", (10**6, 10**6), "expected at most 178,956,970 pixels"),
        ("class_weights", [1.0] * 256, "at most 255 items"),
        ("class_weights", [float("nan")], "class_weights.0"),
        ("threads", 10**9, "threads = 1000000000"),
        ("recipe.augment.crop", (10**6, 10**6), "expected at most"),
        ("recipe.loss.contrast_dim", 10**9, "less than or equal to 4096"),
        ("recipe.train.batch_size", 10**12, "batch_size"),
        ("recipe.panoptic.kernel", 10**6 + 1, "less than 512"),
        ("recipe.model.decoder_channels", 10**6, "model.decoder_channels = 1000000 is too large"),
        ("recipe.model.decoder_channels", 10**400, "is too large"),
        ("recipe.model.decoder_channels", [[1]] * 4, "is too large"),
        ("recipe.model.decoder_channels", float("nan"), "is too large"),
        ("recipe.model.decoder_channels", -4, "greater than or equal to 2"),
        ("recipe.model.decoder_channels", 4096, "parameters, expected at most"),
    ],
)
def test_a_record_is_bounded_before_anything_is_built(tmp_path, key, value, said):
    path = folder(tmp_path / "run", model="frm-lite0")
    record = json.loads((path / "resolved.json").read_text())
    *tables, last = key.split(".")
    functools.reduce(lambda table, name: table.setdefault(name, {}), tables, record)[last] = value
    (path / "resolved.json").write_text(json.dumps(record))
    save_weights(path, {"a": torch.zeros(1)})
    with Allocations() as made, pytest.raises(ConfigError, match=re.escape(said)):
        _ = open_run(path).model
    assert made.most < 100_000


class Allocations(TorchFunctionMode):
    """The most elements that a tensor with memory had of those that were made in it."""

    most = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not result.is_meta:
            self.most = max(self.most, result.numel())
        return result


@pytest.mark.parametrize(
    ("model", "option"),
    [("rsp-lite0", "repeats"), ("cgrseg-t", "repeats"), ("efficientvit-seg-b0", "depth")],
)
def test_a_model_has_at_most_64_layers_of_a_kind(model, option):
    with pytest.raises(ConfigError, match="less than or equal to 64"):
        models.build(model, 2, options={option: 65})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format_version": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deep"),
        ('{"format_version": ' + "9" * 5000 + "}", "not valid JSON"),
        (
            '{"format_version": 1, "featherseg": "' + "x" * 2**24 + '"}',
            "more than 16,777,216 bytes",
        ),
    ],
)
def test_a_record_of_any_length_or_depth_gets_a_message(tmp_path, text, said):
    path = folder(tmp_path / "run")
    (path / "resolved.json").write_text(text)
    with pytest.raises(RunError, match=said):
        open_run(path)


def test_settings_change_no_weight_of_the_model_they_repeat():
    """They are counted on a twin without memory, which draws no random numbers."""
    torch.manual_seed(0)
    plain = models.build("seaformer-tiny", 3).state_dict()
    torch.manual_seed(0)
    again = models.build("seaformer-tiny", 3, options={"widths": [64, 96]}).state_dict()
    assert all(torch.equal(plain[key], again[key]) for key in plain)


def test_a_run_shows_the_scores_of_its_weights_and_what_chose_them(tmp_path):
    path = folder(tmp_path / "run")
    save_weights(path, models.build("ddrnet-23-slim", 2).state_dict())
    score = {
        "data": "yard",
        "split": "val",
        "miou": 0.5,
        "weights_sha256": open_run(path).weights_sha256,
    }
    append_line(path / "evaluations.jsonl", score | {"trained_on": True})
    append_line(path / "evaluations.jsonl", score | {"miou": 0.9, "weights_sha256": "of others"})
    page = open_run(path)._repr_html_()
    assert "yard val (selected on these images, trained on these images)" in page
    assert "90.00" not in page


@pytest.mark.parametrize(
    ("place", "name"), [("runs/yard", "yard"), (f"models--org--lawn/snapshots/{'0' * 40}", "lawn")]
)
def test_a_run_is_called_the_same_from_inside_its_folder_and_beside_it(
    tmp_path, monkeypatch, place, name
):
    path = tmp_path / place
    (path / "export").mkdir(parents=True)
    write_info(path, small_info([ClassInfo("road", (0, 0, 0))]))
    for here, spelling in ((path, "."), (path.parent, path.name), (path / "export", "..")):
        monkeypatch.chdir(here)
        run = open_run(Path(spelling))
        assert (run.name, run.read_only) == (
            name,
            name == "lawn",
        )  # nothing is written into the hub's cache


@pytest.mark.parametrize(("patience", "selected"), [(None, False), (3, True)])
def test_the_last_weights_are_chosen_by_validation_where_it_ended_the_training(
    tmp_path, patience, selected
):
    info = small_info(CLASSES)
    train = info.recipe.train.model_copy(update={"keep": "last", "patience": patience})
    (tmp_path / "run").mkdir()
    write_info(
        tmp_path / "run",
        info.model_copy(update={"recipe": info.recipe.model_copy(update={"train": train})}),
    )
    assert open_run(tmp_path / "run").selected_on("val") == selected


def test_packed_weights_keep_their_looks_at_test(tmp_path, monkeypatch):
    path = folder(tmp_path / "run")
    save_weights(path, models.build("ddrnet-23-slim", 2).state_dict())
    for name in ("recipe.toml", "environment.json", "metrics.jsonl", "curve.svg", "card.md"):
        (path / name).touch()
    append_line(path / "evaluations.jsonl", {"data": "yard", "split": "test"})
    script = Path(__file__).parents[2] / "scripts" / "pack_weights.py"
    monkeypatch.setattr(sys, "argv", ["pack_weights.py", str(path), str(tmp_path / "packed")])
    runpy.run_path(str(script))
    assert times_scored(open_run(tmp_path / "packed"), "test") == 1
