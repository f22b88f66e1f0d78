"""`featherseg predict` on bad inputs: the right mask or a message, and no terminal control."""

import os
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.bad_inputs import sample, write
from support.bad_inputs.case import RGB, saved
from support.bad_inputs.names import NAMES, named
from support.data.small_video import moving_images, write_video
from support.models.small_run import small_info
from support.models.small_training import Tiny, TinyConfig

from featherseg import cli, models
from featherseg.core.types import ClassInfo
from featherseg.inference.predictor import Prediction, Predictor
from featherseg.runs.run import save_weights, write_info

MODEL = "frm-lite0"  # a light one here
HOSTILE = (
    ClassInfo("<script>alert(1)</script>", (128, 64, 128)),
    ClassInfo("[red]a\x1b[31m\n\u202eb[/red] \x07", (70, 130, 180)),
    ClassInfo("c" * 500, (0, 0, 142)),
)


@pytest.fixture(scope="module", autouse=True)
def light():
    """A small model under a full one's name: reading and printing need none of its layers."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(
            models.MODELS,
            MODEL,
            replace(models.MODELS[MODEL], model=lambda _, k: Tiny(TinyConfig(), k)),
        )
        yield


@pytest.fixture(scope="module")
def run(light, tmp_path_factory) -> Path:
    """An untrained model for classes of hostile names."""
    path = tmp_path_factory.mktemp("runs") / "hostile\x1b[2J"
    path.mkdir()
    torch.manual_seed(0)
    save_weights(path, models.build(MODEL, len(HOSTILE)).state_dict())
    write_info(path, small_info(HOSTILE, model=MODEL))
    return path


@pytest.fixture(scope="module")
def predictor(run) -> Predictor:
    return Predictor(run)


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
    """Return characters that move the cursor, set colours or title, or reverse the text."""
    return {
        c
        for c in text
        if unicodedata.category(c) in ("Cc", "Cs") or c in "\u202a\u202b\u202c\u202d\u202e"
    } - set("\n\t")


@pytest.mark.parametrize("number", range(16))  # made here: to make the corpus takes seconds
def test_a_sample_of_bad_images_is_predicted_rightly_or_refused_in_a_sentence(
    run, predictor, call, tmp_path, number
):
    case, out = sample(16)[number], tmp_path / "out"
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
        np.testing.assert_array_equal(np.array(mask), predictor(case.pixels).mask)


def test_a_folder_of_hostile_names_is_predicted_and_the_broken_ones_are_named(run, call, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for case in named():
        sound = case.pixels is not None
        (folder / (case.file if sound else f"broken {case.file}")).write_bytes(case.content)
    code, stdout, stderr = call("predict", run, folder, "-o", tmp_path / "out")
    assert code == 1
    assert not steering(stdout + stderr)
    seen = [
        name for name in NAMES.values() if not name.startswith(".")
    ]  # hidden files are no images
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == len(seen)
    assert f"{len(NAMES)} of {len(seen) + len(NAMES)} left out" in stdout
    assert (
        len(stdout.splitlines()) == len(seen) + len(NAMES) + 2
    )  # a line for each, and two at the end


def test_names_in_json_steer_nothing(call, tmp_path):
    """A name may hold what JSON itself does not escape: C1 controls and marks of direction."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    (tmp_path / "images" / "a\x9b2J\u202e\x7f.png").write_bytes(saved(RGB, "PNG"))
    code, stdout, _ = call("check", tmp_path, "--json")
    assert code in (1, 2)
    assert not steering(stdout)


