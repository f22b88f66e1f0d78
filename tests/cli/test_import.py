import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from featherseg import cli, models
from featherseg.cli.import_ import ask_licence
from featherseg.core.errors import ConfigError, RunError


def run(*arguments: object):
    return CliRunner().invoke(cli.build_app(), [str(argument) for argument in arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Weights of a model of two classes, as lawn has."""
    torch.manual_seed(0)
    torch.save(models.build("frm-lite0", 2).state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def imported(file: Path, lawn: Path, out: Path, *more: object):
    return run("import", file, "--model", "frm-lite0", "--data", lawn, "--out", out, *more)


@pytest.mark.seconds
def test_an_imported_run_is_scored_used_and_reported(file, lawn, tmp_path):
    out = tmp_path / "bought"
    result = imported(file, lawn, out, "--licence", "MIT", "--image-size", "64x72")
    assert result.exit_code == 0, result.exception
    assert "licence: MIT" in result.stdout
    assert json.loads((out / "resolved.json").read_text())["image_size"] == [64, 72]
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((64, 72, 3), dtype=np.uint8)).save(photo)
    for arguments in (
        ("evaluate", out, "--split", "test"),
        ("predict", out, photo, "-o", tmp_path / "masks"),
        ("report", out),
    ):
        assert run(*arguments).exit_code == 0
    assert (tmp_path / "masks" / "photo_mask.png").is_file()
    card = (out / "card.md").read_text()
    assert "2 images" in card
    assert "imported from `weights.pth`" in card


def test_a_dataset_toml_does_not_say_how_large_images_are(file, lawn, tmp_path):
    result = imported(file, lawn, tmp_path / "out", "--licence", "MIT")
    assert isinstance(result.exception, ConfigError)
    assert "set --image-size HEIGHTxWIDTH" in str(result.exception)


def test_without_a_terminal_the_licence_must_be_given(file, lawn, tmp_path):
    result = imported(file, lawn, tmp_path / "out")
    assert isinstance(result.exception, ConfigError)
    assert "under which terms may these weights be used?" in str(result.exception)
    assert not (tmp_path / "out").exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_licence_is_asked_until_there_is_one(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", Terminal("\nMIT\n"))
    assert ask_licence() == "MIT"
    captured = capsys.readouterr()
    assert captured.err.count("Under which terms may these weights be used") == 2


def test_a_run_is_not_imported_through_a_link(file, lawn, tmp_path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for target in (elsewhere, elsewhere / "missing"):
        (tmp_path / "out").symlink_to(target)
        result = imported(file, lawn, tmp_path / "out", "--licence", "MIT", "--image-size", "64x72")
        assert isinstance(result.exception, RunError)
        (tmp_path / "out").unlink()
    assert not os.listdir(elsewhere)


@pytest.mark.seconds
def test_keys_without_a_use_steer_no_terminal(lawn, tmp_path):
    state = models.build("frm-lite0", 2).state_dict() | {"loss.a\x1b[2J\nerror: b": torch.zeros(1)}
    torch.save(state, tmp_path / "weights.pth")
    result = imported(
        tmp_path / "weights.pth",
        lawn,
        tmp_path / "out",
        "--licence",
        "MIT",
        "--image-size",
        "64x72",
    )
    assert result.exit_code == 0
    assert r"not used here: loss.a\x1b[2J\nerror: b" in result.stdout
