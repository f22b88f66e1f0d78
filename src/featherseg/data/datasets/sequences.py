"""Sequences: which images follow one another in time, by their names, and splits by share that keep them together.

Neighbouring frames look alike. Where each was split by a hash of its own name, 44 of 45 test frames of a clip had a
neighbour in train, and the score said how well the model remembers. So a sequence falls into one split as a whole; of
sequences too few for that each is cut in time.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from featherseg.core.config import SplitBy
from featherseg.core.wording import counted

OLD_RULES = ("sequence-1", "hash")
"""Those of runs that have them in their record: the last number of every name was taken for that of the frame, and the
largest split could lose as much as LEAST; each image by its hash, without exact shares below STABLE."""

STABLE = 500
"""Images from which on the hash of a sequence alone decides, so that new files move no old one."""

LEAST = 1 / 3
"""The part of its share that every split must get at least of whole sequences, or these are cut in time."""

LEAST_OF_LARGEST = 3 / 4
"""That of the largest split, which of three clips at 0.8, 0.1 and 0.1 would get one."""

STRETCH = 250
"""From STABLE images on a sequence that is cut is cut once in so many images, so that later frames move no old one."""

GAP = 0.02
"""The part of a stretch that is left out beside the largest split: frames on both sides of a cut look alike."""

_EXPORTED = re.compile(r"_(?:jpe?g|png|bmp|tiff?|webp)\.rf\.[0-9a-f]{32}$", re.IGNORECASE)
"""What Roboflow adds to the name of an image."""

_HASH = re.compile(r"(?<![0-9a-z])(?=[0-9a-f]*\d[a-f]+\d)[0-9a-f]{8,}(?![0-9a-z])", re.IGNORECASE)
"""A word in which digits tell no number, such as "0a3f12c9"."""

_NUMBER = re.compile(r"\d+")

_TIME = re.compile(
    r"[12]\d{9}[._-]\d{1,9}(?!\d)"
    r"|(?:19|20)\d\d([-_.])[01]\d\1[0-3]\d(?:[-_.T ][0-2]\d([-_.])[0-5]\d\2[0-5]\d(?:\.\d+)?)?(?!\d)"
    r"|(?:19|20)\d\d[01]\d[0-3]\d[-_.T ][0-2]\d[0-5]\d[0-5]\d(?:\.\d+)?(?!\d)"
    r"|\d+"
)
"""A number, where seconds since 1970 with their fraction, and a date with or without the time of day, are one."""

_LABEL = re.compile(r"[^0-9a-zA-Z]*[a-zA-Z]*$")
"""What may stand between the name of a sequence and the number of a frame."""


def sequence_names(
    keys: Sequence[str], groups: str | None = None, *, last_number: bool = False
) -> list[str]:
    """Of each key what stands before its frame number: "0001TP" of "0001TP_006690", "seq1" of "seq1/0007".

    Which number that is, is seen from all keys that differ in their numbers alone: the last one before which most names
    are shared. So it is the first of "frame_00012_720p" and of "frame_00012_1700000001": before the last one each image
    would be a sequence. Where no names are shared, and by `last_number`, it is the last. A key without numbers is its
    own sequence. With `groups`, a regular expression: what its first group, or all of it, finds in the key.
    """
    if groups is not None:
        found = [re.search(groups, key) for key in keys]
        return [
            key if m is None else m[m.re.groups and 1] or ""
            for key, m in zip(keys, found, strict=True)
        ]
    names = list(map(without_export_suffix, keys))
    plain = names if last_number else list(map(_plain, keys))
    forms: dict[str, list[int]] = {}
    for i, name in enumerate(plain):
        forms.setdefault(_NUMBER.sub("0", name), []).append(i)
    for members in forms.values():
        own = [names[i] for i in members]
        timed = not last_number and len({_TIME.sub("0", plain[i]) for i in members}) == 1
        numbers = [(_TIME if timed else _NUMBER).finditer(plain[i]) for i in members]
        before = [
            [_LABEL.sub("", name[: n.start()]) for n in each]
            for name, each in zip(own, numbers, strict=True)
        ]
        cuts = list(
            zip(*before, strict=True)
        )  # number by number, what stands before it in each name
        shared = (cut for cut in reversed(cuts) if not last_number and _most_shared(own, cut))
        for i, name in zip(members, next(shared, cuts[-1] if cuts else own), strict=True):
            names[i] = name
    return names


def _plain(key: str) -> str:
    """A key as numbers are looked for in it: without what exports add, hashes blanked."""
    return _HASH.sub(lambda found: "#" * len(found[0]), without_export_suffix(key))


def without_export_suffix(key: str) -> str:
    """A key without what Roboflow adds to it: its versions of one image have the same."""
    return _EXPORTED.sub("", key)


def _most_shared(keys: Sequence[str], names: Sequence[str]) -> bool:
    """Whether of most different keys the name is that of another one too; copies of one image have the same key."""
    counts = Counter(dict(zip(keys, names, strict=True)).values())
    return 2 * sum(count for count in counts.values() if count > 1) > counts.total()


def numbers_of(key: str) -> tuple[int, ...]:
    """The numbers in a key, by which images of a sequence are sorted: 9 before 10, padded with zeros or not."""
    return tuple(map(int, _NUMBER.findall(_plain(key))))


def in_natural_order(key: str) -> tuple[list[str], tuple[int, ...]]:
    """(the text before its numbers, these): sorts keys that differ in their numbers alone by these."""
    return [*_HASH.findall(key), *_NUMBER.split(_plain(key))[:-1]], numbers_of(key)


def sequences_of(
    keys: Iterable[str], groups: str | None = None, *, last_number: bool = False
) -> dict[str, list[str]]:
    """Sequence (see `sequence_names`) -> its keys in their order in time."""
    keys = list(keys)
    found: dict[str, list[str]] = {}
    first = -1 if last_number else 0
    named = zip(sequence_names(keys, groups, last_number=last_number), keys, strict=True)
    for name, key in sorted(named, key=lambda one: (one[0], numbers_of(one[1])[first:], one[1])):
        found.setdefault(name, []).append(key)
    return found


def split_by_share(
    keys: Sequence[str],
    shares: Mapping[str, float],
    split_by: SplitBy = "sequence-2",
    pattern: str | None = None,
) -> tuple[dict[str, list[str]], str]:
    """-> (split -> its keys in the order of `keys`, how they were split, for a reader).

    shares are fractions of the images, of all together at most 1. pattern says what a sequence is (`sequence_names`):
    such ones are never cut, but where there are fewer than splits.
    """
    by_sequence, old = split_by.startswith("sequence"), split_by in OLD_RULES
    groups = (
        sequences_of(keys, pattern, last_number=old)
        if by_sequence
        else {key: [key] for key in keys}
    )
    parts = dict(shares) | (
        {"": rest} if (rest := 1 - sum(shares.values())) > 1e-9 else {}
    )  # no split is called ""
    least = {
        name: LEAST * share * len(keys) if pattern is None else 1 for name, share in shares.items()
    }
    if by_sequence and not old and pattern is None:
        largest = max(shares, key=lambda name: shares[name])
        least[largest] = round(LEAST_OF_LARGEST * shares[largest] * len(keys), 6)

    def enough(owners: Mapping[str, str]) -> bool:
        split = list(owners.values())
        return all(split.count(name) > 0 and split.count(name) >= least[name] for name in shares)

    named = "names without frame numbers" if pattern is None else "by groups"
    how = "each image by a hash of its name"
    owners: dict[str, str] = {}
    if split_by == "hash" or len(keys) >= STABLE:
        owners = _by_place(groups, parts)
    if split_by != "hash":
        if not enough(owners):
            owners = _by_order(groups, parts)
        how = f"by sequence ({named}): {counted(len(groups), 'sequence')}, none in two splits"
        if len(groups) == len(keys):
            how = f"by image: {'no two names are of one sequence' if by_sequence else 'as split_by asks'}"
        elif not enough(owners):
            owners = {}
            for group in groups.values():
                owners |= _cut_in_time(group, parts, stable=len(keys) >= STABLE)
            how = (
                f"by time: {counted(len(groups), 'sequence')} ({named}), too few or too unequal to stay whole, each "
                f"cut into {' | '.join(shares)} with a gap at every cut"
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
    """How many images of each split stand beside one of train; without train, of the first split.

    Images stand beside each other whose names follow one another in natural order, differ in numbers alone, and in none
    that begins anew; of one group, where pattern tells these. Sequences are not asked, so that a split which took them
    for too short is found out. Names below a folder that is called as the split are compared without it. Empty where a
    name is in two splits: then their numbers are not of one count. unlisted: images of no split, which stand between.
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
    beside: set[str] = set()
    for (*form, numbers, key), (*other_form, after, other) in pairwise(order):
        if (
            numbers
            and form == other_form
            and all(a <= b for a, b in zip(numbers, after, strict=True))
        ):
            beside |= {one for one, by in ((key, other), (other, key)) if owners[by] == train}
    return {
        split: sum(owners[key] == split for key in beside) for split in splits if split != train
    }


