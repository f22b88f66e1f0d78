"""`featherseg demo`: its commands exist with any extras installed, and do what it says."""

from importlib import import_module

import pytest
import typer
from typer.testing import CliRunner

from featherseg.cli import build_app
from featherseg.core.errors import FeathersegError

demo = import_module("featherseg.cli.demo")  # the module, not its function


def run_demo(*words):
    return CliRunner().invoke(build_app(), ["demo", *map(str, words)])


def verbs(steps):
    return [step[1] for step in steps if len(step) > 1]


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("exports", [True, False])
def test_every_command_of_the_demo_parses(tmp_path, trains, exports):
    group = typer.main.get_command(build_app())
    steps = demo.steps(tmp_path, trains=trains, exports=exports)
    for _, *words in (step for step in steps if len(step) > 1):
        context = group.make_context("featherseg", list(words))
        verb, command, rest = group.resolve_command(context, words)
        command.make_context(verb, rest, parent=context)
    assert ("train" in verbs(steps)) == trains
    assert {"evaluate", "predict", "export", "report"} <= set(verbs(steps))


def test_what_is_not_installed_is_named_with_its_command(tmp_path):
    titles = " ".join(
        step[0] for step in demo.steps(tmp_path, trains=False, exports=False) if len(step) == 1
    )
    assert "featherseg[train]" in titles
    assert "featherseg[export]" in titles


def test_a_folder_in_use_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    result = run_demo("-o", tmp_path)
    assert isinstance(result.exception, FeathersegError)
    assert "not empty" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_command_that_fails_ends_the_demo_with_its_code(tmp_path, monkeypatch):
    steps = [("Two commands", "doctor"), ("It fails", "doctor"), ("Never reached", "models")]
    ran = []

    def run_command(words):
        ran.append(words)
        if len(ran) == 2:
            raise typer.Exit(1)

    monkeypatch.setattr(demo, "steps", lambda *_, **__: steps)
    monkeypatch.setattr(demo, "run_command", run_command)
    assert run_demo("-o", tmp_path / "demo").exit_code == 1
    assert ran == [["doctor"], ["doctor"]]
    assert len(list((tmp_path / "demo" / "scenes").glob("*.png"))) == 4


def test_the_exit_code_of_a_command_is_passed_on(monkeypatch):
    group = typer.main.get_command(build_app())
    monkeypatch.setattr(typer.main, "get_command", lambda _: group)
    demo.run_command(["models", "--json"])
    monkeypatch.setattr(group, "main", lambda *_, **__: 1)
    with pytest.raises(typer.Exit) as ended:
        demo.run_command(["doctor"])
    assert ended.value.exit_code == 1


@pytest.mark.slow
@pytest.mark.parametrize("extras", [True, False])
def test_the_demo_leaves_what_it_promises(tmp_path, monkeypatch, extras):
    monkeypatch.setattr(demo, "_installed", lambda _: extras)
    out = tmp_path / "demo"
    result = run_demo("-o", out)
    assert result.exit_code == 0, (result.output, result.exception)
    assert {path.name for path in out.iterdir()} == {
        *("scenes", "predictions", "from-file", "report.html"),
        "run" if extras else "model.pt2",
    }
    assert not extras or (out / "run" / "export" / "model.onnx").is_file()
    for folder in ("predictions", "from-file"):
        assert len(list((out / folder).glob("*_mask.png"))) == 4
