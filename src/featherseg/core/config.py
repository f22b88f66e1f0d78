"""Base of every configuration: pydantic, frozen, strict, unknown keys refused, every slip answered with a message."""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from featherseg.core.errors import ConfigError, did_you_mean
from featherseg.core.files import read_bounded

T = TypeVar("T", bound="Config")
Settings = TypeVar("Settings", bound=Any)
"""A dataclass of what may be set, with a default for each field."""

MOST_STEPS = 10_000_000
"""Of a training, and of whatever else a recipe counts, at most."""


class Config(BaseModel):
    """A frozen, strict pydantic model that forbids unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


def read_text(path: Path) -> str:
    """The text of a configuration file. Raises ConfigError where it is no text in UTF-8; FileNotFoundError."""
    try:
        return read_bounded(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}.") from None
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """TOML text as plain values. Raises ConfigError where it is none; `where` names the file in the message."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{where} is not valid TOML: its brackets are nested too deeply.") from None
    except ValueError as error:  # TOML's own error is one, and so is that of a number of 5000 digits
        raise ConfigError(f"{where} is not valid TOML: {error}.") from None


def toml_string(text: str) -> str:
    """A text as a quoted string of TOML."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(text: str) -> str:
    """A text as a key of TOML, quoted where it has to be."""
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else toml_string(text)


def toml_value(value: Any) -> str:
    """Numbers, also numpy's, texts, paths, booleans, and lists and tables of them as a value of TOML.

    Raises ConfigError for any other, as None, which TOML has no word for.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{toml_key(key)} = {toml_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, str | Path):
        return toml_string(str(value))
    if isinstance(value, int | float | Decimal):
        return str(value).lower()
    raise ConfigError(f"{value!r} is no value of a recipe: expected a number, a text, true, false, a list or a table.")


def setting_texts(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys of a recipe and their values as texts, KEY=VALUE. Raises ConfigError for a value that TOML has not."""
    return tuple(f"{key}={toml_value(value)}" for key, value in settings.items())


def parse(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Build a config from plain values (as TOML or JSON give them); `where` names the file in the message.

    Raises ConfigError with one message a slip: `runs/a/recipe.toml: unknown key 'train.epoch'. Did you mean 'epochs'?`
    """
    try:
        return cls.model_validate_json(json.dumps(values, default=str))  # JSON mode: a list may become a tuple
    except ValidationError as error:
        # a value that may be of several kinds has a problem for each: they are one slip
        slips: dict[tuple[str, ...], list[Any]] = {}
        for problem in error.errors():
            slips.setdefault(_path_of(problem, values), []).append(problem)
        deepest = [path for path in slips if not any(path != p and path == p[: len(path)] for p in slips)]
        messages = [_message(cls, path, slips[path]) for path in deepest]
        raise ConfigError("\n".join(f"{where}: {s}" for s in messages)) from None


def with_given(
    own: Settings, given: Settings | Mapping[str, Any] | None, name: str, but: tuple[str, ...] = ()
) -> Settings:
    """`given`; of a mapping, {"flip": True}, what it leaves out is as in `own`. `name` is what it is passed as.

    but: fields that a mapping cannot have. Raises ConfigError for an unknown key, and for a value of another kind or
    out of range.
    """
    kind = type(own)
    if given is None or isinstance(given, kind):
        return given or own
    hints = get_type_hints(kind)
    keys: dict[str, Any] = {key: (hint, getattr(own, key)) for key, hint in hints.items() if key not in but}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{name} = {given!r}: expected a mapping with some of the keys {', '.join(keys)}, or {kind.__name__}."
        )
    table: type[Config] = create_model(kind.__name__, __base__=Config, **keys)
    found = parse(table, {str(key): value for key, value in given.items()}, name)
    return replace(own, **{key: getattr(found, key) for key in found.model_fields_set})


def refuse_unused(given: Mapping[str, bool], reason: str) -> None:
    """Raise ConfigError if an option is given that has no effect: {name: whether it is given}."""
    if names := [name for name, is_given in given.items() if is_given]:
        raise ConfigError(f"{', '.join(names)} would have no effect: {reason}. Leave it out.")


def _path_of(problem: Any, values: Any) -> tuple[str, ...]:
    """Where a problem lies in the values: pydantic's path without the kinds that it tried there ("constrained-int")."""
    path = []
    for part in problem["loc"]:
        inner = dict(enumerate(values)) if isinstance(values, list | tuple) else values
        if isinstance(inner, dict) and part in inner:
            path.append(str(part))
            values = inner[part]
    return (*path, str(problem["loc"][-1])) if problem["type"] == "missing" else tuple(path)


def _message(cls: type[Config], path: tuple[str, ...], problems: list[Any]) -> str:
    key = ".".join(path)
    if problems[0]["type"] == "extra_forbidden":
        return f"unknown key {key!r}.{did_you_mean(path[-1], _fields_at(cls, path[:-1]))}"
    if problems[0]["type"] == "missing":
        return f"key {key!r} is missing."
    messages = [problem["msg"].removeprefix("Value error, ") for problem in problems]
    message = " or ".join([messages[0], *(m.removeprefix("Input should be ") for m in messages[1:])])
    return f"{key} = {problems[0]['input']!r}: {message[:1].lower() + message[1:]}." if key else f"{message}."


def _fields_at(cls: type[Config], path: tuple[str, ...]) -> list[str]:
    """Names of the keys that are allowed in the table at `path`."""
    for part in path:
        field = cls.model_fields.get(part)
        inner = getattr(field, "annotation", None)
        if not (isinstance(inner, type) and issubclass(inner, Config)):
            return []
        cls = inner
    return list(cls.model_fields)
