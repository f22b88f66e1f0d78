"""Recipes as nobody writes them: a Recipe whose numbers are finite, or a sentence."""

import math

import pytest
from hypothesis import strategies as st
from support.processes.fuzzing import (
    BUDGETS,
    TOML_VALUES,
    change_bytes,
    change_toml,
    fuzz,
    mutations,
    told,
)

from featherseg.core.errors import FeathersegError
from featherseg.recipe.reading import parse_recipe, read_recipe, shipped_recipes

TEXTS = [read_recipe(name).text.encode() for name in shipped_recipes()]
KEYS = (
    "train.epochs",
    "model.name",
    "data.name",
    "loss.class_weights",
    "augment.crop",
    "train",
    "a.b.c",
    ".",
    "=",
    "train.",
)


def numbers_in(tree: object) -> list[float]:
    """Every number in a tree of dicts and lists."""
    if isinstance(tree, dict):
        return [n for value in tree.values() for n in numbers_in(value)]
    if isinstance(tree, list | tuple):
        return [n for value in tree for n in numbers_in(value)]
    return [tree] if isinstance(tree, float) else []


@pytest.mark.seconds
@BUDGETS
def test_any_recipe_is_parsed_or_refused_in_a_sentence(tmp_path, seconds, seed):
    path = tmp_path / "fuzz.toml"

    def target(case):
        text, mutate, overrides = case
        path.write_bytes(mutate(text))
        try:
            recipe = parse_recipe(
                read_recipe(str(path)), [f"{key}={value}" for key, value in overrides]
            )
        except FeathersegError as error:
            told(error)
            return
        assert all(map(math.isfinite, numbers_in(recipe.model_dump())))
        recipe.model_dump_json()

    overrides = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(TOML_VALUES)), max_size=2)
    fuzz(
        target,
        st.tuples(st.sampled_from(TEXTS), mutations(change_toml, change_bytes), overrides),
        seconds,
        seed,
    )
