"""Sizes of images, as a model sees them; without torch."""

from featherseg.core.types import Resize, Size


def resize_factor(size: Size, fit: Resize | None) -> float:
    """Return the factor that makes an image of `size` as large as `fit` allows; 1 without `fit`."""
    return 1.0 if fit is None else min(fit[0] / min(size), fit[1] / max(size))


def resized(size: Size, fit: Resize | None) -> Size:
    """Return (height, width) of an image of `size` made as large as `fit` allows."""
    return scaled_size(size, resize_factor(size, fit))


def scaled_size(size: Size, factor: float) -> Size:
    """Return (height, width) times a factor, in whole pixels."""
    height, width = (max(1, round(side * factor)) for side in size)
    return height, width


def padded_side(side: int, divisor: int, minimum: int) -> int:
    """Return the side to which a model pads: a multiple of `divisor`, at least `minimum`."""
    return -(-max(side, minimum) // divisor) * divisor
