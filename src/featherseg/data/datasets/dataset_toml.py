"""dataset.toml: what a folder of images and masks means. docs/data/folder.md shows one with every key."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from featherseg.core.config import Config, parse, parse_toml, read_text, toml_key, toml_string
from featherseg.core.errors import DataNotFound, did_you_mean, near_path
from featherseg.core.types import IGNORE, ClassInfo
from featherseg.data.labels import TOML, LabelMap
from featherseg.data.palettes import color_text, default_palette, parse_color
from featherseg.data.sequences import SplitBy

IGNORE_NAME = "ignore"
"""What stands in [map] for a raw value that is neither trained on nor scored."""

MOST_NAME = 100
"""Characters of a dataset's name."""

MOST_SOURCES = 10_000
"""[[source]] of a dataset."""

_SHARE_OF = re.compile(r"([0-9]{1,2}(?:\.[0-9]{1,6})?) ?% of ([A-Za-z0-9_-]+)")
"""A split that takes a share of another: `val = "10% of train"`."""

_SINGLE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
"""What stands for a single character in a regular expression, with a sign of its own: an escape, or a set."""

_REPEAT, _REPEATED_GROUP, _MOST_REPEATS = re.compile(r"[*+]|\{\d*,\d*\}"), re.compile(r"\)(?:[*+]|\{)"), 3
"""A repeat of a group may try every way to cut a name in pieces, 2 to the power of its length."""

_LOW, _HIGH = 0, 255
"""What the values of a smoothed mask count as, below `threshold` and from it on."""

_INSIDE = {"1": 1, "255": 255, "#ffffff": 0xFFFFFF}
"""What stands in the masks of a source for its class."""

AFFIXES = ("image_prefix", "mask_prefix", "image_suffix", "mask_suffix")
"""Keys of what the names of images, or of masks, have beside the name that they share."""

FolderName = Annotated[str, Field(min_length=1)]
"""A folder; one of its parts may be ANY."""

ANY = "*"
"""Stands for any folder, the same in the paths of images and of masks: "cells/*/images" and "cells/*/masks"."""


class SourceTable(Config):
    """[[source]]: a folder of images, that of their masks, and the class that 1 and 255 mean in them."""

    model_config = ConfigDict(populate_by_name=True)

    images: FolderName
    masks: FolderName
    class_: Annotated[str | None, Field(alias="class")] = None


class LayerTable(Config):
    """[[layer]]: further binary masks of the same images, and the class that 1 and 255 mean in them.

    `masks`, `prefix` and `suffix` say where they lie and what their names have beside the
    image's. Where `optional`, an image without such a mask has none of the class. Of `objects` an
    image has a mask each: all files in the folder called as the image, else in the folder that
    holds it alone.
    """

    model_config = ConfigDict(populate_by_name=True)

    class_: Annotated[str, Field(alias="class")]
    masks: FolderName | None = None
    prefix: str = ""
    suffix: str = ""
    optional: bool = False
    objects: bool = False


class ThingsTable(Config):
    """[things]: the classes whose objects are told apart, and the folder that says which pixel is of which object.

    Its PNGs have the names of the masks and hold the number of the object at every pixel, 1 to
    65535; 0 is none, and on a class of things a crowd: objects that nobody told apart.
    """

    classes: Annotated[list[str], Field(min_length=1, max_length=IGNORE)]
    instances: FolderName


