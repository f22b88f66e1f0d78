"""Run folders and exported files of format 1, written before names were settled, keep loading.

tests/format_1 contains copies, written by featherseg at 8293532: the run
weights/frm-lite0-camvid, one whose recipe resizes images, and an .onnx file.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from featherseg.api import report
from featherseg.core.old_names import with_new_names, with_old_recipe
from featherseg.costs import published
from featherseg.evaluation.scored_split import times_scored
from featherseg.inference.runtimes import open_file
from featherseg.reports.card import card
from featherseg.runs.run import open_run

FORMAT_1 = Path(__file__).parents[1] / "format_1"


@pytest.fixture
def old_run(tmp_path):
    """A copy of one of the runs, by name."""
    return lambda name: open_run(Path(shutil.copytree(FORMAT_1 / name, tmp_path / name)))


def test_every_setting_of_an_older_run_is_found_again(old_run):
    recipe, written = (
        old_run("ade20k").recipe,
        json.loads((FORMAT_1 / "ade20k" / "resolved.json").read_text())["recipe"],
    )
    assert recipe.data.test_resize == recipe.augment.resize == (512, 2048)
    assert written["data"]["test_fit"] == written["augment"]["fit"] == [512, 2048]
    renamed = with_old_recipe({"recipe": with_new_names(written)})["recipe"]
    assert recipe.model_dump(mode="json", exclude_unset=True) == renamed


def test_what_an_older_run_scored_is_counted_and_shown(old_run):
    run = old_run("camvid")
    assert times_scored(run, "test") >= 1
    assert {line["inference"] for line in run.evaluations()} == {"whole"}
    assert "66.68" in card(run)
    assert "this run was evaluated on the split 1 time" in card(run)


@pytest.mark.seconds
def test_an_older_run_s_score_stands_beside_its_paper_s(old_run):
    figures = published.compare(old_run("ade20k")).figures
    assert [figure.ours for figure in figures if figure.name.startswith("mIoU")] == [40.0]


@pytest.mark.seconds
def test_examples_that_an_older_run_drew_are_in_its_report(old_run):
    run = old_run("camvid")
    (run.path / "pictures").mkdir()
    for panel in ("image", "truth", "prediction"):
        (run.path / "pictures" / f"best-1-{panel}.webp").write_bytes(f"webp of {panel}".encode())
    row = {"name": "best-1", "key": "seen before", "miou": 0.5}
    (run.path / "pictures" / "examples.json").write_text(json.dumps([row]))
    assert "seen before" in report(run.path, run.path / "report.html").path.read_text()


def test_camvid_s_part_for_choosing_a_recipe_has_its_new_name():
    assert (
        with_new_names({"data": {"name": "camvid", "train_split": "fit"}})["data"]["train_split"]
        == "subtrain"
    )
    assert (
        with_new_names({"data": {"name": "other", "train_split": "fit"}})["data"]["train_split"]
        == "fit"
    )


def test_an_older_exported_file_says_what_it_said():
    pytest.importorskip("onnxruntime")
    runtime = open_file(FORMAT_1 / "three-layers.onnx", "cpu")
    assert (runtime.test_resize, runtime.image_size) == ((40, 80), (48, 64))
    assert runtime.facts.init == "ImageNet weights"
    assert runtime.run(np.zeros((1, 3, 32, 40), np.float32))[0].shape == (1, 3, 8, 10)
