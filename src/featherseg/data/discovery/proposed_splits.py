"""The splits of a proposed dataset.toml: what folders or lists of names say, else shares."""

import os
from collections.abc import Sequence
from pathlib import Path

from featherseg.core.errors import DataError
from featherseg.core.types import IGNORE, Progress
from featherseg.core.wording import counted
from featherseg.data.datasets.dataset_toml import DatasetToml
from featherseg.data.discovery.file_facts import FileFacts, ImageFacts, MaskFacts
from featherseg.data.discovery.split_choice import PoolImage, choose_split
from featherseg.data.discovery.split_lists import SPLITS, find_lists, split_of
from featherseg.data.discovery.written_proposal import written_lists
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.pairs import Pair

UNLABELLED, NO_MASK = 0.1, "have no mask"
"""Share of images without a mask from which a folder is labelled in part, and no fault of single files; its note."""

SHOWN = 3
"""How many values or names a note gives."""


VAL, VAL_OF_TRAIN = 0.2, 0.1
"""Share of the images that val gets, and that of train where there is a train."""


def with_splits(
    config: DatasetToml,
    folder: Path,
    pairs: Sequence[Pair],
    notes: list[str],
    facts: FileFacts,
    progress: Progress | None = None,
    hints: Sequence[str] = (),
) -> tuple[DatasetToml, dict[str, list[str]]]:
    """The splits that folders or lists say, else shares; -> config, and the lists that have to be written for it.

    Where they say val or test, but not train, the other images are train. Where they say no val, the images are looked
    at to choose one (`choose_split`). What is left to look at goes to `notes`, also `hints` if val is chosen.
    """
    # Of a folder that is labelled in part, the images that are
    everything = [pair.key for pair in pairs]
    keys = [pair.key for pair in pairs if pair.mask or not pair.image]
    bare = len(everything) - len(keys)
    if partly := bare > max(1, UNLABELLED * len(everything)):
        notes.append(
            f"{bare} of {counted(len(everything), 'image')} {NO_MASK}: lists name those that have. When more have, run "
            "the same command again"
        )
    else:
        keys = everything
    splits: dict[str, str | float] = {}
    lists: dict[str, list[str]] = {}
    owned: dict[str, list[str]] = {}  # split -> its images
    replaced = written_lists(folder) or []

    def put(split: str, own: list[str], place: str | None) -> None:
        """Take `own` for a split: as `place` says them, or by a list that has to be written."""
        owned[split] = own
        if place is None:
            names = (
                f"{split}.txt",
                *(f"dataset-{split}{n or ''}.txt" for n in range(len(os.listdir(folder)))),
            )
            place = next(name for name in names if name in replaced or not (folder / name).exists())
            lists[place] = own
        splits[split] = place

    # What folders say, where two or more are called as splits, or what lists say
    owners = {key: split for key in keys if (split := split_of(*key.split("/")[:-1]))}
    called = sorted(set(owners.values()), key=SPLITS.index)
    found, passed = ({}, []) if len(called) > 1 else find_lists(folder, pairs, replaced)
    last: dict[str, str] = {}  # an image that two lists name stays where it is looked at last
    for split, one in found.items():
        last |= dict.fromkeys(one.keys, split)
    twice = [key for split, one in found.items() for key in one.keys if last[key] != split]
    if twice:
        shown = ", ".join(twice[:SHOWN]) + ", ..." * (len(twice) > SHOWN)
        notes.append(
            f"{counted(len(twice), 'image')} in two lists: kept in test, else in val, alone: {shown}"
        )
    labelled = set(keys)
    for split, one in found.items():
        own = [key for key in one.keys if last[key] == split and key in labelled]
        put(split, own, one.file if one.exact and own == one.keys else None)
        if one.unknown:
            notes.append(
                f"{one.file}: {counted(one.unknown, 'name')} of {split} without an image, left out"
            )
    notes += [
        f"{one.file} is not used: it names {counted(len(one.keys), 'image')} of these, and {one.unknown} others"
        for one in [one for one in passed if one.split not in found][:SHOWN]
    ]
    for split in called if len(found) < 2 else []:
        own = [key for key in keys if owners.get(key) == split and key not in last]
        if split in found or not own:
            continue
        parts = os.path.commonpath([key.rpartition("/")[0] for key in own]).split("/")
        folders = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        whole = [
            one
            for one in folders
            if [key for key in everything if key.startswith(f"{one}/")] == own
        ]
        beside = {key.rpartition("/")[0] for key in keys if key not in owners}
        if len(called) > 1 or (
            whole and beside == {whole[0].rpartition("/")[0]}
        ):  # beside folders it may be a place
            put(split, own, whole[0] if whole else None)
        elif beside:
            notes.append(
                f"{counted(len(own), 'image')} in a folder called {split}: not taken for that split"
            )

    # The images that none of these names
    named = {key for own in owned.values() for key in own}
    rest = [key for key in keys if key not in named]
    said = ", ".join(f"{split} ({place})" for split, place in splits.items())
    if not rest and (splits.keys() == {"train"} or "train" not in splits):
        notes += (
            [f"not used, as nothing would be left for train: {said}"]
            if splits.keys() - {"train"}
            else []
        )
        splits, lists = {}, {}
    elif splits and "train" not in splits:
        notes.append(
            f"of splits there is only {said}: train takes the other {counted(len(rest), 'image')}"
        )
        put("train", rest, None)
    elif len(splits) == 1:
        notes.append(
            f"of splits there is only {said}: no split takes the other {counted(len(rest), 'image')}"
        )
    if "val" not in splits:
        whole, share = owned.get("train", keys), VAL_OF_TRAIN if splits else VAL
        if splits:
            notes.append("no validation split was found: a tenth of train is taken")
        chosen = choose_split(_pool(config, whole, pairs, facts, progress), share, config.groups)
        notes += [*chosen.notes, *hints]
        config = config.model_copy(update={"split_by": chosen.split_by})
        if chosen.lists:
            lists.pop(str(splits.get("train")), None)
        for split, own in chosen.lists.items():
            put(split, own, None)
        if not chosen.lists and partly and not splits:
            put("train", keys, None)
        if not chosen.lists:
            splits |= (
                {"val": f"{share:.0%} of train"} if splits else {"train": 1 - share, "val": share}
            )
    return config.model_copy(
        update={"splits": {split: splits[split] for split in SPLITS if split in splits}}
    ), lists


