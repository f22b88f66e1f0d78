"""Divide images into train and val if no folder or list does: by sequence, by image, or by lists.

Numbered images count as frames of a video only if neighbours look alike; then sequences stay
together. If the rule of a dataset.toml would leave a class out of train or val, or put copies of an
image into both, lists are made instead.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from featherseg.core.config import SplitBy
from featherseg.core.wording import counted
from featherseg.data.datasets.sequences import (
    GAP,
    STRETCH,
    place_of,
    sequences_of,
    split_by_share,
    without_export_suffix,
)
from featherseg.data.discovery.lookalikes import (
    Look,
    like_any,
    neighbours_look_alike,
    order_by_look,
    show_same,
)

PIECES = (1, 2, 4, 8)
"""Numbers of pieces in which val is cut out of sequences: the fewest that give it every class,
because each cut costs images.
"""

MOST_LEFT_OUT = 0.15
"""Share of the images that may be in no split because they are beside a cut."""

Owners = dict[int, str]
"""{number of an image: "train" or "val"}; images in no split are missing."""


@dataclass(frozen=True)
class PoolImage:
    """An image to be put into a split: its key, class ids, look and digest of its pixels.

    `look` and `digest` are None if the image cannot be read.
    """

    key: str
    classes: frozenset[int]
    look: Look | None
    digest: bytes | None


@dataclass(frozen=True)
class SplitChoice:
    """A rule of dataset.toml or, if there are `lists`, the keys of train and val.

    `notes` are for the user, `in_val` are the ids of the classes that val has.
    """

    split_by: SplitBy
    lists: dict[str, list[str]]
    notes: list[str]
    in_val: frozenset[int]


def choose_split(
    pool: Sequence[PoolImage], share: float, pattern: str | None = None
) -> SplitChoice:
    """Divide images into train and val, which gets `share` of them.

    The result is the first way in which train lacks the fewest classes, and then val. `pattern` is
    `groups` of the dataset.toml: it keeps images together whatever they look like.
    """
    # Are the images frames of videos?
    keys, looks = [image.key for image in pool], [image.look for image in pool]
    number = {key: i for i, key in enumerate(keys)}
    sequences = [
        [number[key] for key in members] for members in sequences_of(keys, pattern).values()
    ]
    named = len(sequences) < len(keys)
    frames = pattern is not None or (
        named and neighbours_look_alike([[looks[i] for i in members] for members in sequences])
    )
    copies: list[list[Hashable]] = [
        [image.digest or image.key for image in pool],
        list(map(without_export_suffix, keys)),
    ]

    # If most images show one scene in unknown order, cut them in the order of their looks
    notes = list[str]()
    if not frames:
        groups = _joined([*copies, list(show_same(looks))])
        if max(np.bincount(groups), default=0) > max(1, (1 - 2 * share) * len(pool)):
            if ways := list(_cut_by_look(pool, share)):
                best = min(ways, key=lambda owners: _lacking(pool, owners))
                notes.append(
                    "most images show one scene, and their numbers do not tell the order: "
                    "train.txt and val.txt keep images that look alike together, and leave out "
                    f"{len(pool) - len(best)} between them"
                )
                return SplitChoice("image", _lists(pool, best), notes, _classes(pool, best, "val"))
            frames = True  # a camera that does not move: only the order of names is left

    # Else try the rule of a dataset.toml first, then lists
    by: SplitBy = "sequence-2" if frames or not named else "image"
    by_rule = split_by_share(keys, {"train": 1 - share, "val": share}, by, pattern)[0]
    rule: Owners = {number[key]: split for split, members in by_rule.items() for key in members}
    if frames:
        ways = [rule, *(_by_units(pool, sequences, share) if len(sequences) > 2 else ())]
        if pattern is None:
            ways += _in_pieces(pool, sequences, share)
            ways = [_without_copies(owners, _joined(copies)) for owners in ways]
    else:
        units: dict[int, list[int]] = {}
        for i, group in enumerate(groups):
            units.setdefault(group, []).append(i)
        ways = [rule, *_by_units(pool, list(units.values()), share)]
        if any(len({rule.get(i) for i in members}) > 1 for members in units.values()):
            ways.remove(rule)
            count = sum(len(members) for members in units.values() if len(members) > 1)
            notes.append(
                f"{counted(count, 'image')} show the same as another: train.txt and val.txt keep "
                "them together"
            )
        if named:
            notes.append(
                "the names are numbered, but neighbours look no more alike than other images: "
                "taken for single photographs"
            )
    best = min(ways, key=lambda owners: _lacking(pool, owners))
    if best == rule:
        return SplitChoice(by, {}, notes, _classes(pool, best, "val"))
    if frames or rule in ways:
        left_out = len(pool) - len(best)
        cuts = f", and leave out {left_out} beside the cuts" if left_out else ""
        notes.append(f"train.txt and val.txt give each split the classes that it can have{cuts}")
    return SplitChoice(by, _lists(pool, best), notes, _classes(pool, best, "val"))


def _cut_by_look(pool: Sequence[PoolImage], share: float) -> Iterator[Owners]:
    """Cut images in the order of their looks in pieces; drop those of train that look like val."""
    with_look = [(i, image.look) for i, image in enumerate(pool) if image.look is not None]
    looks = dict(with_look)
    order = [with_look[place][0] for place in order_by_look([look for _, look in with_look])]
    for owners in _in_pieces(pool, [order], share):
        train, val = ([i for i in order if owners.get(i) == split] for split in ("train", "val"))
        like_val = like_any([looks[i] for i in train], [looks[i] for i in val])
        for i, like in zip(train, like_val, strict=True):
            if like:
                del owners[i]
        if len(looks) - len(owners) <= max(2, MOST_LEFT_OUT * len(pool)):
            yield owners | dict.fromkeys(set(range(len(pool))) - looks.keys(), "train")


def _without_copies(owners: Owners, groups: Sequence[int]) -> Owners:
    """Drop the images of train that are copies of one of val."""
    of_val = {groups[i] for i, split in owners.items() if split == "val"}
    return {i: split for i, split in owners.items() if split == "val" or groups[i] not in of_val}


def _lists(pool: Sequence[PoolImage], owners: Owners) -> dict[str, list[str]]:
    return {
        split: [pool[i].key for i in sorted(owners) if owners[i] == split]
        for split in ("train", "val")
    }


def _classes(pool: Sequence[PoolImage], owners: Owners, split: str) -> frozenset[int]:
    """Return the ids of the classes that a split has."""
    return frozenset[int]().union(
        *(pool[i].classes for i, owner in owners.items() if owner == split)
    )


def _lacking(pool: Sequence[PoolImage], owners: Owners) -> tuple[int, int, int]:
    """Return how many splits are empty, how many classes train lacks, and how many val lacks.

    Val cannot lack a class that only one image has.
    """
    everything = frozenset[int]().union(*(image.classes for image in pool))
    return (
        len({"train", "val"} - set(owners.values())),
        len(everything - _classes(pool, owners, "train")),
        len(_common(pool) - _classes(pool, owners, "val")),
    )


def _common(pool: Sequence[PoolImage]) -> set[int]:
    """Return the classes that two images or more have."""
    counts = np.bincount([class_id for image in pool for class_id in image.classes] or [0])
    return set(np.flatnonzero(counts > 1).tolist())


def _by_units(
    pool: Sequence[PoolImage], units: Sequence[Sequence[int]], share: float
) -> list[Owners]:
    """Put whole units (numbers of images) into train or val; [] if they are too large for it."""
    owners = _divide(pool, units, share)
    val = sum(split == "val" for split in owners.values())
    return [owners] if val and val <= max(1, len(units) // 2, 2 * share * len(pool)) else []


def _in_pieces(
    pool: Sequence[PoolImage], sequences: Sequence[Sequence[int]], share: float
) -> Iterator[Owners]:
    """Cut sequences in pieces of time for train and val; drop images of train beside a cut."""
    for pieces in PIECES:
        length = max(1, round(share * len(pool) / pieces))
        units = [
            part.tolist()
            for sequence in sequences
            for part in np.array_split(sequence, max(1, round(len(sequence) / length)))
        ]
        owners = _divide(pool, units, share)
        for sequence in sequences:
            gap = max(1, round(GAP * min(len(sequence), STRETCH)))
            for place, i in enumerate(sequence):
                if owners.get(i) == "val":
                    for beside in sequence[max(0, place - gap) : place + gap + 1]:
                        if owners.get(beside) == "train":
                            del owners[beside]
        if len(pool) - len(owners) <= max(2, MOST_LEFT_OUT * len(pool)):
            yield owners


def _divide(pool: Sequence[PoolImage], units: Sequence[Sequence[int]], share: float) -> Owners:
    """Put each unit into train or val.

    Val first gets every class that train does not lose by it, then units up to its share. A hash of
    the unit's first key breaks ties. A class of a single image stays in train if it can.
    """
    classes = [frozenset[int]().union(*(pool[i].classes for i in unit)) for unit in units]
    place = [place_of(pool[unit[0]].key) if unit else 1.0 for unit in units]
    order = sorted((u for u in range(len(units)) if units[u]), key=lambda u: place[u])
    in_train = np.bincount([c for of_unit in classes for c in of_unit] or [0])  # units of a class
    target, count, in_val, lacking = share * len(pool), 0, set[int](), _common(pool)

    def can_move(u: int) -> bool:
        return u not in in_val and all(in_train[c] > 1 for c in classes[u])

    def move(u: int) -> None:
        nonlocal count, lacking
        in_val.add(u)
        count += len(units[u])
        lacking = lacking - classes[u]
        for c in classes[u]:
            in_train[c] -= 1

    for c in sorted(lacking, key=lambda c: in_train[c]):  # the rarest class first
        able = [u for u in order if c in classes[u] and can_move(u)] if c in lacking else []
        if able:
            move(max(able, key=lambda u: (len(classes[u] & lacking), -len(units[u]), -place[u])))
    for u in order:
        if abs(count + len(units[u]) - target) <= abs(count - target) and can_move(u):
            move(u)
    if not in_val and len(order) > 1:
        move(min(order, key=lambda u: (len(classes[u] & lacking), len(units[u]), place[u])))
    return {i: "val" if u in in_val else "train" for u, unit in enumerate(units) for i in unit}


def _joined(labelings: Iterable[Sequence[Hashable]]) -> list[int]:
    """Return the group of each item: items that share a label, also through others, share it."""
    parent: list[int] = []

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for labels in labelings:
        parent = parent or list(range(len(labels)))
        first: dict[Hashable, int] = {}
        for i, label in enumerate(labels):
            parent[root(i)] = root(first.setdefault(label, i))
    return [root(i) for i in range(len(parent))]
