"""Words in the names of folders and files that mark masks or images."""

import re

MASK_WORDS = {"mask", "label", "annotation", "annot", "gt", "ground", "truth", "groundtruth", "seg"}
MASK_WORDS |= {"segmentation", "target", "segmentationclass", "manual", "trimap", "labelid"}
MASK_WORDS |= {"trainid"}
"""Words in the name of a folder or a suffix that mark masks; used if the pixels do not tell."""

IMAGE_WORDS = {"image", "img", "jpegimage", "photo", "picture", "frame", "rgb", "color", "colour"}
IMAGE_WORDS |= {"visible"}
"""Words in the name of a folder that mark images; used if several folders fit the same masks."""


def words_of(name: str) -> list[str]:
    """Return the words in lower case: "Training_Images2" -> ["training", "images"]."""
    return re.findall("[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def names_objects(pattern: str) -> bool:
    """Return whether a pattern of masks is that of single objects, not of classes."""
    return re.search("object|instance", pattern, re.IGNORECASE) is not None


def names_mask(name: str) -> bool:
    """Return whether one of the words marks masks."""
    return any(word.rstrip("s") in MASK_WORDS or word in MASK_WORDS for word in words_of(name))


def names_image(name: str) -> bool:
    """Return whether one of the words marks images."""
    return any(word.rstrip("s") in IMAGE_WORDS for word in words_of(name))
