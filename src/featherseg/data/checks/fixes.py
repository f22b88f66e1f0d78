"""`featherseg check DATA --fix OUT`: write a copy of a dataset without its faults."""

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featherseg.core.errors import DataError, DataNotFound
from featherseg.core.files import check_folder, numbered, temporary_path
from featherseg.core.types import IGNORE, Progress, Size
from featherseg.data.checks.report import CheckReport
from featherseg.data.datasets.dataset_toml import (
    IGNORE_NAME,
    MOST_NAME,
    DatasetToml,
    ThingsTable,
    toml_text,
)
from featherseg.data.datasets.folder import FolderListing
from featherseg.data.datasets.sequences import sequence_names
from featherseg.data.images.decoding import image_size, read_image, read_mask
from featherseg.data.images.pairs import Listing, Pair, plain_key, read_ids
from featherseg.data.images.palettes import color_text


@dataclass
class MendReport:
    """What `write_mended` did.

    Attributes:
        copied: Number of samples.
        resized: Masks that were resized.
        changed: {key: pixels that decisions changed in its mask}.
        mended: Masks whose stray values became ignore.
        left_out: {fault, or "in no split": number of samples}.
    """

    copied: int = 0
    resized: list[str] = field(default_factory=list)
    changed: dict[str, int] = field(default_factory=dict)
    mended: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def write_mended(report: CheckReport, out: Path, progress: Progress | None = None) -> MendReport:
    """Write the valid part of a checked dataset: images/, masks/ (palette PNG) and dataset.toml.

    Values outside the map become 255 = ignore. Masks with the shape of their image at another size
    are resized (nearest pixel). Samples with another fault are left out; of an image in two splits
    the later one. Splits by share stay shares of what is copied, with the images beside their cuts;
    they become lists if `groups` finds other sequences in the names of the copy, which begin with a
    split's. Decisions are drawn into the masks; the changed pixels belong to no object. The folder
    appears in one rename when all of it is written.

    Raises DataError if `out` exists and is not empty, if no sample is valid, and if the disk is
    full.
    """
    if report.listing is None:
        raise DataError(f"{report.name} is synthetic: there are no files to fix.")
    temporary = free_target(out)
    try:
        temporary.mkdir(parents=True)
        mended = _write(report, report.listing, temporary, out.name, progress)
        os.replace(temporary, out)
    except OSError as error:
        raise DataError(
            f"cannot write {out}: {error.strerror or error}. Make room, or choose another folder "
            "with --fix."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return mended


def free_target(out: Path) -> Path:
    """Return the folder beside `out` in which the copy is prepared.

    Raises DataError if `out` is in use, FeathersegError if nothing can be written there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty. Choose a new folder with --fix.")
    check_folder(out.parent)
    return temporary_path(out)


def _write(
    report: CheckReport, listing: Listing, folder: Path, name: str, progress: Progress | None
) -> MendReport:
    # Splits by share are parts of a base; the images beside their cuts are copied with them
    config = listing.config if isinstance(listing, FolderListing) else None
    bases, base_of = listing.splits, dict[str, str]()  # {split: what it is a share of}
    splits: dict[str, Any] = {split: split for split in listing.splits}
    if isinstance(listing, FolderListing) and config is not None:
        bases = listing.base_splits
        base_of = {part: base for base, parts in config.parts.items() for part in parts}
        base_of |= dict.fromkeys(config.shares, "")
        splits |= {split: config.splits[split] for split in base_of}

    # Copy each sample without a fault, or with one that can be mended
    faults = {
        (base_of.get(split, split), pair.key): ""
        for split, pairs in listing.splits.items()
        for pair in pairs
    }
    for fault in sorted(report.faults, key=lambda fault: fault.kind != "size"):  # "size" gives way
        if fault.kind != "values":
            faults[base_of.get(fault.split, fault.split), fault.key] = fault.kind
    mended, names = MendReport(), dict[tuple[str, str], str]()  # {(base, key): name in the copy}
    total, done, used_names = sum(map(len, bases.values())), 0, set[str]()
    for base, pairs in bases.items():
        below = f"{base}/" if all(pair.key.startswith(f"{base}/") for pair in pairs) else ""
        for pair in pairs:
            kind = faults.get((base, pair.key))
            kind = _fault_of(pair, listing) if kind is None else kind
            if kind and not (kind == "size" and _has_shape_of_image(pair, listing)):
                mended.left_out[kind] += 1
            else:
                key = plain_key(f"{base}/{pair.key.removeprefix(below)}")
                names[base, pair.key] = next(numbered([key], used_names))
                _copy_pair(pair, listing, folder, names[base, pair.key], report, mended)
                mended.copied += 1
            done += 1
            if progress is not None:
                progress("writing", done, total)
    in_splits = {pair.key for pairs in bases.values() for pair in pairs}
    if unlisted := set(listing.unlisted) - in_splits:
        mended.left_out["in no split"] = len(unlisted)
    if not names:
        raise DataError(f"{report.name} has no valid sample: nothing was written.")

    # Lists keep the cuts if `groups` would find other sequences in the names of the copy
    groups = config.groups if config else None
    if groups and _sequences_change(names, groups):
        groups = None
        for split in set(listing.splits) & {*base_of, *base_of.values()}:
            keys = [(base_of.get(split, split), pair.key) for pair in listing.splits[split]]
            stems = [names[key] for key in keys if key in names]
            (folder / f"{split}.txt").write_text("\n".join(stems), encoding="utf-8")
            splits[split] = f"{split}.txt"

    copied = {base for base, _ in names}
    things = [info.name for info in listing.classes if info.thing]
    has_instances = isinstance(listing, FolderListing) and listing.instances
    toml = DatasetToml(
        name=name[:MOST_NAME],
        images="images",
        masks="masks",
        channels=listing.channels,
        licence=listing.licence,
        split_by=config.split_by if config else "sequence-2",
        groups=groups,
        splits={
            split: part for split, part in splits.items() if base_of.get(split, split) in copied
        },
        classes={info.name: color_text(info.color) for info in listing.classes},
        map={str(index): info.name for index, info in enumerate(listing.classes)}
        | {str(IGNORE): IGNORE_NAME},
        things=ThingsTable(classes=things, instances="instances") if has_instances else None,
    )
    (folder / "dataset.toml").write_text(toml_text(toml), encoding="utf-8")
    return mended


def _sequences_change(names: Mapping[tuple[str, str], str], groups: str) -> bool:
    """Return whether `groups` finds other sequences in the new names than in the keys."""
    keys = [key for _, key in names]
    return sequence_names(keys, groups) != sequence_names(list(names.values()), groups)


def _fault_of(pair: Pair, listing: Listing) -> str:
    """Return the kind of fault, or "", of an image beside a cut, which `check_data` skips."""
    if pair.image is None or pair.mask is None:
        return "unpaired"
    try:
        ids = read_ids(listing.masks_of(pair))
        if read_image(pair.image, listing.channels).shape[:2] != ids.shape:
            return "size"
        listing.check_objects(pair, ids)
    except DataError as error:
        return "unpaired" if isinstance(error, DataNotFound) else "unreadable"
    return "twins" if pair.twins else ""


def _has_shape_of_image(pair: Pair, listing: Listing) -> bool:
    """Return whether a mask has the shape of its image, but for rounding by a pixel."""
    image, _ = pair.files
    try:
        (height, width), ids = image_size(image), read_ids(listing.masks_of(pair))
        listing.check_objects(pair, ids)
    except DataError:
        return False
    rows, columns = ids.shape
    return max(abs(rows - height * columns / width), abs(columns - width * rows / height)) <= 1


def _resized(values: np.ndarray, size: Size) -> np.ndarray:
    """Return values (H, W) at another size, each that of the nearest pixel."""
    rows, columns = (
        ((np.arange(count) + 0.5) * length / count).astype(np.int64)
        for count, length in zip(size, values.shape, strict=True)
    )
    return values[rows[:, None], columns]


def _copy_pair(
    pair: Pair,
    listing: Listing,
    folder: Path,
    stem: str,
    report: CheckReport,
    mended: MendReport,
) -> None:
    """Copy an image, write its mask as class ids with the changes of decisions; note it."""
    image, mask = pair.files
    ids = read_ids(listing.masks_of(pair))  # (H, W), -1 = not in the map
    if ids.min() < 0:
        mended.mended.append(str(mask))
    size = image_size(image)
    if resized := ids.shape != size:
        ids = _resized(ids, size)
        mended.resized.append(str(mask))
    drawn = ids if report.changes is None else report.changes.draw(pair, ids)
    if changed := int((drawn != ids).sum()):
        mended.changed[pair.key] = changed

    # A palette of all 256 entries: with fewer, Pillow packs the indices into fewer bits
    indexed = Image.fromarray(np.where(drawn < 0, IGNORE, drawn).astype(np.uint8))
    palette = np.zeros((IGNORE + 1, 3), np.uint8)
    palette[: len(listing.classes)] = [info.color for info in listing.classes]
    indexed.putpalette(palette.tobytes())

    shutil.copyfile(image, _place(folder, "images", stem + image.suffix))
    indexed.save(_place(folder, "masks", f"{stem}.png"))
    if isinstance(listing, FolderListing) and (objects := listing.instances_of(pair)):
        place = _place(folder, "instances", f"{stem}.png")
        if changed or resized:  # the object of changed pixels is not known
            numbers = _resized(read_mask(objects), size)
            Image.fromarray(np.where(drawn != ids, 0, numbers).astype(np.uint16)).save(place)
        else:
            shutil.copyfile(objects, place)


def _place(folder: Path, kind: str, name: str) -> Path:
    """Return the path of a file whose folders exist."""
    path = folder / kind / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
