"""The folders that masks of 0 and one other value lie in: a class each, or groups of images (a patient, a city, a day).

Their names do not tell which. A folder that is named as normal and holds nothing but background does: it belongs to
folders that are classes. Otherwise the user is asked.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from featherseg.core.errors import AmbiguousData, ConfigError, unknown
from featherseg.core.types import IGNORE
from featherseg.core.wording import counted
from featherseg.data.datasets.dataset_toml import IGNORE_NAME, SourceTable
from featherseg.data.discovery.image_tree import join
from featherseg.data.discovery.layouts import Reading
from featherseg.data.discovery.mask_values import MaskValues
from featherseg.data.discovery.split_lists import split_of

FoldersAs = Literal["classes", "groups"]
"""What folders of masks are: a class each, or groups of images that stay in one split."""

NORMAL = {"free", "good", "ok", "normal", "none", "background"}
"""Names of a folder of images without a defect, in lower case; so are names that end in _free."""

MOST_FOLDERS = IGNORE - 1
"""Folders above which they cannot be classes: the background is one, too."""

SHOWN = 3
"""How many folders a message names."""


@dataclass(frozen=True)
class FolderReading:
    """Pairs of folders as dataset.toml has them, with a class each where the folders are classes.

    `groups` is the regular expression that finds an image's folder in its key, where folders are groups; `why` says by
    what evidence they are classes; `hint` what is left to look at; `names` are the names of values and folders that are
    left to be used.
    """

    sources: tuple[SourceTable, ...]
    names: Mapping[str, str]
    groups: str | None = None
    why: str = ""
    hint: str = ""


@dataclass(frozen=True)
class _MaskFolder:
    """One of several folders beside one another; `name` is the part of its path that tells it from the others."""

    name: str
    source: SourceTable
    values: Set[str]
    images: int


@dataclass(frozen=True)
class _Level:
    """Folders that differ in one part of their paths; `groups` finds that part in the key of an image."""

    folders: Sequence[_MaskFolder]
    groups: str

    @cached_property
    def names(self) -> list[str]:
        return list(dict.fromkeys(folder.name for folder in self.folders))

    @cached_property
    def single(self) -> bool:
        """Whether no name has more than one image: a folder for each image."""
        images = Counter[str]()
        for folder in self.folders:
            images[folder.name] += folder.images
        return max(images.values()) < 2

    def normal(self, foreground: Set[str]) -> str | None:
        """The first name that is one of NORMAL and whose masks are all background."""
        filled = {folder.name for folder in self.folders if folder.values & foreground}
        known = [
            name for name in self.names if name.lower() in NORMAL or name.lower().endswith("_free")
        ]
        return next((name for name in known if name not in filled), None)


def read_folders(
    folder: Path,
    reading: Reading,
    values: MaskValues,
    given: Mapping[str, str],
    wanted: FoldersAs | None,
    command: str,
    *,
    layered: bool = False,
) -> FolderReading:
    """Say what the folders of a reading are: classes, groups, or nothing but folders.

    given: the names of values and folders; wanted: what the user says that folders are; command: what reads the folder,
    to which an option is added; layered: whether an image has several masks, a class each. Raises AmbiguousData, with a
    command for each reading, where neither is wanted or proved, and ConfigError for what the folder cannot be.
    """
    if wanted is not None and wanted not in get_args(FoldersAs):
        raise unknown("meaning of folders", wanted, get_args(FoldersAs))
    plain = tuple(SourceTable(images=pair.images, masks=pair.masks) for pair in reading.pairs)
    levels, inside = _levels(reading, values, layered), values.inside
    if wanted and not levels:
        raise ConfigError(
            f"the images with masks in {folder} lie in one folder ({plain[0].images}), or in folders called as splits: "
            f"these are no {wanted}. Leave out --{wanted}-from-folders."
        )
    if wanted == "classes" and layered:
        raise ConfigError(
            f"an image in {folder} has several masks, a class each: its folder is none. Leave out "
            "--classes-from-folders."
        )
    if layered and wanted is None and levels and not levels[0].single:
        wanted = "groups"  # a folder of several images is a patient, a city, a day, ...
    if wanted == "classes" and inside is None:
        raise ConfigError(
            f"the masks in {folder} hold {counted(len(values.pixels), 'value')}: expected 0 and one other, 1 or 255, "
            "which stands for the class of a folder. Leave out --classes-from-folders."
        )
    if wanted == "classes" and inside is not None and inside in given:
        raise ConfigError(
            f"--name {inside}={given[inside]} names one class of all folders, and --classes-from-folders makes one of "
            "each. Leave out one of them."
        )
    if not levels:
        return FolderReading(plain, given)
    if wanted is None and (inside is None or layered):
        hint = (
            f"images lie in {_shown(levels[0])}: if each is a patient, a city or a day, --groups-from-folders keeps it "
            "in one split"
        )
        return FolderReading(plain, given, hint="" if layered or levels[0].single else hint)

    # The level that the user names, else that of a folder which is named as normal, else the outermost
    foreground = values.foreground
    named = next((level for level in levels if given.keys() & set(level.names)), None)
    normal = next((level for level in levels if level.normal(foreground)), None)
    level = named or normal or levels[0]
    if wanted is None and inside in given:
        wanted = "groups"
    elif wanted is None and (named or normal):
        wanted = "classes"
    elif wanted is None and level.single:
        return FolderReading(plain, given)
    elif wanted is None and len(level.names) <= MOST_FOLDERS:
        raise _question(folder, level, command)
    if wanted != "classes":
        hint = (
            ""
            if wanted
            else f"images lie in {_shown(level)}, more than classes can be: each stays in one split"
        )
        return FolderReading(plain, given, groups=level.groups, hint=hint)

    labels = _class_names(level.names) | {
        name: given[name] for name in level.names if name in given
    }
    sources = [
        one.source.model_copy(
            update={"class_": labels[one.name] if one.values & foreground else None}
        )
        for one in level.folders
    ]
    evidence = level.normal(foreground) if normal and not named else None
    why = f"{evidence} is named as normal and all its masks are background" if evidence else ""
    left = {name: text for name, text in given.items() if name not in labels}
    return FolderReading(tuple(sources), left, why=why, hint=_bare(reading, values, sources))


def _bare(reading: Reading, values: MaskValues, sources: Sequence[SourceTable]) -> str:
    """What is said of images without a mask in folders that are none of the sources; empty if there are none."""
    counts = {
        _inside(reading.pairs[n].images, inside): count
        for (n, inside), count in values.bare.items()
    }
    read = tuple(f"{one.images}/" for one in sources)
    counts = {place: count for place, count in counts.items() if not f"{place}/".startswith(read)}
    shown = ", ".join(list(counts)[:SHOWN]) + ", ..." * (len(counts) > SHOWN)
    return (
        f"{counted(sum(counts.values()), 'image')} in {shown} without a mask: left out"
        if counts
        else ""
    )


def placeholder(value: str) -> str:
    """The name of a class that has none: class_7, class_ff0000."""
    return f"class_{value.removeprefix('#')}"


def _shown(level: _Level) -> str:
    return f"{len(level.names)} folders ({', '.join(level.names[:SHOWN])}{', ...' * (len(level.names) > SHOWN)})"


def _question(folder: Path, level: _Level, command: str) -> AmbiguousData:
    return AmbiguousData(
        f"the masks in {folder} hold 0 and one other value, and lie in {_shown(level)}. Is each folder a class, or a "
        "group of images that belong together, such as a patient, a city or a day?",
        [
            ("a class for each folder", f"{command} --classes-from-folders"),
            (
                "two classes, background and foreground, and no folder in two splits",
                f"{command} --groups-from-folders",
            ),
        ],
    )


def _levels(reading: Reading, values: MaskValues, layered: bool) -> list[_Level]:
    """The parts of the images' paths in which folders differ that are not all called as splits, the outermost first."""
    pairs = reading.pairs
    paths = {place: _parts(_inside(pairs[place[0]].images, place[1])) for place in values.images}
    own = (
        0 if len(pairs) > 1 else len(_parts(pairs[0].images))
    )  # keys begin with the folder of images, where several
    if layered and len(pairs) > 1:  # and of layers with what differs between these folders
        own = len(
            list(filter(None, os.path.commonpath([pair.images for pair in pairs]).split(os.sep)))
        )
    levels = []
    for depth in range(min(map(len, paths.values()), default=0)):
        columns = [{path[part] for path in paths.values()} for part in range(depth + 1)]
        if len(columns[-1]) < 2 or all(map(split_of, columns[-1])):
            continue
        folders: dict[SourceTable, _MaskFolder] = {}
        for place, path in paths.items():
            pair = pairs[place[0]]
            inside = "/".join(path[len(_parts(pair.images)) : depth + 1])
            images, masks = (_inside(top, inside) for top in (pair.images, pair.masks))
            source = SourceTable(images=images, masks=masks)
            before = folders.get(source, _MaskFolder(path[depth], source, frozenset(), 0))
            held = before.values | values.folders.get(place, set())
            folders[source] = replace(
                before, values=held, images=before.images + values.images[place]
            )
        above = (
            f"{re.escape(*names)}/" if len(names) == 1 else "[^/]+/" for names in columns[own:-1]
        )
        levels.append(_Level(list(folders.values()), f"^{''.join(above)}([^/]+)/"))
    return levels


def _inside(folder: str, name: str) -> str:
    return join(folder, name) if name else folder


def _parts(folder: str) -> list[str]:
    return [] if folder == "." else folder.split("/")


def _class_names(folders: Sequence[str]) -> dict[str, str]:
    """Folder -> class: in lower case, without what all begin with ("MT_Crack", "MT_Fray": crack, fray)."""
    begins = {name[: -len(re.sub(r"^[^-_. ]+[-_. ]", "", name)) or None] for name in folders}
    names = {
        name: (name.removeprefix(*begins) if len(begins) == 1 else name).lower() for name in folders
    }
    names = names if "" not in names.values() else {name: name for name in folders}
    return {
        folder: placeholder(name) if name == IGNORE_NAME else name for folder, name in names.items()
    }
