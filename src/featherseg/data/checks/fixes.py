"""`featherseg check DATA --fix OUT`: a copy of a dataset without the faults that were found."""

import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featherseg.core.errors import DataError, DataNotFound
from featherseg.core.files import check_folder, numbered, temporary_path
from featherseg.core.types import IGNORE, Progress, Size
from featherseg.data.checks.check import CheckReport
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
    """What `write_mended` did: samples copied, masks that were resized, masks whose stray values became ignore, samples
    left out by fault, or "in no split"; and key -> pixels that decisions changed in its mask.
    """

    copied: int = 0
    resized: list[str] = field(default_factory=list)
    changed: dict[str, int] = field(default_factory=dict)
    mended: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def write_mended(report: CheckReport, out: Path, progress: Progress | None = None) -> MendReport:
    """Write the sound part of a checked dataset to `out`: images/, masks/ (palette PNG, class ids) and dataset.toml.

    Values outside the map become 255 = ignore, and masks of their image's shape at another size are resized (nearest
    pixel). Samples with any other fault are left out, of an image in two splits the later one. Splits that are shares
    stay shares, of what is copied, with the images beside their cuts; they become lists where `groups` finds others in
    the names of the copy, which begin with a split's. Decisions are drawn into the masks; of which object those pixels
    are is then not said. The folder appears in one rename when all of it is written. Raises DataError where `out`
    exists and is not empty, where nothing sound is left, and where the disk refuses.
    """
    if report.listing is None:
        raise DataError(f"{report.name} is synthetic: there are no files to fix.")
    temporary = free_target(out)
    try:
        temporary.mkdir(parents=True)
        done = _write(report, temporary, out.name, progress)
        os.replace(temporary, out)
    except OSError as error:
        raise DataError(
            f"cannot write {out}: {error.strerror or error}. Make room, or choose another folder with --fix."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return done


def free_target(out: Path) -> Path:
    """The folder beside `out` in which the copy is prepared.

    Raises DataError where `out` is in use, FeathersegError where nothing can be written there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty. Choose a new folder with --fix.")
    check_folder(out.parent)
    return temporary_path(out)


def _write(report: CheckReport, folder: Path, name: str, progress: Progress | None) -> MendReport:
    listing, done = report.listing, MendReport()
    names = dict[tuple[str, str], str]()  # (split before a cut, key) -> name in the copy
    assert listing is not None
    own = listing if isinstance(listing, FolderListing) else None
    wholes, cut_from = listing.splits, dict[str, str]()  # split -> what it is a share of
    splits: dict[str, Any] = {split: split for split in listing.splits}
    if own is not None:
        wholes = own.wholes
        cut_from = {part: whole for whole, parts in own.config.parts.items() for part in parts}
        cut_from |= dict.fromkeys(own.config.shares, "")
        splits |= {split: own.config.splits[split] for split in cut_from}
    checked = {
        (cut_from.get(split, split), pair.key): ""
        for split, pairs in listing.splits.items()
        for pair in pairs
    }
    for fault in sorted(
        report.faults, key=lambda fault: fault.kind != "size"
    ):  # that is told which cannot be mended
        if fault.kind != "values":
            checked[cut_from.get(fault.split, fault.split), fault.key] = fault.kind
    total, number, taken = sum(map(len, wholes.values())), 0, set[str]()
    for whole, pairs in wholes.items():
        below = f"{whole}/" if all(pair.key.startswith(f"{whole}/") for pair in pairs) else ""
        for pair in pairs:
            kind = checked.get((whole, pair.key))
            kind = _fault_of(pair, listing) if kind is None else kind
            if kind and not (kind == "size" and _has_shape_of_image(pair, listing)):
                done.left_out[kind] += 1
            else:
                stem = next(numbered([plain_key(f"{whole}/{pair.key.removeprefix(below)}")], taken))
                _copy_pair(pair, folder, stem, report, done)
                done.copied += 1
                names[whole, pair.key] = stem
            number += 1
            if progress is not None:
                progress("writing", number, total)
    if alone := set(listing.unlisted) - {pair.key for pairs in wholes.values() for pair in pairs}:
        done.left_out["in no split"] = len(alone)
    kept = {whole for whole, _ in names}
    if not kept:
        raise DataError(f"{report.name} has no valid sample: nothing was written.")
    groups = own.config.groups if own is not None else None
    if groups and sequence_names([key for _, key in names], groups) != sequence_names(
        list(names.values()), groups
    ):
        groups = (
            None  # it finds others in the names of the copy: the cuts stay by lists what they are
        )
        for split in set(listing.splits) & {*cut_from, *cut_from.values()}:
            keys = [(cut_from.get(split, split), pair.key) for pair in listing.splits[split]]
            stems = [names[key] for key in keys if key in names]
            (folder / f"{split}.txt").write_text("\n".join(stems), encoding="utf-8")
            splits[split] = f"{split}.txt"
    config = DatasetToml(
        name=name[:MOST_NAME],
        images="images",
        masks="masks",
        channels=listing.channels,
        licence=listing.licence,
        split_by="sequence-2" if own is None else own.config.split_by,
        groups=groups,
        splits={
            split: part for split, part in splits.items() if cut_from.get(split, split) in kept
        },
        classes={info.name: color_text(info.color) for info in listing.classes},
        map={str(index): info.name for index, info in enumerate(listing.classes)}
        | {str(IGNORE): IGNORE_NAME},
        things=ThingsTable(
            classes=[info.name for info in listing.classes if info.thing], instances="instances"
        )
        if own is not None and own.instances
        else None,
    )
    (folder / "dataset.toml").write_text(toml_text(config), encoding="utf-8")
    return done


def _fault_of(pair: Pair, listing: Listing) -> str:
    """The kind of fault of an image beside a cut, which `check_data` does not read; empty of a sound one."""
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
    """Whether the mask of a pair has the shape of its image at another size, to the pixel that rounding may cost."""
    image, _ = pair.files
    try:
        (height, width), ids = image_size(image), read_ids(listing.masks_of(pair))
        listing.check_objects(pair, ids)
    except DataError:
        return False
    rows, columns = ids.shape
    return max(abs(rows - height * columns / width), abs(columns - width * rows / height)) <= 1


def _resized(values: np.ndarray, size: Size) -> np.ndarray:
    """Values (H, W) at another size, each that of the nearest pixel."""
    rows, columns = (
        ((np.arange(count) + 0.5) * length / count).astype(np.int64)
        for count, length in zip(size, values.shape, strict=True)
    )
    return values[rows[:, None], columns]


def _copy_pair(pair: Pair, folder: Path, stem: str, report: CheckReport, done: MendReport) -> None:
    """Copy the image as it is and write its mask as class ids, with what decisions change; `done` is told."""
    listing, (image, mask) = report.listing, pair.files
    assert listing is not None
    ids = read_ids(listing.masks_of(pair))  # (H, W), -1 = not in the map
    if ids.min() < 0:
        done.mended.append(str(mask))
    size = image_size(image)
    if resized := ids.shape != size:
        ids = _resized(ids, size)
        done.resized.append(str(mask))
    drawn = ids if report.changes is None else report.changes.draw(pair, ids)
    if changed := int((drawn != ids).sum()):
        done.changed[pair.key] = changed
    indexed = Image.fromarray(np.where(drawn < 0, IGNORE, drawn).astype(np.uint8))
    palette = np.zeros(
        (IGNORE + 1, 3), np.uint8
    )  # all 256 entries: with fewer, Pillow packs the indices into fewer bits
    palette[: len(listing.classes)] = [info.color for info in listing.classes]
    indexed.putpalette(palette.tobytes())
    for kind, name in (("images", stem + image.suffix), ("masks", stem + ".png")):
        (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image, folder / "images" / (stem + image.suffix))
    indexed.save(folder / "masks" / f"{stem}.png")
    if isinstance(listing, FolderListing) and (objects := listing.instances_of(pair)):
        place = folder / "instances" / f"{stem}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        if changed or resized:  # of which object changed pixels are nobody said
            numbers = _resized(read_mask(objects), size)
            Image.fromarray(np.where(drawn != ids, 0, numbers).astype(np.uint16)).save(place)
        else:
            shutil.copyfile(objects, place)
