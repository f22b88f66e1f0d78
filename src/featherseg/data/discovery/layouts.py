"""Where images and masks lie in a folder, whatever its folders and files are called.

Published datasets agree in little but that an image and its mask share a name, up to a suffix or a prefix. So what is
told apart is what can be seen: a mask has few values in large patches, a photograph has not. Folders (or files of one
folder with a suffix, prefix or ending of their own) are paired by the names in them, from the top of the tree down.
"""

import os
import re
from collections.abc import Sequence, Set
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
from featherseg.data.discovery.naming import names_image, names_mask, words_of
from featherseg.data.discovery.per_image import pairs_beside_folders, pairs_per_image
from featherseg.data.images.decoding import IMAGE_SUFFIXES, image_channels, image_size
from featherseg.data.images.pairs import files_by_stem

LEAST_BY_PREFIX = 3
"""Names that must agree but for their beginnings: img_1 and lbl_1 alone may be anything."""

MOST_BESIDE = 64
"""Folders beside one another up to which each is compared with each."""

FAR = 3
"""How many of those that come next are compared where there are more: 0001_gt comes before 0001_image."""

OF_MATLAB = (
    "PixelLabelData is what a labeler of MATLAB exports. Which image a mask is of stands in the .mat file beside it, "
    "as an object that MATLAB alone reads. There, copy each file of gTruth.LabelData.PixelLabelData to a folder of "
    "masks, under the name of the image in the same row, as NAME.png."
)
"""Why nothing can be paired in a folder of that name, and what to do."""


