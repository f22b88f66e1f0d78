"""dataset.toml: what a folder of images and masks means. docs/data/folder.md shows one with every key."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from featherseg.core.config import Config, parse, parse_toml, read_text
from featherseg.core.errors import DataNotFound, did_you_mean, near_path
from featherseg.core.types import IGNORE, ClassInfo
from featherseg.data.labels import TOML, LabelMap
from featherseg.data.palettes import color_text, default_palette, parse_color
from featherseg.data.sequences import SplitBy

IGNORE_NAME = "ignore"
"""What stands in [map] for a raw value that is neither trained on nor scored."""


class DatasetToml(Config):
    """The keys of a dataset.toml. Paths are relative to the file's own folder, or absolute."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    images: Annotated[str, Field(min_length=1)]
    masks: Annotated[str, Field(min_length=1)]
    mask_suffix: str = ""
    channels: Annotated[int, Field(ge=1, le=64)] = 3
    licence: str = "not stated"
    split_by: SplitBy = "sequence"
    splits: Annotated[dict[str, Any], Field(min_length=1)]
    classes: Annotated[dict[str, str], Field(min_length=1, max_length=IGNORE)]
    map: Annotated[dict[str, str], Field(min_length=1)]

    @field_validator("classes", mode="before")
    @classmethod
    def _color_plain_names(cls, value: Any) -> Any:
        """A list of names takes the default palette; a table gives name = colour."""
        if not isinstance(value, list):
            return value
        names = [str(name) for name in value]
        if len(set(names)) < len(names):
            raise ValueError(f"a class occurs twice in {names}")
        return {name: color_text(color) for name, color in zip(names, default_palette(len(names)), strict=True)}

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, value: dict[str, str]) -> dict[str, str]:
        owners: dict[tuple[int, int, int], str] = {}
        for name, text in value.items():
            if name in ("", IGNORE_NAME):
                raise ValueError(f"a class cannot be named {name!r}")
            color = parse_color(text)
            if color in owners:
                raise ValueError(f"{name!r} and {owners[color]!r} have the same colour {text}")
            owners[color] = name
        return value

    @field_validator("splits")
    @classmethod
    def _check_splits(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, part in value.items():
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(f"{name!r} is not a valid split name: expected letters, digits, '-' and '_'")
            _check_split(name, part)
        shares = [part for part in value.values() if not isinstance(part, str)]
        if shares and (len(shares) < len(value) or sum(shares) > 1 + 1e-9):
            raise ValueError("fractions must be given for all splits or none, and sum to at most 1")
        return value

    @property
    def shares(self) -> dict[str, float]:
        """The splits that are fractions of the images: all of them, or none."""
        return {name: part for name, part in self.splits.items() if not isinstance(part, str)}

    @model_validator(mode="after")
    def _check_map(self) -> "DatasetToml":
        if len({raw.startswith("#") for raw in self.map}) > 1:
            raise ValueError("[map] mixes numbers and '#rrggbb' colours; the masks can only be one of them")
        for raw, name in self.map.items():
            _raw_value(raw)
            if name not in (*self.classes, IGNORE_NAME):
                hint = did_you_mean(name, [*self.classes, IGNORE_NAME])
                raise ValueError(f"map.{raw} = {name!r} is not a class of [classes].{hint}".removesuffix("."))
        if len({_raw_value(raw) for raw in self.map}) < len(self.map):
            raise ValueError("a raw value occurs twice in [map], written in two ways")
        unused = [name for name in self.classes if name not in self.map.values()]
        if unused:
            raise ValueError(f"no raw value in [map] is mapped to class {', '.join(map(repr, unused))}")
        return self

    def class_infos(self) -> tuple[ClassInfo, ...]:
        """The classes in order: class id = place in [classes]."""
        return tuple(ClassInfo(name, parse_color(color)) for name, color in self.classes.items())

    def label_map(self) -> LabelMap:
        """[map] as raw value -> class id."""
        ids = {name: index for index, name in enumerate(self.classes)} | {IGNORE_NAME: IGNORE}
        return LabelMap(
            {_raw_value(raw): ids[name] for raw, name in self.map.items()},
            colors=next(iter(self.map)).startswith("#"),
            expected=f"{TOML} of the dataset.toml of {self.name!r}",
        )


def read_dataset_toml(path: Path) -> DatasetToml:
    """Read and check a dataset.toml. Raises DataNotFound where there is none, ConfigError naming file and slip."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise DataNotFound(
            f"{path} does not exist.{near_path(path)} If the data of a run were moved, use --data PATH/dataset.toml. "
            "For a folder without a dataset.toml, `featherseg check FOLDER` proposes one."
        ) from None
    return parse(DatasetToml, parse_toml(text, str(path)), str(path))


def toml_text(config: DatasetToml) -> str:
    """`config` as the text of a dataset.toml."""
    lines = [f"name = {_quoted(config.name)}", f"images = {_quoted(config.images)}", f"masks = {_quoted(config.masks)}"]
    lines += [f"mask_suffix = {_quoted(config.mask_suffix)}"] if config.mask_suffix else []
    lines += [f"split_by = {_quoted(config.split_by)}"] if config.split_by != "sequence" else []
    lines += [f"channels = {config.channels}", f"licence = {_quoted(config.licence)}", "", "[splits]"]
    lines += [f"{name} = {_quoted(part) if isinstance(part, str) else part}" for name, part in config.splits.items()]
    lines += ["", "[classes]"]
    lines += [f"{_key(name)} = {_quoted(color)}" for name, color in config.classes.items()]
    lines += ["", "[map]"]
    lines += [f"{_key(raw)} = {_quoted(name)}" for raw, name in config.map.items()]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else _quoted(text)


def _raw_value(text: str) -> int:
    """`"12"` -> 12, `"#0000ff"` -> 255. Raises ValueError for anything else."""
    if text.startswith("#"):
        red, green, blue = parse_color(text)
        return red << 16 | green << 8 | blue
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"{text!r} in [map] is not a raw mask value: expected a whole number or a colour '#rrggbb'")
    return int(text)


def _check_split(name: str, part: Any) -> None:
    if isinstance(part, str):
        if Path(part).anchor or ".." in Path(part).parts:
            raise ValueError(
                f"{name} = {part!r}: expected a folder inside images, or a list inside the folder of this file"
            )
    elif isinstance(part, bool) or not isinstance(part, int | float) or not 0 < part <= 1:
        raise ValueError(f"{name} = {part!r}: expected a folder, a list of stems (.txt), or a fraction between 0 and 1")
