from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
from pydantic import Field

from featherseg.core.config import Config, parse, parse_toml, read_text, setting_texts, toml_value
from featherseg.core.errors import OTHER_NAMES, ConfigError, did_you_mean, near_path
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.recipe.tables import Recipe


class Inner(Config):
    epochs: int
    rate: Annotated[float, Field(gt=0)] = 1.0


class Outer(Config):
    train: Inner
    name: str = "a"
    share: Annotated[float, Field(le=1)] | Literal["auto"] = 0.0
    weights: Literal["none", "auto"] | list[Annotated[float, Field(ge=0)]] = "none"


def test_what_other_tools_call_a_key_leads_to_ours():
    for theirs, ours in OTHER_NAMES.items():
        assert did_you_mean(theirs, ["epochs", "backbone_lr", ours]) == f" Did you mean {ours!r}?"
    tables = Recipe.model_fields["train"].annotation, Recipe.model_fields["augment"].annotation
    assert set(OTHER_NAMES.values()) <= {key for table in tables for key in table.model_fields}
    with pytest.raises(ConfigError, match=r"'train.learning_rate'. Did you mean 'lr'\?"):
        parse_recipe(read_recipe("frm-lite0"), ["train.learning_rate=0.1"])


def test_a_misspelled_part_of_a_path_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neu" / "deep").mkdir(parents=True)
    assert near_path(Path("neeu")) == " Did you mean 'neu'?"
    assert near_path(Path("neu")) == ""
    assert near_path(Path("neeu/deep")) == " Did you mean 'neu/deep'?"
    assert (
        near_path(tmp_path / "neu" / "dep") == f" Did you mean {str(tmp_path / 'neu' / 'deep')!r}?"
    )
    for nothing in ("neeu/other", "q", "a" * 5000):
        assert near_path(Path(nothing)) == ""


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"train": {"epoch": 3, "epochs": 3}},
            "here: unknown key 'train.epoch'. Did you mean 'epochs'?",
        ),
        ({"train": {}}, "here: key 'train.epochs' is missing."),
        ({"train": {"epochs": "3"}}, "here: train.epochs = '3': input should be a valid integer."),
        (
            {"train": {"epochs": 3, "rate": -1}},
            "here: train.rate = -1: input should be greater than 0.",
        ),
        (
            {"train": {"epochs": 3, "rate": float("inf")}},
            "here: train.rate = inf: input should be a finite number.",
        ),
        (
            {"train": {"epochs": 3}, "zzz": 1},
            "here: unknown key 'zzz'. Known: train, name, share, weights.",
        ),
    ],
)
def test_a_slip_gets_a_sentence(values, sentence):
    with pytest.raises(ConfigError) as error:
        parse(Outer, values, "here")
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"share": 1.5}, "here: share = 1.5: input should be less than or equal to 1 or 'auto'."),
        ({"share": "aut"}, "here: share = 'aut': input should be a valid number or 'auto'."),
        (
            {"weights": "x"},
            "here: weights = 'x': input should be 'none' or 'auto' or a valid array.",
        ),
        ({"weights": [1, -1]}, "here: weights.1 = -1: input should be greater than or equal to 0."),
    ],
)
def test_a_value_that_may_be_a_word_or_a_number_gets_one_sentence(values, sentence):
    with pytest.raises(ConfigError) as error:
        parse(Outer, {"train": {"epochs": 3}} | values, "here")
    assert str(error.value) == sentence


def test_every_slip_is_named_at_once():
    with pytest.raises(ConfigError) as error:
        parse(Outer, {"train": {"epochs": 1.5, "x": 1}, "name": 3}, "here")
    assert len(str(error.value).splitlines()) == 3


def test_a_near_name_is_offered_and_else_the_list():
    assert did_you_mean("epoch", ["epochs", "lr"]) == " Did you mean 'epochs'?"
    assert did_you_mean("zzz", ["epochs", "lr"]) == " Known: epochs, lr."
    assert did_you_mean("zzz", []) == ""


@pytest.mark.parametrize(
    "text", ["a = ", "a = " + "9" * 5000, "a = " + "[" * 5000, "a = 1\na = 2", "\x00"]
)
def test_what_is_no_toml_is_refused_by_the_file_s_name(text):
    with pytest.raises(ConfigError, match="here is not valid TOML: "):
        parse_toml(text, "here")


def test_a_value_written_as_toml_is_read_as_it_was():
    value = {
        "a b": [1, 2.5e-7, True, {"x": '\U00020bb7 \x7f\t"é\\'}],
        "c-1": (),
        "path": Path("/a/1"),
    }
    expected = {"a b": [1, 2.5e-7, True, {"x": '\U00020bb7 \x7f\t"é\\'}], "c-1": [], "path": "/a/1"}
    assert parse_toml(f"value = {toml_value(value)}", "here")["value"] == expected
    assert setting_texts({"train.seed": np.int64(3), "train.lr": np.float64(0.001)}) == (
        "train.seed=3",
        "train.lr=0.001",
    )
    for none in (None, object(), [None]):
        with pytest.raises(ConfigError, match=r"is no value of a recipe: expected a number"):
            toml_value(none)


def test_what_is_no_text_is_refused_by_the_file_s_name(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match=r"a\.toml is not UTF-8 text"):
        read_text(tmp_path / "a.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_text(tmp_path)
