"""plan.json and fit.json: what a fit was told, what it decided, and what is read of both."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.models.fit_plans import FAST, SLOW, facts, fit_plan, write_yard
from support.models.small_run import small_info

import featherseg
from featherseg.core.errors import ConfigError, FeathersegError, RunError
from featherseg.data import open_dataset
from featherseg.fitting.fit import FitSettings
from featherseg.fitting.plan import read_plan
from featherseg.fitting.results import read_fit
from featherseg.fitting.splits import find_splits
from featherseg.runs.run import open_run, write_info

# What a fit is told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"max_ms": 1e8}, r"above 0 and below 10,000,000\."),
        ({"hours": 1e9}, "above 0 and below 100,000,"),
        ({"hours": float("nan")}, "hours = nan"),
    ],
)
def test_a_limit_that_is_too_large_is_told_the_largest(words, message):
    with pytest.raises(ConfigError, match=message):
        fit_plan(**words)


def test_trainings_that_cannot_be_followed_are_refused_before_the_plan_and_when_they_go_on(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yard = write_yard(tmp_path / "yard", splits="train = 0.6\nval = 0.2\ntest = 0.2")
    for loggers, message in (("bogus", "bogus"), ("mlflow", "MLFLOW_TRACKING_URI|'mlflow'")):
        settings = FitSettings(loggers=(loggers,))
        with pytest.raises(FeathersegError, match=message):
            featherseg.fit(yard, 20, out=tmp_path / "out", settings=settings)
        assert not (tmp_path / "out").exists()

        # Nor is a candidate dropped for it, that has not begun
        fit_plan(yard, loggers=(loggers,)).write(tmp_path / "begun")
        with pytest.raises(FeathersegError, match=message):
            featherseg.fit(out=tmp_path / "begun", resume=True)
        assert not (tmp_path / "begun" / "trials").exists()


# plan.json


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = fit_plan(rungs=((4, 1),), image_size=(64, 96))
    plan.write(tmp_path)
    assert read_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format_version", 99),
        ("candidates", [{"model": "../x", "scale": 1, "latency_ms": 1, "step_seconds": 1}]),
        ("candidates", [{"model": "frm-lite0", "scale": -1, "latency_ms": 1, "step_seconds": 1}]),
        ("rungs", [{"steps": {}, "keep": 1}]),
        ("rungs", []),
        ("final", {SLOW.name: 10**12, FAST.name: 10}),
        ("final", {SLOW.name: 10, FAST.name: 0}),
        ("final", {}),
        ("config", {}),
        ("timings", [{}]),
        ("image_size", [1e999, 480]),
        ("final", {SLOW.name: 10, FAST.name: 1e999}),
        ("final", {SLOW.name: 3, FAST.name: 10}),
        ("rungs", [{"steps": {SLOW.name: 4, FAST.name: 4}, "keep": True}]),
        ("spent", "x"),
        ("threads", "x"),
        ("ending", float("nan")),
        ("failed", {SLOW.name: 3}),
        ("finals", [{"candidate": "another", "hours": 1.0, "steps": 5, "decay": 1}]),
        (("config", "format"), []),
        (("config", "percentile"), 7),
        (("config", "hours"), "1"),
        (("config", "max_mib"), -1),
        (("parts", "name"), 3),
        (("parts", "val_size"), 0),
        (("timings", 0, "p50"), "5"),
        (("timings", 0, "p95"), None),
        (("candidates", 1, "scale"), 1.0000001),
        (("candidates", 1, "model"), SLOW.model),
    ],
)
def test_a_plan_that_cannot_be_is_refused(tmp_path, key, value):
    fit_plan().write(tmp_path)
    file = tmp_path / "plan.json"
    content = part = json.loads(file.read_text())
    *path, last = (key,) if isinstance(key, str) else key
    for step in path:
        part = part[step]
    part[last] = value
    file.write_text(json.dumps(content))
    with pytest.raises(FeathersegError, match=r"no plan that can be|that fit chooses from"):
        read_plan(file)


def test_a_plan_of_an_earlier_version_is_read(tmp_path):
    fit_plan().write(tmp_path)
    file = tmp_path / "plan.json"
    content = json.loads(file.read_text())
    del content["delivering"], content["shrunk"]
    content["final"] = {name: [steps, 2] for name, steps in content["final"].items()}
    file.write_text(json.dumps(content | {"given": True}))
    assert read_plan(file) == replace(fit_plan(), delivering=fit_plan().ending)


def test_the_key_that_a_plan_lacks_is_named(tmp_path):
    (tmp_path / "plan.json").write_text('{"format_version": 1}')
    with pytest.raises(FeathersegError, match="key 'config' is missing"):
        read_plan(tmp_path / "plan.json")


# fit.json


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("limit_ms",), "20"),
        (("limit_ms",), None),
        (("limit_ms",), 1e999),
        (("percentile",), 7),
        (("candidates",), None),
        (("candidates", 1), {"model": "frm-lite0-light"}),
        (("candidates", 0, "latency_ms"), None),
        (("candidates", 0, "run"), None),
        (("candidates", 0, "miou_val"), "0.5"),
        (("candidates", 0, "status"), 3),
        (("chosen",), {}),
        (("chosen", "interval"), [0.5]),
        (("file",), None),
        (("confirmed",), [1]),
        (("confirmed",), {"device": "x"}),
        ((), []),
    ],
)
def test_a_damaged_record_of_a_fit_is_told_in_a_sentence(tmp_path, path, value):
    content = {"all": facts()}
    *path, last = ("all", *path)
    part = content
    for step in path:
        part = part[step]
    part[last] = value
    (tmp_path / "fit.json").write_text(json.dumps(content["all"]))
    with pytest.raises(RunError, match=r"fit\.json is not what a fit writes: .+\.$"):
        read_fit(tmp_path)


def test_what_a_record_of_a_fit_holds_beside_is_kept(tmp_path):
    (tmp_path / "fit.json").write_text(json.dumps(facts() | {"data": {"name": "shapes"}}))
    assert read_fit(tmp_path) == facts() | {"data": {"name": "shapes"}}


# A folder that was moved


def test_a_fit_whose_folder_was_moved_finds_the_splits_that_were_made_for_it(tmp_path):
    yard, old, new = (
        write_yard(tmp_path / "yard", splits="train = 1.0"),
        tmp_path / "old",
        tmp_path / "new",
    )
    parts, _ = find_splits(str(yard), None, old)
    replace(fit_plan(yard), splits=parts).write(old)
    data = open_dataset(parts.name, "test", Path(parts.root))
    for run in (old, old / "trials" / "frm-lite0-1"):
        write_info(run, small_info(data.classes, data=parts.settings))
        assert (
            open_run(run).recipe.data.name
            == read_plan(old / "plan.json").splits.name
            == str(old / "dataset.toml")
        )
    old.rename(new)
    for run in (new, new / "trials" / "frm-lite0-1"):
        own = open_run(run).recipe.data
        assert own.name == read_plan(new / "plan.json").splits.name == str(new / "dataset.toml")
        assert open_dataset(own.name, "test", Path(own.root)).keys == data.keys

    # Of one that has none, nothing is taken for it
    (new / "dataset.toml").unlink()
    assert open_run(new).recipe.data.name == str(old / "dataset.toml")
