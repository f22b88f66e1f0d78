from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from featherseg import cli
from featherseg.core.errors import ConfigError, UnknownName
from featherseg.data import open_dataset, open_files
from featherseg.data.cache.prepared import PreparedData, loss_of


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    monkeypatch.delenv("FEATHERSEG_CACHE", raising=False)


def run(*arguments: object):
    return CliRunner().invoke(
        cli.build_app(), ["prepare", *(str(argument) for argument in arguments)]
    )


def test_all_splits_are_prepared_beside_the_data_and_kept_the_second_time(lawn: Path):
    first, second = run(lawn), run(lawn)
    assert first.exit_code == second.exit_code == 0, first.exception
    folder = lawn.parent / ".featherseg/lawn/raw"
    assert first.stdout.splitlines() == [
        f"{split}: 2 images; {folder} has 0.00 GB" for split in ("val", "test")
    ]
    assert (
        second.stdout.splitlines()[0]
        == f"val: 2 images, 2 of them already there; {folder} has 0.00 GB"
    )
    for split in ("val", "test"):
        data = open_dataset(str(lawn), split)
        assert isinstance(data, PreparedData)
        np.testing.assert_array_equal(data[1].image, open_files(str(lawn), split)[1].image)


def test_one_split_as_jpeg_in_another_folder(lawn: Path, tmp_path: Path, monkeypatch):
    out = tmp_path / "out"
    result = run(lawn, "--split", "val", "--storage", "jpeg", "--quality", "80", "-o", out)
    assert result.stdout.splitlines()[-1] == f"Used if FEATHERSEG_CACHE={out} is set."
    assert not isinstance(open_dataset(str(lawn), "val"), PreparedData)
    monkeypatch.setenv("FEATHERSEG_CACHE", str(out))
    assert loss_of(open_dataset(str(lawn), "val", exact=False)).startswith(
        "2 of 2 images as JPEG of quality 80"
    )
    assert loss_of(open_dataset(str(lawn), "test", exact=False)) is None


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("shapes",), ConfigError, "shapes is generated"),
        (("camvit",), UnknownName, "camvid"),
        (("LAWN", "--split", "vall"), UnknownName, "val"),
        (("LAWN", "--quality", "95"), ConfigError, "--quality is for --storage jpeg alone"),
    ],
)
def test_slips_are_sentences(lawn: Path, arguments, error, text):
    result = run(*(lawn if argument == "LAWN" else argument for argument in arguments))
    assert isinstance(result.exception, error)
    assert text in str(result.exception)


def test_a_quality_that_cannot_be_is_wrong_usage(lawn: Path):
    assert run(lawn, "--quality", "0").exit_code == 2
    assert not (lawn.parent / ".featherseg").exists()
