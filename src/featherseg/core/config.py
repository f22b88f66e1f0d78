"""The base of every configuration: pydantic, frozen, strict, without unknown keys.

Every mistake is answered with a message.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from featherseg.core.errors import ConfigError, did_you_mean
from featherseg.core.files import read_bounded

T = TypeVar("T", bound="Config")
Settings = TypeVar("Settings", bound=Any)
"""A dataclass of settings, each with a default."""

MOST_STEPS = 10_000_000
"""Most steps of a training, and of other numbers in a recipe."""

Positive = Annotated[int, Field(gt=0, le=MOST_STEPS)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]

SplitBy = Annotated[
    Literal["sequence", "image", "sequence-2", "sequence-1", "hash"],
    BeforeValidator(lambda value: "sequence-2" if value == "sequence" else value),
]
"""What a split by share keeps together: a sequence, or nothing. Run records number the rule."""


class Config(BaseModel):
    """A frozen, strict pydantic model that forbids unknown keys."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )


def read_text(path: Path) -> str:
    """Return the text of a configuration file.

    Raises ConfigError if it is not text in UTF-8, FileNotFoundError.
    """
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
    """Return TOML text as plain values; `where` names the file in messages. Raises ConfigError."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(
            f"{where} is not valid TOML: its brackets are nested too deeply."
        ) from None
    except ValueError as error:  # TOML's own error, or a number of 5000 digits
        raise ConfigError(f"{where} is not valid TOML: {error}.") from None


def toml_string(text: str) -> str:
    """Return a text as a quoted TOML string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(text: str) -> str:
    """Return a text as a TOML key, quoted if necessary."""
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else toml_string(text)


def toml_value(value: Any) -> str:
    """Return a number (also numpy's), text, path, boolean, or a list or table of these as TOML.

    Raises ConfigError for other values, such as None, which TOML lacks.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return (
            "{ "
            + ", ".join(f"{toml_key(key)} = {toml_value(inner)}" for key, inner in value.items())
            + " }"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, str | Path):
        return toml_string(str(value))
    if isinstance(value, int | float | Decimal):
        return str(value).lower()
    raise ConfigError(
        f"{value!r} is no value of a recipe: expected a number, a text, true, false, a list or a "
        "table."
    )


def setting_texts(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return settings as texts KEY=VALUE. Raises ConfigError for a value that TOML lacks."""
    return tuple(f"{key}={toml_value(value)}" for key, value in settings.items())


def parse(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Build a config from plain values, as from TOML or JSON; `where` names the file in messages.

    Raises ConfigError with one message per mistake: `runs/a/recipe.toml: unknown key 'train.epoch'.
    Did you mean 'epochs'?`
    """
    try:
        return cls.model_validate_json(
            json.dumps(values, default=str)
        )  # JSON mode: a list may become a tuple
    except ValidationError as error:
        # pydantic reports a value that may have several types once per type: that is one mistake
        slips: dict[tuple[str, ...], list[Any]] = {}
        for problem in error.errors():
            slips.setdefault(_path_of(problem, values), []).append(problem)
        deepest = [
            path for path in slips if not any(path != p and path == p[: len(path)] for p in slips)
        ]
        messages = [_message(cls, path, slips[path]) for path in deepest]
        raise ConfigError("\n".join(f"{where}: {s}" for s in messages)) from None


def with_given(
    own: Settings, given: Settings | Mapping[str, Any] | None, name: str, but: tuple[str, ...] = ()
) -> Settings:
    """Return `given`; a mapping such as {"flip": True} is completed by the values of `own`.

    name: how messages call `given`. but: fields that a mapping cannot set. Raises ConfigError for
    an unknown key, and for a value of another type or out of range.
    """
    kind = type(own)
    if given is None or isinstance(given, kind):
        return given or own
    hints = get_type_hints(kind)
    keys: dict[str, Any] = {
        key: (hint, getattr(own, key)) for key, hint in hints.items() if key not in but
    }
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{name} = {given!r}: expected a mapping with some of the keys {', '.join(keys)}, or "
            f"{kind.__name__}."
        )
    table: type[Config] = create_model(kind.__name__, __base__=Config, **keys)
    given_settings = parse(table, {str(key): value for key, value in given.items()}, name)
    return replace(
        own, **{key: getattr(given_settings, key) for key in given_settings.model_fields_set}
    )


def refuse_unused(given: Mapping[str, bool], reason: str) -> None:
    """Raise ConfigError if an option is given that has no effect: {name: whether it is given}."""
    if names := [name for name, is_given in given.items() if is_given]:
        raise ConfigError(f"{', '.join(names)} would have no effect: {reason}. Leave it out.")


def _path_of(problem: Any, values: Any) -> tuple[str, ...]:
    """Return the path to a problem in the values: pydantic's without the types it tried."""
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
    message = " or ".join(
        [messages[0], *(m.removeprefix("Input should be ") for m in messages[1:])]
    )
    return (
        f"{key} = {problems[0]['input']!r}: {message[:1].lower() + message[1:]}."
        if key
        else f"{message}."
    )


def _fields_at(cls: type[Config], path: tuple[str, ...]) -> list[str]:
    """Return the allowed keys of the table at `path`."""
    for part in path:
        field = cls.model_fields.get(part)
        inner = getattr(field, "annotation", None)
        if not (isinstance(inner, type) and issubclass(inner, Config)):
            return []
        cls = inner
    return list(cls.model_fields)