def place_of(name: str) -> float:
    """A hash of a name, uniform in 0..1."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def _by_place(groups: Mapping[str, list[str]], parts: Mapping[str, float]) -> dict[str, str]:
    """key -> split, by the place of its group's hash alone, whatever other files exist; without keys of no split."""
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
    """key -> split: each takes the groups of the smallest hashes that bring it nearest to its share, one at least.

    The largest takes the rest.
    """
    left, owners = sorted(groups, key=place_of), dict[str, str]()
    largest, images = max(parts, key=lambda name: parts[name]), sum(map(len, groups.values()))
    for name, share in parts.items():
        if name == largest:
            continue
        target, count, taken = share * images, 0, []
        for group in left:
            if abs(count + len(groups[group]) - target) <= abs(count - target):
                taken.append(group)
                count += len(groups[group])
        if not taken and name and len(left) > 1:
            taken = [min(left, key=lambda group: abs(len(groups[group]) - target))]
        left = [group for group in left if group not in set(taken)]
        owners |= {key: name for group in taken for key in groups[group]}
    return owners | {key: largest for group in left for key in groups[group]}


def _cut_in_time(
    sequence: Sequence[str], parts: Mapping[str, float], stable: bool
) -> dict[str, str]:
    """key -> split: the sequence, or stretch after stretch of it, cut at the shares; keys in the gaps are left out."""
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

    # Where one part follows another the larger gives up the images that are nearest: several beside the largest part
    # of all, which has them to spare, else one, of ten or more
    names = [name for name in parts for _ in range(counts[name])]
    pattern = list(names)
    for i in range(
        0 if stable else 1, length
    ):  # stretches follow one another: the first name comes after the last
        before, after = names[i - 1], names[i]
        larger = max(counts[before], counts[after])
        gap = max(1, round(GAP * length)) if largest in (before, after) else int(larger >= 10)
        if before != after and larger > gap:
            for j in range(i - gap, i) if counts[before] >= counts[after] else range(i, i + gap):
                pattern[j % length] = ""
    return {key: pattern[i % length] for i, key in enumerate(sequence)}
