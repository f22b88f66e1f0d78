"""Checking a whole dataset for what would spoil a training run; every fault is noted, none stops the rest."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featherseg.core.errors import ConfigError, DataError, DataNotFound
from featherseg.core.notebook import html_table
from featherseg.core.types import IGNORE, ClassInfo, Color, Progress, Size
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
from featherseg.data.checks.decisions import Changes, changes_of, read_decisions
from featherseg.data.datasets.folder import FolderListing
from featherseg.data.datasets.sequences import neighbours, sequences_of
from featherseg.data.datasets.statistics import ClassStatistics, median_frequency
from featherseg.data.discovery.file_facts import FileFacts, ImageFacts, MaskFacts, in_threads
from featherseg.data.discovery.lookalikes import Lookalikes, neighbours_look_alike
from featherseg.data.discovery.mask_folders import FoldersAs
from featherseg.data.discovery.proposal import Proposal, propose
from featherseg.data.discovery.split_choice import PoolImage, choose_split
from featherseg.data.discovery.written_proposal import written_lists
from featherseg.data.images.decoding import LOSSY, read_mask
from featherseg.data.images.image_range import ChannelRange, range_above
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.pairs import SHOWN_NAMES, Listing, Pair, laid_over, other_size
from featherseg.data.images.palettes import color_text
from featherseg.data.images.unused_parts import TOLD
from featherseg.data.shapes import Shapes
from featherseg.layers.normalise import FULL_RANGE

if TYPE_CHECKING:
    from featherseg.data.checks.fixes import MendReport

FAULTS = {  # kind -> how a group of them is headed
    "empty": "splits without images",
    "classes": "classes that train or val lacks",
    "unpaired": "images without a mask, or masks without an image",
    "twins": "files that share a stem",
    "unreadable": "files that cannot be read",
    "size": "masks whose size differs from their image",
    "depth": "images with other bits a channel than most of their split",
    "colors": "colour masks where class numbers are expected",
    "values": "masks with values outside the map",
    "duplicate": "images that occur in two splits",
}


class PaletteColors:
    """The colours of the values that are read by index, from mask to mask; `notes` names the first that has two."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[Color, Path]] = {}
        self.notes: list[str] = []

    def add(self, path: Path, mask: MaskFacts) -> None:
        """A further mask: its values, and the palette in its file, where it has one."""
        palette = () if self.notes else mask.palette
        for value in mask.values.tolist() if palette else ():
            if value >= len(palette):
                return
            color = palette[value]
            first, other = self._first.setdefault(value, (color, path))
            if first != color:
                text = color_text(color)
                self.notes = [
                    f"the palettes of masks differ: {value} is {color_text(first)} in {other}, and {text} in {path}. "
                    "Masks are read by index; where the colours are the classes, write colours into [map] "
                    f'("{text}" = "CLASS"): then all masks are read as colours'
                ]
                return


SHOWN_CLASSES = 10
"""How many classes without a pixel a note names."""

VEILED = "with one colour both opaque and transparent, which is one class as alpha is not read"
"""What is said of masks with such a colour."""

BESIDE = 0.05
"""The part of a split that may stand beside an image of train: ends of clips do, and do not matter."""

SYNTHETIC_SIZE = 200
"""Scenes a split that are generated to count the classes of a dataset without files."""


@dataclass(frozen=True)
class Fault:
    """One fault: its kind (a key of FAULTS), the sample it spoils, and a message that starts with the file's name."""

    kind: str
    split: str
    key: str
    text: str


@dataclass
class SplitReport:
    """What one split holds. Samples that cannot be read or whose sizes differ are not counted.

    `ignored` is in pixels, `sizes` maps "HxW" to images; `only_ignored`, `repeated`, `turned` (by EXIF) and `veiled`
    (VEILED) hold keys, `unused` by what is not used of them; `bits` and `channels` are of all images that are read.
    """

    statistics: ClassStatistics
    images: int = 0
    ignored: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    only_ignored: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    veiled: list[str] = field(default_factory=list)
    unused: dict[str, list[str]] = field(default_factory=dict)
    bits: int = 8
    channels: list[ChannelRange] = field(default_factory=list)

    def share(self, index: int) -> float:
        """Pixels of class `index` as a fraction of the labelled ones."""
        return self.statistics.pixels[index] / max(1, sum(self.statistics.pixels))

    @property
    def ignored_share(self) -> float:
        """Ignored pixels as a fraction of all."""
        return self.ignored / max(1, self.ignored + sum(self.statistics.pixels))


