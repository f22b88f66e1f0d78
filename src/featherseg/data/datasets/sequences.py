"""Sequences: which images follow one another in time, by name, and splits that keep them together.

Neighbouring frames look alike. When each frame was split by a hash of its own name, 44 of 45 test
frames of a clip had a neighbour in train, and the score measured memory. So a sequence is put into
one split as a whole; if there are too few sequences for that, each is cut in time.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from featherseg.core.config import SplitBy
from featherseg.core.wording import counted

OLD_RULES = ("sequence-1", "hash")
"""Rules in the records of older runs. "sequence-1": the last number of every name counted as the
frame's, and the largest split could lose down to LEAST. "hash": each image by its hash.
"""

STABLE = 500
"""Number of images from which only the hash of a sequence decides: new files move no old ones."""

LEAST = 1 / 3
"""Part of its share that each split must get in whole sequences; else these are cut in time."""

LEAST_OF_LARGEST = 3 / 4
"""The same for the largest split, which would get one of three clips at 0.8, 0.1 and 0.1."""

STRETCH = 250
"""Number of images per cut of a sequence, from STABLE images on: later frames move no old ones."""

GAP = 0.02
"""Share of a stretch left out beside the largest split: frames beside a cut look alike."""

_EXPORTED = re.compile(r"_(?:jpe?g|png|bmp|tiff?|webp)\.rf\.[0-9a-f]{32}$", re.IGNORECASE)
"""What Roboflow adds to the name of an image."""

_HASH = re.compile(r"(?<![0-9a-z])(?=[0-9a-f]*\d[a-f]+\d)[0-9a-f]{8,}(?![0-9a-z])", re.IGNORECASE)
"""A word in which digits are no number, such as "0a3f12c9"."""

_NUMBER = re.compile(r"\d+")

_TIME = re.compile(
    r"[12]\d{9}[._-]\d{1,9}(?!\d)"
    r"|(?:19|20)\d\d([-_.])[01]\d\1[0-3]\d"
    r"(?:[-_.T ][0-2]\d([-_.])[0-5]\d\2[0-5]\d(?:\.\d+)?)?(?!\d)"
    r"|(?:19|20)\d\d[01]\d[0-3]\d[-_.T ][0-2]\d[0-5]\d[0-5]\d(?:\.\d+)?(?!\d)"
    r"|\d+"
)
"""A number; seconds since 1970 with their fraction, and a date with its time of day, are one."""

_LABEL = re.compile(r"[^0-9a-zA-Z]*[a-zA-Z]*$")
"""What may be between the name of a sequence and the number of a frame."""


def sequence_names(
    keys: Sequence[str], groups: str | None = None, *, last_number: bool = False
) -> list[str]:
    """Return the sequence of each key: "0001TP" of "0001TP_006690", "seq1" of "seq1/0007".

    It is the text before the number of the frame. Among keys that differ in their numbers alone,
    this is the last number before which most names are shared: the first one of
    "frame_00012_720p" and "frame_00012_1700000001", because with the last one each image would be a
    sequence. It is the last number if no names are shared, or with `last_number`. A key without
    numbers is a sequence. With `groups`, a regular expression, a sequence is what its first group,
    or all of it, matches.
    """
    if groups is not None:
        matches = [re.search(groups, key) for key in keys]
        return [
            key if match is None else match[match.re.groups and 1] or ""
            for key, match in zip(keys, matches, strict=True)
        ]
    # Keys that differ in their numbers alone have one form
    names = list(map(without_export_suffix, keys))
    plain = names if last_number else list(map(_plain, keys))
    forms: dict[str, list[int]] = {}
    for i, name in enumerate(plain):
        forms.setdefault(_NUMBER.sub("0", name), []).append(i)

    # In each form, find the last number before which most names are shared
    for members in forms.values():
        of_form = [names[i] for i in members]
        timed = not last_number and len({_TIME.sub("0", plain[i]) for i in members}) == 1
        numbers = [(_TIME if timed else _NUMBER).finditer(plain[i]) for i in members]
        before = [
            [_LABEL.sub("", name[: number.start()]) for number in of_name]
            for name, of_name in zip(of_form, numbers, strict=True)
        ]
        cuts = list(zip(*before, strict=True))  # for each number, the text before it in each name
        shared = (cut for cut in reversed(cuts) if not last_number and _most_shared(of_form, cut))
        for i, name in zip(members, next(shared, cuts[-1] if cuts else of_form), strict=True):
            names[i] = name
    return names


def _plain(key: str) -> str:
    """Return a key without what exports add and with hashes blanked, to search numbers in it."""
    return _HASH.sub(lambda match: "#" * len(match[0]), without_export_suffix(key))


def without_export_suffix(key: str) -> str:
    """Return a key without the suffix of Roboflow, so that versions of an image have the same."""
    return _EXPORTED.sub("", key)


def _most_shared(keys: Sequence[str], names: Sequence[str]) -> bool:
    """Return whether most different keys share their name; copies of an image have one key."""
    counts = Counter(dict(zip(keys, names, strict=True)).values())
    return 2 * sum(count for count in counts.values() if count > 1) > counts.total()


def numbers_of(key: str) -> tuple[int, ...]:
    """Return the numbers in a key, which sort the images of a sequence: 9 before 10."""
    return tuple(map(int, _NUMBER.findall(_plain(key))))


def in_natural_order(key: str) -> tuple[list[str], tuple[int, ...]]:
    """Sort key: (text before the numbers, numbers)."""
    return [*_HASH.findall(key), *_NUMBER.split(_plain(key))[:-1]], numbers_of(key)


def sequences_of(
    keys: Iterable[str], groups: str | None = None, *, last_number: bool = False
) -> dict[str, list[str]]:
    """Return {sequence (see `sequence_names`): its keys in their order in time}."""
    keys = list(keys)
    sequences: dict[str, list[str]] = {}
    first = -1 if last_number else 0
    named = zip(sequence_names(keys, groups, last_number=last_number), keys, strict=True)
    for name, key in sorted(
        named, key=lambda pair: (pair[0], numbers_of(pair[1])[first:], pair[1])
    ):
        sequences.setdefault(name, []).append(key)
    return sequences


def split_by_share(
    keys: Sequence[str],
    shares: Mapping[str, float],
    split_by: SplitBy = "sequence-2",
    pattern: str | None = None,
) -> tuple[dict[str, list[str]], str]:
    """Return ({split: its keys in the order of `keys`}, how they were split, for display).

    shares: fractions of the images, at most 1 together. pattern: what a sequence is (see
    `sequence_names`); such sequences are only cut if there are fewer than splits.
    """
    by_sequence, old = split_by.startswith("sequence"), split_by in OLD_RULES
    groups = {key: [key] for key in keys}
    if by_sequence:
        groups = sequences_of(keys, pattern, last_number=old)
    unused = 1 - sum(shares.values())
    parts = dict(shares) | ({"": unused} if unused > 1e-9 else {})  # no split is called ""
    least = {
        name: LEAST * share * len(keys) if pattern is None else 1 for name, share in shares.items()
    }
    if by_sequence and not old and pattern is None:
        largest = max(shares, key=lambda name: shares[name])
        least[largest] = round(LEAST_OF_LARGEST * shares[largest] * len(keys), 6)

    def enough(owners: Mapping[str, str]) -> bool:
        split = list(owners.values())
        return all(split.count(name) > 0 and split.count(name) >= least[name] for name in shares)

    # By hash, else in the order of hashes, else cut in time
    named = "names without frame numbers" if pattern is None else "by groups"
    how = "each image by a hash of its name"
    owners: dict[str, str] = {}
    if split_by == "hash" or len(keys) >= STABLE:
        owners = _by_place(groups, parts)
    if split_by != "hash":
        if not enough(owners):
            owners = _by_order(groups, parts)
        sequences = counted(len(groups), "sequence")
        how = f"by sequence ({named}): {sequences}, none in two splits"
        if len(groups) == len(keys):
            reason = "no two names are of one sequence" if by_sequence else "as split_by asks"
            how = f"by image: {reason}"
        elif not enough(owners):
            owners = {}
            for group in groups.values():
                owners |= _cut_in_time(group, parts, stable=len(keys) >= STABLE)
            how = (
                f"by time: {sequences} ({named}), too few or too unequal to stay whole, each cut "
                f"into {' | '.join(shares)} with a gap at every cut"
            )
    splits: dict[str, list[str]] = {name: [] for name in shares}
    for key in keys:
        if name := owners.get(key):
            splits[name].append(key)
    reached = ", ".join(
        f"{name} {len(part) / max(1, len(keys)):.0%}" for name, part in splits.items()
    )
    return splits, f"{how}; {reached} of the images"


def neighbours(
    splits: Mapping[str, Sequence[str]], unlisted: Sequence[str] = (), pattern: str | None = None
) -> dict[str, int]:
    """Return {split: number of its images beside one of train}; without train, of the first split.

    Two images are beside each other if their names follow one another in natural order, differ in
    numbers alone, and no number starts anew; with `pattern` they are of one group. Sequences play
    no part, so that one that was wrongly cut in two is noticed. Names below a folder called as the
    split are compared without it. Empty if a name is in two splits: then their numbers are not of
    one count. unlisted: images of no split, which may be between others.
    """
    owners = dict.fromkeys(unlisted, "")
    for split, keys in splits.items():
        below = f"{split}/" if all(key.startswith(f"{split}/") for key in keys) else ""
        owners |= {key.removeprefix(below): split for key in keys}
    if len(owners) < sum(map(len, splits.values())) + len(unlisted):
        return {}
    train = "train" if "train" in splits else next(iter(splits), "")
    groups = sequence_names(list(owners), pattern) if pattern else [""] * len(owners)
    order = sorted(
        (group, *in_natural_order(key), key) for group, key in zip(groups, owners, strict=True)
    )

    # An image is beside those before and after it in this order
    beside: set[str] = set()
    for (*form, numbers, key), (*other_form, after, other) in pairwise(order):
        same_form = numbers and form == other_form
        if same_form and all(a <= b for a, b in zip(numbers, after, strict=True)):
            beside |= {first for first, by in ((key, other), (other, key)) if owners[by] == train}
    return {
        split: sum(owners[key] == split for key in beside) for split in splits if split != train
    }


def place_of(name: str) -> float:
    """Return a hash of a name, uniform in 0..1."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def _by_place(groups: Mapping[str, list[str]], parts: Mapping[str, float]) -> dict[str, str]:
    """Return {key: split} by the hash of its group alone, whatever other files exist."""
    owners: dict[str, str] = {}
    for group, keys in groups.items():
        place = place_of(group)
        for name, share in parts.items():
            place -= share
            if place < 0:
                owners |= dict.fromkeys(keys, name)
                break
    return owners