class DatasetToml(Config):
    """The keys of a dataset.toml. Paths are relative to the file's own folder, or absolute."""

    name: Annotated[str, Field(min_length=1, max_length=MOST_NAME)]
    images: FolderName | None = None
    masks: FolderName | None = None
    image_prefix: str = ""
    mask_prefix: str = ""
    image_suffix: str = ""
    mask_suffix: str = ""
    threshold: Annotated[int, Field(ge=1, le=_HIGH)] | None = None
    channels: Annotated[int, Field(ge=1, le=64)] = 3
    licence: str = "not stated"
    split_by: SplitBy = "sequence-2"
    groups: Annotated[str, Field(max_length=200)] | None = None
    splits: Annotated[dict[str, Any], Field(min_length=1)]
    classes: Annotated[dict[str, str], Field(min_length=1, max_length=IGNORE)]
    map: Annotated[dict[str, str], Field(min_length=1)]
    things: ThingsTable | None = None
    source: Annotated[tuple[SourceTable, ...], Field(max_length=MOST_SOURCES)] = ()
    layer: Annotated[tuple[LayerTable, ...], Field(max_length=IGNORE)] = ()

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
        parts = _parts(value)
        for base, taken in parts.items():
            if base not in value or any(base in others for others in parts.values()):
                raise ValueError(f"a share of {base!r}: expected another split, of a folder or a list")
            if sum(taken.values()) >= 1:
                raise ValueError(f"{', '.join(taken)} take all of {base!r}: expected less than 100% together")
        return value

    @field_validator("groups")
    @classmethod
    def _check_groups(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"expected a regular expression: {error}") from None
        if value is not None:
            plain = _SINGLE.sub("x", value)
            if _REPEATED_GROUP.search(plain) or len(_REPEAT.findall(plain)) > _MOST_REPEATS:
                raise ValueError(
                    f"it may take endlessly long. Expected repeats (* + {{2,}}) of single characters or sets, not of "
                    f"groups, and {_MOST_REPEATS} of them at most, as in ^([a-z]+)_"
                )
        return value

    @property
    def shares(self) -> dict[str, float]:
        """The splits that are fractions of the images: all of them, or none."""
        return {name: part for name, part in self.splits.items() if not isinstance(part, str)}

    @property
    def parts(self) -> dict[str, dict[str, float]]:
        """Split -> the splits that take a share of it, each with its fraction."""
        return _parts(self.splits)

    @property
    def sources(self) -> tuple[SourceTable, ...]:
        """The folders of images and masks, one pair or several."""
        if self.source:
            return self.source
        assert self.images is not None
        masks = self.masks or self.layer[0].masks
        assert masks is not None
        return (SourceTable(images=self.images, masks=masks),)

    @property
    def folders(self) -> list[str]:
        """Every folder of images, of masks, and of the numbers of objects, once; of a path with ANY, that above it."""
        named = [folder for source in self.sources for folder in (source.images, source.masks)]
        named += [layer.masks for layer in self.layer if layer.masks]
        named += [self.things.instances] if self.things else []
        parts = [folder.split("/") for folder in named]
        return list(dict.fromkeys("/".join(part[: part.index(ANY)] if ANY in part else part) or "." for part in parts))

    @model_validator(mode="after")
    def _check_folders(self) -> "DatasetToml":
        missing = [key for key in ("images", "masks") if getattr(self, key) is None]
        if self.source and len(missing) < 2:
            raise ValueError("images and masks stand in every [[source]] and nowhere else, or there is no [[source]]")
        of_layers = bool(self.layer) and all(layer.masks for layer in self.layer)
        if of_layers and self.masks is not None:
            raise ValueError("every [[layer]] has masks of its own: remove the masks of all")
        if missing and not self.source and not (of_layers and missing == ["masks"]):
            raise ValueError(f"key {' and '.join(map(repr, missing))} is missing")
        if len({source.images for source in self.source}) < len(self.source):
            raise ValueError("two [[source]] have the same images: expected a folder each")
        for source in self.sources:
            masks = [layer.masks or source.masks for layer in self.layer] or [source.masks]
            counts = {folder.split("/").count(ANY) for folder in (source.images, *masks)}
            if counts not in ({0}, {1}):
                raise ValueError(
                    f"{ANY!r} stands for a folder in images and in all masks, once in each, or in none of them"
                )
        return self

    @model_validator(mode="after")
    def _check_layers(self) -> "DatasetToml":
        if not self.layer:
            return self
        if self.source:
            raise ValueError("[[layer]] and [[source]] do not go together: expected one kind of them")
        if self.mask_prefix or self.mask_suffix:
            raise ValueError("mask_prefix and mask_suffix do not go with [[layer]], which has a prefix and a suffix")
        if "0" not in self.map:
            raise ValueError("[map] does not say what 0 is, which [[layer]] shows where none of the classes is")
        places = {(layer.masks, layer.prefix, layer.suffix) for layer in self.layer}
        if len(places) < len(self.layer):
            raise ValueError("two [[layer]] have the same masks: expected another folder, prefix or suffix for each")
        return self

    @model_validator(mode="after")
    def _check_names(self) -> "DatasetToml":
        given = [(f"source {number + 1}: class", source.class_) for number, source in enumerate(self.source)]
        given += [(f"layer {number + 1}: class", layer.class_) for number, layer in enumerate(self.layer)]
        given += [("things.classes", name) for name in (self.things.classes if self.things else ())]
        for where, name in given:
            if name is not None and name not in self.classes:
                hint = did_you_mean(name, list(self.classes))
                raise ValueError(f"{where} = {name!r} is not a class of [classes].{hint}".removesuffix("."))
        return self

    @model_validator(mode="after")
    def _check_map(self) -> "DatasetToml":
        if self.threshold is not None and not {str(_LOW), str(_HIGH)} >= self.map.keys() >= {str(_LOW)}:
            raise ValueError(f"with a threshold the masks have two values: [map] says what {_LOW} and {_HIGH} are")
        owners = self.layer or self.sources
        if self.threshold is not None and str(_HIGH) not in self.map and not any(table.class_ for table in owners):
            raise ValueError(f"[map] does not say what {_HIGH} is, which values from the threshold on count as")
        if len({raw.startswith("#") for raw in self.map}) > 1:
            raise ValueError("[map] mixes numbers and '#rrggbb' colours; the masks can only be one of them")
        for raw, name in self.map.items():
            _raw_value(raw)
            if name not in (*self.classes, IGNORE_NAME):
                hint = did_you_mean(name, [*self.classes, IGNORE_NAME])
                raise ValueError(f"map.{raw} = {name!r} is not a class of [classes].{hint}".removesuffix("."))
        if len({_raw_value(raw) for raw in self.map}) < len(self.map):
            raise ValueError("a raw value occurs twice in [map], written in two ways")
        kind, classes = "[[layer]]" if self.layer else "[[source]]", {table.class_ for table in owners}
        for raw, name in self.map.items():
            unclear = name == IGNORE_NAME or None not in classes  # else it is what it means in masks of no one class
            if raw.lower() in _INSIDE and name not in classes and classes - {None} and unclear:
                raise ValueError(
                    f"map.{raw} = {name!r}, but {raw} is the class of a {kind} that has one: expected one meaning. "
                    f"Remove {raw} from [map], or class from the {kind} and give its values in [map]"
                )
        used = {*self.map.values(), *classes}
        unused = [name for name in self.classes if name not in used]
        if unused:
            raise ValueError(f"no raw value in [map] is mapped to class {', '.join(map(repr, unused))}")
        return self

    def class_infos(self) -> tuple[ClassInfo, ...]:
        """The classes in order: class id = place in [classes]."""
        things = self.things.classes if self.things else ()
        return tuple(ClassInfo(name, parse_color(color), name in things) for name, color in self.classes.items())

    def label_map(self, inside: str | None = None) -> LabelMap:
        """[map] as raw value -> class id; `inside` is the class of a source or layer: 1 and 255 in it."""
        ids = {name: index for index, name in enumerate(self.classes)} | {IGNORE_NAME: IGNORE}
        colors = next(iter(self.map)).startswith("#")
        found = {_raw_value(raw): ids[name] for raw, name in self.map.items()}
        if inside is not None:
            found |= {value: ids[inside] for text, value in _INSIDE.items() if text.startswith("#") == colors}
        if self.threshold is not None:
            counted = {value: _LOW if value < self.threshold else _HIGH for value in range(_HIGH + 1)}
            found = {value: found[high_or_low] for value, high_or_low in counted.items() if high_or_low in found}
        return LabelMap(found, colors=colors, expected=f"{TOML} of the dataset.toml of {self.name!r}")


