"""`predict --cluster`: mistakes are reported before a start; without Ray, how to install it."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from featherseg.cli import build_app
from featherseg.cli import predict as verb
from featherseg.cli.terminal import Console
from featherseg.core.errors import ConfigError, DataNotFound, MissingExtra
from featherseg.runs.run import STARTER


def predict(*words):
    return CliRunner().invoke(build_app(), ["predict", STARTER, *map(str, words)])


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        (["in", "-o", "out", "--workers", "0", "--cluster", "local"], ConfigError, "--workers 0"),
        (["in", "-o", "out", "--workers", "2"], ConfigError, "together with --cluster"),
        (
            ["in", "-o", "in/out", "--cluster", "local"],
            ConfigError,
            "lies in the folder of the images",
        ),
        (["in", "-o", "in", "--cluster", "local"], ConfigError, "lies in the folder of the images"),
        (
            ["s3://b/in", "-o", "s3://b/in/out", "--cluster", "local"],
            ConfigError,
            "lies in the folder",
        ),
        (
            ["in", "in", "-o", "out", "--cluster", "local"],
            ConfigError,
            "one folder of images, not 2",
        ),
        (["in/0.png", "-o", "out", "--cluster", "local"], ConfigError, "is a file"),
        (["inn", "-o", "out", "--cluster", "local"], DataNotFound, "inn does not exist"),
        (
            ["in", "-o", "out", "--cluster", "local", "--batch", "4"],
            ConfigError,
            "--batch cannot go with --cluster",
        ),
        (
            ["in", "-o", "out", "--cluster", "local", "--overwrite"],
            ConfigError,
            "--overwrite cannot go",
        ),
        (
            ["in", "-o", "out", "--cluster", "local", "--threads", "2"],
            ConfigError,
            "--threads cannot go",
        ),
        (
            ["in", "-o", "out", "--cluster", "local", "--probabilities", "npz"],
            ConfigError,
            "--probabilities cannot go",
        ),
        (
            ["in", "-o", "out", "--cluster", "local", "--submission", "cityscapes"],
            ConfigError,
            "--submission cannot",
        ),
        (
            ["in", "-o", "out", "--cluster", "local", "--device", "cuda:1"],
            ConfigError,
            "expected auto, cpu or cuda",
        ),
        (["in", "-o", "out.png", "--cluster", "local"], ConfigError, "out.png names an image"),
    ],
)
def test_slips_are_told_before_ray_is_asked_for(photos, tmp_path, monkeypatch, words, error, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    result = predict(*words)
    assert isinstance(result.exception, error), result.exception
    assert told in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_without_ray_the_extra_is_named(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    result = predict(photos, "-o", tmp_path / "out", "--cluster", "local")
    assert isinstance(result.exception, MissingExtra)
    assert "pip install 'featherseg[cluster]'" in str(result.exception)


def test_without_a_terminal_progress_is_a_line_a_minute(monkeypatch, capsys):
    now = iter([0.0, 0.0, 30.0, 70.0])
    monkeypatch.setattr(verb, "time", SimpleNamespace(monotonic=lambda: next(now)))
    reporter = verb.PredictConsole(Console(highlight=False, soft_wrap=True))
    reporter.progress("predicting", 1000, 6000)  # done by an earlier command
    reporter.progress("predicting", 1050, 6000)
    reporter.progress("predicting, 5 images without a mask", 1700, 6000)
    line = "predicting, 5 images without a mask: 1700 of 6000, 10.0 a second\n"
    assert capsys.readouterr().out == line
