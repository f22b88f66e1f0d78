"""data.yaml of Ultralytics whose labels are masks: names by value, the folder of masks, the folders of the splits."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherseg.core.files import parse_yaml, read_bounded
from featherseg.data.discovery.split_lists import SPLITS

MASKS_DIR = "masks_dir"
"""The key by which the labels are masks, and no polygons."""

MOST_FILES = 20
"""YAML files of a folder that are looked into."""


@dataclass(frozen=True)
class MasksYaml:
    """A data.yaml with masks: `masks` is the name of their folder, `splits` has the folder of the images of each."""

    path: Path
    masks: str
    splits: Mapping[str, str]

    def below(self, images: Path) -> dict[str, str]:
        """Split -> its folder below that of the images; empty where one is none, or two are the same."""
        found = {}
        for split, text in self.splits.items():
            inside = Path(os.path.relpath(self.path.parent / text, images)).as_posix()
            if inside == "." or inside.startswith("..") or not (images / inside).is_dir():
                return {}
            found[split] = inside
        return (
            found
            if len(set(found.values())) == len(found) and {"train", "val"} <= found.keys()
            else {}
        )


def read_masks_yaml(path: Path) -> MasksYaml | None:
    """What a YAML file says of masks; None where it says nothing of them, or cannot be read."""
    try:
        content: Any = parse_yaml(read_bounded(path).decode("utf-8-sig"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get(MASKS_DIR), str):
        return None
    top = content.get("path")
    splits = {split: content[split] for split in SPLITS if isinstance(content.get(split), str)}
    if isinstance(top, str) and not all((path.parent / text).is_dir() for text in splits.values()):
        splits = {split: f"{top}/{text}" for split, text in splits.items()}
    return MasksYaml(path, content[MASKS_DIR], splits)


def find_masks_yaml(folder: Path) -> MasksYaml | None:
    """The first in a folder."""
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith((".yaml", ".yml")))
    return next(filter(None, (read_masks_yaml(folder / name) for name in names[:MOST_FILES])), None)