@dataclass(frozen=True)
class Reading:
    """One way to read a folder: its pairs, one for each folder of images, and the folders with images left over.

    `further` are patterns of more masks of the same images in the first of the masks' folders; `links` lead to folders,
    which were not looked into.
    """

    pairs: tuple[FolderPair, ...]
    unused: tuple[str, ...]
    further: tuple[str, ...] = ()
    links: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Names of images that have a mask."""
        return sum(pair.count for pair in self.pairs)

    @property
    def affixes(self) -> dict[str, Any]:
        """As a dataset.toml says them."""
        image, mask = self.pairs[0].image_affix, self.pairs[0].mask_affix
        return {
            "image_prefix": image[0],
            "mask_prefix": mask[0],
            "image_suffix": image[1],
            "mask_suffix": mask[1],
        }


def find_readings(folder: Path, masks: str | None = None) -> list[Reading]:
    """The ways to read a folder of images and masks, the one with most images first.

    `masks` names the folder of masks to take, or in a folder of several those of a suffix: "gt/*_labels".
    Raises DataNotFound, saying what was seen, where no image has a mask, and DataError for too many files.
    """
    tree = ImageTree(folder)
    if not tree.files:
        if (folder / "resolved.json").is_file():
            raise NoDataset(
                f"{folder} is a run, expected a dataset: a folder of images and masks.", folder
            )
        raise NoDataset(
            f"{folder} has no images (files ending in {', '.join(IMAGE_SUFFIXES)}).{tree.passed_over}",
            folder,
        )
    found = _pairs_below(tree, ".")
    if masks is not None:
        given = Path(os.path.abspath(masks))
        wanted = (
            os.path.relpath(given, folder)
            if given.is_relative_to(os.path.abspath(folder))
            else masks.rstrip("/")
        )
        known = ", ".join(sorted({pair.masks for pair in found})) or "none"
        ends = f"/{wanted}"
        found = [
            pair
            for pair in found
            if f"/{pair.masks}".endswith(ends) or f"/{pair.mask_pattern}".endswith(ends)
        ]
        if not found:
            raise DataNotFound(
                f"{folder} has no masks in {masks}. Folders of masks found: {known}."
            )
    if not found:
        if any(name.rpartition("/")[2] == "PixelLabelData" for name in tree.files):
            raise DataNotFound(f"{folder}: {OF_MATLAB}")
        shown = sorted(tree.files.items(), key=lambda item: -sum(map(len, item[1].values())))[
            :SAMPLES
        ]
        seen = ", ".join(
            f"{counted(sum(map(len, kinds.values())), 'file')} in {name}" for name, kinds in shown
        )
        raise NoDataset(
            f"{folder}: no image has a mask of its name ({seen}). Expected a folder of images and one of masks with "
            f"the same names, up to a suffix or a prefix, as in images/01.jpg and masks/01_mask.png."
            f"{tree.unread}{tree.passed_over} See docs/data/folder.md.",
            folder,
        )
    _refuse_channels(tree, found[0])
    kinds: dict[tuple[str, Affix, Affix], dict[str, FolderPair]] = {}
    for pair in found:
        kinds.setdefault(pair.kind, {}).setdefault(pair.images, pair)
    readings: list[Reading] = []
    for kind, pairs in kinds.items():
        for other, more in kinds.items():  # the affixes are those of all folders
            pairs = {**more, **pairs} if other[1:] == kind[1:] else pairs
        used = {name for pair in pairs.values() for name in (pair.images, pair.masks)}
        unused = [name for name in tree.files if not any(_is_named(used, up) for up in above(name))]
        ordered = tuple(pairs[name] for name in sorted(pairs))
        reading = Reading(ordered, tuple(unused), _further(tree, ordered[0]), tuple(tree.links))
        masks_of = [
            {(pair.images, pair.mask_pattern) for pair in one.pairs} for one in (reading, *readings)
        ]
        readings += [] if masks_of[0] in masks_of[1:] else [reading]
    return sorted(readings, key=lambda reading: -reading.count)


def _pairs_below(tree: ImageTree, folder: str) -> list[FolderPair]:
    """The pairs in a folder: among the folders in it, else in its own files, else those in each folder inside."""
    children = [child for child in tree.children[folder] if tree.below(child)]
    own = folder in tree.files
    if found := pairs_per_image(tree, folder, children):
        return found
    found = _beside(tree, children) or pairs_beside_folders(tree, children)
    if own:
        found += _nested(tree, folder, children) or _together(tree, folder)
    paired = {name for pair in found for name in (pair.images, pair.masks)}
    for child in children:
        if child not in paired:
            found += _pairs_below(tree, child)
    if not found:  # masks (or images) a folder deeper: images/1.jpg and masks/eye/1.png
        deep = [place for place in tree.below(folder) if place != folder]
        found = _beside(tree, deep) if len(deep) <= MOST_BESIDE else []
    return found


def _beside(tree: ImageTree, folders: Sequence[str]) -> list[FolderPair]:
    """Folders beside one another of which one holds the images, another their masks; the likeliest masks first."""
    files = {name: NamedFiles(tree, name) for name in folders}
    found: list[FolderPair] = []
    far = (
        len(folders) if len(folders) <= MOST_BESIDE else FAR
    )  # of many, those that come next by name
    for i, first in enumerate(folders):
        for second in folders[i + 1 : i + 1 + far]:
            found += _compared(files[first], files[second])
        if i > MOST_BESIDE and not found:
            break
    inside = cache(partial(_pairs_below, tree))  # what holds pairs of its own is no half of others
    found = [
        pair
        for pair in found
        if not (pair.by_prefix and (inside(pair.images) or inside(pair.masks)))
    ]
    known = {name for pair in found if pair.seen for name in (pair.images, pair.masks)}
    found = [pair for pair in found if pair.seen or known.isdisjoint((pair.images, pair.masks))]
    plain = {name for pair in found if not pair.by_prefix for name in (pair.images, pair.masks)}
    found = [
        pair for pair in found if not pair.by_prefix or plain.isdisjoint((pair.images, pair.masks))
    ]

    # Each folder of images with every folder of masks that is not nearer, by its name, to another folder of images;
    # where all masks are nearest to one, which may be chance, to the one that looks most like their images
    near = {pair: -SequenceMatcher(None, pair.images, pair.masks).ratio() for pair in found}
    found.sort(key=lambda pair: (-pair.count, near[pair]))
    owner = {pair.masks: pair.images for pair in reversed(found)}
    also: dict[str, tuple[str, ...]] = {}
    if len(set(owner.values())) == 1 and len({pair.images for pair in found}) > 1:
        unlike = {pair: _unlike_images(tree, pair) for pair in found}
        found.sort(key=lambda pair: (-pair.count, unlike[pair], near[pair]))
        owner = {pair.masks: pair.images for pair in reversed(found)}
        for pair in found:
            if pair.images not in owner.values() and not unlike[pair][0]:
                also[pair.masks] = (*also.get(pair.masks, ()), pair.images)
    images = set(owner.values())
    return [
        replace(pair, also=also.get(pair.masks, ()))
        for pair in found
        if owner[pair.masks] == pair.images and pair.masks not in images
    ]


def _unlike_images(tree: ImageTree, pair: FolderPair) -> tuple[bool, bool, int, bool]:
    """Sorts folders of images of the same masks; last: of another size, not called images, of more words, grey."""
    name = pair.images.rpartition("/")[2]
    words, named = words_of(name), names_image(name)
    sides = (pair.images, pair.image_affix), (pair.masks, pair.mask_affix)
    try:
        images, masks = (
            files_by_stem(tree.top / place, tail, (), head, []) for place, (head, tail) in sides
        )
        image, mask = (files[min(images.keys() & masks.keys())][0] for files in (images, masks))
        return (
            image_size(image) != image_size(mask),
            not named,
            len(words),
            image_channels(image) == 1,
        )
    except (
        ValueError,
        FeathersegError,
    ):  # no name of both, as a Mac spells it, or a file that cannot be read
        return True, not named, len(words), True


def _nested(tree: ImageTree, folder: str, children: Sequence[str]) -> list[FolderPair]:
    """The files of a folder, with the masks (or images) in one of the folders inside."""
    own = NamedFiles(tree, folder, deep=False)
    return [pair for child in children for pair in _compared(own, NamedFiles(tree, child))]


def _together(tree: ImageTree, folder: str) -> list[FolderPair]:
    """Images and masks in one folder, told apart by a suffix, by their endings, or by a prefix."""
    files = NamedFiles(tree, folder, deep=False)
    for image_affix in files.tails:
        if found := [
            pair for affix in files.tails[1:] if (pair := _told_apart(files, image_affix, affix))
        ]:
            return found
    endings = sorted({ending.lower() for ending in tree.files[folder]})
    parts = [NamedFiles(tree, folder, ending=ending, deep=False) for ending in endings]
    found = []
    for one, other in ((a, b) for a in parts for b in parts if a.ending < b.ending):
        for pair in _compared(one, other):
            first = False in one.look(pair.image_affix)  # whether the images are `one`
            image_ending, mask_ending = (one.ending, other.ending)[:: 1 if first else -1]
            (image_head, image_tail), (mask_head, mask_tail) = pair.image_affix, pair.mask_affix
            affixes = (image_head, image_tail + image_ending), (mask_head, mask_tail + mask_ending)
            found.append(FolderPair(folder, folder, *affixes, pair.count))
    if found:
        return sorted(found, key=lambda pair: (pair.by_prefix, -pair.count))[:1]
    for image_affix, mask_affix in product(files.affixes, files.affixes):
        pair = (
            _told_apart(files, image_affix, mask_affix) if image_affix[0] != mask_affix[0] else None
        )
        if pair and pair.count >= LEAST_BY_PREFIX:
            return [pair]
    return []


def _told_apart(files: NamedFiles, image_affix: Affix, mask_affix: Affix) -> FolderPair | None:
    """Images and masks of one folder that these affixes tell apart, if they do."""
    if image_affix == mask_affix:
        return None
    rest = NamedFiles(files.tree, files.folder, deep=False, without=mask_affix)
    masks = files.cut(mask_affix)
    common = len(rest.cut(image_affix) & masks)
    if (
        common
        and 2 * common >= len(masks)
        and files.look(mask_affix) == {True}
        and False in rest.look(image_affix)
    ):
        return FolderPair(files.folder, files.folder, image_affix, mask_affix, common)
    return None


def _compared(first: NamedFiles, second: NamedFiles) -> list[FolderPair]:
    """The pairs that two sets of files make, by their names, with the affixes by which most agree; the best first."""
    agree: dict[tuple[Affix, Affix], int] = {}
    for affixes in product(first.tails, second.tails):
        one, other = first.cut(affixes[0]), second.cut(affixes[1])
        common = len(one & other)
        if common and 2 * common >= min(len(one), len(other)):
            agree[affixes] = common
    for affixes in (
        () if agree else product(first.affixes, second.affixes)
    ):  # the beginnings, where nothing else agrees
        common = len(first.cut(affixes[0]) & second.cut(affixes[1]))
        if common >= LEAST_BY_PREFIX and 2 * common >= min(len(first.stems), len(second.stems)):
            agree[affixes] = common
    found: list[FolderPair] = []
    most, short = (
        max(agree.values(), default=0),
        sorted(agree, key=lambda pair: len("".join(pair[0] + pair[1]))),
    )
    for affixes in short:
        if agree[affixes] < most or any(
            _implied(affixes, known) for known in short[: short.index(affixes)]
        ):
            continue
        looks = [first.look(affixes[0]), second.look(affixes[1])]
        seen = looks not in ([{True}, {True}], [{False}, {False}])
        if not seen:  # no difference to be seen: the names tell, else nothing
            words = zip((first, second), affixes, strict=True)
            looks = [
                {any(map(names_mask, (files.folder + tail, head)))} for files, (head, tail) in words
            ]
        sides = [(first.folder, first.said(affixes[0])), (second.folder, second.said(affixes[1]))]
        if looks[0] == {True} and False in looks[1]:
            sides, looks = sides[::-1], looks[::-1]
        if False in looks[0] and looks[1] == {True}:
            (images, image_affix), (masks, mask_affix) = sides
            found.append(FolderPair(images, masks, image_affix, mask_affix, most, seen))
    return found


def _further(tree: ImageTree, pair: FolderPair) -> tuple[str, ...]:
    """The patterns of masks beside those of a pair that are of the same images: a_weed.png beside a_crop.png."""
    affixes = (pair.image_affix, pair.mask_affix)
    endings = tuple(
        tail.rpartition(".")[0] if tail.lower().endswith(IMAGE_SUFFIXES) else tail
        for _, tail in affixes
    )
    image, own = (pair.image_affix[0], endings[0]), (pair.mask_affix[0], endings[1])
    if own == ("", ""):
        return ()
    names, masks = NamedFiles(tree, pair.images).cut(image), NamedFiles(tree, pair.masks)
    return tuple(
        f"{pair.masks}/{'*'.join(affix)}"
        for affix in masks.affixes
        if affix not in (("", ""), own)
        and not re.search(
            "object|instance", "".join(affix), re.IGNORECASE
        )  # numbers of objects, no classes
        and len(masks.cut(affix) & names) >= min(2, pair.count)
        and masks.look(affix) == {True}
    )


def _implied(affixes: tuple[Affix, Affix], known: tuple[Affix, Affix]) -> bool:
    """Whether both affixes are longer than those of a pair by the same: the names agree in that part."""
    if not all(
        h.startswith(a) and t.endswith(b) for (h, t), (a, b) in zip(affixes, known, strict=True)
    ):
        return False
    more = [
        (h.removeprefix(a), t.removesuffix(b))
        for (h, t), (a, b) in zip(affixes, known, strict=True)
    ]
    return more[0] == more[1]


def _is_named(places: Set[str], folder: str) -> bool:
    """Whether a folder is one of these places, in which ANY may stand."""
    parts = folder.split("/")
    return any(
        len(place) == len(parts)
        and all(one in (part, ANY) for one, part in zip(place, parts, strict=True))
        for place in (place.split("/") for place in places)
    )


def _refuse_channels(tree: ImageTree, pair: FolderPair) -> None:
    """Raises DataError for a folder with a file for each channel of an image, as nnU-Net has them."""
    files = NamedFiles(tree, pair.images)
    tails = [tail for _, tail in files.tails if CHANNEL.fullmatch(tail)]
    names = files.cut(pair.image_affix)
    several = [tail for tail in tails if 2 * len(files.cut(("", tail)) & names) > len(names)]
    if pair.image_affix[1] in several and len(several) > 1:
        raise DataError(
            f"{tree.top / pair.images} has {len(several)} files for each image, one a channel ({', '.join(several)}), "
            "as nnU-Net has them. Write each image as one TIFF with a page for each channel, under the name of its "
            "mask (docs/data/folder.md, Images)."
        )
