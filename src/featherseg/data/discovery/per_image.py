"""Folders that hold one image each, beside its masks: 7/7_RAW.jpg and 7/7_LANE.png, 7/image.png and 7/mask.png."""

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
"""Files of one folder above which it is none of one image."""


MOST_ROLES = 32
"""Files of one image, unless there are more folders, above which folders are none of one image."""


@dataclass
class _Role:
    """What a name has beside that of its folder ("_RAW"; "image" where it has nothing of it), and the files so called.

    `named`: names begin with that of their folder. `files` are (folder, ending, stem).
    """

    named: bool
    text: str
    files: list[tuple[str, str, str]] = field(default_factory=list)

    def is_mask(self, tree: ImageTree) -> bool:
        """Whether most of some files look like masks."""
        chosen = [self.files[i * len(self.files) // FOLDERS_SEEN] for i in range(FOLDERS_SEEN)]
        looks = [
            tree.is_mask(place, ending, f"role {self.text}", [stem])
            for place, ending, stem in dict.fromkeys(chosen)
        ]
        return 2 * sum(looks) > len(looks)

    @property
    def count(self) -> int:
        """Folders that have it."""
        return len({place for place, _, _ in self.files})


def pairs_per_image(tree: ImageTree, folder: str, children: Sequence[str]) -> list[FolderPair]:
    """The pairs of the folders in a folder that hold one image each; none where they hold several, or splits."""
    if len(children) < 2 or all(split_of(child.rpartition("/")[2]) for child in children):
        return []
    return _by_roles(tree, folder, children) or _by_folders(tree, folder, children)


def _by_roles(tree: ImageTree, folder: str, children: Sequence[str]) -> list[FolderPair]:
    """Image and masks in the same folder, told apart by what their names have beside the folder's."""
    own = [child for child in children if child in tree.files]
    if len(own) < MOSTLY * len(children) or any(_count(tree, child) > MOST_FILES for child in own):
        return []
    roles = _roles(tree, own)
    if len(roles) < 2:
        return []
    constant = [role for role in roles if role.count > 1]
    if len(constant) > max(MOST_ROLES, len(own)):  # images/ and masks/ with a file for each image
        return []
    images = [
        role for role in constant if role.count >= MOSTLY * len(own) and not role.is_mask(tree)
    ]
    if len(images) > 1:
        images = [role for role in images if names_image(role.text)] or images
        images = [role for role in images if not names_mask(role.text)]
    if len(images) != 1 or images[0].count < len(images[0].files):
        return []
    (image,) = images
    others = [role for role in roles if role is not image]
    masks = [
        role
        for role in constant
        if role is not image and not re.search(r"\d", role.text) and role.is_mask(tree)
    ]
    if masks:
        return [
            FolderPair(folder, folder, ("", image.text), ("", role.text), role.count)
            for role in masks
            if role.named == image.named
        ]
    # No mask is called alike in two folders: they are numbered, or called by hashes, one an object
    objects = _Role(False, "object", [file for role in others for file in role.files])
    if image.text and objects.count >= MOSTLY * len(own) and objects.is_mask(tree):
        return [FolderPair(folder, folder, ("", image.text), ("", ""), objects.count, objects=True)]
    return []


def _roles(tree: ImageTree, folders: Sequence[str]) -> list[_Role]:
    roles: dict[tuple[bool, str], _Role] = {}
    for place in folders:
        name = place.rpartition("/")[2]
        files = [(ending, stem) for ending, stems in tree.files[place].items() for stem in stems]
        twice = Counter(stem for _, stem in files)
        for ending, stem in files:
            named = stem.startswith(name)
            text = (stem.removeprefix(name) if named else stem) + (
                ending if twice[stem] > 1 else ""
            )
            roles.setdefault((named, text), _Role(named, text)).files.append((place, ending, stem))
    return list(roles.values())


def _by_folders(tree: ImageTree, folder: str, children: Sequence[str]) -> list[FolderPair]:
    """An image in one folder and a mask for each of its objects in another: 7/images/7.png and 7/masks/*.png."""
    inside = Counter(
        sub.rpartition("/")[2]
        for child in children
        for sub in tree.children[child]
        if sub in tree.files
    )
    parts = ["", *(name for name, count in inside.items() if count >= MOSTLY * len(children))]
    files: dict[str, _Role] = {}
    for part in parts:
        places = [join(child, part) if part else child for child in children]
        kinds = [
            (place, ending, stems)
            for place in places
            for ending, stems in tree.files.get(place, {}).items()
        ]
        files[part] = _Role(
            False, part, [(place, ending, stem) for place, ending, stems in kinds for stem in stems]
        )
    enough = [part for part in parts if files[part].count >= MOSTLY * len(children)]
    single = [part for part in enough if len(files[part].files) == files[part].count]
    several = [part for part in enough if part and part not in single]
    masks = [part for part in several if single and files[part].is_mask(tree)]
    images = [part for part in single if masks and not files[part].is_mask(tree)]
    if len(images) != 1:
        return []
    image = join(join(folder, ANY), images[0]) if images[0] else join(folder, ANY)
    return [
        FolderPair(
            image,
            join(join(folder, ANY), part),
            ("", ""),
            ("", ""),
            files[part].count,
            objects=True,
        )
        for part in masks
    ]


def pairs_beside_folders(tree: ImageTree, children: Sequence[str]) -> list[FolderPair]:
    """images/7.png beside a folder of its masks: masks/7/lane.png for each class, masks/7/*.png for each object."""
    found = []
    for images in [child for child in children if child in tree.files]:
        stems = {stem for stems in tree.files[images].values() for stem in stems}
        for masks in children:
            own = [
                sub
                for sub in tree.children[masks]
                if sub in tree.files and sub.rpartition("/")[2] in stems
            ]
            if masks == images or 2 * len(own) < max(len(stems), len(tree.children[masks])):
                continue
            image = _Role(
                False,
                "",
                [(images, ending, stem) for ending, s in tree.files[images].items() for stem in s],
            )
            roles = [
                role
                for role in _roles(tree, own)
                if role.count > 1 and not re.search(r"\d", role.text)
            ]
            everything = _Role(
                False, "object", [file for role in _roles(tree, own) for file in role.files]
            )
            if image.is_mask(tree) or not everything.is_mask(tree):
                continue
            found += [
                FolderPair(images, masks, ("", ""), ("", role.text), role.count)
                for role in roles
                if not role.named and role.is_mask(tree)
            ] or [FolderPair(images, masks, ("", ""), ("", ""), len(own), objects=True)]
    return found


def _count(tree: ImageTree, folder: str) -> int:
    return sum(map(len, tree.files.get(folder, {}).values()))
