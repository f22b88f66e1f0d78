"""A dataset of two classes as tests write it: its dataset.toml, and images in memory."""

import io

import numpy as np
from PIL import Image

TOML = """
name = "lawn"
images = "images"
masks = "masks"
classes = ["grass", "path"]
[splits]
train = "train"
val = "val"
[map]
0 = "grass"
1 = "path"
"""


def png(pixels: np.ndarray) -> bytes:
    """(H, W) or (H, W, 3) uint8 -> a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
