"""Decide what folders of binary masks are: classes, or groups (a patient, a city, a day).

Their names do not tell which, unless a folder is named as normal and has nothing but background:
then the folders are classes. Otherwise the user is asked.
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
from featherseg.core.wording import counted, first_few
from featherseg.data.datasets.dataset_toml import IGNORE_NAME, SourceTable
from featherseg.data.discovery.image_tree import join
from featherseg.data.discovery.layouts import Reading
from featherseg.data.discovery.mask_values import MaskValues
from featherseg.data.discovery.split_lists import split_of

FoldersAs = Literal["classes", "groups"]
"""What folders of masks are: a class each, or groups of images that stay in one split."""

NORMAL = {"free", "good", "ok", "normal", "none", "background"}
"""Names, in lower case, of a folder of images without a defect; names in _free are others."""

MOST_FOLDERS = IGNORE - 1
"""Number of folders above which they cannot be classes beside the background."""


@dataclass(frozen=True)
class FolderReading:
    """What folders of masks are.

    Attributes:
        sources: The pairs of folders for dataset.toml, with a class each if folders are classes.
        names: The names, given by the user, that no folder has.
        groups: Regular expression that finds an image's group in its key, if folders are groups.
        why: Evidence that folders are classes.
        hint: What the user should look at.
    """

    sources: tuple[SourceTable, ...]
    names: Mapping[str, str]
    groups: str | None = None
    why: str = ""
    hint: str = ""


@dataclass(frozen=True)
class _MaskFolder:
    """One of several folders; `name` is the part of its path in which they differ."""

    name: str
    source: SourceTable
    values: Set[str]
    images: int


@dataclass(frozen=True)
class _Level:
    """Folders that differ in one part of their paths; `groups` finds that part in a key."""

    folders: Sequence[_MaskFolder]
    groups: str

    @cached_property
    def names(self) -> list[str]:
        return list(dict.fromkeys(folder.name for folder in self.folders))

    @cached_property
    def single(self) -> bool:
        """Whether no name has more than one image."""
        images = Counter[str]()
        for folder in self.folders:
            images[folder.name] += folder.images
        return max(images.values()) < 2

    @property
    def text(self) -> str:
        """The folders for display."""
        return f"{len(self.names)} folders ({first_few(self.names)})"

    def normal(self, foreground: Set[str]) -> str | None:
        """Return the first name that is one of NORMAL and whose masks are all background."""
        filled = {folder.name for folder in self.folders if folder.values & foreground}
        candidates = (
            name for name in self.names if name.lower() in NORMAL or name.lower().endswith("_free")
        )
        return next((name for name in candidates if name not in filled), None)


def read_folders(
    folder: Path,
    reading: Reading,
    values: MaskValues,
    names: Mapping[str, str],
    wanted: FoldersAs | None,
    command: str,
    *,
    layered: bool = False,
) -> FolderReading:
    """Return what the folders of a reading are: classes, groups, or just folders.

    Args:
        names: {raw value or folder: class name}, as the user gives them.
        wanted: What the user says that folders are.
        command: The command that reads the folder; messages add an option to it.
        layered: Whether an image has several masks, a class each.

    Raises:
        AmbiguousData: Folders may be classes or groups; a command is shown for each.
        ConfigError: The folders cannot be what is wanted.
    """
    if wanted is not None and wanted not in get_args(FoldersAs):
        raise unknown("meaning of folders", wanted, get_args(FoldersAs))
    plain = tuple(SourceTable(images=pair.images, masks=pair.masks) for pair in reading.pairs)
    levels, inside = _levels(reading, values, layered), values.inside

    # What the user wants must be possible
    if wanted and not levels:
        raise ConfigError(
            f"the images with masks in {folder} lie in one folder ({plain[0].images}), or in "
            f"folders called as splits, which are no {wanted}. Leave out --{wanted}-from-folders."
        )
    if wanted == "classes" and layered:
        raise ConfigError(
            f"an image in {folder} has several masks, a class each, so its folder is no class. "
            "Leave out --classes-from-folders."
        )
    if layered and wanted is None and levels and not levels[0].single:
        wanted = "groups"  # a folder of several images is a patient, a city, a day, ...
    if wanted == "classes" and inside is None:
        raise ConfigError(
            f"the masks in {folder} have {counted(len(values.pixels), 'value')}, expected 0 and "
            "one other, 1 or 255, for the class of a folder. Leave out --classes-from-folders."
        )
    if wanted == "classes" and inside is not None and inside in names:
        raise ConfigError(
            f"--name {inside}={names[inside]} names one class of all folders, and "
            "--classes-from-folders makes one of each. Leave out one of them."
        )
    if not levels:
        return FolderReading(plain, names)
    if wanted is None and (inside is None or layered):
        hint = (
            f"images lie in {levels[0].text}: if each is a patient, a city or a day, "
            "--groups-from-folders keeps it in one split"
        )
        return FolderReading(plain, names, hint="" if layered or levels[0].single else hint)

    # Of several levels of folders use the one that the user names, else one with a folder that is
    # named as normal, else the outermost
    foreground = values.foreground
    named = next((level for level in levels if names.keys() & set(level.names)), None)
    normal = next((level for level in levels if level.normal(foreground)), None)
    level = named or normal or levels[0]
    if wanted is None and inside in names:
        wanted = "groups"
    elif wanted is None and (named or normal):
        wanted = "classes"
    elif wanted is None and level.single:
        return FolderReading(plain, names)
    elif wanted is None and len(level.names) <= MOST_FOLDERS:
        raise AmbiguousData(
            f"the masks in {folder} have 0 and one other value, and lie in {level.text}. Is each "
            "folder a class, or a group of images that belong together, such as a patient, a city "
            "or a day?",
            [
                ("a class for each folder", f"{command} --classes-from-folders"),
                (
                    "two classes, background and foreground, and no folder in two splits",
                    f"{command} --groups-from-folders",
                ),
            ],
        )
    if wanted != "classes":
        hint = f"images lie in {level.text}, more than classes can be: each stays in one split"
        return FolderReading(plain, names, groups=level.groups, hint="" if wanted else hint)

    # A class for each folder that has foreground
    labels = {name: names.get(name, label) for name, label in _class_names(level.names).items()}
    sources = tuple(
        folder.source.model_copy(
            update={"class_": labels[folder.name] if folder.values & foreground else None}
        )
        for folder in level.folders
    )
    evidence = level.normal(foreground) if normal and not named else None
    why = f"{evidence} is named as normal and all its masks are background" if evidence else ""
    names_left = {name: label for name, label in names.items() if name not in labels}
    return FolderReading(sources, names_left, why=why, hint=_unmasked(reading, values, sources))


def _unmasked(reading: Reading, values: MaskValues, sources: Sequence[SourceTable]) -> str:
    """Return the note on images without a mask in folders that are no source; "" without any."""
    read = tuple(f"{source.images}/" for source in sources)
    places = {
        _inside(reading.pairs[number].images, inside): count
        for (number, inside), count in values.bare.items()
    }
    counts = {place: n for place, n in places.items() if not f"{place}/".startswith(read)}
    images = counted(sum(counts.values()), "image")
    return f"{images} in {first_few(list(counts))} without a mask: left out" if counts else ""


def placeholder(value: str) -> str:
    """Return the name of a class without a name: class_7, class_ff0000."""
    return f"class_{value.removeprefix('#')}"


def _levels(reading: Reading, values: MaskValues, layered: bool) -> list[_Level]:
    """Return the levels of folders that differ and are not all splits, the outermost first."""
    pairs = reading.pairs
    paths = {place: _parts(_inside(pairs[place[0]].images, place[1])) for place in values.images}
    # Parts of a path that come before the key: none if there are several folders of images; with
    # layers, what these folders have in common
    before_key = 0 if len(pairs) > 1 else len(_parts(pairs[0].images))
    if layered and len(pairs) > 1:
        common = os.path.commonpath([pair.images for pair in pairs])
        before_key = len(list(filter(None, common.split(os.sep))))
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
            known = folders.get(source, _MaskFolder(path[depth], source, frozenset(), 0))
            folders[source] = replace(
                known,
                values=known.values | values.folders.get(place, set()),
                images=known.images + values.images[place],
            )
        above = (
            f"{re.escape(*names)}/" if len(names) == 1 else "[^/]+/"
            for names in columns[before_key:-1]
        )
        levels.append(_Level(list(folders.values()), f"^{''.join(above)}([^/]+)/"))
    return levels


def _inside(folder: str, name: str) -> str:
    return join(folder, name) if name else folder


def _parts(folder: str) -> list[str]:
    return [] if folder == "." else folder.split("/")


def _class_names(folders: Sequence[str]) -> dict[str, str]:
    """Return {folder: class} in lower case, without a common prefix: MT_Crack -> crack."""
    prefixes = {name[: -len(re.sub(r"^[^-_. ]+[-_. ]", "", name)) or None] for name in folders}
    prefix = next(iter(prefixes)) if len(prefixes) == 1 else ""
    names = {name: name.removeprefix(prefix).lower() for name in folders}
    if "" in names.values():
        names = {name: name for name in folders}
    return {
        folder: placeholder(name) if name == IGNORE_NAME else name for folder, name in names.items()
    }
