"""A data.yaml of Ultralytics whose labels are masks: class names, folder of masks, splits."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherseg.core.files import parse_yaml, read_bounded
from featherseg.data.discovery.split_lists import SPLITS

MASKS_DIR = "masks_dir"
"""The key of a data.yaml whose labels are masks and not polygons."""

MOST_FILES = 20
"""Number of YAML files of a folder that are read."""


@dataclass(frozen=True)
class MasksYaml:
    """A data.yaml with masks: `masks` names their folder, `splits` are {split: its images}."""

    path: Path
    masks: str
    splits: Mapping[str, str]

    def below(self, images: Path) -> dict[str, str]:
        """Return {split: its folder below `images`}; empty unless all are distinct folders there.

        Empty also without train or val.
        """
        folders = {}
        for split, text in self.splits.items():
            inside = Path(os.path.relpath(self.path.parent / text, images)).as_posix()
            if inside == "." or inside.startswith("..") or not (images / inside).is_dir():
                return {}
            folders[split] = inside
        distinct = len(set(folders.values())) == len(folders)
        return folders if distinct and {"train", "val"} <= folders.keys() else {}


def read_masks_yaml(path: Path) -> MasksYaml | None:
    """Return what a YAML file says about masks; None if it says nothing, or cannot be read."""
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
    """Return the first data.yaml with masks in a folder."""
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith((".yaml", ".yml")))
    return next(filter(None, (read_masks_yaml(folder / name) for name in names[:MOST_FILES])), None)
