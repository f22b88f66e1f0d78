"""dataset.toml describes a folder of images and masks; docs/data/folder.md shows every key."""

import re
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from featherseg.core.config import (
    Config,
    SplitBy,
    parse,
    parse_toml,
    read_text,
    toml_key,
    toml_string,
)
from featherseg.core.errors import DataNotFound, did_you_mean, near_path
from featherseg.core.types import IGNORE, ClassInfo
from featherseg.data.images.labels import TOML, LabelMap
from featherseg.data.images.palettes import class_colors, color_text, parse_color

IGNORE_NAME = "ignore"
"""The name in [map] of a raw value that is neither trained on nor scored."""

MOST_NAME = 100
"""Largest number of characters of a dataset's name."""

MOST_SOURCES = 10_000
"""Largest number of [[source]] of a dataset."""

_SHARE_OF = re.compile(r"([0-9]{1,2}(?:\.[0-9]{1,6})?) ?% of ([A-Za-z0-9_-]+)")
"""A split that takes a share of another: `val = "10% of train"`."""

_SINGLE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
"""In a regular expression: an escape or a set, which matches a single character."""

# A repeated group may match a name in 2^length ways, cut into pieces differently.
_REPEAT, _REPEATED_GROUP = re.compile(r"[*+]|\{\d*,\d*\}"), re.compile(r"\)(?:[*+]|\{)")
_MOST_REPEATS = 3

_LOW, _HIGH = 0, 255
"""What values of a smoothed mask count as: below `threshold`, and from it on."""

_INSIDE = {"1": 1, "255": 255, "#ffffff": 0xFFFFFF}
"""Values that mean the class of a source or layer in its masks."""

AFFIXES = ("image_prefix", "mask_prefix", "image_suffix", "mask_suffix")
"""Keys of what the names of images or masks have besides the name that they share."""

FolderName = Annotated[str, Field(min_length=1)]
"""A folder; one of its parts may be ANY."""

ANY = "*"
"""Any folder, the same one in the paths of images and masks: "cells/*/images", "cells/*/masks"."""


class SourceTable(Config):
    """[[source]]: folders of images and of their masks, and the class that 1 and 255 mean there."""

    model_config = ConfigDict(populate_by_name=True)

    images: FolderName
    masks: FolderName
    class_: Annotated[str | None, Field(alias="class")] = None


class LayerTable(Config):
    """[[layer]]: more binary masks of the same images, and the class that 1 and 255 mean there.

    `masks` is their folder; `prefix` and `suffix` are what their names add to the image's. If
    they are `optional`, an image without such a mask has nothing of the class. If they are of
    `objects`, an image has a mask for each: all files in the folder with the name of the image,
    or in the folder in which the image is alone.
    """

    model_config = ConfigDict(populate_by_name=True)

    class_: Annotated[str, Field(alias="class")]
    masks: FolderName | None = None
    prefix: str = ""
    suffix: str = ""
    optional: bool = False
    objects: bool = False


