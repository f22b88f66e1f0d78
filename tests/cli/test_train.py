"""What `train` does before the first step: the folder without --out, the export behind --data."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from support.data.annotation_sources import picture
from support.models.small_training import SMALL
from typer.testing import CliRunner

from featherseg import cli
from featherseg.runs.run import open_run

SETTINGS = [option for text in SMALL for option in ("--set", text)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty current folder, for a command that is alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["featherseg", "train"])
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(cli.build_app(), ["train", *arguments])


@pytest.mark.usefixtures("light_models", "quick_training")
@pytest.mark.parametrize(
    ("data", "taken", "expected"),
    [
        ("shapes", [], "frm-lite0-shapes"),
        ("shapes", ["frm-lite0-shapes"], "frm-lite0-shapes-2"),
        ("shapes", ["frm-lite0-shapes", "frm-lite0-shapes-2"], "frm-lite0-shapes-3"),
        ("yard/dataset.toml", [], "frm-lite0-yard"),
        ("big yard", ["frm-lite0-yard"], "frm-lite0-big_yard"),
        ("yard.zip", [], "frm-lite0-yard"),
    ],
)
def test_a_run_folder_is_named_by_recipe_and_data_and_is_new(place, data, taken, expected):
    for name in taken:
        (place / "runs" / name).mkdir(parents=True)
    result = invoke("frm-lite0", "--data", data, "--dry-run", *SETTINGS)
    assert (result.exit_code == 0) == (data == "shapes")
    assert result.stdout.startswith(f"the run folder is runs/{expected} ")
    assert sys.argv[-2:] == ["--out", f"runs/{expected}"]
    assert not (place / "runs" / expected).exists()


def test_a_link_in_the_place_of_a_run_folder_is_not_followed(place):
    (place / "runs").mkdir()
    (place / "runs/frm-lite0").symlink_to(place / "elsewhere")
    result = invoke("frm-lite0", "--set", "train.lr=x")
    assert result.stdout.startswith("the run folder is runs/frm-lite0-2 ")


def test_resume_names_the_newest_run_that_can_continue(place):
    def message():
        return str(invoke("--resume").exception).partition("\n")[2]

    assert message() == "featherseg train --resume --out RUN"
    for name in ("b", "a", "c d"):
        (place / "runs" / name).mkdir(parents=True)
    for name, changed in (("a", 1), ("c d", 2)):
        (place / "runs" / name / "last.ckpt").touch()
        os.utime(place / "runs" / name / "last.ckpt", (changed, changed))
    assert message() == "featherseg train --resume --out 'runs/c d'"


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_NTASKS"])
def test_several_processes_are_asked_for_their_folder(place, monkeypatch, variable):
    monkeypatch.setenv(variable, "2")
    assert "give --out RUN" in str(invoke("frm-lite0").exception)


@pytest.fixture
def export(place, monkeypatch):
    """$FEATHERSEG_HOME, and annotated.zip: eight images with labels of YOLO."""
    monkeypatch.setenv("FEATHERSEG_HOME", str(place / "home"))
    for number in range(8):
        picture(place / f"annotated/images/{number}.png", (64, 96))
        (place / "annotated/labels").mkdir(exist_ok=True)
        corners = f"0.{number} 0.2 0.9 0.2 0.9 0.6"
        (place / f"annotated/labels/{number}.txt").write_text(f"0 {corners}\n")
    (place / "annotated/data.yaml").write_text("names: [car]\n")
    shutil.make_archive(str(place / "annotated"), "zip", place / "annotated")
    shutil.rmtree(place / "annotated")
    return place / "annotated.zip"


@pytest.mark.usefixtures("light_models")
def test_a_slip_ends_a_training_before_its_export_is_converted(place, export):
    result = invoke("frm-lite0", "--data", "annotated.zip", "--set", "train.lrr=1")
    assert "train.lrr" in str(result.exception)
    assert not (place / "home").exists()


@pytest.mark.seconds
@pytest.mark.usefixtures("light_models", "quick_training")
def test_a_training_on_an_export_goes_on_and_is_scored_without_it(place, export):
    """What it learns from is the conversion, which the run folder names."""
    result = invoke("frm-lite0", "--data", "annotated.zip", *SETTINGS, "--no-report")
    assert result.exit_code == 0, result.exception
    assert "the run folder is runs/frm-lite0-annotated " in result.stdout
    run = open_run(place / "runs/frm-lite0-annotated")
    assert Path(run.recipe.data.name).is_relative_to(place / "home/converted")
    assert [info.name for info in run.classes] == ["background", "car"]
    export.unlink()
    result = invoke("--resume", "--out", str(run.path))
    assert result.exit_code == 0, result.exception
    result = CliRunner().invoke(cli.build_app(), ["evaluate", str(run.path), "--json"])
    assert result.exit_code == 0, result.exception
