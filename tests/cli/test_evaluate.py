import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.processes.command import command

import featherseg
from featherseg.api import report
from featherseg.cli.evaluate import evaluate
from featherseg.cli.score_tables import print_comparison
from featherseg.cli.terminal import Console
from featherseg.core.errors import ConfigError, FeathersegError
from featherseg.costs.cost import cost
from featherseg.costs.published import Comparison, Difference
from featherseg.data import score_split
from featherseg.recipe.tables import PaperTable
from featherseg.reports.card import card
from featherseg.runs.run import open_run, write_info

run = command(evaluate)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]


def test_json_alone_is_on_stdout_and_messages_on_stderr(lawn_run):
    result = run(lawn_run, "--split", "val", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert {"miou", "iou", "pixel_accuracy", "confusion", "void"} <= set(found)
    assert (len(found["iou"]), np.sum(found["confusion"]), found["images"]) == (2, 64 * 72, 1)
    assert [found[key] for key in ("data", "split", "inference")] == ["lawn", "val", "whole"]
    assert "1 image of val, as in training" in result.stderr


def test_a_run_keeps_its_scores_and_counts_its_looks_at_test(lawn_run, lawn):
    for look, times in enumerate(("1 time ", "2 times "), start=1):
        result = run(lawn_run)
        assert (
            f"look {look} at test: this run has been evaluated on test {times.strip()}"
            in result.stdout
        )
        assert "selected" not in result.stdout
    assert json.loads(run(lawn_run, "--json").stdout)["look"] == 3
    assert "look" not in json.loads(run(lawn_run, "--split", "val", "--json").stdout)
    result = run(lawn_run)
    assert "grass" in result.stdout
    assert "2 images: mIoU" in result.stdout
    assert [line["split"] for line in lines(lawn_run)] == ["test", "test", "test", "val", "test"]
    assert json.loads((lawn_run / "scores.json").read_text())["split"] == "test"


def test_brackets_in_a_note_are_printed(lawn_run, monkeypatch):
    scored = featherseg.evaluate(lawn_run)
    notes = ("since the training: [map] 1 was path, is plant", "images of [/x]")
    monkeypatch.setattr(featherseg, "evaluate", lambda *given, **how: replace(scored, notes=notes))
    printed = run(lawn_run).stdout
    assert all(note in printed for note in notes)


def with_recipe(path: Path, table: str, **settings: object) -> None:
    """Give a run other settings of a table of its recipe."""
    info = open_run(path).info
    changed = getattr(info.recipe, table).model_copy(update=settings)
    write_info(
        path, info.model_copy(update={"recipe": info.recipe.model_copy(update={table: changed})})
    )


@pytest.mark.seconds
def test_scores_on_the_split_that_kept_the_weights_are_called_selected(lawn_run, lawn):
    result = run(lawn_run, "--split", "val")
    assert result.stdout.count("selected on these images") == 2  # the split, and behind the figures
    assert (
        json.loads(run(lawn_run, "--split", "val", "--data", lawn, "--json").stdout)["selected"]
        is True
    )
    assert "selected" not in json.loads(run(lawn_run, "--json").stdout)
    assert [line["selected"] for line in lines(lawn_run)] == [True, True, False]
    assert (
        card(open_run(lawn_run)).count("evaluated on the split 2 times; selected on these images")
        == 1
    )
    run(lawn_run, "--split", "val")
    assert "mIoU on lawn val (selected on these images), %" in report(lawn_run).path.read_text()


def test_the_last_weights_are_not_selected_by_any_split(lawn_run):
    with_recipe(lawn_run, "train", keep="last")
    assert "selected" not in run(lawn_run, "--split", "val").stdout


@pytest.mark.parametrize("masks", ["none", "no split"])
def test_a_test_split_without_masks_leaves_the_validation_split(lawn_run, lawn, masks):
    if masks == "none":
        shutil.rmtree(lawn.parent / "masks" / "test")
    else:
        lawn.write_text(lawn.read_text().replace('test = "test"\n', ""))
    assert "scored on val: selected on these images" in run(lawn_run).stdout
    assert [line["split"] for line in lines(lawn_run)] == ["val"]


@pytest.mark.parametrize(
    ("name", "split"), [("shapes", "test"), ("cityscapes", "val"), ("ade20k", "val")]
)
def test_named_datasets_are_scored_on_test_where_it_has_labels(name, split):
    assert score_split(name) == split


def test_camvid_is_scored_on_test_where_that_is_unpacked(shared, tmp_path):
    assert score_split("camvid", shared / "data" / "camvid") == "test"
    assert score_split("camvid", tmp_path) == "val"


def test_without_a_run_no_look_is_counted_and_that_is_said(tmp_path, lawn):
    for number in range(2):
        Image.fromarray(np.zeros((64, 72), np.uint8)).save(tmp_path / f"{number}.png")
    assert (
        "scored on test: only a run counts its looks"
        in run("--predictions", tmp_path, "--data", lawn).stdout
    )


def test_a_run_whose_recipe_names_a_paper_s_row_is_printed_beside_it(lawn_run, lawn):
    table = PaperTable(
        row="Table 9",
        data=str(lawn),
        classes=2,
        miou={"val": 50.0},
        params_m=3.5,
        gmacs=0.2,
        convention="macs",
        size=(64, 64),
    )
    info = open_run(lawn_run).info
    write_info(
        lawn_run,
        info.model_copy(update={"recipe": info.recipe.model_copy(update={"paper": table})}),
    )
    ours = f" {cost('frm-lite0', (64, 64), 2).params / 1e6:.3f} "
    printed = run(lawn_run).stdout
    assert "scored on val" in printed  # the split of the row
    assert "Published in Table 9, and this run" in printed
    assert any(
        "parameters, M" in line and " 3.5 " in line and ours in line
        for line in printed.splitlines()
    )
    assert "No shipped recipe repeats this row" in printed
    published = json.loads(run(lawn_run, "--json").stdout)["published"]
    assert (published["row"], published["recipe"], published["differences"]) == (
        "Table 9",
        None,
        [],
    )
    assert [figure["published"] for figure in published["figures"]] == [50.0, 3.5, 0.2]

    # a row of a test split whose masks only the paper's server has
    with_recipe(lawn_run, "paper", miou={"test": 50.0})
    shutil.rmtree(lawn.parent / "masks" / "test")
    assert "scored on val" in run(lawn_run).stdout


def test_what_differs_from_the_paper_s_recipe_is_printed_below_its_row(capsys):
    rows = tuple(Difference(f"train.key{i}", i, None) for i in range(20))
    print_comparison(Console(width=100), Comparison("Table 9", (), "a_b", rows))
    printed = capsys.readouterr().out
    assert "This run differs from this row's recipe, a_b, in 20 settings" in printed
    assert "train.key11" in printed
    assert "train.key12" not in printed
    assert "8 more: featherseg evaluate --json" in printed


def test_a_run_is_scored_on_the_whole_split_where_that_is_asked(lawn_run, lawn):
    assert json.loads(run(lawn_run, "--split", "val", "--json", "--full").stdout)["images"] == 2
    own = run(lawn_run, "--split", "val", "--json", "--data", lawn)  # by name its own data
    assert json.loads(own.stdout)["images"] == 1


def test_modes_are_written_down(lawn_run):
    assert run(lawn_run, "--tta", "flip", "--scales", "0.5,1", "--window", "48x48").exit_code == 0
    assert lines(lawn_run)[0]["inference"] == "windows of 48x48, flip, scales 0.5 1.0"


def test_a_run_is_scored_at_the_size_it_was_validated_at_unless_told_otherwise(lawn_run):
    info = open_run(lawn_run).info
    data = info.recipe.data.model_copy(update={"test_resize": (32, 100)})
    write_info(
        lawn_run, info.model_copy(update={"recipe": info.recipe.model_copy(update={"data": data})})
    )
    assert "images are processed: whole, fitted to 32x100" in run(lawn_run).stdout
    run(lawn_run, "--resize", "64x64", "--scales", "0.5,1")
    assert "are processed" not in run(lawn_run, "--resize", "off").stdout
    modes = ["whole, fitted to 32x100", "whole, fitted to 64x64, scales 0.5 1.0", "whole"]
    assert [line["inference"] for line in lines(lawn_run)] == modes


def test_a_folder_of_predictions_is_scored_and_nothing_is_written(tmp_path, lawn):
    folder = tmp_path / "predictions"
    folder.mkdir()
    mask = np.zeros((64, 72), dtype=np.uint8)
    mask[:, 30:], mask[0] = 1, 200
    for number in range(2):
        Image.fromarray(mask).save(folder / f"{number}.png")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    result = run("--predictions", folder, "--data", lawn, "--split", "val", "--json")
    found = json.loads(result.stdout)
    assert (found["confusion"], found["void"]) == ([[63 * 60, 0], [0, 63 * 84]], [60, 84])
    assert found["iou"] == [63 / 64, 63 / 64]
    assert [found.get(key) for key in ("data", "split", "inference")] == ["lawn", "val", None]
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "RUN"),
        (("a", "--predictions", "b"), "expected either a RUN"),
        (("--predictions", "b"), "--data NAME"),
        (
            ("--predictions", "b", "--data", "c", "--resize", "off"),
            "inference would have no effect",
        ),
        (("a.onnx",), "--data NAME"),
        (("a", "--trust"), "trust would have no effect"),
        (("a.onnx", "--data", "c", "--trust"), "trust would have no effect"),
        (("--predictions", "b", "--data", "c", "--trust"), "trust would have no effect"),
        (("a", "--scales", "big"), "--scales 'big'"),
        (("a", "--window", "512"), "--window '512'"),
        (("a", "--resize", "512"), "SHORTxLONG"),
        (("a", "--resize", "2048x512"), "such as 512x2048"),
    ],
)
def test_what_cannot_be_is_refused_before_work(arguments, named):
    result = run(*arguments)
    assert isinstance(result.exception, ConfigError)
    assert named in str(result.exception)


def test_data_of_other_classes_is_refused_with_the_difference(lawn_run, lawn):
    other = lawn.with_name("other.toml")
    other.write_text(lawn.read_text().replace('"path"', '"gravel"'))
    result = run(lawn_run, "--data", other)
    assert isinstance(result.exception, FeathersegError)
    assert "only in the model: path; only in the data: gravel" in str(result.exception)
    assert not (lawn_run / "evaluations.jsonl").exists()