class ThingsTable(Config):
    """[things]: the classes with objects, and the folder of PNGs with the number of each object.

    The PNGs have the names of the masks; a pixel is the number of its object, 1 to 65535. 0 is no
    object, or on a class of things a crowd: objects that were not annotated one by one.
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
        """Give a list of names the colours of `class_colors`; a table is name = colour."""
        if not isinstance(value, list):
            return value
        names = [str(name) for name in value]
        if len(set(names)) < len(names):
            raise ValueError(f"a class occurs twice in {names}")
        return {name: color_text(color) for name, color in class_colors(names).items()}

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
                expected = "expected letters, digits, '-' and '_'"
                raise ValueError(f"{name!r} is not a valid split name: {expected}")
            _check_split(name, part)
        shares = [part for part in value.values() if not isinstance(part, str)]
        if shares and (len(shares) < len(value) or sum(shares) > 1 + 1e-9):
            raise ValueError("fractions must be given for all splits or none, and sum to at most 1")
        parts = _parts(value)
        for base, by_share in parts.items():
            if base not in value or any(base in others for others in parts.values()):
                raise ValueError(f"a share of {base!r}: expected a split of a folder or a list")
            if sum(by_share.values()) >= 1:
                names = ", ".join(by_share)
                raise ValueError(f"{names} take all of {base!r}: expected less than 100% together")
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
                    "matching may take endlessly long. Expected repeats (* + {2,}) of single "
                    f"characters or sets, not of groups, and {_MOST_REPEATS} of them at most, as "
                    "in ^([a-z]+)_"
                )
        return value

    @property
    def shares(self) -> dict[str, float]:
        """Fractions of the images by split; either all splits are fractions or none."""
        return {name: part for name, part in self.splits.items() if not isinstance(part, str)}

    @property
    def parts(self) -> dict[str, dict[str, float]]:
        """Split -> {split that is a share of it: the fraction}."""
        return _parts(self.splits)

    @property
    def sources(self) -> tuple[SourceTable, ...]:
        """The pairs of a folder of images and a folder of masks."""
        if self.source:
            return self.source
        assert self.images is not None
        masks = self.masks or self.layer[0].masks
        assert masks is not None
        return (SourceTable(images=self.images, masks=masks),)

    @property
    def folders(self) -> list[str]:
        """Every folder of images, masks and instances, once; of a path with ANY the part before."""
        named = [folder for source in self.sources for folder in (source.images, source.masks)]
        named += [layer.masks for layer in self.layer if layer.masks]
        named += [self.things.instances] if self.things else []
        before_any = [list(takewhile(lambda part: part != ANY, name.split("/"))) for name in named]
        return list(dict.fromkeys("/".join(parts) or "." for parts in before_any))

    @model_validator(mode="after")
    def _check_folders(self) -> "DatasetToml":
        missing = [key for key in ("images", "masks") if getattr(self, key) is None]
        if self.source and len(missing) < 2:
            raise ValueError("with [[source]], images and masks are keys of each [[source]] alone")
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
                raise ValueError(f"{ANY!r} must be once in each path of images and masks or never")
        return self

    @model_validator(mode="after")
    def _check_layers(self) -> "DatasetToml":
        if not self.layer:
            return self
        if self.source:
            raise ValueError("[[layer]] and [[source]] cannot be combined: expected one of them")
        if self.mask_prefix or self.mask_suffix:
            raise ValueError("mask_prefix, mask_suffix: with [[layer]] use its prefix and suffix")
        if "0" not in self.map:
            raise ValueError("[map] lacks 0, which the masks of [[layer]] have outside their class")
        places = {(layer.masks, layer.prefix, layer.suffix) for layer in self.layer}
        if len(places) < len(self.layer):
            raise ValueError("two [[layer]] have the same folder, prefix and suffix of masks")
        return self

    @model_validator(mode="after")
    def _check_names(self) -> "DatasetToml":
        given = [(f"source {n}: class", source.class_) for n, source in enumerate(self.source, 1)]
        given += [(f"layer {n}: class", layer.class_) for n, layer in enumerate(self.layer, 1)]
        given += [("things.classes", name) for name in (self.things.classes if self.things else ())]
        for where, name in given:
            if name is not None and name not in self.classes:
                raise ValueError(_not_a_class(where, name, list(self.classes)))
        return self

    @model_validator(mode="after")
    def _check_map(self) -> "DatasetToml":
        owners = self.layer or self.sources
        if self.threshold is not None:
            low, high = str(_LOW), str(_HIGH)
            if not {low, high} >= self.map.keys() >= {low}:
                values = f"expected {low} and {high} in [map]"
                raise ValueError(f"with a threshold the masks have two values: {values}")
            if high not in self.map and not any(table.class_ for table in owners):
                raise ValueError(f"[map] lacks {high}, which values from the threshold on count as")

        if len({raw.startswith("#") for raw in self.map}) > 1:
            raise ValueError("[map] mixes numbers and '#rrggbb' colours: expected one of them")
        for raw, name in self.map.items():
            _raw_value(raw)
            if name not in (*self.classes, IGNORE_NAME):
                raise ValueError(_not_a_class(f"map.{raw}", name, [*self.classes, IGNORE_NAME]))
        if len({_raw_value(raw) for raw in self.map}) < len(self.map):
            raise ValueError("a raw value occurs twice in [map], written in two ways")

        # The value of a source's or layer's class must not be something else in [map]. It may be
        # if another source has no class: there the value means what [map] says.
        kind = "[[layer]]" if self.layer else "[[source]]"
        classes = {table.class_ for table in owners}
        for raw, name in self.map.items():
            unclear = name == IGNORE_NAME or None not in classes
            if raw.lower() in _INSIDE and name not in classes and classes - {None} and unclear:
                raise ValueError(
                    f"map.{raw} = {name!r}, but {raw} is the class of a {kind} that has one: "
                    f"expected one meaning. Remove {raw} from [map], or class from the {kind} "
                    "and give its values in [map]"
                )
        used = {*self.map.values(), *classes}
        if unused := [name for name in self.classes if name not in used]:
            names = ", ".join(map(repr, unused))
            raise ValueError(f"no raw value in [map] is mapped to class {names}")
        return self

    def class_infos(self) -> tuple[ClassInfo, ...]:
        """Return the classes; their position in [classes] is their id."""
        things = self.things.classes if self.things else ()
        colors = {name: parse_color(text) for name, text in self.classes.items()}
        return tuple(ClassInfo(name, color, name in things) for name, color in colors.items())

    def label_map(self, inside: str | None = None) -> LabelMap:
        """Return [map] as raw value -> class id; 1 and 255 are the class `inside`, if given."""
        class_ids = {name: index for index, name in enumerate(self.classes)} | {IGNORE_NAME: IGNORE}
        colors = next(iter(self.map)).startswith("#")
        ids = {_raw_value(raw): class_ids[name] for raw, name in self.map.items()}
        if inside is not None:
            values = [value for text, value in _INSIDE.items() if text.startswith("#") == colors]
            ids |= dict.fromkeys(values, class_ids[inside])
        if self.threshold is not None:
            sides = {value: _LOW if value < self.threshold else _HIGH for value in range(_HIGH + 1)}
            ids = {value: ids[side] for value, side in sides.items() if side in ids}
        expected = f"{TOML} of the dataset.toml of {self.name!r}"
        return LabelMap(ids, colors=colors, expected=expected)


def _parts(splits: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return split -> {split that is a share of it: the fraction}."""
    parts: dict[str, dict[str, float]] = {}
    for name, part in splits.items():
        if isinstance(part, str) and (share := _SHARE_OF.fullmatch(part)):
            parts.setdefault(share[2], {})[name] = float(share[1]) / 100
    return parts


