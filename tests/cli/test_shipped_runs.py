"""Runs shipped with the package: every verb takes their names and writes to the working folder."""

import pytest
from support.models.three_layers import ThreeLayers
from typer.testing import CliRunner

from featherseg import models
from featherseg.cli import build_app
from featherseg.runs import run as runs


class TwoClasses(ThreeLayers):
    """For the lawn's classes."""

    classes = 2


def invoke(*words: object):
    return CliRunner().invoke(build_app(), [str(word) for word in words])


@pytest.fixture
def shipped(lawn_run, tmp_path, monkeypatch):
    """`lawn-run` as if it came with the package; the working folder is another, an empty one."""
    monkeypatch.setattr(runs, "SHIPPED", lawn_run.parent)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return lawn_run


@pytest.mark.parametrize(
    ("command", "written", "said"),
    [
        ("evaluate lawn-run", "", "not stored"),
        ("report lawn-run", "report.html", "report.html"),
        ("export lawn-run --format torch-export", "export/model.pt2", "export/model.pt2"),
        (
            "compare lawn-run ../elsewhere/other --no-costs --data ../lawn/dataset.toml "
            "-o page.html",
            "page.html",
            "",
        ),
    ],
)
def test_nothing_is_written_into_a_run_of_the_package(
    shipped, tmp_path, monkeypatch, command, written, said
):
    if command.startswith("export"):
        monkeypatch.setattr(runs.Run, "model", TwoClasses().eval())  # quick to export
    other = tmp_path / "elsewhere" / "other"
    other.mkdir(parents=True)
    (other / "resolved.json").write_bytes((shipped / "resolved.json").read_bytes())
    runs.save_weights(other, models.build("frm-lite0", 2).state_dict())
    before = {file: file.stat().st_mtime_ns for file in (shipped, *shipped.iterdir())}
    result = invoke(*command.split())
    assert result.exit_code == 0, (result.output, result.exception)
    assert {file: file.stat().st_mtime_ns for file in (shipped, *shipped.iterdir())} == before
    assert (tmp_path / "here" / written).exists()
    assert said in result.stdout
    if written == "report.html":
        assert str(shipped) not in (tmp_path / "here" / "report.html").read_text()