@dataclass
class CheckReport:
    """The outcome of `check_data`. Notes are worth knowing, but no faults.

    mended says what a copy of it lacks or mends, written is the dataset.toml that was written for a folder without one,
    changes what decisions on the page of an audit change in a copy.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    splits: dict[str, SplitReport] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    listing: Listing | None = None
    proposal: Proposal | None = None
    mended: "MendReport | None" = None
    written: Path | None = None
    changes: Changes | None = None

    @property
    def clean(self) -> bool:
        """Whether there is no fault, and more than one class."""
        return not self.faults and len(self.classes) > 1

    @property
    def weights(self) -> list[float]:
        """Median-frequency class weights of the split "train", or of the first one."""
        split = self.splits.get("train") or next(iter(self.splits.values()))
        return median_frequency(split.statistics)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, without the listing of files."""
        return {
            "name": self.name,
            "clean": self.clean,
            "classes": [info.name for info in self.classes],
            "splits": {name: asdict(split) for name, split in self.splits.items()},
            "median_frequency_weights": self.weights,
            "faults": [asdict(fault) for fault in self.faults],
            "how_split": (self.listing.how_split if self.listing else "") or None,
            "notes": self.notes,
            "proposed_dataset_toml": self.proposal.text if self.proposal else None,
            "look_at": self.proposal.notes if self.proposal else [],
            "other_readings": [{"what": what, "options": how} for what, how in self.proposal.others]
            if self.proposal
            else [],
            "written": str(self.written) if self.written else None,
        }

    def _repr_html_(self) -> str:
        splits = self.splits.values()
        rows = [
            (info.name, *(f"{100 * s.share(i):.2f}" for s in splits))
            for i, info in enumerate(self.classes)
        ]
        state = (
            "clean"
            if self.clean
            else counted(len(self.faults), "fault")
            if self.faults
            else "one class alone"
        )
        title = f"{self.name}: {', '.join(f'{name} {s.images}' for name, s in self.splits.items())} images: {state}"
        heads = ("class, labelled pixels, %", *self.splits)
        proposed = self.proposal.notes if self.proposal else []
        faults = [fault.text for fault in self.faults[:SHOWN_NAMES]]
        return html_table(title, heads, rows, [*faults, *self.notes, *proposed])


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
    """Read every file of a dataset (a name, a dataset.toml, or a folder of images and masks) and report on it.

    For a folder without a dataset.toml one is proposed, and it is checked against that; names, masks and folders are as
    for `proposal.propose`; anew proposes one also where one is; decisions is a file that the page of an audit saved.
    Raises what opening a dataset raises (UnknownName, ConfigError, DataNotFound), what `propose` raises, ConfigError
    for a root of a folder without a dataset.toml, and DataError for decisions that are not of this dataset; the faults
    of single files are in the report.
    """
    decided = None if decisions is None else read_decisions(decisions)
    if DATASETS.get(data) is Shapes and not (names or masks or folders):
        return _count_synthetic(data, progress)
    facts = FileFacts()
    listing, proposal = _open_listing(data, root, progress, names, masks, folders, anew, facts)
    report = CheckReport(listing.name, listing.classes, listing=listing, proposal=proposal)
    if decided is not None:
        report.changes = changes_of(decided, listing, str(decisions))
    places = [(split, pair) for split, pairs in listing.splits.items() for pair in pairs]
    reads = in_threads(partial(_read_pair, listing, facts), (pair for _, pair in places))
    first_places: dict[
        bytes, tuple[str, str]
    ] = {}  # hash of a decoded image -> split and key of its first place
    alike, palettes, lossy = Lookalikes(), PaletteColors(), list[str]()
    pools: dict[str, list[PoolImage]] = {split: [] for split in listing.splits}  # the sound images
    depths: dict[
        str, dict[int, list[Pair]]
    ] = {}  # split -> bits a channel -> the images that have them
    for split, pairs in listing.splits.items():
        report.splits[split], depths[split] = (
            SplitReport(ClassStatistics.empty(len(listing.classes))),
            {},
        )
        if not pairs:
            report.faults.append(Fault("empty", split, "", f"{split} has no images"))
    for done, ((split, pair), seen) in enumerate(zip(places, reads, strict=True), start=1):
        _check_pair(report, listing, split, pair, seen, first_places, alike, palettes)
        if seen is not None:
            of_masks = zip(pair.mask_files, seen.masks, strict=True)
            lossy += [
                str(path) for path, mask in of_masks if isinstance(mask, MaskFacts) and mask.lossy
            ]
        if seen is not None and isinstance(seen.image, ImageFacts):
            depths[split].setdefault(seen.image.bits, []).append(pair)
            if seen.counts is not None:
                classes = frozenset(np.flatnonzero(seen.counts[:IGNORE]).tolist())
                pools[split].append(
                    PoolImage(pair.key, classes, seen.image.look, seen.image.digest)
                )
        if progress is not None:
            progress("checking" if proposal else "reading", done, len(places))
    for split, of_bits in depths.items():
        usual = max(of_bits, key=lambda bits: len(of_bits[bits]), default=0)
        for bits in sorted(of_bits.keys() - {usual}):
            told = f"has {bits} bits a channel, most images of {split} {usual}: convert it"
            report.faults += [
                Fault("depth", split, pair.key, f"{pair.image} {told}") for pair in of_bits[bits]
            ]
    if isinstance(listing, FolderListing):
        report.faults += _class_faults(report, listing, pools)
    report.notes += [
        *palettes.notes,
        *_notes(report, listing, pools, lossy),
        *_alike_notes(report, alike),
    ]
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
    place = own_path(data)
    if is_own(data) and (anew or os.path.isdir(place)):
        if root is not None:
            raise ConfigError(
                f"--data-root {root} is where the paths of a dataset.toml start, and {data} has none. Expected the "
                f"folder of images and masks alone: featherseg check {shlex.quote(data)}."
            )
        folder = Path(os.path.abspath(data)) if anew else place
        proposal = propose(folder, names, masks, folders, progress, facts)
        return proposal.listing, proposal
    if names or masks or folders:
        remedy = f"{data} says what its masks mean. Edit it" if is_own(data) else "Leave them out"
        remedy += (
            ", or add --write to replace it"
            if os.path.isdir(data) and written_lists(Path(data)) is not None
            else ""
        )
        raise ConfigError(
            "--name, --masks, --classes-from-folders and --groups-from-folders are for a folder without a "
            f"dataset.toml. {remedy}."
        )
    if is_own(data):
        return own_listing(data, root), None
    dataset = find_dataset(data)
    assert not issubclass(dataset, Shapes)
    return dataset.list_files(given_root(data, root), dataset.splits), None


