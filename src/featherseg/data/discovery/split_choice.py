"""How images are divided into train and val where no folder or list says it: by sequence, by image, or by lists.

Whether numbered images are frames of a video is seen, not assumed: only where neighbours look alike do sequences stay
together. Where the rule of a dataset.toml would leave a class out of train or val, or copies of one image in both,
lists are made that do not.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from featherseg.core.wording import counted
from featherseg.data.datasets.sequences import (
    GAP,
    STRETCH,
    SplitBy,
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
"""In how many pieces val is cut out of sequences, the fewest that give it every class: each cut costs images."""

MOST_LEFT_OUT = 0.15
"""Share of the images that may be in no split because they lie beside a cut."""

Owners = dict[int, str]
"""Number of an image -> "train" or "val"; images in no split have none."""


@dataclass(frozen=True)
class PoolImage:
    """An image to be put into a split: its key, its classes, how it looks (None where it cannot be read).

    Images with the same digest are the same to the pixel.
    """

    key: str
    classes: frozenset[int]
    look: Look | None
    digest: bytes | None


@dataclass(frozen=True)
class SplitChoice:
    """A rule of dataset.toml, or, if there are `lists`, the keys of train and val; `notes` are for the user.

    `in_val` are the classes that val has.
    """

    split_by: SplitBy
    lists: dict[str, list[str]]
    notes: list[str]
    in_val: frozenset[int]


def choose_split(
    pool: Sequence[PoolImage], share: float, pattern: str | None = None
) -> SplitChoice:
    """Divide images into train and val, which gets that share of them.

    The first way is taken of those in which train lacks the fewest classes, and then val.
    pattern is `groups` of the dataset.toml, which says what stays together whatever the images look like.
    """
    keys, looks = [image.key for image in pool], [image.look for image in pool]
    number = {key: i for i, key in enumerate(keys)}
    sequences = [[number[key] for key in own] for own in sequences_of(keys, pattern).values()]
    named = len(sequences) < len(keys)
    frames = pattern is not None or (
        named and neighbours_look_alike([[looks[i] for i in own] for own in sequences])
    )
    copies: list[list[Hashable]] = [
        [image.digest or image.key for image in pool],
        list(map(without_export_suffix, keys)),
    ]
    notes = list[str]()
    if not frames:
        groups = _joined([*copies, list(show_same(looks))])
        if max(np.bincount(groups), default=0) > max(1, (1 - 2 * share) * len(pool)):
            if ways := list(_of_one_scene(pool, share)):
                best = min(ways, key=lambda owners: _lacking(pool, owners))
                notes = [
                    "most images show one scene, and their numbers do not tell the order: train.txt and val.txt keep "
                    f"images that look alike together, and leave out {len(pool) - len(best)} between them"
                ]
                return SplitChoice("image", _lists(pool, best), notes, _held(pool, best, "val"))
            frames = True  # a camera that does not move: time, by the names, is all that is left

    # The rule of a dataset.toml, then lists
    by: SplitBy = "sequence-2" if frames or not named else "image"
    by_rule = split_by_share(keys, {"train": 1 - share, "val": share}, by, pattern)[0]
    rule: Owners = {number[key]: split for split, own in by_rule.items() for key in own}
    if frames:
        ways = [rule, *(_by_units(pool, sequences, share) if len(sequences) > 2 else ())]
        if pattern is None:
            ways += _in_pieces(pool, sequences, share)
            ways = [_without_copies(owners, _joined(copies)) for owners in ways]
    else:
        members: dict[int, list[int]] = {}
        for i, group in enumerate(groups):
            members.setdefault(group, []).append(i)
        ways = [rule, *_by_units(pool, list(members.values()), share)]
        if any(len({rule.get(i) for i in own}) > 1 for own in members.values()):
            ways.remove(rule)
            count = sum(len(own) for own in members.values() if len(own) > 1)
            notes = [
                f"{counted(count, 'image')} show the same as another: train.txt and val.txt keep them together"
            ]
        if named:
            notes.append(
                "the names are numbered, but neighbours look no more alike than other images: taken for single "
                "photographs"
            )
    best = min(ways, key=lambda owners: _lacking(pool, owners))
    if best == rule:
        return SplitChoice(by, {}, notes, _held(pool, best, "val"))
    if frames or rule in ways:
        left = (
            f", and leave out {len(pool) - len(best)} beside the cuts"
            if len(best) < len(pool)
            else ""
        )
        notes.append(f"train.txt and val.txt give each split the classes that it can have{left}")
    return SplitChoice(by, _lists(pool, best), notes, _held(pool, best, "val"))


def _of_one_scene(pool: Sequence[PoolImage], share: float) -> Iterator[Owners]:
    """Images in the order of their looks, cut in pieces; those of train that look like one of val are left out."""
    seen = [(i, image.look) for i, image in enumerate(pool) if image.look is not None]
    looks = dict(seen)
    order = [seen[place][0] for place in order_by_look([look for _, look in seen])]
    for owners in _in_pieces(pool, [order], share):
        train, val = ([i for i in order if owners.get(i) == part] for part in ("train", "val"))
        like = like_any([looks[i] for i in train], [looks[i] for i in val])
        owners = {
            i: split for i, split in owners.items() if split == "val" or not like[train.index(i)]
        }
        if len(seen) - len(owners) <= max(2, MOST_LEFT_OUT * len(pool)):
            yield owners | dict.fromkeys(set(range(len(pool))) - looks.keys(), "train")


def _without_copies(owners: Owners, groups: Sequence[int]) -> Owners:
    """`owners` without the images of train that are copies of one of val."""
    of_val = {groups[i] for i, split in owners.items() if split == "val"}
    return {i: split for i, split in owners.items() if split == "val" or groups[i] not in of_val}


def _lists(pool: Sequence[PoolImage], owners: Owners) -> dict[str, list[str]]:
    return {
        split: [pool[i].key for i in sorted(owners) if owners[i] == split]
        for split in ("train", "val")
    }


def _held(pool: Sequence[PoolImage], owners: Owners, split: str) -> frozenset[int]:
    """The classes that a split has."""
    return frozenset[int]().union(
        *(pool[i].classes for i, owner in owners.items() if owner == split)
    )


def _lacking(pool: Sequence[PoolImage], owners: Owners) -> tuple[int, int, int]:
    """How many splits are empty, how many classes train lacks, and how many of two images or more val lacks."""
    everything = frozenset[int]().union(*(image.classes for image in pool))
    empty = len({"train", "val"} - set(owners.values()))
    return (
        empty,
        len(everything - _held(pool, owners, "train")),
        len(_common(pool) - _held(pool, owners, "val")),
    )


def _common(pool: Sequence[PoolImage]) -> set[int]:
    """The classes that two images or more have."""
    counts = np.bincount([one for image in pool for one in image.classes] or [0])
    return set(np.flatnonzero(counts > 1).tolist())


def _by_units(
    pool: Sequence[PoolImage], units: Sequence[Sequence[int]], share: float
) -> list[Owners]:
    """Whole units (numbers of images) in train and val; none where units are too large for that share."""
    owners = _owners_of(pool, units, share)
    val = sum(split == "val" for split in owners.values())
    return [owners] if val and val <= max(1, len(units) // 2, 2 * share * len(pool)) else []


def _in_pieces(
    pool: Sequence[PoolImage], sequences: Sequence[Sequence[int]], share: float
) -> Iterator[Owners]:
    """Sequences cut in pieces of time, which are put into train and val; images of train beside a cut are left out."""
    for pieces in PIECES:
        length = max(1, round(share * len(pool) / pieces))
        units = [
            part.tolist()
            for own in sequences
            for part in np.array_split(own, max(1, round(len(own) / length)))
        ]
        owners = _owners_of(pool, units, share)
        for own in sequences:
            gap = max(1, round(GAP * min(len(own), STRETCH)))
            for place, i in enumerate(own):
                if owners.get(i) == "val":
                    for beside in own[max(0, place - gap) : place + gap + 1]:
                        if owners.get(beside) == "train":
                            del owners[beside]
        if len(pool) - len(owners) <= max(2, MOST_LEFT_OUT * len(pool)):
            yield owners


def _owners_of(pool: Sequence[PoolImage], units: Sequence[Sequence[int]], share: float) -> Owners:
    """Each unit in train or val: such that it has every class that it can while train keeps each, then up to its share.

    Which units, beside that, is decided by a hash of their first key. A class of a single image stays in train if it
    can.
    """
    held = [frozenset[int]().union(*(pool[i].classes for i in own)) for own in units]
    place = [place_of(pool[own[0]].key) if own else 1.0 for own in units]
    order = sorted((u for u in range(len(units)) if units[u]), key=lambda u: place[u])
    in_train = np.bincount([one for classes in held for one in classes] or [0])
    target, count, chosen, lacking = share * len(pool), 0, set[int](), _common(pool)

    def can_go(u: int) -> bool:
        return u not in chosen and all(in_train[one] > 1 for one in held[u])

    def take(u: int) -> None:
        nonlocal count, lacking
        chosen.add(u)
        count += len(units[u])
        lacking = lacking - held[u]
        for one in held[u]:
            in_train[one] -= 1

    for one in sorted(lacking, key=lambda one: in_train[one]):  # the rarest class first
        able = [u for u in order if one in held[u] and can_go(u)] if one in lacking else []
        if able:
            take(max(able, key=lambda u: (len(held[u] & lacking), -len(units[u]), -place[u])))
    for u in order:
        if abs(count + len(units[u]) - target) <= abs(count - target) and can_go(u):
            take(u)
    if not chosen and len(order) > 1:
        take(min(order, key=lambda u: (len(held[u] & lacking), len(units[u]), place[u])))
    return {i: "val" if u in chosen else "train" for u, own in enumerate(units) for i in own}


def _joined(labelings: Iterable[Sequence[Hashable]]) -> list[int]:
    """The group of each item: items that have one label alike are of one group, through others too."""
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
