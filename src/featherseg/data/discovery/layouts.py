"""Find out where images and masks lie in a folder, whatever its folders and files are called.

In published datasets an image and its mask share a name, up to a suffix or a prefix, and little
else. Pixels tell which is which: a mask has few values in large patches, a photograph has not.
Folders (or files of one folder with their own suffix, prefix or ending) are paired by the names in
them, from the top of the tree down.
"""

import os
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from featherseg.core.errors import DataError, DataNotFound, FeathersegError, NoDataset
from featherseg.core.wording import counted
from featherseg.data.datasets.dataset_toml import ANY
from featherseg.data.discovery.image_tree import (
    CHANNEL,
    SAMPLES,
    Affix,
    FolderPair,
    ImageTree,
    NamedFiles,
    above,
)
from featherseg.data.discovery.naming import names_image, names_mask, names_objects, words_of
from featherseg.data.discovery.per_image import pairs_beside_folders, pairs_per_image
from featherseg.data.images.decoding import image_channels, image_size
from featherseg.data.images.listing import IMAGE_SUFFIXES
from featherseg.data.images.pairs import files_by_stem

LEAST_BY_PREFIX = 3
"""Number of names that must agree but for their prefixes: img_1 and lbl_1 alone may be anything."""

MOST_BESIDE = 64
"""Number of folders beside one another up to which each is compared with each."""

FAR = 3
"""Number of following folders that each is compared with if there are more: 0001_gt precedes
0001_image.
"""

OF_MATLAB = (
    "PixelLabelData is an export of MATLAB's labeler. The .mat file beside it says which image a "
    "mask is of, in a form that only MATLAB reads. There, copy each file of "
    "gTruth.LabelData.PixelLabelData to a folder of masks, under the name of the image in the same "
    "row, as NAME.png."
)
"""Why nothing can be paired in a folder PixelLabelData, and what to do."""