def _count_synthetic(name: str, progress: Progress | None) -> CheckReport:
    """The class counts of a dataset that has no files and so no faults."""
    scenes = {
        split: open_dataset(name, split, size=SYNTHETIC_SIZE) for split in DATASETS[name].splits
    }
    report = CheckReport(name, next(iter(scenes.values())).classes)
    done, total = 0, sum(map(len, scenes.values()))
    for split, data in scenes.items():
        report.splits[split] = SplitReport(ClassStatistics.empty(len(data.classes)))
        for index, key in enumerate(data.keys):
            label = data.label(index)
            _count(
                report.splits[split],
                key,
                np.bincount(label.ravel(), minlength=IGNORE + 1),
                label.shape[:2],
            )
            done += 1
            if progress is not None:
                progress("reading", done, total)
    report.notes.append(
        f"{name} is synthetic; up to {SYNTHETIC_SIZE} scenes per split were counted"
    )
    return report


@dataclass(frozen=True)
class _PairFacts:
    """What was read of a pair: facts or errors of its image and of each of its masks.

    `counts` (256,) are the pixels of each class id, values outside the map as IGNORE; None if a mask cannot be read.
    `size` is that of the masks. `fault` is the kind and the text of what does not fit together in the pixels.
    """

    image: ImageFacts | DataError
    masks: Sequence[MaskFacts | DataError]
    counts: np.ndarray | None = None
    size: Size = (0, 0)
    fault: tuple[str, str] | None = None


