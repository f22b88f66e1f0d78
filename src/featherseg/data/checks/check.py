"""Check a whole dataset for what would spoil a training; one fault does not stop the search."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from featherseg.core.errors import ConfigError, DataError, DataNotFound
from featherseg.core.types import IGNORE, Color, Progress, Size
from featherseg.core.wording import counted, size_text
from featherseg.data import (
    DATASETS,
    find_dataset,
    given_root,
    is_own,
    open_dataset,
    own_listing,
    own_path,
)
from featherseg.data.checks.decisions import changes_of, read_decisions
from featherseg.data.checks.notes import dataset_notes
from featherseg.data.checks.report import CheckReport, Fault, SplitReport
from featherseg.data.datasets.folder import FolderListing
from featherseg.data.datasets.statistics import ClassStatistics
from featherseg.data.discovery.file_facts import FileFacts, ImageFacts, MaskFacts, in_threads
from featherseg.data.discovery.lookalikes import Lookalikes
from featherseg.data.discovery.mask_folders import FoldersAs
from featherseg.data.discovery.proposal import Proposal, propose
from featherseg.data.discovery.split_choice import PoolImage, choose_split
from featherseg.data.discovery.written_proposal import written_lists
from featherseg.data.images.decoding import read_mask
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.pairs import Listing, Pair, laid_over, other_size
from featherseg.data.images.palettes import color_text
from featherseg.data.shapes import Shapes

SYNTHETIC_SIZE = 200
"""Number of scenes per split that are generated to count the classes of a synthetic dataset."""


class _PaletteColors:
    """The colours of values that are read by index; `notes` names the first value with two."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[Color, Path]] = {}
        self.notes: list[str] = []

    def add(self, path: Path, mask: MaskFacts) -> None:
        """Add the values of a mask and the palette in its file."""
        palette = () if self.notes else mask.palette
        for value in mask.values.tolist() if palette else ():
            if value >= len(palette):
                return
            color = palette[value]
            first, first_path = self._first.setdefault(value, (color, path))
            if first != color:
                text = color_text(color)
                self.notes = [
                    f"the palettes of masks differ: {value} is {color_text(first)} in "
                    f"{first_path}, and {text} in {path}. Masks are read by index; if the colours "
                    f'are the classes, write colours into [map] ("{text}" = "CLASS"): then all '
                    "masks are read as colours"
                ]
                return


@dataclass
class _Comparison:
    """What is compared between files.

    Attributes:
        pools: {split: its images without a fault}.
        depths: {split: {bits per channel: its images}}.
        lossy: Paths of masks in lossy formats.
        first_places: {digest of an image: (split, key) of its first place}.
    """

    pools: dict[str, list[PoolImage]]
    depths: dict[str, dict[int, list[Pair]]]
    lossy: list[str] = field(default_factory=list)
    first_places: dict[bytes, tuple[str, str]] = field(default_factory=dict)
    lookalikes: Lookalikes = field(default_factory=Lookalikes)
    palettes: _PaletteColors = field(default_factory=_PaletteColors)

    def add(self, split: str, pair: Pair, facts: "_PairFacts") -> None:
        """Add a pair that was read."""
        for path, mask in zip(pair.mask_files, facts.masks, strict=True):
            if isinstance(mask, MaskFacts) and mask.lossy:
                self.lossy.append(str(path))
        if isinstance(facts.image, ImageFacts):
            self.depths[split].setdefault(facts.image.bits, []).append(pair)
            if facts.counts is not None:
                classes = frozenset(np.flatnonzero(facts.counts[:IGNORE]).tolist())
                self.pools[split].append(
                    PoolImage(pair.key, classes, facts.image.look, facts.image.digest)
                )