@dataclass(frozen=True)
class Reading:
    """One way to read a folder.

    Attributes:
        pairs: One for each folder of images.
        unused: The folders with other images.
        further: Patterns of more masks of the same images in the first folder of masks.
        links: Links to folders, which were not followed.
    """

    pairs: tuple[FolderPair, ...]
    unused: tuple[str, ...]
    further: tuple[str, ...] = ()
    links: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of images that have a mask."""
        return sum(pair.count for pair in self.pairs)

    @property
    def affixes(self) -> dict[str, Any]:
        """The affixes as keys of a dataset.toml."""
        image, mask = self.pairs[0].image_affix, self.pairs[0].mask_affix
        return {
            "image_prefix": image[0],
            "mask_prefix": mask[0],
            "image_suffix": image[1],
            "mask_suffix": mask[1],
        }


def find_readings(folder: Path, masks: str | None = None) -> list[Reading]:
    """Return the ways to read a folder of images and masks, the one with most images first.

    `masks` selects a folder of masks, or masks with a suffix: "gt/*_labels". Raises DataNotFound,
    with what the folder contains, if no image has a mask, and DataError for too many files.
    """
    # Pair folders
    tree = ImageTree(folder)
    if not tree.files:
        if (folder / "resolved.json").is_file():
            raise NoDataset(
                f"{folder} is a run, expected a dataset: a folder of images and masks.", folder
            )
        endings = ", ".join(IMAGE_SUFFIXES)
        raise NoDataset(
            f"{folder} has no images (files ending in {endings}).{tree.skipped}", folder
        )
    pairs = _pairs_below(tree, ".")
    if masks is not None:
        pairs = _selected(folder, masks, pairs)
    if not pairs:
        raise _no_masks(folder, tree)
    _refuse_channels(tree, pairs[0])

    # A reading is made of pairs of one kind: the same affixes, and masks in folders of one name
    kinds: dict[tuple[str, Affix, Affix], dict[str, FolderPair]] = {}
    for pair in pairs:
        kinds.setdefault(pair.kind, {}).setdefault(pair.images, pair)
    readings: list[Reading] = []
    for kind, by_images in kinds.items():
        for other_kind, other in kinds.items():  # and of other folders with the same affixes
            by_images = {**other, **by_images} if other_kind[1:] == kind[1:] else by_images
        of_kind = tuple(by_images[name] for name in sorted(by_images))
        used = {name for pair in of_kind for name in (pair.images, pair.masks)}
        unused = [name for name in tree.files if not any(_is_any(used, up) for up in above(name))]
        reading = Reading(of_kind, tuple(unused), _further(tree, of_kind[0]), tuple(tree.links))
        places, *others = (
            {(pair.images, pair.mask_pattern) for pair in one.pairs} for one in (reading, *readings)
        )
        if places not in others:
            readings.append(reading)
    return sorted(readings, key=lambda reading: -reading.count)


def _selected(folder: Path, masks: str, pairs: Sequence[FolderPair]) -> list[FolderPair]:
    """Return the pairs whose masks the user names: a folder, its end, or a pattern."""
    given = Path(os.path.abspath(masks))
    inside = given.is_relative_to(os.path.abspath(folder))
    end = f"/{os.path.relpath(given, folder) if inside else masks.rstrip('/')}"
    selected = [
        pair
        for pair in pairs
        if f"/{pair.masks}".endswith(end) or f"/{pair.mask_pattern}".endswith(end)
    ]
    if not selected:
        known = ", ".join(sorted({pair.masks for pair in pairs})) or "none"
        raise DataNotFound(f"{folder} has no masks in {masks}. Folders of masks found: {known}.")
    return selected


def _no_masks(folder: Path, tree: ImageTree) -> DataNotFound:
    """Return the error for a folder in which nothing can be paired."""
    if any(name.rpartition("/")[2] == "PixelLabelData" for name in tree.files):
        return DataNotFound(f"{folder}: {OF_MATLAB}")
    counts = {name: sum(map(len, endings.values())) for name, endings in tree.files.items()}
    largest = sorted(counts.items(), key=lambda item: -item[1])[:SAMPLES]
    contents = ", ".join(f"{counted(count, 'file')} in {name}" for name, count in largest)
    return NoDataset(
        f"{folder}: no image has a mask of its name ({contents}). Expected a folder of images and "
        "one of masks with the same names, up to a suffix or a prefix, as in images/01.jpg and "
        f"masks/01_mask.png.{tree.unread}{tree.skipped} See docs/data/folder.md.",
        folder,
    )


def _pairs_below(tree: ImageTree, folder: str) -> list[FolderPair]:
    """Return the pairs among the folders in a folder, in its files, and further down."""
    children = [child for child in tree.children[folder] if tree.below(child)]
    if pairs := pairs_per_image(tree, folder, children):
        return pairs
    pairs = _beside(tree, children) or pairs_beside_folders(tree, children)
    if folder in tree.files:
        # The files of the folder, with masks (or images) in one of the folders inside
        files = NamedFiles(tree, folder, deep=False)
        nested = [pair for child in children for pair in _match(files, NamedFiles(tree, child))]
        pairs += nested or _together(tree, folder)
    paired = _folders(pairs)
    for child in children:
        if child not in paired:
            pairs += _pairs_below(tree, child)
    if not pairs:  # masks (or images) a folder deeper: images/1.jpg and masks/eye/1.png
        deep = [place for place in tree.below(folder) if place != folder]
        pairs = _beside(tree, deep) if len(deep) <= MOST_BESIDE else []
    return pairs


def _folders(pairs: Iterable[FolderPair]) -> set[str]:
    """Return the folders of images and of masks."""
    return {name for pair in pairs for name in (pair.images, pair.masks)}


def _beside(tree: ImageTree, folders: Sequence[str]) -> list[FolderPair]:
    """Pair folders beside one another, of images and of masks; the likeliest masks come first."""
    # Compare each with each; of very many folders only with those that come next by name
    files = {name: NamedFiles(tree, name) for name in folders}
    pairs: list[FolderPair] = []
    far = len(folders) if len(folders) <= MOST_BESIDE else FAR
    for i, first in enumerate(folders):
        for second in folders[i + 1 : i + 1 + far]:
            pairs += _match(files[first], files[second])
        if i > MOST_BESIDE and not pairs:
            break

    # Drop weaker pairs: by prefix with a folder that contains pairs of its own, by names alone with
    # a folder whose pixels tell, by prefix with a folder that is paired without one
    inside = cache(partial(_pairs_below, tree))
    pairs = [
        pair
        for pair in pairs
        if not (pair.by_prefix and (inside(pair.images) or inside(pair.masks)))
    ]
    by_pixels = _folders(pair for pair in pairs if pair.seen)
    pairs = [pair for pair in pairs if pair.seen or by_pixels.isdisjoint(_folders([pair]))]
    plain = _folders(pair for pair in pairs if not pair.by_prefix)
    pairs = [pair for pair in pairs if not pair.by_prefix or plain.isdisjoint(_folders([pair]))]

    # Each folder of masks belongs to the folder of images with the nearest name. If all masks are
    # nearest to one folder, which may be chance, they belong to the folder most like their images
    name_distance = {
        pair: -SequenceMatcher(None, pair.images, pair.masks).ratio() for pair in pairs
    }
    pairs.sort(key=lambda pair: (-pair.count, name_distance[pair]))
    owner = {pair.masks: pair.images for pair in reversed(pairs)}
    also: dict[str, tuple[str, ...]] = {}
    if len(set(owner.values())) == 1 and len({pair.images for pair in pairs}) > 1:
        unlike = {pair: _unlike_images(tree, pair) for pair in pairs}
        pairs.sort(key=lambda pair: (-pair.count, unlike[pair], name_distance[pair]))
        owner = {pair.masks: pair.images for pair in reversed(pairs)}
        for pair in pairs:
            if pair.images not in owner.values() and not unlike[pair][0]:
                also[pair.masks] = (*also.get(pair.masks, ()), pair.images)
    images = set(owner.values())
    return [
        replace(pair, also=also.get(pair.masks, ()))
        for pair in pairs
        if owner[pair.masks] == pair.images and pair.masks not in images
    ]


def _unlike_images(tree: ImageTree, pair: FolderPair) -> tuple[bool, bool, int, bool]:
    """Sort key of folders of images for the same masks; the least likely come last.

    These have another size, are not called images, have more words in the name, or are grey.
    """
    name = pair.images.rpartition("/")[2]
    words, unnamed = len(words_of(name)), not names_image(name)
    sides = (pair.images, pair.image_affix), (pair.masks, pair.mask_affix)
    try:
        images, masks = (
            files_by_stem(tree.top / place, tail, (), head, []) for place, (head, tail) in sides
        )
        stem = min(images.keys() & masks.keys())
        image, mask = images[stem][0], masks[stem][0]
        return image_size(image) != image_size(mask), unnamed, words, image_channels(image) == 1
    except (ValueError, FeathersegError):  # no common name, or a file that cannot be read
        return True, unnamed, words, True


def _together(tree: ImageTree, folder: str) -> list[FolderPair]:
    """Pair images and masks in one folder, told apart by a suffix, an ending, or a prefix."""
    files = NamedFiles(tree, folder, deep=False)
    for image_affix in files.tails:
        pairs = [_by_affixes(files, image_affix, affix) for affix in files.tails[1:]]
        if by_suffix := [pair for pair in pairs if pair]:
            return by_suffix

    endings = sorted({ending.lower() for ending in tree.files[folder]})
    parts = [NamedFiles(tree, folder, ending=ending, deep=False) for ending in endings]
    by_ending = []
    for first, second in ((a, b) for a in parts for b in parts if a.ending < b.ending):
        for pair in _match(first, second):
            images_first = False in first.look(pair.image_affix)
            images, masks = (first, second) if images_first else (second, first)
            (image_head, image_tail), (mask_head, mask_tail) = pair.image_affix, pair.mask_affix
            by_ending.append(
                FolderPair(
                    folder,
                    folder,
                    (image_head, image_tail + images.ending),
                    (mask_head, mask_tail + masks.ending),
                    pair.count,
                )
            )
    if by_ending:
        return sorted(by_ending, key=lambda pair: (pair.by_prefix, -pair.count))[:1]

    for image_affix, mask_affix in product(files.affixes, files.affixes):
        if image_affix[0] != mask_affix[0]:
            by_prefix = _by_affixes(files, image_affix, mask_affix)
            if by_prefix and by_prefix.count >= LEAST_BY_PREFIX:
                return [by_prefix]
    return []


def _by_affixes(files: NamedFiles, image_affix: Affix, mask_affix: Affix) -> FolderPair | None:
    """Pair images and masks of one folder by these affixes, if they tell them apart."""
    if image_affix == mask_affix:
        return None
    unmasked = NamedFiles(files.tree, files.folder, deep=False, without=mask_affix)
    masks = files.cut(mask_affix)
    common = len(unmasked.cut(image_affix) & masks)
    enough = common and 2 * common >= len(masks)
    if enough and files.look(mask_affix) == {True} and False in unmasked.look(image_affix):
        return FolderPair(files.folder, files.folder, image_affix, mask_affix, common)
    return None


def _match(first: NamedFiles, second: NamedFiles) -> list[FolderPair]:
    """Pair two sets of files by the affixes with which most names agree; the best come first."""
    # The suffixes with which the names agree; only if there are none, the prefixes
    agree: dict[tuple[Affix, Affix], int] = {}
    for affixes in product(first.tails, second.tails):
        names, other_names = first.cut(affixes[0]), second.cut(affixes[1])
        common = len(names & other_names)
        if common and 2 * common >= min(len(names), len(other_names)):
            agree[affixes] = common
    for affixes in () if agree else product(first.affixes, second.affixes):
        common = len(first.cut(affixes[0]) & second.cut(affixes[1]))
        if common >= LEAST_BY_PREFIX and 2 * common >= min(len(first.stems), len(second.stems)):
            agree[affixes] = common

    pairs: list[FolderPair] = []
    most = max(agree.values(), default=0)
    shortest_first = sorted(agree, key=lambda affixes: len("".join(affixes[0] + affixes[1])))
    for number, affixes in enumerate(shortest_first):
        implied = any(_implied(affixes, known) for known in shortest_first[:number])
        if agree[affixes] < most or implied:
            continue
        # Which side are the masks? If the pixels do not tell, the names must
        looks = [first.look(affixes[0]), second.look(affixes[1])]
        seen = looks not in ([{True}, {True}], [{False}, {False}])
        if not seen:
            looks = [
                {names_mask(files.folder + tail) or names_mask(head)}
                for files, (head, tail) in zip((first, second), affixes, strict=True)
            ]
        sides = [
            (files.folder, files.in_toml(affix))
            for files, affix in zip((first, second), affixes, strict=True)
        ]
        if looks[0] == {True} and False in looks[1]:
            sides, looks = sides[::-1], looks[::-1]
        if False in looks[0] and looks[1] == {True}:
            (images, image_affix), (masks, mask_affix) = sides
            pairs.append(FolderPair(images, masks, image_affix, mask_affix, most, seen))
    return pairs


def _further(tree: ImageTree, pair: FolderPair) -> tuple[str, ...]:
    """Return the patterns of other masks of the same images: a_weed.png beside a_crop.png."""
    image_affix, mask_affix = (
        (head, tail.rpartition(".")[0] if tail.lower().endswith(IMAGE_SUFFIXES) else tail)
        for head, tail in (pair.image_affix, pair.mask_affix)
    )
    if mask_affix == ("", ""):
        return ()
    names, masks = NamedFiles(tree, pair.images).cut(image_affix), NamedFiles(tree, pair.masks)
    return tuple(
        f"{pair.masks}/{'*'.join(affix)}"
        for affix in masks.affixes
        if affix not in (("", ""), mask_affix)
        and not names_objects("".join(affix))
        and len(masks.cut(affix) & names) >= min(2, pair.count)
        and masks.look(affix) == {True}
    )


def _implied(affixes: tuple[Affix, Affix], known: tuple[Affix, Affix]) -> bool:
    """Return whether both affixes extend the known ones by the same text, in which names agree."""
    sides = list(zip(affixes, known, strict=True))
    if not all(h.startswith(head) and t.endswith(tail) for (h, t), (head, tail) in sides):
        return False
    more = [(h.removeprefix(head), t.removesuffix(tail)) for (h, t), (head, tail) in sides]
    return more[0] == more[1]


def _is_any(places: Set[str], folder: str) -> bool:
    """Return whether a folder is one of these places, which may contain ANY."""
    parts = folder.split("/")
    return any(
        len(place) == len(parts)
        and all(name in (part, ANY) for name, part in zip(place, parts, strict=True))
        for place in (place.split("/") for place in places)
    )


def _refuse_channels(tree: ImageTree, pair: FolderPair) -> None:
    """Raise DataError for a folder with a file for each channel of an image, as of nnU-Net."""
    files = NamedFiles(tree, pair.images)
    tails = [tail for _, tail in files.tails if CHANNEL.fullmatch(tail)]
    names = files.cut(pair.image_affix)
    channels = [tail for tail in tails if 2 * len(files.cut(("", tail)) & names) > len(names)]
    if pair.image_affix[1] in channels and len(channels) > 1:
        raise DataError(
            f"{tree.top / pair.images} has {len(channels)} files for each image, one a channel "
            f"({', '.join(channels)}), as nnU-Net has them. Write each image as one TIFF with a "
            "page for each channel, under the name of its mask (docs/data/folder.md, Images)."
        )