def _by_order(groups: Mapping[str, list[str]], parts: Mapping[str, float]) -> dict[str, str]:
    """Return {key: split}: each split takes the groups that bring it nearest to its share.

    Groups are taken in the order of their hashes, one at least; the largest split gets the others.
    """
    left, owners = sorted(groups, key=place_of), dict[str, str]()
    largest, images = max(parts, key=lambda name: parts[name]), sum(map(len, groups.values()))
    for name, share in parts.items():
        if name == largest:
            continue
        target, count, of_split = share * images, 0, []
        for group in left:
            if abs(count + len(groups[group]) - target) <= abs(count - target):
                of_split.append(group)
                count += len(groups[group])
        if not of_split and name and len(left) > 1:
            of_split = [min(left, key=lambda group: abs(len(groups[group]) - target))]
        left = [group for group in left if group not in set(of_split)]
        owners |= {key: name for group in of_split for key in groups[group]}
    return owners | {key: largest for group in left for key in groups[group]}


def _cut_in_time(
    sequence: Sequence[str], parts: Mapping[str, float], stable: bool
) -> dict[str, str]:
    """Return {key: split} for a sequence, or each stretch of it, cut at the shares, with gaps."""
    length = STRETCH if stable else len(sequence)
    largest = max(parts, key=lambda name: parts[name])
    counts = {
        name: max(bool(name), round(share * length))
        for name, share in parts.items()
        if name != largest
    }
    counts[largest] = length - sum(counts.values())
    if counts[largest] < 1:
        return dict.fromkeys(sequence, largest)

    # At each cut the larger part gives up the nearest images: several beside the largest part of
    # all, which has them to spare, else one if the part has ten or more
    names = [name for name in parts for _ in range(counts[name])]
    pattern = list(names)
    first = 0 if stable else 1  # stretches follow one another: the last part precedes the first
    for i in range(first, length):
        before, after = names[i - 1], names[i]
        larger = max(counts[before], counts[after])
        gap = max(1, round(GAP * length)) if largest in (before, after) else int(larger >= 10)
        if before != after and larger > gap:
            for j in range(i - gap, i) if counts[before] >= counts[after] else range(i, i + gap):
                pattern[j % length] = ""
    return {key: pattern[i % length] for i, key in enumerate(sequence)}