def check_data(
    data: str,
    root: Path | None = None,
    progress: Progress | None = None,
    *,
    names: Mapping[str, str] | None = None,
    masks: str | None = None,
    folders: FoldersAs | None = None,
    anew: bool = False,
    decisions: Path | None = None,
) -> CheckReport:
    """Read every file of a dataset and report its faults.

    Args:
        data: A name, a dataset.toml, or a folder of images and masks. For a folder without a
            dataset.toml one is proposed and used.
        root: The folder that contains a dataset with a name.
        names, masks, folders: As for `propose`.
        anew: Propose a dataset.toml also if the folder has one.
        decisions: A file that the page of an audit saved.

    Raises:
        UnknownName, ConfigError, DataNotFound: The dataset cannot be opened.
        AmbiguousData: As `propose`.
        DataError: The decisions are of another dataset.
    """
    read = None if decisions is None else read_decisions(decisions)
    if DATASETS.get(data) is Shapes and not (names or masks or folders):
        return _count_synthetic(data, progress)
    facts = FileFacts()
    listing, proposal = _open_listing(data, root, progress, names, masks, folders, anew, facts)
    report = CheckReport(listing.name, listing.classes, listing=listing, proposal=proposal)
    if read is not None:
        report.changes = changes_of(read, listing, str(decisions))
    for split, pairs in listing.splits.items():
        report.splits[split] = SplitReport(ClassStatistics.empty(len(listing.classes)))
        if not pairs:
            report.faults.append(Fault("empty", split, "", f"{split} has no images"))

    # Check each pair; files are read on all cores
    comparison = _Comparison(
        pools={split: [] for split in listing.splits},
        depths={split: {} for split in listing.splits},
    )
    places = [(split, pair) for split, pairs in listing.splits.items() for pair in pairs]
    reads = in_threads(partial(_read_pair, listing, facts), (pair for _, pair in places))
    for done, ((split, pair), pair_facts) in enumerate(zip(places, reads, strict=True), start=1):
        _check_pair(report, listing, split, pair, pair_facts, comparison)
        if pair_facts is not None:
            comparison.add(split, pair, pair_facts)
        if progress is not None:
            progress("checking" if proposal else "reading", done, len(places))

    # Compare the images of a split, and the splits
    for split, by_bits in comparison.depths.items():
        usual = max(by_bits, key=lambda bits: len(by_bits[bits]), default=0)
        for bits in sorted(by_bits.keys() - {usual}):
            text = f"has {bits} bits a channel, most images of {split} {usual}: convert it"
            report.faults += [
                Fault("depth", split, pair.key, f"{pair.image} {text}") for pair in by_bits[bits]
            ]
    if isinstance(listing, FolderListing):
        report.faults += _class_faults(report, listing, comparison.pools)
    report.notes += comparison.palettes.notes
    report.notes += dataset_notes(
        report, listing, comparison.pools, comparison.lossy, comparison.lookalikes
    )
    return report


def _open_listing(
    data: str,
    root: Path | None,
    progress: Progress | None,
    names: Mapping[str, str] | None,
    masks: str | None,
    folders: FoldersAs | None,
    anew: bool,
    facts: FileFacts,
) -> tuple[Listing, Proposal | None]:
    """Return the files of a dataset, and the proposal for a folder without a dataset.toml."""
    place = own_path(data)
    if is_own(data) and (anew or os.path.isdir(place)):
        if root is not None:
            raise ConfigError(
                f"--data-root {root} is where the paths of a dataset.toml start, and {data} has "
                "none. Expected the folder of images and masks alone: featherseg check "
                f"{shlex.quote(data)}."
            )
        folder = Path(os.path.abspath(data)) if anew else place
        proposal = propose(folder, names, masks, folders, progress, facts)
        return proposal.listing, proposal
    if names or masks or folders:
        remedy = "Leave them out"
        if is_own(data):
            remedy = f"{data} says what its masks mean. Edit it"
            if os.path.isdir(data) and written_lists(Path(data)) is not None:
                remedy += ", or add --write to replace it"
        raise ConfigError(
            "--name, --masks, --classes-from-folders and --groups-from-folders are for a folder "
            f"without a dataset.toml. {remedy}."
        )
    if is_own(data):
        return own_listing(data, root), None
    dataset = find_dataset(data)
    assert not issubclass(dataset, Shapes)
    return dataset.list_files(given_root(data, root), dataset.splits), None


