"""`featherseg predict` on what nobody should give it: the right mask or a sentence; and nothing steers the terminal."""

import os
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_inputs import sample, write
from bad_inputs.case import RGB, saved
from bad_inputs.names import NAMES, named
from PIL import Image
from small_run import small_info

from featherseg import cli, models
from featherseg.core.types import ClassInfo
from featherseg.inference.predictor import Predictor
from featherseg.runs import save_weights, write_info

MODEL = "seaformer-tiny"
HOSTILE = (
    ClassInfo("<script>alert(1)</script>", (128, 64, 128)),
    ClassInfo("[red]a\x1b[31m\n\u202eb[/red] \x07", (70, 130, 180)),
    ClassInfo("c" * 500, (0, 0, 142)),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """An untrained network for classes of hostile names."""
    path = tmp_path_factory.mktemp("runs") / "hostile\x1b[2J"
    path.mkdir()
    torch.manual_seed(0)
    save_weights(path, models.build(MODEL, len(HOSTILE)).state_dict())
    write_info(path, small_info(HOSTILE, model=MODEL))
    return path


@pytest.fixture
def call(monkeypatch, capsys):
    """call(*words) -> (exit code, stdout, stderr) of `featherseg *words`, in this process."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["featherseg", *map(str, words)])
        with pytest.raises(SystemExit) as finished:
            cli.main()
        captured = capsys.readouterr()
        return int(finished.value.code or 0), captured.out, captured.err

    return call


def steering(text: str) -> set[str]:
    """Characters that move the cursor, colour, title or turn the direction of what a terminal shows."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cs") or c in "\u202a\u202b\u202c\u202d\u202e"} - set(
        "\n\t"
    )


@pytest.mark.parametrize("case", sample(30), ids=lambda case: case.name)
def test_a_sample_of_bad_pictures_is_predicted_rightly_or_refused_in_a_sentence(run, call, tmp_path, case):
    out = tmp_path / "out"
    code, stdout, stderr = call("predict", run, write(tmp_path, case), "-o", out)
    assert not steering(stdout + stderr)
    assert "Traceback" not in stdout + stderr
    if case.pixels is None:
        assert code == 2
        assert stderr.startswith("error: ")
        assert not out.exists()
        return
    assert code == 0, stderr
    (file,) = out.glob("*_mask.png")
    with Image.open(file) as mask:
        np.testing.assert_array_equal(np.array(mask), Predictor(run)(case.pixels).mask)


def test_a_folder_of_hostile_names_is_predicted_and_the_broken_ones_are_named(run, call, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for case in named():
        sound = case.pixels is not None
        (folder / (case.file if sound else f"broken {case.file}")).write_bytes(case.content)
    code, stdout, stderr = call("predict", run, folder, "-o", tmp_path / "out")
    assert code == 1
    assert not steering(stdout + stderr)
    seen = [name for name in NAMES.values() if not name.startswith(".")]  # hidden files are no pictures
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == len(seen)
    assert f"{len(NAMES)} of {len(seen) + len(NAMES)} could not be read" in stdout


def test_a_name_with_a_leading_dash_is_a_picture_behind_two_dashes(run, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("-rf.png").write_bytes(saved(RGB, "PNG"))
    assert call("predict", run, "-o", "out", "--", "-rf.png")[0] == 0
    assert Path("out/-rf_mask.png").is_file()


@pytest.mark.parametrize("path", ["", "x" * 300, "a/" * 3000, "no\x1b[2J.png", "no\udcff.png"])
def test_a_picture_that_cannot_be_is_refused_in_a_sentence(run, call, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = call("predict", run, path, "-o", "out")
    assert code == 2
    assert not steering(stdout + stderr)


def test_a_name_whose_mask_would_be_too_long_is_refused_in_a_sentence(run, call, tmp_path):
    path = tmp_path / ("x" * 251 + ".png")
    path.write_bytes(saved(RGB, "PNG"))
    code, _, stderr = call("predict", run, path, "-o", tmp_path / "out")
    assert code == 2
    assert "File name too long" in stderr


def test_a_pipe_is_refused_and_not_waited_for(run, call, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    code, _, stderr = call("predict", run, tmp_path / "pipe.png", "-o", tmp_path / "out")
    assert code == 2
    assert "no file" in stderr


def test_hostile_class_names_reach_the_terminal_as_text(run, call, tmp_path):
    (tmp_path / "a.png").write_bytes(saved(RGB, "PNG"))
    code, stdout, _ = call("predict", run, tmp_path / "a.png", "-o", tmp_path / "out")
    assert code == 0
    assert not steering(stdout)
    assert "[red]a" in stdout or "script" in stdout or "ccc" in stdout
    code, stdout, stderr = call("report", run)
    assert code == 0
    assert not steering(stdout + stderr)
