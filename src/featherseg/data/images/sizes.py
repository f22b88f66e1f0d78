"""Types of image sizes in recipes and files, with their bounds."""

from typing import Annotated

from pydantic import AfterValidator, Field

from featherseg.core.config import Positive
from featherseg.data.images.decoding import MAX_PIXELS

Pixels = Annotated[int, Field(gt=0, le=2**15)]  # a side of an image


def _short_then_long(size: tuple[int, int]) -> tuple[int, int]:
    if size[0] > size[1]:
        raise ValueError("expected [short side, long side] in pixels, short side first")
    return size


def _decodable(size: tuple[int, int]) -> tuple[int, int]:
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"expected at most {MAX_PIXELS:,} pixels")
    return size


ImageSize = Annotated[tuple[Positive, Positive], AfterValidator(_decodable)]
"""(height, width) of images."""

ResizeTo = Annotated[tuple[Pixels, Pixels], AfterValidator(_short_then_long)]
"""A core.types.Resize: [512, 2048] resizes the short side to 512 pixels, or the long one to 2048,
whichever makes the image smaller."""