def _count_synthetic(name: str, progress: Progress | None) -> CheckReport:
    """Count the classes of a dataset that has no files, and so no faults."""
    scenes = {
        split: open_dataset(name, split, size=SYNTHETIC_SIZE) for split in DATASETS[name].splits
    }
    report = CheckReport(name, next(iter(scenes.values())).classes)
    done, total = 0, sum(map(len, scenes.values()))
    for split, data in scenes.items():
        report.splits[split] = SplitReport(ClassStatistics.empty(len(data.classes)))
        for index, key in enumerate(data.keys):
            label = data.label(index)
            counts = np.bincount(label.ravel(), minlength=IGNORE + 1)
            _count(report.splits[split], key, counts, label.shape[:2])
            done += 1
            if progress is not None:
                progress("reading", done, total)
    report.notes.append(
        f"{name} is synthetic; up to {SYNTHETIC_SIZE} scenes per split were counted"
    )
    return report


@dataclass(frozen=True)
class _PairFacts:
    """Facts about the image and the masks of a pair, or why they cannot be read.

    Attributes:
        counts: Pixels of each class id, (256,), values outside the map as IGNORE; None if a mask
            cannot be read.
        size: Of the masks.
        fault: Kind and text of a fault between the files.
    """

    image: ImageFacts | DataError
    masks: Sequence[MaskFacts | DataError]
    counts: np.ndarray | None = None
    size: Size = (0, 0)
    fault: tuple[str, str] | None = None


def _read_pair(listing: Listing, facts: FileFacts, pair: Pair) -> _PairFacts | None:
    """Read the files of a pair, in one of several threads; None for an incomplete pair."""
    if pair.image is None or pair.mask is None:
        return None
    image, masks = facts.image(pair.image, listing.channels), listing.masks_of(pair)
    if len(masks) == 1 and not listing.has_objects:
        ((path, label_map),) = masks
        mask = facts.mask(path, label_map.colors)
        if isinstance(mask, DataError) or not _fits(mask, label_map):
            return _PairFacts(image, [mask])
        ids = label_map.apply(mask.raw)[0]  # of each value once
        counts = np.bincount(np.where(ids < 0, IGNORE, ids), mask.pixels, IGNORE + 1)
        return _PairFacts(image, [mask], counts.astype(np.int64), mask.size)

    # Layers and objects need the pixels
    read = [facts.mask_and_pixels(path, label_map.colors) for path, label_map in masks]
    of_masks = [mask for mask, _ in read]
    layers = []
    for (mask, raw), (_, label_map) in zip(read, masks, strict=True):
        if isinstance(mask, DataError) or raw is None or not _fits(mask, label_map):
            return _PairFacts(image, of_masks)
        layers.append(label_map.apply(raw))
    try:
        ids = laid_over(masks, layers)  # (H, W)
    except DataError as error:
        return _PairFacts(image, of_masks, fault=("size", str(error)))
    counts, fault = np.bincount(np.where(ids < 0, IGNORE, ids).ravel(), minlength=IGNORE + 1), None
    if isinstance(image, ImageFacts) and image.size == ids.shape:
        try:
            listing.check_objects(pair, ids)
        except DataError as error:
            fault = ("unpaired" if isinstance(error, DataNotFound) else "unreadable", str(error))
    return _PairFacts(image, of_masks, counts, ids.shape[:2], fault)


def _fits(mask: MaskFacts, label_map: LabelMap) -> bool:
    """Return whether a mask has no colours where class numbers are expected."""
    return label_map.colors or mask.grey


