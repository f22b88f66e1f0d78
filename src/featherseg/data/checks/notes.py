"""What is worth knowing about a checked dataset, though it is no fault."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from featherseg.core.wording import counted
from featherseg.data.checks.report import CheckReport
from featherseg.data.datasets.folder import FolderListing
from featherseg.data.datasets.sequences import neighbours, sequences_of
from featherseg.data.discovery.lookalikes import Lookalikes, neighbours_look_alike
from featherseg.data.discovery.split_choice import PoolImage
from featherseg.data.images.decoding import LOSSY
from featherseg.data.images.image_range import range_above
from featherseg.data.images.pairs import SHOWN_NAMES, Listing
from featherseg.data.images.unused_parts import TOLD
from featherseg.layers.normalise import FULL_RANGE

SHOWN_CLASSES = 10
"""Number of classes without a pixel that a note names."""

BESIDE = 0.05
"""Share of a split that may be beside an image of train: ends of clips are, and do not matter."""


def dataset_notes(
    report: CheckReport,
    listing: Listing,
    pools: Mapping[str, Sequence[PoolImage]],
    lossy: Sequence[str],
    lookalikes: Lookalikes,
) -> list[str]:
    """Return the notes on classes, images and splits.

    Args:
        pools: The images of each split that have no fault.
        lossy: Paths of masks in lossy formats.
        lookalikes: The looks of all images.
    """
    notes = []
    if len(listing.classes) == 1 and report.proposal is None:  # a proposal has a note on masks
        notes.append(
            f"{listing.classes[0].name} is the only class: there is nothing to tell it from. Give "
            "the other pixels, which are ignored now, a class such as background"
        )
    for split in report.splits:
        notes += _split_notes(report, listing, split)
    notes += _range_notes(report)

    # Splits by sequence suit videos; single photographs may be split one by one
    lacking = [*notes, *(fault.text for fault in report.faults if fault.kind == "classes")]
    by_sequence = listing.how_split.startswith(("by sequence", "by time"))
    lacks_class = any("no pixel of" in text for text in lacking)
    if by_sequence and lacks_class and not _are_frames(listing, pools):
        notes.append(
            "splits by fraction keep sequences together, but here neighbours look no more alike "
            "than other images: for photographs that are no frames of one video put "
            'split_by = "image" into dataset.toml'
        )

    # Files
    splits_of: dict[str, set[str]] = {}
    for split, pairs in listing.splits.items():
        for pair in pairs:
            splits_of.setdefault(Path(pair.key).name, set()).add(split)
    shared = [stem for stem, splits in splits_of.items() if len(splits) > 1]
    notes += _named("stems that occur in more than one split", shared)
    notes += _named("images in no split", listing.unlisted)
    notes += [listing.unread] if listing.unread else []
    if report.proposal is None:  # a proposal has a note on links, too
        remedy = "name the folders that they lead to as a [[source]] in dataset.toml"
        links = [str(link) for link in listing.links]
        notes += _named(f"links to folders are not followed: {remedy}", links)

    notes += _beside_notes(listing, pools)
    notes += _named(f"masks that are {LOSSY}", lossy)
    return notes + _lookalike_notes(report, lookalikes)


def _split_notes(report: CheckReport, listing: Listing, split: str) -> list[str]:
    """Return the notes on the classes and images of a split."""
    entry = report.splits[split]
    faulty = [
        fault.text for fault in report.faults if (fault.kind, fault.split) == ("classes", split)
    ]
    absent = [
        info.name
        for info, images in zip(listing.classes, entry.statistics.images, strict=True)
        if entry.images
        and not images
        and not any(f"{split} has no pixel of {info.name}," in text for text in faulty)
    ]
    notes = []
    if absent:
        more = len(absent) - SHOWN_CLASSES
        others = f" and {more} more classes" if more > 0 else ""
        notes.append(f"{split}: no pixel of {', '.join(absent[:SHOWN_CLASSES])}{others}")
    notes += _named(f"{split}: images with only ignored pixels", entry.only_ignored)
    notes += _named(f"{split}: duplicates of earlier images", entry.repeated)
    notes += _named(
        f"{split}: images that EXIF turns, whose masks must be of the upright image", entry.turned
    )
    notes += _named(
        f"{split}: masks with one colour both opaque and transparent, which is one class as alpha "
        "is not read",
        entry.veiled,
    )
    for part in (part for part in TOLD if part in entry.unused):
        notes += _named(f"{split}: images {TOLD[part]}", entry.unused[part])
    return notes


def _range_notes(report: CheckReport) -> list[str]:
    """Return the notes on 16-bit images that use a part of their range, or exceed that of train."""
    largest = {
        split: max(channel.largest for channel in entry.channels)
        for split, entry in report.splits.items()
        if entry.channels
    }
    train = "train" if "train" in largest else next(iter(largest), "")
    if not train or report.splits[train].bits == 8:
        return []
    used = range_above(largest[train])
    if used >= FULL_RANGE:
        return []
    notes = [
        f"{train}: 16-bit values reach {largest[train]:,} of 65,535: training takes values below "
        f"{used:,} as the whole range, and the run keeps that"
    ]
    beyond = [f"{split} ({value:,})" for split, value in largest.items() if value >= used]
    return [*notes, f"values above that range: {', '.join(beyond)}"] if beyond else notes


def _beside_notes(listing: Listing, pools: Mapping[str, Sequence[PoolImage]]) -> list[str]:
    """Return the notes on splits whose images are neighbours of those of train in a video."""
    keys = {split: [pair.key for pair in pairs] for split, pairs in listing.splits.items()}
    groups = listing.groups if isinstance(listing, FolderListing) else None
    counts = neighbours(keys, listing.unlisted, groups)
    many = {split: count for split, count in counts.items() if count > BESIDE * len(keys[split])}
    if not many or not _are_frames(listing, pools):
        return []
    return [
        f"{split}: {count} of {counted(len(keys[split]), 'image')} stand beside one of train, by "
        "their names, and neighbours look alike: scores will be too high. Splits by share keep "
        "sequences together; `groups` in dataset.toml says what a sequence is"
        for split, count in many.items()
    ]


def _are_frames(listing: Listing, pools: Mapping[str, Sequence[PoolImage]]) -> bool:
    """Return whether numbered neighbours look alike, or `groups` defines sequences."""
    if isinstance(listing, FolderListing) and listing.groups is not None:
        return True
    looks = {image.key: image.look for pool in pools.values() for image in pool}
    return neighbours_look_alike(
        [[looks[key] for key in sequence] for sequence in sequences_of(looks).values()]
    )


def _lookalike_notes(report: CheckReport, lookalikes: Lookalikes) -> list[str]:
    """Return the notes on images that look nearly like one of another split; train comes first."""
    order = sorted(report.splits, key=lambda name: name != "train")
    names: dict[tuple[str, str], list[str]] = {}
    for image, other in lookalikes.across(order):
        (split, key), (other_split, other_key) = lookalikes.places[image], lookalikes.places[other]
        names.setdefault((split, other_split), []).append(f"{key} ({other_key})")
    return [
        note
        for (split, other_split), keys in names.items()
        for note in _named(
            f"{split}: images that look nearly like one of {other_split}: scores will be too high",
            keys,
        )
    ]


def _named(text: str, keys: Sequence[str]) -> list[str]:
    """Return [`text (12): a, b, c, ...`], or [] without keys."""
    more = ", ..." if len(keys) > SHOWN_NAMES else ""
    return [f"{text} ({len(keys)}): {', '.join(keys[:SHOWN_NAMES])}{more}"] if keys else []
