"""What the words in names of folders and files tell: masks, images."""

import re

MASK_WORDS = {
    "mask",
    "label",
    "annotation",
    "annot",
    "gt",
    "ground",
    "truth",
    "groundtruth",
    "seg",
    "segmentation",
}
MASK_WORDS |= {"target", "segmentationclass", "manual", "trimap", "labelid", "trainid"}
"""Words in the name of a folder or a suffix that mark masks; consulted where the pixels do not tell."""

IMAGE_WORDS = {
    "image",
    "img",
    "jpegimage",
    "photo",
    "picture",
    "frame",
    "rgb",
    "color",
    "colour",
    "visible",
}
"""Words in the name of a folder that mark images; consulted where several folders have images of the same masks."""


def words_of(name: str) -> list[str]:
    """In lower case: "Training_Images2" -> training, images."""
    return re.findall("[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def names_mask(name: str) -> bool:
    """Whether one of the words says masks."""
    return any(word.rstrip("s") in MASK_WORDS or word in MASK_WORDS for word in words_of(name))


def names_image(name: str) -> bool:
    """Whether one of the words says images."""
    return any(word.rstrip("s") in IMAGE_WORDS for word in words_of(name))