def _pool(
    config: DatasetToml,
    keys: Sequence[str],
    pairs: Sequence[Pair],
    facts: FileFacts,
    progress: Progress | None,
) -> list[PoolImage]:
    """What a choice of splits goes by, for the images of `keys`."""
    of_key = {pair.key: pair for pair in pairs}
    own = [of_key.get(key, Pair(key, None, None)) for key in keys]
    label_map = config.label_map()
    looked_at = facts.images((pair.image for pair in own if pair.image), config.channels)
    pool = list[PoolImage]()
    for done, pair in enumerate(own, start=1):
        image = next(looked_at) if pair.image else None
        masks = [(pair.mask, pair.label_map or label_map), *pair.layers] if pair.mask else []
        classes = frozenset[int]().union(
            *(_classes(facts.mask(path, own.colors), own) for path, own in masks)
        )
        look, digest = (image.look, image.digest) if isinstance(image, ImageFacts) else (None, None)
        pool.append(PoolImage(pair.key, classes, look, digest))
        if progress is not None:
            progress("reading images", done, len(own))
    return pool


def _classes(mask: MaskFacts | DataError, label_map: LabelMap) -> frozenset[int]:
    """The ids of the classes in a mask; none of one that cannot be read, or of colours where numbers are expected."""
    if isinstance(mask, DataError):
        return frozenset()
    try:
        ids = label_map.apply(mask.raw)
    except DataError:
        return frozenset()
    return frozenset(ids[(ids >= 0) & (ids != IGNORE)].tolist())
