"""The splits of a fit: to train with, to choose by and to judge by, made if there are none."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from featherseg.core.errors import DataError
from featherseg.core.files import write_text
from featherseg.core.storage import address, is_remote
from featherseg.core.types import IGNORE, SegmentationData
from featherseg.core.wording import counted
from featherseg.data import data_folder, is_own, open_dataset, own_config, own_listing, score_split
from featherseg.data.cache.fingerprint import copies_of, files_of, named_pairs
from featherseg.data.datasets.dataset_toml import toml_text
from featherseg.fitting.plan import Splits

HELD_OUT = 0.1
"""The share of the training images for a split that a dataset of the user does not have."""

DATASET = "dataset.toml"
"""The file of a fit with the splits that were made for it."""

LOOKING = 6.0
"""The most seconds in which masks and images of a split are read before anything is timed. A
training reads its masks first, but validation images behind the first rung, and test images in the
end."""

LOOKED_AT = 0.003
"""The share of the hours for that."""


def whole_path(place: str | Path) -> str:
    """Return an absolute path, or an address as it is: the fit may go on from another folder."""
    return address(place) if is_remote(place) else os.path.abspath(place)


def find_splits(data: str, root: Path | None, out: Path) -> tuple[Splits, list[str]]:
    """Return (the splits of a dataset, messages about them).

    If a dataset of the user has no validation or test images with masks, a tenth of the training
    images becomes each, whole sequences at a time. OUT/dataset.toml then describes the splits and
    is trained with.

    Raises:
        UnknownName, DataNotFound, ConfigError, DataError.
    """
    where = None if root is None else whole_path(root)
    if not is_own(data):
        test = score_split(data, root)
        shipped = Splits(data, where, test="test" if test == "test" else None)
        unscored = (
            f"{data} has no other images with masks: nothing is scored that was not chosen by"
        )
        return shipped, [] if shipped.test else [unscored]
    config, listing = own_config(data), own_listing(data, root)
    if "train" not in config.splits:
        raise DataError(
            f"{data} has no split named train, but {', '.join(config.splits)}. Name one of them "
            "train."
        )
    labelled = {name for name, pairs in listing.splits.items() if any(pair.mask for pair in pairs)}
    missing = [name for name in ("val", "test") if name not in labelled]
    base = os.path.abspath(data_folder(data, root))
    if not missing:
        return Splits(whole_path(data), where), []

    # A part of train for each, in the terms of the file: a fraction of all, of train, or of that of
    # which train is a share
    others = {name: part for name, part in config.splits.items() if name not in (*missing, "train")}
    held: float | str = f"{HELD_OUT:.0%} of train"
    train = config.splits["train"]
    for base_split, shares in {"": config.shares, **config.parts}.items():
        if share := shares.get("train"):
            held, train = HELD_OUT * share, share * (1 - HELD_OUT * len(missing))
            if base_split:
                held, train = (
                    f"{100 * held:g}% of {base_split}",
                    f"{100 * train:g}% of {base_split}",
                )
    new = dict.fromkeys(missing, held)

    # The order of the splits decides which images a share gets. The order is kept in which the
    # images of other splits stay in them, if there is one
    new_splits = Splits(os.path.abspath(out / DATASET), base)
    for splits in (others | {"train": train} | new, {"train": train} | new | others):
        write_text(out / DATASET, toml_text(config.model_copy(update={"splits": splits})))
        pairs = own_listing(new_splits.name, Path(base)).splits
        if all(
            {pair.key for pair in pairs[name]} == {pair.key for pair in listing.splits[name]}
            for name in others
        ):
            break
    these = " and ".join(missing)
    if not all(pairs.get(name) for name in ("train", *missing)):
        raise DataError(
            f"{data} has no {these} images with masks, and "
            f"{counted(len(listing.splits['train']), 'training image')} are too few to cut them "
            "from: one sequence or image is the least of each split. Add images, or write "
            f"{these} into [splits] of its dataset.toml."
        )
    opened = {
        name: open_dataset(new_splits.name, name, Path(base)) for name in ("train", "val", "test")
    }
    cut = ", ".join(f"{name} = {json.dumps(splits[name])}" for name in ("train", *missing))
    are = "is" if len(missing) == 1 else "are"
    mend = f"{these} {are} cut from train: write {cut} into [splits] of its dataset.toml"
    refuse_copies(data, opened, f"{mend} first; then ")
    became = " and ".join(
        f"{counted(len(opened[name]), 'image')} of train became {name}" for name in missing
    )
    return new_splits, [f"{data} has no {these} images with masks: {became} ({out / DATASET})"]


USES = (
    ("val", "train", "trained on"),
    ("test", "train", "trained on"),
    ("test", "val", "chosen by"),
)
"""(a split that is scored, another split, what that is used for)."""


def refuse_copies(data: str, splits: Mapping[str, SegmentationData], mend: str = "") -> None:
    """Raise DataError if images that will be scored are also trained on or chosen by."""
    for name, other, used in USES:
        if name in splits and (seen := copies_of(splits[name], splits[other])):
            raise DataError(
                f"{counted(len(seen), 'image')} of {data} {name} would be {used} as well, from "
                f"files with the same content: {named_pairs(seen)}. A score on them says nothing: "
                f"{mend}`featherseg check DATA --fix OUT` writes a copy in which no image is in "
                "two splits."
            )


def look_at(data: SegmentationData, name: str, hours: float) -> None:
    """Read masks and images in random order for a part of the hours, to find faults early.

    Masks come first: they are faster to read and have more faults.

    Raises:
        DataError: All masks were read and none has a class; and what reading raises.
    """
    if files_of(data) is None:  # it is generated
        return
    began, looking, labelled = time.monotonic(), min(LOOKING, LOOKED_AT * 3600 * hours), False
    for label_of, share in ((data.label, 0.5), (lambda index: data[index].label, 1.0)):
        for index in np.random.default_rng(0).permutation(len(data)).tolist():
            label = label_of(index)
            labelled = labelled or bool(np.any(label != IGNORE))
            if time.monotonic() > began + share * looking:
                break
        else:
            if not labelled:
                raise DataError(
                    f"{name} has no labelled pixel: in all of its {counted(len(data), 'mask')} "
                    "everything is ignored, so that nothing can be learned or scored. "
                    "`featherseg check DATA` lists the values of its masks: give them a class in "
                    "[map], or name other images for this split."
                )


def mask_seconds(data: SegmentationData) -> float:
    """Return the mean seconds of reading a mask, over 8 masks from everywhere in the dataset."""
    places = np.linspace(0, len(data) - 1, min(8, len(data))).astype(int)
    began = time.monotonic()
    for place in places.tolist():
        data.label(place)
    return (time.monotonic() - began) / len(places)
