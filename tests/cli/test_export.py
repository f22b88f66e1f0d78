"""`featherseg export`: one table, or JSON; a user's slip is one sentence."""

import json

import pytest
from support.models.three_layer_run import three_layer_run
from support.processes.command import command

from featherseg.cli import progress
from featherseg.cli.export import export
from featherseg.core.errors import ConfigError, ExportError, UnknownName
from featherseg.runs import run as runs

pytestmark = pytest.mark.usefixtures("quick_export")

call = command(export)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose model is quick to export, as `load_run` gives it."""
    found = three_layer_run(tmp_path / "run")
    monkeypatch.setattr(runs, "load_run", lambda name: found)
    return found


def test_a_row_and_a_line_for_every_format(run, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    result = call(run.path, "--format", "onnx, torch-export", "--score")
    assert result.exit_code == 0, result
    rows = [line for line in result.stdout.splitlines() if "100.00%" in line]
    assert [row.split()[1] for row in rows] == ["onnx", "torch-export"]
    assert f"onnx: {run.path}/export/model.onnx (timed at 64x96)" in result.stdout
    assert set(json.loads((run.path / "parity.json").read_text())) == {"onnx", "torch-export"}
    assert "onnx: written\n" in result.stderr
    assert "onnx: written:" not in result.stderr  # the same again as a line of progress


@pytest.mark.seconds
def test_a_training_that_was_stopped_is_told(run, tmp_path):
    (run.path / "last.ckpt").touch()
    result = call(run.path, "--format", "onnx", "-o", tmp_path / "a.onnx")
    assert f"NOTE: {run.how_far}.\n" in result.stderr
    assert "its training was stopped" in result.stderr


@pytest.mark.seconds
def test_json_and_nothing_else(run, tmp_path):
    result = call(run.path, "--format", "onnx", "-o", tmp_path / "a.onnx", "--json")
    (report,) = json.loads(result.stdout)
    assert (report["format"], report["path"], report["parity"]["ok"]) == (
        "onnx",
        str(tmp_path / "a.onnx"),
        True,
    )


@pytest.mark.seconds
def test_masks_are_written_for_formats_that_have_them(run):
    assert call(run.path, "--format", "onnx,openvino", "--masks").exit_code == 0
    assert isinstance(call(run.path, "--format", "torch-export", "--masks").exception, ConfigError)


@pytest.mark.slow
def test_a_file_of_masks_and_one_of_logits_replace_each_other_by_name_alone(run):
    file = run.path / "export/model.onnx"
    call(run.path, "--masks")
    masks = file.read_bytes()
    error = call(run.path).exception
    assert isinstance(error, ExportError)
    assert (
        f"{file} returns masks, and would be replaced by a file that returns logits. -o FILE puts"
        in str(error)
    )
    assert file.read_bytes() == masks
    assert call(run.path, "-o", file).exit_code == 0
    assert isinstance(call(run.path, "--masks").exception, ExportError)
    assert call(run.path).exit_code == 0


def test_slips_are_refused_before_any_work(run):
    assert isinstance(call(run.path, "--format", "onnx,openvno").exception, UnknownName)
    assert isinstance(call(run.path, "--format", ", ").exception, ExportError)
    assert isinstance(call(run.path, "--max-drop", "-1").exception, ConfigError)
    assert not (run.path / "export").exists()


@pytest.mark.seconds
def test_int8_that_loses_too_much_fails_and_the_others_are_written(run, monkeypatch):
    from featherseg.exporters.calibration import LabelledSplit

    scores = iter([0.5, 0.45, 0.45])
    monkeypatch.setattr(LabelledSplit, "score", lambda split, file: next(scores))
    result = call(run.path, "--format", "onnx,onnx-int8", "--calibration", "2")
    assert isinstance(result.exception, ExportError)
    assert [file.name for file in (run.path / "export").iterdir()] == ["model.onnx"]
