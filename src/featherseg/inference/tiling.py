"""Whole or in tiles: how a picture is looked at so that a budget of memory is kept."""

from dataclasses import dataclass, replace

from featherseg.core.errors import ConfigError
from featherseg.core.types import Size
from featherseg.inference.modes import Mode, check_panoptic, windows
from featherseg.inference.runtimes import Runtime
from featherseg.layers.resize import fit_factor

DEFAULT_GB = 4.0
"""Resident memory of the process, in 10^9 bytes, that a prediction may take."""

PROCESS_BYTES = 600_000_000
"""Python, torch, weights and a block of full-resolution scores: 0.3 to 0.5 GB measured with torch's CPU build."""

MARGIN = 1.05
"""Memory of a forward over its live tensors, as a factor (measured: 1.00 to 1.01 on 3 to 12 megapixels)."""

LARGEST_PASS = 32_000_000
"""Pixels in one run of the network, whatever the budget: beyond, attention outgrows what is counted by the pixel."""

OBJECT_BYTES = 80
"""What putting objects together takes beside that, a pixel of the picture (measured: 70 to 73 at 1024 x 2048)."""

SMALLEST_TILE = 256
"""Side in pixels under which tiles are refused: the network would see too little around each pixel."""


@dataclass(frozen=True)
class Plan:
    """How a picture will be looked at: the mode, in words ("whole" or "6 tiles of 1024x1024"), how many at a time."""

    mode: Mode
    how: str
    at_once: int


def plan(runtime: Runtime, size: Size, mode: Mode, memory_gb: float = DEFAULT_GB) -> Plan:
    """Keep `mode` where it names a window or the picture of `size` fits into memory_gb as a whole, else add tiles.

    Objects are not put together from tiles: for a panoptic network the picture is shrunk instead. Raises ConfigError
    where the budget is too small for tiles of SMALLEST_TILE, or the mode is not for a panoptic network.
    """
    if runtime.panoptic:
        check_panoptic(mode)
    fitted = f", fitted to {mode.fit[0]}x{mode.fit[1]}" if mode.fit else ""
    if mode.window is None:
        pixels = pixels_that_fit(runtime, size, mode, memory_gb)
        if pixels >= size[0] * size[1]:
            return Plan(mode, f"whole{fitted}", at_once=pixels // (size[0] * size[1]))
        if runtime.panoptic:
            side = int(max(size) * fit_factor(size, mode.fit) * (pixels / (size[0] * size[1])) ** 0.5)
            return Plan(replace(mode, fit=(side, side)), f"whole, shrunk to {side} pixels for the memory", at_once=1)
        mode = replace(mode, window=_tile(size, pixels))
    tiles = windows(size, mode.window, mode.overlap)
    words = f"{len(tiles)} tiles of {tiles[0].height}x{tiles[0].width}" if len(tiles) > 1 else "whole"
    return Plan(mode, words + fitted, at_once=1)


def pixels_that_fit(runtime: Runtime, size: Size, mode: Mode, memory_gb: float) -> int:
    """Pixels of the picture that one run of the network may see. Raises ConfigError where that is too few.

    Beside the run itself, memory holds for every pixel: the picture (16 bit), the mask, and the logits of every pass at
    1/4 of the side, overlaps counted.
    """
    factors = mode.factors(size)
    areas = sum(factor**2 for factor in factors) * (2 if mode.flip else 1)
    objects = OBJECT_BYTES if runtime.panoptic else 0
    kept = objects + 2 * runtime.channels + 1 + 4 * len(runtime.classes) / 16 * areas / (1 - mode.overlap) ** 2
    unscaled = 0 if factors == (1.0,) else 4 * runtime.channels  # float32, beside the resized one
    normalising = 3 * 4 * runtime.channels  # float32 copies before the network runs
    run = MARGIN * max(runtime.peak_bytes_per_pixel * max(factors) ** 2 + unscaled, normalising)
    free = memory_gb * 1e9 - PROCESS_BYTES - kept * size[0] * size[1]
    pixels = min(int(free / run), int(LARGEST_PASS / max(factors) ** 2))
    least = min(SMALLEST_TILE, size[0]) * min(SMALLEST_TILE, size[1])
    if pixels < least:
        needed = (PROCESS_BYTES + kept * size[0] * size[1] + run * least) / 1e9
        raise ConfigError(
            f"{memory_gb:g} GB of memory is too little for a picture of {size[0]}x{size[1]} (height x width) with "
            f"{runtime.name}: allow at least {needed:.1f} GB (--memory-gb), or shrink the picture (--max-side)."
        )
    return pixels


def _tile(size: Size, pixels: int) -> Size:
    """(height, width) of tiles of at most `pixels`: square, stretched where the picture is short one way."""
    side = int(pixels**0.5)
    height = min(size[0], side)
    width = min(size[1], pixels // height)
    height = min(size[0], pixels // width)
    return height, width
