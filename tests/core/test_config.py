from typing import Annotated

import pytest
from pydantic import Field

from featherseg.core.config import Config, parse
from featherseg.core.errors import ConfigError, did_you_mean


class Inner(Config):
    epochs: int
    rate: Annotated[float, Field(gt=0)] = 1.0


class Outer(Config):
    train: Inner
    name: str = "a"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"train": {"epoch": 3, "epochs": 3}}, "here: unknown key 'train.epoch'. Did you mean 'epochs'?"),
        ({"train": {}}, "here: key 'train.epochs' is missing."),
        ({"train": {"epochs": "3"}}, "here: train.epochs = '3': input should be a valid integer."),
        ({"train": {"epochs": 3, "rate": -1}}, "here: train.rate = -1: input should be greater than 0."),
        ({"train": {"epochs": 3}, "zzz": 1}, "here: unknown key 'zzz'. Known: train, name."),
    ],
)
def test_a_slip_gets_a_sentence(values, sentence):
    with pytest.raises(ConfigError) as error:
        parse(Outer, values, "here")
    assert sentence in str(error.value)


def test_every_slip_is_named_at_once():
    with pytest.raises(ConfigError) as error:
        parse(Outer, {"train": {"epochs": 1.5, "x": 1}, "name": 3}, "here")
    assert len(str(error.value).splitlines()) == 3


def test_a_near_name_is_offered_and_else_the_list():
    assert did_you_mean("epoch", ["epochs", "lr"]) == " Did you mean 'epochs'?"
    assert did_you_mean("zzz", ["epochs", "lr"]) == " Known: epochs, lr."
    assert did_you_mean("zzz", []) == ""
