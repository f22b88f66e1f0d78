"""A TOML file becomes a `Recipe`; `--set key=value` replaces keys; a mistake is answered with a sentence."""

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
from featherseg.hub import is_address
from featherseg.losses.terms import PACKAGE_KEYS
from featherseg.recipe.tables import AVERAGES, LENGTHS, Recipe


@dataclass(frozen=True)
class RecipeFile:
    """A recipe as text, with the name it was asked for by."""

    name: str
    text: str


def shipped_recipes() -> list[str]:
    """Names of the recipes in the package: a model's name for its default recipe, or MODEL_DATASET."""
    defaults = set(models.MODELS)  # those of installed packages as well
    return sorted(defaults | set(_recipe_files()))


def read_recipe(name: str) -> RecipeFile:
    """A shipped recipe by name (`frm-lite0_camvid`, or a model's name for its default), or a .toml file by path.

    Raises UnknownName or ConfigError.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(
                f"no recipe at {path}.{near_path(path)} Shipped recipes: {', '.join(shipped_recipes())}."
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
            f"there is no shipped recipe {name!r}. Use the default recipe with that data: {model} --data {data}"
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
    """Recipe -> the file in shipped/ that has a row for its model: X.toml for default recipes, X_DATASET.toml.

    A model without a row in one of the former has its default recipe from fine-tuning.toml.
    """
    found = {}
    for item in (resources.files("featherseg.recipe") / "shipped").iterdir():
        file = item.name.removesuffix(".toml")
        _, underscore, data = file.partition("_")
        for model in tomllib.loads(item.read_text(encoding="utf-8")).get("models", {}):
            found[f"{model}{underscore}{data}"] = file
    return found


def _whole_recipe(file: str, model: str) -> str:
    """A recipe with every setting: the file's own, and in their place those of its row for the model."""
    text = (resources.files("featherseg.recipe") / "shipped" / f"{file}.toml").read_text(
        encoding="utf-8"
    )
    tables = tomllib.loads(text, parse_float=Decimal)  # Decimal: a printed 9.40 keeps its digits
    row = tables.pop("models", {}).get(model, {})
    tables["model"] = {"name": model, **tables["model"]}
    tables = {name: tables.get(name, {}) | row.get(name, {}) for name in tables | row}
    comment = text.partition("\n\n")[0]
    parts = [comment]
    for name, table in tables.items():
        parts.append(
            "\n".join(
                [f"[{name}]", *(f"{key} = {toml_value(value)}" for key, value in table.items())]
            )
        )
    return "\n\n".join(parts) + "\n"


def parse_recipe(file: RecipeFile, overrides: Iterable[str] = (), **data: str | None) -> Recipe:
    """Text and `--set` overrides -> Recipe; `data` replaces keys of [data] (name, root) where not None.

    Raises ConfigError with a sentence for each slip: unknown keys, values of the wrong type or out of range.
    """
    values = parse_toml(file.text, file.name)
    if isinstance(
        train := values.get("train"), dict
    ):  # in records, steps that were found stand beside minutes
        for group in (LENGTHS, AVERAGES):
            _one_of([f"train.{key}" for key in group if train.get(key)])
    return _override(values, file.name, overrides, data)


def override_recipe(
    recipe: Recipe, where: str, overrides: Iterable[str] = (), **data: str | None
) -> Recipe:
    """`parse_recipe` of a recipe that was read before; `where` names it in messages. Raises ConfigError."""
    return _override(recipe.model_dump(mode="json", exclude_none=True), where, overrides, data)


def _absolute(place: str) -> str:
    return address(place) if is_remote(place) else os.path.abspath(place)


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with the paths of data and teachers starting from the root, so that they hold in every folder."""
    name, root = recipe.data.name, recipe.data.root
    paths = {
        "name": (_absolute(name) if is_remote(name) else str(own_path(name)))
        if is_own(name)
        else name,
        "root": None if root is None else _absolute(root),
    }
    runs, unlabelled = recipe.teacher.runs, recipe.teacher.unlabelled
    named = [is_address(run) or not (os.path.exists(run) or Path(run).name != run) for run in runs]
    teachers = {
        "runs": tuple(
            run if plain else os.path.abspath(run) for run, plain in zip(runs, named, strict=True)
        ),
        "unlabelled": None if unlabelled is None else _absolute(unlabelled),
    }
    update = {
        "data": recipe.data.model_copy(update=paths),
        "teacher": recipe.teacher.model_copy(update=teachers),
    }
    return recipe.model_copy(update=update)


def _override(
    values: dict[str, Any], where: str, overrides: Iterable[str], data: dict[str, str | None]
) -> Recipe:
    overrides = list(overrides)
    for key, value in data.items():
        if value is not None:
            _assign(values, ["data", key], value, f"--data {value}")
    named = {override.partition("=")[0].strip() for override in overrides}
    if "loss.name" in named and isinstance(
        values.get("loss"), dict
    ):  # the recipe's own loss gives way
        values["loss"] = {
            key: value for key, value in values["loss"].items() if key in PACKAGE_KEYS
        }
    for group in (LENGTHS, AVERAGES):
        keys = named & {f"train.{key}" for key in group}
        _one_of(sorted(keys))
        if keys and isinstance(values.get("train"), dict):  # the recipe's own gives way
            values["train"] = {
                key: value for key, value in values["train"].items() if key not in group
            }
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or "." not in key:
            raise ConfigError(
                f"--set {override!r}: expected TABLE.KEY=VALUE, as in --set train.epochs=40."
            )
        _assign(values, key.strip().split("."), _literal(text.strip()), f"--set {override}")
    recipe = parse(Recipe, values, where)
    given = named & {"model.pretrained", "model.name", "train.backbone_lr"}
    if given == {"model.pretrained"} and not recipe.model.pretrained:
        # The recipe's rate is for weights that know something; other models than its own keep it: one got worse without
        recipe = recipe.model_copy(
            update={"train": recipe.train.model_copy(update={"backbone_lr": None})}
        )
    models.configure(recipe.model.name, recipe.model.options)
    if recipe.trains_on_all:
        recipe = recipe.model_copy(
            update={"train": recipe.train.model_copy(update={"keep": "last"})}
        )
    return recipe


def _one_of(keys: Sequence[str]) -> None:
    if len(keys) > 1:
        raise ConfigError(f"{' and '.join(keys)}: give one of them.")


def _literal(text: str) -> Any:
    """A TOML value where it is one (40, true, [0.5, 2.0]), else the text itself."""
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
