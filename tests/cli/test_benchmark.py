"""`featherseg benchmark` on the terminal: prints what was measured, and a message for mistakes."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest
from support.models.small_run import small_info

from featherseg.cli.benchmark import benchmark
from featherseg.comparison import benchmark as session
from featherseg.core.errors import FeathersegError
from featherseg.core.types import ClassInfo
from featherseg.runs.run import open_run, write_info

pytestmark = pytest.mark.usefixtures("quick_training")

FAKE = Path(__file__).parents[1] / "support/processes/fake_benchmark_worker.py"
asked = partial(benchmark, size=["32x48"], threads=[1], device="cpu", baseline="eager", rounds=4)


@pytest.fixture(autouse=True)
def _fake_workers(monkeypatch, tmp_path):
    folder = tmp_path / "workers"
    folder.mkdir()
    real = session.measure
    monkeypatch.setattr(
        session,
        "measure",
        lambda plan, progress: real(plan, progress, (sys.executable, str(FAKE), str(folder))),
    )
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.seconds
def test_the_tables_name_every_variant_its_speed_and_its_fidelity(capsys):
    asked(["frm-lite0"])
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    (row,) = [line for line in lines if "ours-bf16" in line and "5.00x" in line]
    assert "99.00 %" in row
    assert "32x48, 1 thread" in printed
    assert "note: frm-lite0 is untrained: latency only" in printed


@pytest.mark.seconds
def test_the_first_table_fits_a_terminal_of_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    asked(["frm-lite0"])
    (heads,) = [line for line in capsys.readouterr().out.splitlines() if "images/s" in line]
    assert "same class" in heads
    assert "…" not in heads


@pytest.mark.seconds
def test_a_name_that_breaks_lines_stands_in_one(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run = tmp_path / "lawn\nnote: all is well [bold]"
    run.mkdir()
    classes = tuple(ClassInfo(f"class_{number}", (0, 0, number)) for number in range(19))
    write_info(run, small_info(classes))
    asked([str(run), "frm-lite0"])
    printed = capsys.readouterr().out
    assert "lawn\\nnote: all is well [bold]/eager" in printed
    assert not [line for line in printed.splitlines() if line.startswith("note: all is well")]


@pytest.mark.seconds
def test_json_is_one_object_and_the_page_is_written(capsys, tmp_path):
    asked(["frm-lite0"], out=tmp_path / "page.html", as_json=True)
    printed, messages = capsys.readouterr()
    assert json.loads(printed)["schema"] == "featherseg-benchmark"
    assert "the page is" in messages
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_the_data_for_miou_is_the_run_s_own_where_a_split_alone_is_named(lawn_run, monkeypatch):
    monkeypatch.setattr(session, "measure", lambda plan, progress: plan)
    assert session.benchmark([lawn_run]).labelled is None
    found = session.benchmark([lawn_run], split="test").labelled
    assert (found.name, found.split, found.size) == (
        open_run(lawn_run).recipe.data.name,
        "test",
        None,
    )
    with pytest.raises(FeathersegError, match="name the dataset"):
        session.benchmark(["frm-lite0"], split="val")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"size": ["512"]}, r"--image-size '512': expected HEIGHTxWIDTH in pixels"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"baseline": "onnx"}, "unknown baseline 'onnx'"),
        ({"rounds": 1}, "2 starts and 1 rounds: expected at least 2 starts"),
    ],
)
def test_slips_get_a_sentence(changes, sentence):
    with pytest.raises(FeathersegError, match=sentence):
        asked(["frm-lite0"], **changes)


def test_a_file_that_is_not_there_is_refused():
    with pytest.raises(FeathersegError, match=r"none\.onnx does not exist"):
        asked([os.path.join("nowhere", "none.onnx")])


@pytest.mark.parametrize("operators", [False, True])
def test_no_rounds_are_no_number_of_rounds(operators):
    with pytest.raises(FeathersegError, match="--rounds 0: expected at least 1"):
        asked(["frm-lite0"], rounds=0, operators=operators)
