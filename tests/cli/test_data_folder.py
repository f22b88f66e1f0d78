"""A folder as dataset name: every verb says what is missing, and suggests misspelled names."""

import json
import re

import pytest
from typer.testing import CliRunner

from featherseg import models
from featherseg.cli import build_app
from featherseg.core.errors import FeathersegError
from featherseg.runs.run import save_weights

COMMANDS = [
    "evaluate lawn-run --data {}",
    "evaluate --predictions lawn --data {}",
    "evaluate model.onnx --data {}",
    "train frm-lite0 --data {} --out run",
    "compare lawn-run lawn-run-2 --data {}",
    "benchmark lawn-run --data {} --rounds 4",
    "prepare {}",
    "import w.pth --model frm-lite0 --data {} --licence x --out run",
]


def refusal(command: str) -> str:
    result = CliRunner().invoke(build_app(), command.split())
    assert isinstance(result.exception, FeathersegError), (result.output, result.exception)
    return str(result.exception)


@pytest.fixture
def place(tmp_path, monkeypatch, lawn_run):
    """A working folder with lawn/ (with dataset.toml), lawn-run/, and bare/ with images only."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare" / "images").mkdir(parents=True)
    (tmp_path / "w.pth").write_bytes(b"")
    (tmp_path / "lawn-run-2").mkdir()
    (tmp_path / "lawn-run-2" / "resolved.json").write_bytes(
        (lawn_run / "resolved.json").read_bytes()
    )
    save_weights(tmp_path / "lawn-run-2", models.build("frm-lite0", 2).state_dict())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_no_dataset_is_not_sent_to_check(place, command):
    """Which would find no more."""
    text = refusal(command.format("bare"))
    assert re.match(
        r"/\S*bare has no dataset\.toml, and none can be proposed\. /\S*bare has no images", text
    )
    assert "featherseg check" not in text


@pytest.mark.parametrize("data", ["lawn", "lawn/", "./lawn/dataset.toml"])
def test_a_folder_is_its_dataset_toml(place, data):
    result = CliRunner().invoke(
        build_app(), f"evaluate lawn-run --data {data} --split val --json".split()
    )
    assert result.exit_code == 0, result.exception
    assert (
        json.loads(result.stdout)["images"] == 1
    )  # the run's own data, of which it took one image of val
    assert CliRunner().invoke(build_app(), f"check {data}".split()).exit_code == 0


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("check bere", "bare"),
        ("check ./bere", "bare"),
        ("evaluate lawn-run --data lwan/dataset.toml", "lawn/dataset.toml"),
        ("predict lawn-rum lawn/images/val", "lawn-run"),
        ("predict ./lawn-rum lawn/images/val", "lawn-run"),
        ("predict lawn-run bare/imges", "bare/images"),
    ],
)
def test_a_misspelled_name_gets_the_one_that_is_there(place, command, meant):
    assert re.search(
        rf"Did you mean '(/.*/)?{meant}'\?", refusal(command)
    )  # where data lie is said from the root on
