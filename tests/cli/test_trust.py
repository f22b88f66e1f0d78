"""A .pt2 file is a program: it is opened only with --trust, in Python with trust=True."""

import pickle
import shlex
import sys

import pytest
from support.models.color_model import image
from support.models.export_job import job_of
from support.models.three_layers import ThreeLayers

import featherseg
from featherseg import cli
from featherseg.core.errors import UntrustedFile
from featherseg.core.types import ClassInfo
from featherseg.exporters.job import Facts
from featherseg.exporters.pt2 import write
from featherseg.fitting.latency import time_file
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.runtimes.pt2 import TorchExportRuntime
from featherseg.serving import server
from featherseg.serving.models import open_models

WORDS = {
    "predict": "'a model.pt2' lawn/images/val -o masks",
    "evaluate": "'a model.pt2' --data lawn --split val",
    "compare": "'a model.pt2' other.pt2 --data lawn --no-costs",
    "serve": "'a model.pt2' --port 0",
}
REFUSED = WORDS | {"benchmark": "lawn-run"}
"""Verb -> its words; a benchmark that works takes a minute."""


class TwoClasses(ThreeLayers):
    """For the lawn's classes."""

    classes = 2


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of a .pt2 file of a model with the lawn's classes."""
    folder = tmp_path_factory.mktemp("pt2")
    classes = (ClassInfo("grass", (0, 160, 0)), ClassInfo("path", (160, 160, 160)))
    write(job_of(TwoClasses().eval(), Facts("two", classes, "MIT"), folder))
    return (folder / "model.pt2").read_bytes()


@pytest.fixture
def folder(lawn_run, content, tmp_path, monkeypatch):
    """The working folder: two .pt2 files, a run that has one in its export/, a dataset."""
    (tmp_path / "lawn-run" / "export").mkdir()
    for path in ("a model.pt2", "other.pt2", "lawn-run/export/model.pt2"):
        (tmp_path / path).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(monkeypatch) -> list:
    """The .pt2 files that are opened from now on."""
    seen, open_it = [], TorchExportRuntime.__init__

    def spy(self, path, *rest):
        seen.append(path)
        open_it(self, path, *rest)

    monkeypatch.setattr(TorchExportRuntime, "__init__", spy)
    return seen


def run_main(monkeypatch, capsys, command: str) -> tuple[int, str]:
    """-> (exit code, stderr) of a command line."""
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as finished:
        cli.main()
    return int(finished.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize("verb", REFUSED)
def test_a_verb_opens_no_pt2_file_unless_it_is_trusted(folder, monkeypatch, capsys, verb):
    seen = opened(monkeypatch)
    code, told = run_main(monkeypatch, capsys, f"featherseg {verb} {REFUSED[verb]}")
    assert (code, seen) == (2, [])
    *_, reason, again = told.splitlines()
    assert "model.pt2 is a program: opening a .pt2 file runs the code that it contains. " in reason
    assert again == f"featherseg {verb} --trust {REFUSED[verb]}"
    assert not (folder / "masks").exists()


@pytest.mark.seconds
@pytest.mark.parametrize("verb", WORDS)
def test_the_command_that_the_refusal_prints_works(folder, monkeypatch, capsys, verb):
    monkeypatch.setattr(server, "run", lambda app, listener, ready: ready())  # not until Ctrl-C
    _, told = run_main(monkeypatch, capsys, f"featherseg {verb} {WORDS[verb]}")
    seen = opened(monkeypatch)
    assert run_main(monkeypatch, capsys, told.splitlines()[-1])[0] == 0
    named = {name for name in ("a model.pt2", "other.pt2") if name in WORDS[verb]}
    assert {path.name for path in seen} == named


@pytest.mark.slow
@pytest.mark.parametrize("command", ["benchmark RUN --rounds 4", "compare RUN FILE --data lawn"])
def test_a_trusted_file_is_timed(whole_run, tmp_path, monkeypatch, capsys, command):
    file = featherseg.export(whole_run, "torch-export").path
    monkeypatch.chdir(tmp_path)
    command = command.replace("RUN", str(whole_run)).replace("FILE", str(file))
    assert run_main(monkeypatch, capsys, f"featherseg {command}")[0] == 2
    assert run_main(monkeypatch, capsys, f"featherseg {command} --trust")[0] == 0


@pytest.mark.seconds
def test_a_function_opens_no_pt2_file_unless_it_is_trusted(folder, monkeypatch):
    seen, file, photo = opened(monkeypatch), folder / "a model.pt2", image(size=(64, 72))
    val = {"data": str(folder / "lawn"), "split": "val"}
    compared = val | {"costs": False}
    functions = {
        "open_runtime": lambda **trust: open_runtime(file, **trust),
        "Predictor": lambda **trust: featherseg.Predictor(file, **trust)(photo),
        "predict": lambda **trust: featherseg.predict(file, photo, **trust),
        "evaluate": lambda **trust: featherseg.evaluate(file, **val, **trust),
        "compare": lambda **trust: featherseg.compare([file, "other.pt2"], **compared, **trust),
        "open_models": lambda **trust: open_models([file], **trust),
    }
    for name, function in functions.items():
        with pytest.raises(UntrustedFile, match="If you trust its origin, pass trust=True"):
            function()
        assert seen == [], name
        function(trust=True)
        assert seen.pop(0) == file, name
        seen.clear()
    with pytest.raises(UntrustedFile, match=r"export/model\.pt2 is a program"):
        featherseg.benchmark(["lawn-run"])
    assert seen == []


@pytest.mark.seconds
@pytest.mark.parametrize("verb", ["predict lawn-run lawn/images/val -o masks", "evaluate lawn-run"])
def test_a_verb_with_one_model_refuses_trust_that_it_does_not_need(
    folder, monkeypatch, capsys, verb
):
    code, told = run_main(monkeypatch, capsys, f"featherseg {verb} --trust")
    assert (code, "trust would have no effect: only .pt2 files are programs" in told) == (2, True)
    assert not (folder / "masks").exists()


def test_a_pickled_predictor_opens_the_file_that_was_trusted(folder):
    predictor, photo = featherseg.Predictor("other.pt2", trust=True), image(size=(64, 72))
    assert (pickle.loads(pickle.dumps(predictor))(photo).mask == predictor(photo).mask).all()


def test_a_file_that_is_not_there_is_said_before_it_is_called_a_program(folder):
    with pytest.raises(featherseg.FeathersegError, match=r"none\.pt2 does not exist"):
        featherseg.Predictor("none.pt2")


@pytest.mark.slow
def test_fit_times_the_file_that_it_has_written(folder):
    name = ("frm-lite0", 1.0, "torch-export")
    assert time_file(folder / "other.pt2", image(size=(64, 72)), name).p50 > 0
