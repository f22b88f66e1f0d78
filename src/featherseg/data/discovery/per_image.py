"""Pair folders of one image each with its masks: 7/7_RAW.jpg and 7/7_LANE.png, 7/image.png."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from featherseg.data.datasets.dataset_toml import ANY
from featherseg.data.discovery.image_tree import FOLDERS_SEEN, FolderPair, ImageTree, join
from featherseg.data.discovery.naming import names_image, names_mask
from featherseg.data.discovery.split_lists import split_of

MOSTLY = 0.9
"""Share of the folders that must have an image of the same role, and masks."""

MOST_FILES = 1000
"""Number of files of one folder above which it has more than one image."""

MOST_ROLES = 32
"""Number of roles above which folders have more than one image, unless there are more folders."""


@dataclass
class _Role:
    """Files whose names have the same text beside the name of their folder: "_RAW", or "image".

    `named`: the names begin with that of their folder. `files` are (folder, ending, stem).
    """

    named: bool
    text: str
    files: list[tuple[str, str, str]] = field(default_factory=list)

    def is_mask(self, tree: ImageTree) -> bool:
        """Return whether most of some files look like masks."""
        chosen = [self.files[i * len(self.files) // FOLDERS_SEEN] for i in range(FOLDERS_SEEN)]
        looks = [
            tree.is_mask(place, ending, f"role {self.text}", [stem])
            for place, ending, stem in dict.fromkeys(chosen)
        ]
        return 2 * sum(looks) > len(looks)

    @property
    def count(self) -> int:
        """The number of folders that have it."""
        return len({place for place, _, _ in self.files})


def pairs_per_image(tree: ImageTree, folder: str, children: Sequence[str]) -> list[FolderPair]:
    """Pair the folders in a folder that have one image each; [] if they have several, or splits."""
    if len(children) < 2 or all(split_of(child.rpartition("/")[2]) for child in children):
        return []
    return _by_roles(tree, folder, children) or _by_folders(tree, folder, children)


def _by_roles(tree: ImageTree, folder: str, children: Sequence[str]) -> list[FolderPair]:
    """Pair image and masks in the same folder by what their names have beside the folder's."""
    # Few files in each folder, and roles that several folders have
    places = [child for child in children if child in tree.files]
    counts = [sum(map(len, tree.files[child].values())) for child in places]
    if len(places) < MOSTLY * len(children) or max(counts) > MOST_FILES:
        return []
    roles = _roles(tree, places)
    common = [role for role in roles if role.count > 1]
    # images/ and masks/ have a role for each image
    if len(roles) < 2 or len(common) > max(MOST_ROLES, len(places)):
        return []

    # One role is the image
    enough = MOSTLY * len(places)
    images = [role for role in common if role.count >= enough and not role.is_mask(tree)]
    if len(images) > 1:
        images = [role for role in images if names_image(role.text)] or images
        images = [role for role in images if not names_mask(role.text)]
    if len(images) != 1 or images[0].count < len(images[0].files):
        return []
    (image,) = images

    # The others are masks of classes, or, numbered or called by hashes, masks of objects
    others = [role for role in roles if role is not image]
    masks = [
        role
        for role in common
        if role is not image and not re.search(r"\d", role.text) and role.is_mask(tree)
    ]
    if masks:
        return [
            FolderPair(folder, folder, ("", image.text), ("", role.text), role.count)
            for role in masks
            if role.named == image.named
        ]
    objects = _Role(False, "object", [file for role in others for file in role.files])
    if image.text and objects.count >= enough and objects.is_mask(tree):
        return [FolderPair(folder, folder, ("", image.text), ("", ""), objects.count, objects=True)]
    return []


def _roles(tree: ImageTree, folders: Sequence[str]) -> list[_Role]:
    roles: dict[tuple[bool, str], _Role] = {}
    for place in folders:
        name = place.rpartition("/")[2]
        files = [(ending, stem) for ending, stems in tree.files[place].items() for stem in stems]
        count = Counter(stem for _, stem in files)
        for ending, stem in files:
            named = stem.startswith(name)
            text = stem.removeprefix(name) if named else stem
            text += ending if count[stem] > 1 else ""
            roles.setdefault((named, text), _Role(named, text)).files.append((place, ending, stem))
    return list(roles.values())


def _files(tree: ImageTree, text: str, places: Sequence[str]) -> _Role:
    """Return all files of these folders as one role."""
    files = [
        (place, ending, stem)
        for place in places
        for ending, stems in tree.files.get(place, {}).items()
        for stem in stems
    ]
    return _Role(False, text, files)


def _by_folders(tree: ImageTree, folder: str, children: Sequence[str]) -> list[FolderPair]:
    """Pair an image in one folder with masks of its objects in another: 7/images/ and 7/masks/."""
    inside = Counter(
        below.rpartition("/")[2]
        for child in children
        for below in tree.children[child]
        if below in tree.files
    )
    least = MOSTLY * len(children)
    roles = [_files(tree, "", children)] + [
        _files(tree, name, [join(child, name) for child in children])
        for name, count in inside.items()
        if count >= least
    ]
    roles = [role for role in roles if role.count >= least]
    single = [role for role in roles if len(role.files) == role.count]
    several = [role for role in roles if role.text and len(role.files) > role.count]
    masks = [role for role in several if single and role.is_mask(tree)]
    images = [role for role in single if masks and not role.is_mask(tree)]
    if len(images) != 1:
        return []
    top = join(folder, ANY)
    image = join(top, images[0].text) if images[0].text else top
    return [
        FolderPair(image, join(top, role.text), ("", ""), ("", ""), role.count, objects=True)
        for role in masks
    ]


def pairs_beside_folders(tree: ImageTree, children: Sequence[str]) -> list[FolderPair]:
    """Pair images/7.png with masks/7/lane.png for each class, or masks/7/*.png for each object."""
    pairs = []
    for images in [child for child in children if child in tree.files]:
        stems = {stem for stems in tree.files[images].values() for stem in stems}
        for masks in children:
            places = [
                below
                for below in tree.children[masks]
                if below in tree.files and below.rpartition("/")[2] in stems
            ]
            if masks == images or 2 * len(places) < max(len(stems), len(tree.children[masks])):
                continue
            is_image = not _files(tree, "", [images]).is_mask(tree)
            if not is_image or not _files(tree, "object", places).is_mask(tree):
                continue
            by_class = [
                FolderPair(images, masks, ("", ""), ("", role.text), role.count)
                for role in _roles(tree, places)
                if role.count > 1
                and not role.named
                and not re.search(r"\d", role.text)
                and role.is_mask(tree)
            ]
            objects = FolderPair(images, masks, ("", ""), ("", ""), len(places), objects=True)
            pairs += by_class or [objects]
    return pairs
