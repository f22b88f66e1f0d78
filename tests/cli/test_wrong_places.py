"""A place of another kind than a verb expects is called what it is, and nothing is written."""

import pytest
from PIL import Image
from support.models.fit_plans import write_yard
from typer.testing import CliRunner

import featherseg
from featherseg.cli import build_app
from featherseg.core.errors import ConfigError, RunError
from featherseg.runs.run import SHIPPED, STARTER

URL = "https://example.org/a/photo.jpg"


def refused(line):
    result = CliRunner().invoke(build_app(), line.split())
    assert result.exit_code != 0
    return result.exception


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder: a dataset, an image and a recipe."""
    monkeypatch.chdir(tmp_path)
    write_yard(tmp_path / "yard", images=2)
    Image.new("RGB", (96, 64)).save("photo.png")
    (tmp_path / "recipe.toml").write_text('[model]\nname = "frm-lite0"\n')
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        f"predict {STARTER} {URL} -o out",
        f"predict {STARTER} photo.png -o {URL}",
        f"predict {URL} photo.png -o out",
        f"predict {STARTER} HTTP://example.org/photo.jpg -o out",
        f"predict {STARTER} rtsp://example.org/1 -o out",
        f"check {URL}",
        f"check yard --fix {URL}",
        f"convert {URL} -o out",
        f"train {URL} -o out",
        f"train frm-lite0 --data {URL} -o out",
        f"train frm-lite0 --data yard --init {URL} -o out",
        f"evaluate {STARTER} --data {URL}",
        f"evaluate --predictions {URL} --data yard",
        f"export {URL}",
        f"export {STARTER} -o {URL}",
        f"serve {URL}",
        f"audit {URL}",
        f"prepare {URL}",
        f"report {URL}",
        f"import {URL} --model frm-lite0 --data yard -o out",
        f"benchmark {URL}",
        f"compare {STARTER} {URL}",
        f"fit --data {URL} --max-ms 9 -o out",
        f"push {STARTER} {URL}",
    ],
)
def test_an_address_that_is_not_read_is_refused(here, line):
    error = refused(line)
    assert isinstance(error, ConfigError)
    assert "is an address, expected a path" in str(error)
    assert {path.name for path in here.iterdir()} == {"yard", "photo.png", "recipe.toml"}


def test_an_address_is_refused_in_python():
    for call in (featherseg.Predictor, featherseg.evaluate, featherseg.Predictor(STARTER)):
        with pytest.raises(ConfigError, match="is an address, expected a path"):
            call(URL)


def test_a_licence_may_be_an_address(here):
    (here / "weights.pth").write_bytes(b"")
    error = refused(
        "import weights.pth --model frm-lite0 --data yard "
        "--licence https://example.org/terms -o out"
    )
    assert "is an address" not in str(error)


@pytest.mark.parametrize(
    "verb", ["predict {} photo.png -o out", "report {}", "export {}", "serve {}", "evaluate {}"]
)
@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            "yard",
            "yard is a dataset, expected a run. "
            "Train one with: featherseg train frm-lite0 --data yard -o RUN",
        ),
        ("yard/dataset.toml", "yard/dataset.toml is a dataset, expected a run"),
        (
            "recipe.toml",
            "recipe.toml is a recipe, expected a run. "
            "Train one with: featherseg train recipe.toml -o RUN",
        ),
        ("photo.png", "photo.png is a file, expected a run folder"),
        (
            "yard/images",
            "yard/images is not a run: it has no resolved.json. Expected a folder that",
        ),
    ],
)
def test_what_is_no_run_is_called_what_it_is(here, verb, place, message):
    error = refused(verb.format(place))
    assert isinstance(error, RunError)
    assert str(error).startswith(message)


@pytest.mark.parametrize("place", ["yard", "yard/dataset.toml"])
@pytest.mark.parametrize("verb", ["train {} -o out", "sweep {} --models frm-lite0 -o out"])
def test_a_dataset_given_as_a_recipe_is_called_one(here, verb, place):
    assert str(refused(verb.format(place))).startswith(
        f"{place} is a dataset, expected a model or a recipe. Name both"
    )


@pytest.mark.parametrize(
    "verb", ["check {}", "prepare {}", "audit {}", f"evaluate {STARTER} --data {{}}"]
)
def test_a_run_given_as_a_dataset_is_called_one(here, verb):
    assert f"{SHIPPED / STARTER} is a run, expected a dataset" in str(
        refused(verb.format(SHIPPED / STARTER))
    )
