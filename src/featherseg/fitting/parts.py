"""Images to train with, to choose by and to judge by in the end: the splits of a fit, made where there are none."""

import os
import time
from pathlib import Path

import numpy as np

from featherseg.core.errors import DataError
from featherseg.core.files import write_text
from featherseg.core.types import SegmentationData
from featherseg.data import data_folder, is_own, open_dataset, own_config, own_listing, score_split
from featherseg.data.datasets.dataset_toml import toml_text
from featherseg.fitting.record import Parts

HELD_OUT = 0.1
"""The share of the training images that becomes a split which a dataset of one's own does not have."""

DATASET = "dataset.toml"

LOOKING, LOOKED_AT = 5.0, 0.002
"""Seconds in which the masks of a split are read before anything is timed, and the part of all time, at most; a
training reads all of them first.
"""


def find_parts(data: str, root: Path | None, out: Path) -> tuple[Parts, list[str]]:
    """The splits of a dataset; -> (them, what is to be said about them).

    Of a dataset of one's own that has no validation or test images with masks, a tenth of the training images becomes
    each, whole sequences at a time; OUT/dataset.toml says so and is what is trained with. Raises UnknownName,
    DataNotFound, ConfigError and DataError.
    """
    where = None if root is None else os.path.abspath(root)
    if not is_own(data):
        test = score_split(data, root)
        parts = Parts(data, where, test="test" if test == "test" else None)
        said = (
            [] if parts.test else [f"{data} has no other images with masks: nothing is scored that was not chosen by"]
        )
        return parts, said
    config, listing = own_config(data), own_listing(data, root)
    if "train" not in config.splits:
        raise DataError(f"{data} has no split named train, but {', '.join(config.splits)}. Name one of them train.")
    labelled = {name for name, pairs in listing.splits.items() if any(pair.mask for pair in pairs)}
    missing = [name for name in ("val", "test") if name not in labelled]
    base = os.path.abspath(data_folder(data, root))
    if not missing:
        name = data if os.path.isabs(data) or "://" in data else os.path.abspath(data)
        return Parts(name, where), []

    # A part of train for each, as the file says it: a fraction of all, or of train
    others = {name: part for name, part in config.splits.items() if name not in (*missing, "train")}
    made: dict[str, float | str] = dict.fromkeys(missing, f"{HELD_OUT:.0%} of train")
    train = config.splits["train"]
    if config.shares:
        share = config.shares["train"]
        made, train = dict.fromkeys(missing, HELD_OUT * share), share * (1 - HELD_OUT * len(missing))

    # Who is next to whom decides which images a share gets: those that were set aside stay so, where they can
    parts = Parts(os.path.abspath(out / DATASET), base)
    for splits in (others | {"train": train} | made, {"train": train} | made | others):
        write_text(out / DATASET, toml_text(config.model_copy(update={"splits": splits})))
        found = own_listing(parts.name, Path(base)).splits
        if all({pair.key for pair in found[name]} == {pair.key for pair in listing.splits[name]} for name in others):
            break
    for name in ("train", *missing):
        open_dataset(parts.name, name, Path(base))  # refused now where too few are left
    these = " and ".join(missing)
    return parts, [f"{data} has no {these} images with masks: {HELD_OUT:.0%} of train became {these} ({out / DATASET})"]


def look_at_labels(data: SegmentationData, hours: float) -> None:
    """Read masks in any order for a moment of the hours, so that a fault is said early. Raises what `label` raises."""
    ends = time.monotonic() + min(LOOKING, LOOKED_AT * 3600 * hours)
    for index in np.random.default_rng(0).permutation(len(data)).tolist():
        data.label(index)
        if time.monotonic() > ends:
            break