def _read_pair(listing: Listing, facts: FileFacts, pair: Pair) -> _PairFacts | None:
    """Read the files of a complete pair; runs beside others of its kind."""
    if pair.image is None or pair.mask is None:
        return None
    image, masks = facts.image(pair.image, listing.channels), listing.masks_of(pair)
    if len(masks) == 1 and not listing.has_objects:
        ((path, label_map),) = masks
        mask = facts.mask(path, label_map.colors)
        if isinstance(mask, DataError) or not _fits(mask, label_map):
            return _PairFacts(image, [mask])
        ids = label_map.apply(mask.raw)[0]  # of every value once
        counts = np.bincount(np.where(ids < 0, IGNORE, ids), mask.pixels, IGNORE + 1)
        return _PairFacts(image, [mask], counts.astype(np.int64), mask.size)

    # What lies on top, and the objects, are told by the pixels
    read = [facts.mask_and_pixels(path, label_map.colors) for path, label_map in masks]
    seen = [mask for mask, _ in read]
    if any(
        isinstance(mask, DataError) or not _fits(mask, own)
        for mask, (_, own) in zip(seen, masks, strict=True)
    ):
        return _PairFacts(image, seen)
    try:
        layers = [
            own.apply(raw)
            for (_, raw), (_, own) in zip(read, masks, strict=True)
            if raw is not None
        ]
        ids = laid_over(masks, layers)  # (H, W)
    except DataError as error:
        return _PairFacts(image, seen, fault=("size", str(error)))
    counts, fault = np.bincount(np.where(ids < 0, IGNORE, ids).ravel(), minlength=IGNORE + 1), None
    if isinstance(image, ImageFacts) and image.size == ids.shape:
        try:
            listing.check_objects(pair, ids)
        except DataError as error:
            fault = ("unpaired" if isinstance(error, DataNotFound) else "unreadable", str(error))
    return _PairFacts(image, seen, counts, ids.shape[:2], fault)


def _fits(mask: MaskFacts, label_map: LabelMap) -> bool:
    """Whether a mask does not hold colours where numbers are looked up."""
    return label_map.colors or mask.grey


def _check_pair(
    report: CheckReport,
    listing: Listing,
    split: str,
    pair: Pair,
    seen: _PairFacts | None,
    first_places: dict[bytes, tuple[str, str]],
    alike: Lookalikes,
    palettes: PaletteColors,
) -> None:
    """Add the faults of one pair to the report, and its pixels to the split's counts."""

    def fault(kind: str, text: str) -> None:
        report.faults.append(Fault(kind, split, pair.key, text))

    for twin in pair.twins:
        fault("twins", f"{twin} has the same stem as another file")
    if seen is None:
        if pair.image is None and pair.mask is None:
            return fault("unpaired", f"{pair.key} is listed, but has neither an image nor a mask")
        alone, lacking = (pair.image, "mask") if pair.mask is None else (pair.mask, "image")
        lacking += f" of {', '.join(pair.missing)}" if pair.missing else ""
        return fault("unpaired", f"{alone} has no {lacking}")
    image, entry = seen.image, report.splits[split]
    if isinstance(image, DataError):
        fault("unreadable", str(image))
    else:
        if image.turned:
            entry.turned.append(pair.key)
        for what in image.unused:
            entry.unused.setdefault(what, []).append(pair.key)
        ranges = zip(entry.channels or image.channels, image.channels, strict=True)
        first, entry.bits = not entry.channels, max(entry.bits, image.bits)
        entry.channels = [here if first else known.with_values(here) for known, here in ranges]
        first_split, first_key = first_places.setdefault(image.digest, (split, pair.key))
        if (first_split, first_key) == (split, pair.key):
            alike.add(split, pair.key, image.look)
        if first_split != split:
            fault("duplicate", f"{pair.image} is the same image as {first_key} of {first_split}")
        elif first_key != pair.key:
            entry.repeated.append(pair.key)
    for (path, label_map), mask in zip(listing.masks_of(pair), seen.masks, strict=True):
        if isinstance(mask, DataError):
            fault("unreadable", str(mask))
            continue
        if not mask.colored and not label_map.colors:
            palettes.add(path, mask)
        if mask.veiled:
            entry.veiled.append(pair.key)
        if not _fits(mask, label_map):
            if all(other.kind != "colors" for other in report.faults):
                try:
                    label_map.apply(read_mask(path))
                except DataError as error:
                    report.notes.append(f"{path}: {error}")
            fault("colors", str(path))
        elif outside := label_map.outside(mask.raw, mask.pixels[None]):
            fault("values", f"{path} {label_map.describe(outside)}")
            if (advice := label_map.advice(outside)) and advice not in report.notes:
                report.notes.append(advice)
    if isinstance(image, ImageFacts) and seen.counts is not None and image.size != seen.size:
        return fault("size", f"{pair.mask} {other_size(pair, image.size, seen.size)}")
    if seen.fault is not None:
        return fault(*seen.fault)
    if isinstance(image, ImageFacts) and seen.counts is not None:
        _count(entry, pair.key, seen.counts, seen.size)