def _not_a_class(where: str, name: str, known: list[str]) -> str:
    """Return the message for a key that names no class."""
    hint = did_you_mean(name, known)
    return f"{where} = {name!r} is not a class of [classes].{hint}".removesuffix(".")


def read_dataset_toml(path: Path) -> DatasetToml:
    """Read and check a dataset.toml.

    Raises:
        DataNotFound: if there is no such file.
        ConfigError: with the file and its mistakes.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise DataNotFound(
            f"{path} does not exist.{near_path(path)} If the data of a run were moved, use "
            "--data PATH/dataset.toml. For a folder without a dataset.toml, `featherseg check "
            "FOLDER` proposes one."
        ) from None
    return parse(DatasetToml, parse_toml(text, str(path)), str(path))


def toml_text(config: DatasetToml) -> str:
    """Return `config` as the text of a dataset.toml, without keys that have their default."""
    lines = [f"name = {toml_string(config.name)}"]
    for key in ("images", "masks", *AFFIXES, "groups", "split_by"):
        value = getattr(config, key)
        if value and value != DatasetToml.model_fields[key].default:
            lines.append(f"{key} = {toml_string(value)}")
    lines += [f"threshold = {config.threshold}"] if config.threshold is not None else []
    lines += [f"channels = {config.channels}", f"licence = {toml_string(config.licence)}"]
    lines += ["", "[splits]"]
    for name, part in config.splits.items():
        lines.append(f"{name} = {toml_string(part) if isinstance(part, str) else part}")
    lines += ["", "[classes]"]
    lines += [f"{toml_key(name)} = {toml_string(color)}" for name, color in config.classes.items()]
    lines += ["", "[map]"]
    lines += [f"{toml_key(raw)} = {toml_string(name)}" for raw, name in config.map.items()]
    if config.things:
        names = ", ".join(map(toml_string, config.things.classes))
        lines += ["", "[things]", f"classes = [{names}]"]
        lines += [f"instances = {toml_string(config.things.instances)}"]
    for source in config.source:
        lines += ["", "[[source]]", f"images = {toml_string(source.images)}"]
        lines += [f"masks = {toml_string(source.masks)}"]
        lines += [f"class = {toml_string(source.class_)}"] if source.class_ is not None else []
    for layer in config.layer:
        lines += ["", "[[layer]]", f"class = {toml_string(layer.class_)}"]
        lines += [f"masks = {toml_string(layer.masks)}"] if layer.masks else []
        affixes = {"prefix": layer.prefix, "suffix": layer.suffix}
        lines += [f"{key} = {toml_string(text)}" for key, text in affixes.items() if text]
        lines += [f"{key} = true" for key in ("optional", "objects") if getattr(layer, key)]
    return "\n".join(lines) + "\n"


def _raw_value(text: str) -> int:
    """Return 12 for "12", 255 for "#0000ff"; raises ValueError for anything else."""
    if text.startswith("#"):
        red, green, blue = parse_color(text)
        return red << 16 | green << 8 | blue
    if not re.fullmatch(r"[0-9]{1,9}|-[0-9]{1,10}", text):
        expected = "expected a whole number or a colour '#rrggbb'"
        raise ValueError(f"{text!r} in [map] is not a raw mask value: {expected}")
    return int(text)


def _check_split(name: str, part: Any) -> None:
    if isinstance(part, str):
        if "%" in part and not _SHARE_OF.fullmatch(part):
            raise ValueError(f'{name} = {part!r}: expected a share such as "10% of train"')
        if Path(part).anchor or ".." in Path(part).parts:
            expected = "expected a folder inside images, or a list inside the folder of this file"
            raise ValueError(f"{name} = {part!r}: {expected}")
    elif isinstance(part, bool) or not isinstance(part, int | float) or not 0 < part <= 1:
        expected = "expected a folder, a list of stems (.txt), or a fraction between 0 and 1"
        raise ValueError(f"{name} = {part!r}: {expected}")