def test_a_name_with_a_leading_dash_is_an_image_behind_two_dashes(run, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("-rf.png").write_bytes(saved(RGB, "PNG"))
    assert call("predict", run, "-o", "out", "--", "-rf.png")[0] == 0
    assert Path("out/-rf_mask.png").is_file()


@pytest.mark.parametrize("path", ["", "x" * 300, "a/" * 3000, "no\x1b[2J.png", "no\udcff.png"])
def test_an_image_that_cannot_be_is_refused_in_a_sentence(run, call, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = call("predict", run, path, "-o", "out")
    assert code == 2
    assert not steering(stdout + stderr)


def test_a_name_whose_mask_would_be_too_long_is_refused_in_a_sentence(run, call, tmp_path):
    path = tmp_path / ("x" * 251 + ".png")
    path.write_bytes(saved(RGB, "PNG"))
    code, _, stderr = call("predict", run, path, "-o", tmp_path / "out")
    assert code == 2
    assert "too long a name for a file" in stderr


@pytest.mark.parametrize("name", ["x" * 251, "道" * 83, "x" * 250])
def test_a_name_whose_masks_would_be_too_long_leaves_the_others_alone(run, call, tmp_path, name):
    folder = tmp_path / "photos"
    folder.mkdir()
    for file in (f"{name}.png", "a.png", "z.png"):
        (folder / file).write_bytes(saved(RGB, "PNG"))
    code, stdout, _ = call("predict", run, folder, "-o", tmp_path / "out")
    assert code == 1
    assert f"left out {folder}/{name}.png: {name}_" in stdout
    kinds = ("color", "mask", "overlay")
    written = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert written == [f"{n}_{kind}.png" for n in "az" for kind in kinds]


def test_a_video_whose_result_would_have_too_long_a_name_leaves_the_others_alone(
    run, call, tmp_path
):
    names = ["x" * 240 + ".mp4", "a.mp4"]
    for name in names:
        write_video(tmp_path / name, moving_images(2))
    code, stdout, _ = call(
        "predict", run, *(tmp_path / name for name in names), "-o", tmp_path / "out"
    )
    assert (code, os.listdir(tmp_path / "out")) == (1, ["a_overlay.mp4"])
    assert "its name is too long" in stdout
    assert call("predict", run, tmp_path / names[0], "-o", tmp_path / "out")[0] == 2


@pytest.mark.parametrize(
    "words",
    [
        ("benchmark", "nowhere", "-o", "PLACE/page.html"),
        ("report", "nowhere", "-o", "PLACE/page.html"),
        ("compare", "nowhere", "elsewhere", "-o", "PLACE/page.html"),
        ("sweep", "frm-lite0", "--data", "nowhere", "--models", "a,b", "--out", "PLACE/runs"),
        ("predict", "nowhere", "a.png", "-o", "PLACE/out"),
        ("predict", "nowhere", "a.mp4", "-o", "PLACE/a.mp4"),
        ("predict", "nowhere", "camera", "-o", "PLACE/a.mp4"),
        (
            "import",
            "nowhere.pth",
            "--model",
            "frm-lite0",
            "--data",
            "shapes",
            "--licence",
            "x",
            "--out",
            "PLACE/run",
        ),
        ("train", "frm-lite0", "--data", "shapes", "--out", "PLACE/run"),
        ("export", "RUN", "-o", "PLACE/out"),
        ("check", "nowhere", "--fix", "PLACE/out"),
    ],
    ids=lambda words: " ".join((words[0], words[-1])),
)
@pytest.mark.parametrize("place", ["/proc", "/dev/null", "x" * 300])
def test_a_place_that_takes_nothing_is_told_before_the_work(
    run, call, tmp_path, monkeypatch, words, place
):
    """Nothing else that is named is there: whoever tells of the place asked for it first."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "a.mp4"):
        Path(name).write_bytes(saved(RGB, "PNG"))
    code, _, stderr = call(
        *(word.replace("PLACE", place).replace("RUN", str(run)) for word in words)
    )
    assert code == 2
    assert (
        "File name too long" if place.startswith("x") else "nothing can be written to"
    ) in stderr
    assert sorted(os.listdir()) == ["a.mp4", "a.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(run, call, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    code, _, stderr = call("predict", run, tmp_path / "pipe.png", "-o", tmp_path / "out")
    assert code == 2
    assert "not a file" in stderr


def test_hostile_class_names_reach_the_terminal_as_text(run, call, tmp_path, monkeypatch):
    monkeypatch.setattr(Prediction, "shares", {info.name: 1 / len(HOSTILE) for info in HOSTILE})
    (tmp_path / "a.png").write_bytes(saved(RGB, "PNG"))
    code, stdout, _ = call("predict", run, tmp_path / "a.png", "-o", tmp_path / "out")
    assert code == 0
    assert not steering(stdout)
    for name in ("<script>alert(1)</script>", "[red]a [31m  b[/red]", "c" * 25 + "..."):
        assert f" {name} " in stdout
    code, stdout, stderr = call("report", run)
    assert code == 0
    assert not steering(stdout + stderr)