def _count(entry: SplitReport, key: str, counts: np.ndarray, size: Size) -> None:
    """Add an image with so many pixels of each class id, (256,)."""
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
    """Classes that train lacks though another split has them, and that val lacks though it could have them."""
    images = {
        split: entry.statistics.images for split, entry in report.splits.items() if entry.images
    }
    faults, could = list[Fault](), frozenset[int]()
    if any(
        val == 0 and train > 1
        for train, val in zip(images.get("train", ()), images.get("val", ()), strict=False)
    ):
        both = [*pools["train"], *pools["val"]]
        could = choose_split(both, len(pools["val"]) / len(both), listing.groups).in_val
    for index, info in enumerate(report.classes):
        have = {split: of_class[index] for split, of_class in images.items() if of_class[index]}
        lacking = "train" if "train" in images and have and "train" not in have else ""
        lacking = "val" if "val" in images and "val" not in have and index in could else lacking
        if lacking:
            where = " and ".join(
                f"{counted(count, 'image')} of {split}" for split, count in have.items()
            )
            faults.append(
                Fault(
                    "classes",
                    lacking,
                    "",
                    f"{lacking} has no pixel of {info.name}, which is in {where}. Name images that have it in a list, "
                    f'{lacking} = "{lacking}.txt" in [splits]',
                )
            )
    return faults


