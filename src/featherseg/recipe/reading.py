"""Read a TOML file as a `Recipe`; `--set key=value` replaces keys."""

import os
import shlex
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from featherseg import models
from featherseg.core.config import parse, parse_toml, read_text, toml_value
from featherseg.core.errors import ConfigError, UnknownName, near_path, unknown
from featherseg.core.storage import address, is_remote
from featherseg.data import DATASETS, is_own, own_path
from featherseg.losses.terms import PACKAGE_KEYS
from featherseg.recipe.tables import EXCLUSIVE, Recipe


@dataclass(frozen=True)
class RecipeFile:
    """The text of a recipe, and its name or path."""

    name: str
    text: str


def shipped_recipes() -> list[str]:
    """Return the names of the shipped recipes: MODEL (its default recipe) or MODEL_DATASET."""
    defaults = set(models.MODELS)  # with the models of installed packages
    return sorted(defaults | set(_recipe_files()))


def read_recipe(name: str) -> RecipeFile:
    """Return a shipped recipe by name (`frm-lite0_camvid`, `frm-lite0`), or a .toml file by path.

    Raises UnknownName or ConfigError.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(
                f"no recipe at {path}.{near_path(path)} Shipped recipes: "
                f"{', '.join(shipped_recipes())}."
            )
        if path.name == "dataset.toml":
            raise _dataset_as_recipe(name)
        return RecipeFile(path.name, read_text(path))
    model, _, data = name.partition("_")
    file = _recipe_files().get(name) or ("fine-tuning" if name in models.MODELS else None)
    if file:
        return RecipeFile(name, _whole_recipe(file, model))
    if model in models.MODELS and data in DATASETS:
        raise UnknownName(
            f"there is no shipped recipe {name!r}. Use the default recipe with that data: "
            f"{model} --data {data}"
        )
    if os.path.isfile(os.path.join(name, "dataset.toml")):
        raise _dataset_as_recipe(name)
    raise unknown("model or recipe", name, shipped_recipes())


def _dataset_as_recipe(name: str) -> ConfigError:
    return ConfigError(
        f"{name} is a dataset, expected a model or a recipe. "
        f"Name both: featherseg train frm-lite0 --data {shlex.quote(name)} -o RUN"
    )


@cache
def _recipe_files() -> dict[str, str]:
    """Return recipe -> name of the file in shipped/ that has a row for its model.

    Default recipes are in X.toml, others in X_DATASET.toml. fine-tuning.toml is the default recipe
    of models without a row.
    """
    files = {}
    for item in (resources.files("featherseg.recipe") / "shipped").iterdir():
        file = item.name.removesuffix(".toml")
        _, underscore, data = file.partition("_")
        for model in tomllib.loads(item.read_text(encoding="utf-8")).get("models", {}):
            files[f"{model}{underscore}{data}"] = file
    return files


def _whole_recipe(file: str, model: str) -> str:
    """Return the text of a recipe: the settings of a file, replaced by those of the model's row."""
    path = resources.files("featherseg.recipe") / "shipped" / f"{file}.toml"
    text = path.read_text(encoding="utf-8")
    tables = tomllib.loads(text, parse_float=Decimal)  # Decimal: a printed 9.40 keeps its digits
    row = tables.pop("models", {}).get(model, {})
    tables["model"] = {"name": model, **tables["model"]}
    tables = {name: tables.get(name, {}) | row.get(name, {}) for name in tables | row}
    comment = text.partition("\n\n")[0]
    parts = [comment]
    for name, table in tables.items():
        rows = [f"{key} = {toml_value(value)}" for key, value in table.items()]
        parts.append("\n".join([f"[{name}]", *rows]))
    return "\n\n".join(parts) + "\n"


def parse_recipe(file: RecipeFile, overrides: Iterable[str] = (), **data: str | None) -> Recipe:
    """Return the recipe of a text.

    Args:
        overrides: texts KEY=VALUE, as of `--set`.
        data: replaces keys of [data] (name, root) if it is not None.

    Raises:
        ConfigError: with one message for each mistake: an unknown key, or a value of the wrong type
            or out of range.
    """
    values = parse_toml(file.text, file.name)
    # only here: the record of a run has both minutes and the steps that they were enough for
    if isinstance(train := values.get("train"), dict):
        for group in EXCLUSIVE:
            _one_of([f"train.{key}" for key in group if train.get(key)])
    return _override(values, file.name, overrides, data)


def override_recipe(
    recipe: Recipe, where: str, overrides: Iterable[str] = (), **data: str | None
) -> Recipe:
    """Return a recipe with overrides, as `parse_recipe`; `where` names it in messages."""
    return _override(recipe.model_dump(mode="json", exclude_none=True), where, overrides, data)


def _absolute(place: str) -> str:
    return address(place) if is_remote(place) else os.path.abspath(place)


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Return the recipe with absolute paths of its data, valid in every folder."""
    name, root, unlabelled = recipe.data.name, recipe.data.root, recipe.data.unlabelled
    paths = {
        "name": (_absolute(name) if is_remote(name) else str(own_path(name)))
        if is_own(name)
        else name,
        "root": None if root is None else _absolute(root),
        "unlabelled": None if unlabelled is None else _absolute(unlabelled),
    }
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=paths)})


def _override(
    values: dict[str, Any], where: str, overrides: Iterable[str], data: dict[str, str | None]
) -> Recipe:
    overrides = list(overrides)
    for key, value in data.items():
        if value is not None:
            _assign(values, ["data", key], value, f"--data {value}")

    # An override replaces what excludes it: loss.name the terms of the loss, one length another
    given = {override.partition("=")[0].strip() for override in overrides}
    if "loss.name" in given and isinstance(values.get("loss"), dict):
        values["loss"] = {
            key: value for key, value in values["loss"].items() if key in PACKAGE_KEYS
        }
    for group in EXCLUSIVE:
        keys = given & {f"train.{key}" for key in group}
        _one_of(sorted(keys))
        if keys and isinstance(values.get("train"), dict):
            values["train"] = {k: value for k, value in values["train"].items() if k not in group}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or "." not in key:
            raise ConfigError(
                f"--set {override!r}: expected TABLE.KEY=VALUE, as in --set train.epochs=40."
            )
        _assign(values, key.strip().split("."), _literal(text.strip()), f"--set {override}")
    recipe = parse(Recipe, values, where)

    # backbone_lr is for pretrained weights; it stays if another model is chosen, because a model
    # trained from scratch was worse without it
    rate_keys = given & {"model.pretrained", "model.name", "train.backbone_lr"}
    if rate_keys == {"model.pretrained"} and not recipe.model.pretrained:
        train = recipe.train.model_copy(update={"backbone_lr": None})
        recipe = recipe.model_copy(update={"train": train})
    models.configure(recipe.model.name, recipe.model.options)  # refuses unknown names and options
    if recipe.trains_on_all:
        train = recipe.train.model_copy(update={"keep": "last"})
        recipe = recipe.model_copy(update={"train": train})
    return recipe


def _one_of(keys: Sequence[str]) -> None:
    if len(keys) > 1:
        raise ConfigError(f"{' and '.join(keys)}: give one of them.")


def _literal(text: str) -> Any:
    """Return the value of a TOML text (40, true, [0.5, 2.0]); of another text the text itself."""
    try:
        return parse_toml(f"value = {text}", text)["value"]
    except ConfigError:
        return text


def _assign(values: dict[str, Any], path: list[str], value: Any, where: str) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: {part!r} is not a table.")
    values[path[-1]] = value
