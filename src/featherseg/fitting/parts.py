"""Images to train with, to choose by and to judge by in the end: the splits of a fit, made where there are none."""

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
from featherseg.fitting.plan import Parts

HELD_OUT = 0.1
"""The share of the training images that becomes a split which a dataset of one's own does not have."""

DATASET = "dataset.toml"

LOOKING, LOOKED_AT = 6.0, 0.003
"""Seconds in which masks and images of a split are read before anything is timed, and the part of all time, at most.
Of a training the masks are read first, but validation images behind the first rung, test images in the end.
"""


def whole_path(place: str | Path) -> str:
    """An address as it is written, another path from the root on: the fit may go on from elsewhere."""
    return address(place) if is_remote(place) else os.path.abspath(place)


def find_parts(data: str, root: Path | None, out: Path) -> tuple[Parts, list[str]]:
    """The splits of a dataset; -> (them, what is to be said about them).

    Of a dataset of one's own that has no validation or test images with masks, a tenth of the training images becomes
    each, whole sequences at a time; OUT/dataset.toml says so and is what is trained with. Raises UnknownName,
    DataNotFound, ConfigError and DataError.
    """
    where = None if root is None else whole_path(root)
    if not is_own(data):
        test = score_split(data, root)
        parts = Parts(data, where, test="test" if test == "test" else None)
        said = (
            []
            if parts.test
            else [
                f"{data} has no other images with masks: nothing is scored that was not chosen by"
            ]
        )
        return parts, said
    config, listing = own_config(data), own_listing(data, root)
    if "train" not in config.splits:
        raise DataError(
            f"{data} has no split named train, but {', '.join(config.splits)}. Name one of them train."
        )
    labelled = {name for name, pairs in listing.splits.items() if any(pair.mask for pair in pairs)}
    missing = [name for name in ("val", "test") if name not in labelled]
    base = os.path.abspath(data_folder(data, root))
    if not missing:
        return Parts(whole_path(data), where), []

    # A part of train for each, as the file says it: a fraction of all, of train, or of what train is a share of
    others = {name: part for name, part in config.splits.items() if name not in (*missing, "train")}
    held: float | str = f"{HELD_OUT:.0%} of train"
    train = config.splits["train"]
    for whole, shares in {"": config.shares, **config.parts}.items():
        if share := shares.get("train"):
            held, train = HELD_OUT * share, share * (1 - HELD_OUT * len(missing))
            if whole:
                held, train = f"{100 * held:g}% of {whole}", f"{100 * train:g}% of {whole}"
    made = dict.fromkeys(missing, held)

    # Who is next to whom decides which images a share gets: those that were set aside stay so, where they can
    parts = Parts(os.path.abspath(out / DATASET), base)
    for splits in (others | {"train": train} | made, {"train": train} | made | others):
        write_text(out / DATASET, toml_text(config.model_copy(update={"splits": splits})))
        found = own_listing(parts.name, Path(base)).splits
        if all(
            {pair.key for pair in found[name]} == {pair.key for pair in listing.splits[name]}
            for name in others
        ):
            break
    these = " and ".join(missing)
    if not all(found.get(name) for name in ("train", *missing)):
        raise DataError(
            f"{data} has no {these} images with masks, and {counted(len(listing.splits['train']), 'training image')} "
            "are too few to cut them from: one sequence or image is the least of each split. Add images, or write "
            f"{these} into [splits] of its dataset.toml."
        )
    opened = {name: open_dataset(parts.name, name, Path(base)) for name in ("train", "val", "test")}
    cut = ", ".join(f"{name} = {json.dumps(splits[name])}" for name in ("train", *missing))
    are = "is" if len(missing) == 1 else "are"
    mend = f"{these} {are} cut from train: write {cut} into [splits] of its dataset.toml"
    refuse_copies(data, opened, f"{mend} first; then ")
    became = " and ".join(
        f"{counted(len(opened[name]), 'image')} of train became {name}" for name in missing
    )
    return parts, [f"{data} has no {these} images with masks: {became} ({out / DATASET})"]


USES = (
    ("val", "train", "trained on"),
    ("test", "train", "trained on"),
    ("test", "val", "chosen by"),
)
"""A split that is scored, another, and what is done by the images of that."""


def refuse_copies(data: str, splits: Mapping[str, SegmentationData], mend: str = "") -> None:
    """Raises DataError where images that will be scored are trained on too, or those of test chosen by."""
    for name, other, used in USES:
        if name in splits and (seen := copies_of(splits[name], splits[other])):
            raise DataError(
                f"{counted(len(seen), 'image')} of {data} {name} would be {used} as well, from files that hold the "
                f"same: {named_pairs(seen)}. A score on them says nothing: {mend}`featherseg check DATA --fix OUT` "
                "writes a copy in which no image is in two splits."
            )


def look_at(data: SegmentationData, name: str, hours: float) -> None:
    """Read masks and images in any order for a moment of the hours, so that a fault is said early.

    Masks first: they say more, in less time. Raises what reading raises, and DataError where all masks were read and
    none has a class.
    """
    if files_of(data) is None:  # the program makes it up
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
                    f"{name} has no labelled pixel: in all of its {counted(len(data), 'mask')} everything is ignored, "
                    "so that nothing can be learned or scored. `featherseg check DATA` lists the values of its masks: "
                    "give them a class in [map], or name other images for this split."
                )


def mask_seconds(data: SegmentationData) -> float:
    """Seconds that reading a mask takes here, as the mean over 8 masks from everywhere in the dataset."""
    places = np.linspace(0, len(data) - 1, min(8, len(data))).astype(int)
    began = time.monotonic()
    for place in places.tolist():
        data.label(place)
    return (time.monotonic() - began) / len(places)