def _notes(
    report: CheckReport,
    listing: Listing,
    pools: Mapping[str, Sequence[PoolImage]],
    lossy: Sequence[str],
) -> list[str]:
    notes = []
    if len(listing.classes) == 1 and report.proposal is None:  # which says it of masks
        notes.append(
            f"{listing.classes[0].name} is the only class: there is nothing to tell it from. Give the other pixels a "
            "class of their own, such as background, where they are ignored now"
        )
    for split, entry in report.splits.items():
        counts = zip(listing.classes, entry.statistics.images, strict=True)
        faulty = [
            fault.text for fault in report.faults if (fault.kind, fault.split) == ("classes", split)
        ]
        absent = [info.name for info, images in counts if entry.images and not images]
        absent = [
            name
            for name in absent
            if not any(f"{split} has no pixel of {name}," in text for text in faulty)
        ]
        more = (
            f" and {len(absent) - SHOWN_CLASSES} more classes"
            if len(absent) > SHOWN_CLASSES
            else ""
        )
        notes += (
            [f"{split}: no pixel of {', '.join(absent[:SHOWN_CLASSES])}{more}"] if absent else []
        )
        notes += _named(f"{split}: images with only ignored pixels", entry.only_ignored)
        notes += _named(f"{split}: duplicates of earlier images", entry.repeated)
        notes += _named(
            f"{split}: images that EXIF turns, whose masks must be of the upright image",
            entry.turned,
        )
        notes += _named(f"{split}: masks {VEILED}", entry.veiled)
        for what in (what for what in TOLD if what in entry.unused):
            notes += _named(f"{split}: images {TOLD[what]}", entry.unused[what])
    notes += _range_notes(report)
    lacking = [*notes, *(fault.text for fault in report.faults if fault.kind == "classes")]
    by_sequence = listing.how_split.startswith(("by sequence", "by time"))
    if (
        by_sequence
        and any("no pixel of" in text for text in lacking)
        and not _are_frames(listing, pools)
    ):
        notes.append(
            "splits by fraction keep sequences together, but here neighbours look no more alike than other images: "
            'for photographs that are no frames of one video put split_by = "image" into dataset.toml'
        )
    stems: dict[str, set[str]] = {}
    for split, pairs in listing.splits.items():
        for pair in pairs:
            stems.setdefault(Path(pair.key).name, set()).add(split)
    notes += _named(
        "stems that occur in more than one split",
        [stem for stem, where in stems.items() if len(where) > 1],
    )
    notes += _named("images in no split", listing.unlisted)
    notes += [listing.unread] if listing.unread else []
    if report.proposal is None:  # which names those beside images and masks, too
        said = "links to folders are not followed: name what they lead to as a [[source]] in dataset.toml"
        notes += _named(said, [str(link) for link in listing.links])
    keys = {split: [pair.key for pair in pairs] for split, pairs in listing.splits.items()}
    groups = listing.groups if isinstance(listing, FolderListing) else None
    beside_train = neighbours(keys, listing.unlisted, groups).items()
    many = {split: beside for split, beside in beside_train if beside > BESIDE * len(keys[split])}
    if many and _are_frames(listing, pools):
        for split, beside in many.items():
            notes.append(
                f"{split}: {beside} of {counted(len(keys[split]), 'image')} stand beside one of train, by their "
                "names, and neighbours look alike: scores will be too high. Splits by share keep sequences together, "
                "which `groups` in dataset.toml may tell"
            )
    return notes + _named(f"masks that are {LOSSY}", lossy)


def _range_notes(report: CheckReport) -> list[str]:
    """What training makes of 16-bit images that use a part of their range, and which splits go beyond that."""
    largest = {
        split: max(c.largest for c in e.channels)
        for split, e in report.splits.items()
        if e.channels
    }
    train = "train" if "train" in largest else next(iter(largest), "")
    if (
        not train
        or report.splits[train].bits == 8
        or (used := range_above(largest[train])) >= FULL_RANGE
    ):
        return []
    notes = [
        f"{train}: 16-bit values reach {largest[train]:,} of 65,535: training takes values below {used:,} as the whole "
        "range, and the run keeps that"
    ]
    beyond = [f"{split} ({value:,})" for split, value in largest.items() if value >= used]
    return [*notes, f"values above that range: {', '.join(beyond)}"] if beyond else notes


def _are_frames(listing: Listing, pools: Mapping[str, Sequence[PoolImage]]) -> bool:
    """Whether images whose numbers follow one another look alike, or `groups` says what belongs together."""
    if isinstance(listing, FolderListing) and listing.groups is not None:
        return True
    looks = {image.key: image.look for pool in pools.values() for image in pool}
    return neighbours_look_alike(
        [[looks[key] for key in own] for own in sequences_of(looks).values()]
    )


def _alike_notes(report: CheckReport, alike: Lookalikes) -> list[str]:
    """The images that look nearly like one of another split, train first, and are not the same to the pixel."""
    order = sorted(report.splits, key=lambda name: name != "train")
    found: dict[tuple[str, str], list[str]] = {}
    for image, other in alike.across(order):
        (split, key), (base, like) = alike.places[image], alike.places[other]
        found.setdefault((split, base), []).append(f"{key} ({like})")
    return [
        note
        for (split, base), keys in found.items()
        for note in _named(
            f"{split}: images that look nearly like one of {base}: scores will be too high", keys
        )
    ]


def _named(text: str, keys: Sequence[str]) -> list[str]:
    """`text (12): a, b, c, ...`, or nothing where there are no keys."""
    more = ", ..." if len(keys) > SHOWN_NAMES else ""
    return [f"{text} ({len(keys)}): {', '.join(keys[:SHOWN_NAMES])}{more}"] if keys else []