def _parts(splits: dict[str, Any]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name, part in splits.items():
        if isinstance(part, str) and (share := _SHARE_OF.fullmatch(part)):
            found.setdefault(share[2], {})[name] = float(share[1]) / 100
    return found


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
    """`config` as the text of a dataset.toml; what is as it is by default is left out."""
    lines = [f"name = {toml_string(config.name)}"]
    for key in ("images", "masks", *AFFIXES, "groups", "split_by"):
        value = getattr(config, key)
        lines += [f"{key} = {toml_string(value)}"] if value and value != DatasetToml.model_fields[key].default else []
    lines += [f"threshold = {config.threshold}"] if config.threshold is not None else []
    lines += [f"channels = {config.channels}", f"licence = {toml_string(config.licence)}", "", "[splits]"]
    lines += [
        f"{name} = {toml_string(part) if isinstance(part, str) else part}" for name, part in config.splits.items()
    ]
    lines += ["", "[classes]"]
    lines += [f"{toml_key(name)} = {toml_string(color)}" for name, color in config.classes.items()]
    lines += ["", "[map]"]
    lines += [f"{toml_key(raw)} = {toml_string(name)}" for raw, name in config.map.items()]
    if config.things:
        names = ", ".join(map(toml_string, config.things.classes))
        lines += ["", "[things]", f"classes = [{names}]", f"instances = {toml_string(config.things.instances)}"]
    for source in config.source:
        lines += ["", "[[source]]", f"images = {toml_string(source.images)}", f"masks = {toml_string(source.masks)}"]
        lines += [f"class = {toml_string(source.class_)}"] if source.class_ is not None else []
    for layer in config.layer:
        lines += ["", "[[layer]]", f"class = {toml_string(layer.class_)}"]
        lines += [f"masks = {toml_string(layer.masks)}"] if layer.masks else []
        lines += [f"{key} = {toml_string(text)}" for key in ("prefix", "suffix") if (text := getattr(layer, key))]
        lines += [f"{key} = true" for key in ("optional", "objects") if getattr(layer, key)]
    return "\n".join(lines) + "\n"


def _raw_value(text: str) -> int:
    """`"12"` -> 12, `"#0000ff"` -> 255. Raises ValueError for anything else."""
    if text.startswith("#"):
        red, green, blue = parse_color(text)
        return red << 16 | green << 8 | blue
    if not re.fullmatch(r"[0-9]{1,9}|-[0-9]{1,10}", text):
        raise ValueError(f"{text!r} in [map] is not a raw mask value: expected a whole number or a colour '#rrggbb'")
    return int(text)


def _check_split(name: str, part: Any) -> None:
    if isinstance(part, str):
        if "%" in part and not _SHARE_OF.fullmatch(part):
            raise ValueError(f'{name} = {part!r}: expected a share such as "10% of train"')
        if Path(part).anchor or ".." in Path(part).parts:
            raise ValueError(
                f"{name} = {part!r}: expected a folder inside images, or a list inside the folder of this file"
            )
    elif isinstance(part, bool) or not isinstance(part, int | float) or not 0 < part <= 1:
        raise ValueError(f"{name} = {part!r}: expected a folder, a list of stems (.txt), or a fraction between 0 and 1")
