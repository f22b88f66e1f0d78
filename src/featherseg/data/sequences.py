"""Sequences: which images follow one another in time, by their names, and splits by share that keep them together.

Neighbouring frames look alike. Where each was split by a hash of its own name, 44 of 45 test frames of a clip had a
neighbour in train, and the score said how well the model remembers. So a sequence falls into one split as a whole; of
sequences too few for that each is cut in time.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from featherseg.core.wording import counted

SplitBy = Literal["sequence", "image", "hash"]
"""What falls into a split as a whole: a sequence, or each image for itself; "hash" is the latter as it was before
sequences were kept together: without exact shares below STABLE images. Runs from then have it in their record."""

STABLE = 500
"""Images from which on the hash of a sequence alone decides, so that new files move no old one."""

LEAST = 1 / 3
"""The part of its share that every split must get at least of whole sequences, or these are cut in time."""

STRETCH = 250
"""From STABLE images on a sequence that is cut is cut once in so many images, so that later frames move no old one."""

GAP = 0.02
"""The part of a stretch that is left out beside the largest split: frames on both sides of a cut look alike."""

_EXPORTED = re.compile(r"_(?:jpe?g|png|bmp|tiff?|webp)\.rf\.[0-9a-f]{32}$", re.IGNORECASE)
"""What Roboflow adds to the name of an image."""

_FRAME = re.compile(r"[^0-9a-zA-Z]*[a-zA-Z]*\d+\D*$")
"""What the number of a frame is written as, at the end of a key."""

_NUMBER = re.compile(r"(\d+)\D*$")


def sequence_of(key: str, groups: str | None = None) -> str:
    """A key without its frame number: "0001TP" of "0001TP_006690", "seq1" of "seq1/0007"; else the key itself.

    With `groups`, a regular expression: what its first group, or all of it, finds in the key.
    """
    if groups is None:
        return _FRAME.sub("", _EXPORTED.sub("", key))
    found = re.search(groups, key)
    return key if found is None else found[found.re.groups and 1] or ""


def by_frame(key: str, groups: str | None = None) -> tuple[str, int, str]:
    """Sorts images by sequence, then by the number of the frame: 9 before 10, padded with zeros or not."""
    number = _NUMBER.search(_EXPORTED.sub("", key))
    return sequence_of(key, groups), int(number[1]) if number else -1, key


def sequences_of(keys: Iterable[str], groups: str | None = None) -> dict[str, list[str]]:
    """Sequence -> its keys in their order in time."""
    found: dict[str, list[str]] = {}
    for key in sorted(keys, key=lambda key: by_frame(key, groups)):
        found.setdefault(sequence_of(key, groups), []).append(key)
    return found


def split_by_share(
    keys: Sequence[str], shares: Mapping[str, float], split_by: SplitBy = "sequence", pattern: str | None = None
) -> tuple[dict[str, list[str]], str]:
    """-> (split -> its keys in the order of `keys`, how they were split, for a reader).

    shares are fractions of the images, of all together at most 1. pattern says what a sequence is (`sequence_of`): such
    ones are never cut, but where there are fewer than splits.
    """
    groups = sequences_of(keys, pattern) if split_by == "sequence" else {key: [key] for key in keys}
    parts = dict(shares) | ({"": rest} if (rest := 1 - sum(shares.values())) > 1e-9 else {})  # no split is called ""
    least = {name: LEAST * share * len(keys) if pattern is None else 1 for name, share in shares.items()}

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
            how = f"by image: {'no two names are of one sequence' if split_by == 'sequence' else 'as split_by asks'}"
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
    reached = ", ".join(f"{name} {len(part) / max(1, len(keys)):.0%}" for name, part in splits.items())
    return splits, f"{how}; {reached} of the images"


def neighbours(
    splits: Mapping[str, Sequence[str]], unlisted: Sequence[str] = (), pattern: str | None = None
) -> dict[str, int]:
    """How many images of each split stand beside one of train in their sequence; without train, of the first split.

    Names below a folder that is called as the split are compared without it. Empty where a name is in two splits: then
    their numbers are not those of one sequence. unlisted: images of no split, which stand between others.
    """
    owners = dict.fromkeys(unlisted, "")
    for split, keys in splits.items():
        below = f"{split}/" if all(key.startswith(f"{split}/") for key in keys) else ""
        owners |= {key.removeprefix(below): split for key in keys}
    if len(owners) < sum(map(len, splits.values())) + len(unlisted):
        return {}
    train = "train" if "train" in splits else next(iter(splits), "")
    found = dict.fromkeys((split for split in splits if split != train), 0)
    for sequence in sequences_of(owners, pattern).values():
        names = [owners[key] for key in sequence]
        for name, *beside in zip(names, ["", *names[:-1]], [*names[1:], ""], strict=True):
            if name in found:
                found[name] += train in beside
    return found


def _place(name: str) -> float:
    """A hash of a name, uniform in 0..1."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def _by_place(groups: Mapping[str, list[str]], parts: Mapping[str, float]) -> dict[str, str]:
    """key -> split, by the place of its group's hash alone, whatever other files exist; without keys of no split."""
    owners: dict[str, str] = {}
    for group, keys in groups.items():
        place = _place(group)
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
    left, owners = sorted(groups, key=_place), dict[str, str]()
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


def _cut_in_time(sequence: Sequence[str], parts: Mapping[str, float], stable: bool) -> dict[str, str]:
    """key -> split: the sequence, or stretch after stretch of it, cut at the shares; keys in the gaps are left out."""
    length = STRETCH if stable else len(sequence)
    largest = max(parts, key=lambda name: parts[name])
    counts = {name: max(bool(name), round(share * length)) for name, share in parts.items() if name != largest}
    counts[largest] = length - sum(counts.values())
    if counts[largest] < 1:
        return dict.fromkeys(sequence, largest)

    # Where one part follows another the larger gives up the images that are nearest: several beside the largest part
    # of all, which has them to spare, else one, of ten or more
    names = [name for name in parts for _ in range(counts[name])]
    pattern = list(names)
    for i in range(0 if stable else 1, length):  # stretches follow one another: the first name comes after the last
        before, after = names[i - 1], names[i]
        larger = max(counts[before], counts[after])
        gap = max(1, round(GAP * length)) if largest in (before, after) else int(larger >= 10)
        if before != after and larger > gap:
            for j in range(i - gap, i) if counts[before] >= counts[after] else range(i, i + gap):
                pattern[j % length] = ""
    return {key: pattern[i % length] for i, key in enumerate(sequence)}
