"""Divide the images of a proposed dataset.toml into splits: by folders or lists, else by shares."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from featherseg.core.errors import DataError
from featherseg.core.types import IGNORE, Progress
from featherseg.core.wording import counted, first_few
from featherseg.data.datasets.dataset_toml import ANY, DatasetToml
from featherseg.data.discovery.file_facts import FileFacts, ImageFacts, MaskFacts
from featherseg.data.discovery.split_choice import PoolImage, choose_split
from featherseg.data.discovery.split_lists import SPLITS, SplitList, find_lists, split_of
from featherseg.data.discovery.written_proposal import written_lists
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.pairs import Pair

UNLABELLED = 0.1
"""Share of images without a mask above which a folder counts as labelled in part."""

NO_MASK = "have no mask"
"""Part of the note on a folder that is labelled in part."""

SHOWN = 3
"""Number of lists that notes name."""

VAL, VAL_OF_TRAIN = 0.2, 0.1
"""Share of the images that val gets, and share of train if the folder has a train split."""


class _Splits:
    """The splits of a folder: `places` as in a dataset.toml, `keys` of each, `lists` to write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.replaced = written_lists(folder) or []  # of an earlier proposal
        self.places: dict[str, str | float] = {}
        self.keys: dict[str, list[str]] = {}
        self.lists: dict[str, list[str]] = {}

    def add(self, split: str, keys: list[str], place: str | None = None) -> None:
        """Add a split that a list or folder defines, or one for which a list must be written."""
        if place is None:
            numbers = range(len(os.listdir(self.folder)))
            names = [f"{split}.txt", *(f"dataset-{split}{number or ''}.txt" for number in numbers)]
            place = next(
                name for name in names if name in self.replaced or not (self.folder / name).exists()
            )
            self.lists[place] = keys
        self.keys[split], self.places[split] = keys, place


def with_splits(
    config: DatasetToml,
    folder: Path,
    pairs: Sequence[Pair],
    facts: FileFacts,
    progress: Progress | None = None,
    hints: Sequence[str] = (),
) -> tuple[DatasetToml, dict[str, list[str]], list[str]]:
    """Return (the config with splits, the lists to write for it, notes).

    Images in no split are train if folders or lists define val or test, but no train. If they
    define no val, it is chosen by looking at the images (`choose_split`), and `hints` become notes.
    """
    # In a folder that is labelled in part, only images with a mask are in a split
    notes = list[str]()
    every_key = [pair.key for pair in pairs]
    keys = [pair.key for pair in pairs if pair.mask or not pair.image]
    unlabelled = len(every_key) - len(keys)
    labelled_in_part = unlabelled > max(1, UNLABELLED * len(every_key))
    if labelled_in_part:
        notes.append(
            f"{unlabelled} of {counted(len(every_key), 'image')} {NO_MASK}: lists name the others. "
            f"When more have a mask, run the same command again{_unlabelled_hint(config, folder)}"
        )
    else:
        keys = every_key

    # Folders define the splits if two or more are called as splits; else lists do
    splits = _Splits(folder)
    split_by_folder = {key: split for key in keys if (split := split_of(*key.split("/")[:-1]))}
    several = len(set(split_by_folder.values())) > 1
    lists, unfit = ({}, []) if several else find_lists(folder, pairs, splits.replaced)
    notes += _add_lists(splits, lists, unfit, keys)
    if len(lists) < 2:
        listed = {key for split_list in lists.values() for key in split_list.keys}
        notes += _add_folders(splits, split_by_folder, listed, keys, every_key)

    # The other images are train, unless there is a train split
    in_splits = {key for of_split in splits.keys.values() for key in of_split}
    others = [key for key in keys if key not in in_splits]
    shown = ", ".join(f"{split} ({place})" for split, place in splits.places.items())
    if not others and (splits.keys.keys() == {"train"} or "train" not in splits.keys):
        if splits.keys.keys() - {"train"}:
            notes.append(f"not used, because nothing would be left for train: {shown}")
        splits = _Splits(folder)
    elif splits.keys and "train" not in splits.keys:
        notes.append(
            f"the only splits are {shown}: train takes the other {counted(len(others), 'image')}"
        )
        splits.add("train", others)
    elif len(splits.keys) == 1:
        notes.append(
            f"the only split is {shown}: no split takes the other {counted(len(others), 'image')}"
        )

    # Choose val
    if "val" not in splits.keys:
        pool_keys, share = splits.keys.get("train", keys), VAL_OF_TRAIN if splits.keys else VAL
        if splits.keys:
            notes.append("there is no validation split: a tenth of train is taken")
        pool = _pool(config, pool_keys, pairs, facts, progress)
        chosen = choose_split(pool, share, config.groups)
        notes += [*chosen.notes, *hints]
        config = config.model_copy(update={"split_by": chosen.split_by})
        if chosen.lists:
            splits.lists.pop(str(splits.places.get("train")), None)
            for split, of_split in chosen.lists.items():
                splits.add(split, of_split)
        elif splits.keys:
            splits.places["val"] = f"{share:.0%} of train"
        elif labelled_in_part:
            splits.add("train", keys)
            splits.places["val"] = f"{share:.0%} of train"
        else:
            splits.places |= {"train": 1 - share, "val": share}
    places = {split: splits.places[split] for split in SPLITS if split in splits.places}
    return config.model_copy(update={"splits": places}), splits.lists, notes