def _check_pair(
    report: CheckReport,
    listing: Listing,
    split: str,
    pair: Pair,
    facts: _PairFacts | None,
    comparison: _Comparison,
) -> None:
    """Add the faults of one pair to the report, and its pixels to the counts of its split."""

    def fault(kind: str, text: str) -> None:
        report.faults.append(Fault(kind, split, pair.key, text))

    for twin in pair.twins:
        fault("twins", f"{twin} has the same stem as another file")
    if facts is None:
        if pair.image is None and pair.mask is None:
            return fault("unpaired", f"{pair.key} is listed, but has neither an image nor a mask")
        alone, lacking = (pair.image, "mask") if pair.mask is None else (pair.mask, "image")
        lacking += f" of {', '.join(pair.missing)}" if pair.missing else ""
        return fault("unpaired", f"{alone} has no {lacking}")

    # The image: its channels, and whether it occurred before
    image, entry = facts.image, report.splits[split]
    if isinstance(image, DataError):
        fault("unreadable", str(image))
    else:
        if image.turned:
            entry.turned.append(pair.key)
        for part in image.unused:
            entry.unused.setdefault(part, []).append(pair.key)
        entry.bits = max(entry.bits, image.bits)
        entry.channels = (
            [
                known.with_values(channel)
                for known, channel in zip(entry.channels, image.channels, strict=True)
            ]
            if entry.channels
            else list(image.channels)
        )
        place = (split, pair.key)
        first_place = comparison.first_places.setdefault(image.digest, place)
        if first_place == place:
            comparison.lookalikes.add(split, pair.key, image.look)
        elif first_place[0] == split:
            entry.repeated.append(pair.key)
        else:
            first_split, first_key = first_place
            fault("duplicate", f"{pair.image} is the same image as {first_key} of {first_split}")

    # The masks: their values
    for (path, label_map), mask in zip(listing.masks_of(pair), facts.masks, strict=True):
        if isinstance(mask, DataError):
            fault("unreadable", str(mask))
            continue
        if not mask.colored and not label_map.colors:
            comparison.palettes.add(path, mask)
        if mask.veiled:
            entry.veiled.append(pair.key)
        if not _fits(mask, label_map):
            if all(other.kind != "colors" for other in report.faults):  # explain the first
                try:
                    label_map.apply(read_mask(path))
                except DataError as error:
                    report.notes.append(f"{path}: {error}")
            fault("colors", str(path))
        elif outside := label_map.outside(mask.raw, mask.pixels[None]):
            fault("values", f"{path} {label_map.describe(outside)}")
            if (advice := label_map.advice(outside)) and advice not in report.notes:
                report.notes.append(advice)

    # Both together
    if isinstance(image, ImageFacts) and facts.counts is not None and image.size != facts.size:
        return fault("size", f"{pair.mask} {other_size(pair, image.size, facts.size)}")
    if facts.fault is not None:
        return fault(*facts.fault)
    if isinstance(image, ImageFacts) and facts.counts is not None:
        _count(entry, pair.key, facts.counts, facts.size)


def _count(entry: SplitReport, key: str, counts: np.ndarray, size: Size) -> None:
    """Add an image with this number of pixels of each class id, (256,)."""
    entry.statistics.add_counts(counts)
    entry.images += 1
    entry.ignored += int(counts[IGNORE])
    text = size_text(size)
    entry.sizes[text] = entry.sizes.get(text, 0) + 1
    if counts[IGNORE] == counts.sum():
        entry.only_ignored.append(key)


def _class_faults(
    report: CheckReport, listing: FolderListing, pools: Mapping[str, Sequence[PoolImage]]
) -> list[Fault]:
    """Return classes that train lacks and another split has, or val lacks and could have."""
    images = {
        split: entry.statistics.images for split, entry in report.splits.items() if entry.images
    }
    possible = frozenset[int]()  # classes that val would have if it were chosen anew
    train_and_val = zip(images.get("train", ()), images.get("val", ()), strict=False)
    if any(val == 0 and train > 1 for train, val in train_and_val):
        pool = [*pools["train"], *pools["val"]]
        possible = choose_split(pool, len(pools["val"]) / len(pool), listing.groups).in_val
    faults = list[Fault]()
    for index, info in enumerate(report.classes):
        counts = {split: of_class[index] for split, of_class in images.items() if of_class[index]}
        lacking = ""
        if "val" in images and "val" not in counts and index in possible:
            lacking = "val"
        elif "train" in images and counts and "train" not in counts:
            lacking = "train"
        if lacking:
            places = [f"{counted(count, 'image')} of {split}" for split, count in counts.items()]
            text = (
                f"{lacking} has no pixel of {info.name}, which is in {' and '.join(places)}. Name "
                f'images that have it in a list, {lacking} = "{lacking}.txt" in [splits]'
            )
            faults.append(Fault("classes", lacking, "", text))
    return faults