def _unlabelled_hint(config: DatasetToml, folder: Path) -> str:
    """Return the command that learns from images without masks too, if a folder holds images alone.

    It is the end of a note.
    """
    if not config.images or ANY in config.images or config.images == config.masks:
        return ""
    data, images = (shlex.quote(str(path)) for path in (folder, folder / config.images))
    command = f"featherseg train MODEL --data {data} --unlabelled {images}"
    return f". To learn from the others too: {command}"


def _add_lists(
    splits: _Splits, lists: Mapping[str, SplitList], unfit: Sequence[SplitList], keys: Sequence[str]
) -> list[str]:
    """Add the splits that lists define; return notes on what the lists name twice or wrongly."""
    notes, labelled = [], set(keys)
    owner: dict[str, str] = {}  # an image in two lists belongs to the last: test, else val
    for split, split_list in lists.items():
        owner |= dict.fromkeys(split_list.keys, split)
    twice = [
        key for split, split_list in lists.items() for key in split_list.keys if owner[key] != split
    ]
    if twice:
        notes.append(
            f"{counted(len(twice), 'image')} in two lists: kept in test, else in val, alone: "
            f"{first_few(twice)}"
        )
    for split, split_list in lists.items():
        of_split = [key for key in split_list.keys if owner[key] == split and key in labelled]
        unchanged = split_list.exact and of_split == split_list.keys
        splits.add(split, of_split, split_list.file if unchanged else None)
        if split_list.unknown:
            notes.append(
                f"{split_list.file}: {counted(split_list.unknown, 'name')} of {split} without an "
                "image, left out"
            )
    notes += [
        f"{split_list.file} is not used: it names {counted(len(split_list.keys), 'image')} of "
        f"these, and {split_list.unknown} others"
        for split_list in [one for one in unfit if one.split not in lists][:SHOWN]
    ]
    return notes


def _add_folders(
    splits: _Splits,
    split_by_folder: Mapping[str, str],
    listed: set[str],
    keys: Sequence[str],
    every_key: Sequence[str],
) -> list[str]:
    """Add the splits that folders define and no list does; return notes on folders not used."""
    notes = []
    called = sorted(set(split_by_folder.values()), key=SPLITS.index)
    other_folders = {key.rpartition("/")[0] for key in keys if key not in split_by_folder}
    for split in called:
        of_split = [key for key in keys if split_by_folder.get(key) == split and key not in listed]
        if split in splits.keys or not of_split:
            continue
        # The outermost folder that has just these images
        parts = os.path.commonpath([key.rpartition("/")[0] for key in of_split]).split("/")
        folders = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        exact = [
            folder
            for folder in folders
            if [key for key in every_key if key.startswith(f"{folder}/")] == of_split
        ]
        # A single folder is a split only beside images of its parent: else it may be a place
        if len(called) > 1 or (exact and other_folders == {exact[0].rpartition("/")[0]}):
            splits.add(split, of_split, exact[0] if exact else None)
        elif other_folders:
            notes.append(
                f"{counted(len(of_split), 'image')} in a folder called {split}: not taken for "
                "that split"
            )
    return notes


def _pool(
    config: DatasetToml,
    keys: Sequence[str],
    pairs: Sequence[Pair],
    facts: FileFacts,
    progress: Progress | None,
) -> list[PoolImage]:
    """Return classes, look and digest of the images with these keys, for `choose_split`."""
    of_key = {pair.key: pair for pair in pairs}
    chosen = [of_key.get(key, Pair(key, None, None)) for key in keys]
    label_map = config.label_map()
    image_facts = facts.images((pair.image for pair in chosen if pair.image), config.channels)
    pool = list[PoolImage]()
    for done, pair in enumerate(chosen, start=1):
        image = next(image_facts) if pair.image else None
        masks = [(pair.mask, pair.label_map or label_map), *pair.layers] if pair.mask else []
        classes = frozenset[int]().union(
            *(_classes(facts.mask(path, of_mask.colors), of_mask) for path, of_mask in masks)
        )
        look, digest = (image.look, image.digest) if isinstance(image, ImageFacts) else (None, None)
        pool.append(PoolImage(pair.key, classes, look, digest))
        if progress is not None:
            progress("reading images", done, len(chosen))
    return pool


def _classes(mask: MaskFacts | DataError, label_map: LabelMap) -> frozenset[int]:
    """Return the class ids in a mask; empty if it, or its values, cannot be read."""
    if isinstance(mask, DataError):
        return frozenset()
    try:
        ids = label_map.apply(mask.raw)
    except DataError:
        return frozenset()
    return frozenset(ids[(ids >= 0) & (ids != IGNORE)].tolist())
