"""Whole or in tiles: how an image is predicted within a budget of memory."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from featherseg.core.errors import ConfigError
from featherseg.core.types import Size
from featherseg.core.wording import size_text
from featherseg.inference.runtimes import Runtime
from featherseg.inference.settings import LEAST_WINDOW, InferenceSettings, check_panoptic
from featherseg.inference.sliding_window import windows
from featherseg.layers.resize import resize_factor

DEFAULT_GB = 4.0
"""Resident memory of the process, in 10^9 bytes, that a prediction may take."""

PROCESS_BYTES = 1_100_000_000 if torch.backends.cuda.is_built() else 600_000_000
"""Python, torch, weights and a block of full-resolution scores: 0.3 to 0.5 GB measured with torch's CPU build, 0.9 with
that for CUDA, whose libraries are read in on the CPU too.
"""

MARGIN = 1.05
"""Memory of a forward over its live tensors, as a factor (measured: 1.00 to 1.01 on 3 to 12 megapixels)."""

LARGEST_PASS = 32_000_000
"""Pixels in one run of the model, whatever the budget: beyond, attention outgrows what is counted by the pixel."""

DECODING_BYTES = 36
"""Peak of reading an image from its file, a pixel (measured over formats and modes: 8 to 25, with 16-bit alpha 32)."""

OUTPUT_BYTES, PANOPTIC_OUTPUT_BYTES = 14, 32
"""What drawing and writing takes beside image and mask, a pixel (measured at 8 megapixels of noise: 12 and 28)."""

OBJECT_BYTES = 80
"""What putting objects together takes beside that, a pixel of the image (measured: 70 to 73 at 1024 x 2048)."""

KEPT_SHARE = 0.1
"""Of the memory beyond the process' own: so much of the last run may be left to a runtime that keeps it."""

SMALLEST_TILE = 256
"""Side in pixels under which tiles are refused: the model would see too little around each pixel."""


@dataclass(frozen=True)
class Plan:
    """How images will be predicted: the settings, their name ("whole", "6 tiles of 1024x1024"), how many at a time.

    keeps: whether what the last run of the model took, where a runtime does not give it back by itself, is little
    enough to be left to it.
    """

    inference: InferenceSettings
    how: str
    at_once: int
    keeps: bool = False


def plan(
    runtime: Runtime,
    size: Size,
    inference: InferenceSettings,
    memory_gb: float = DEFAULT_GB,
    *,
    share: float = 1.0,
    largest: int = LARGEST_PASS,
    batch: int = 1,
) -> Plan:
    """Keep `inference` where it names a window or the image of `size` fits into memory_gb as a whole, else add tiles.

    share: of the memory beyond the process' own, what this image may take, 0..1. largest: pixels in one pass. batch:
    how many images of the size would be taken at a time; what the plan says beyond is not used.
    Objects are not put together from tiles: for a panoptic model the image is shrunk instead. Raises ConfigError
    where the budget is too small for the image itself or for tiles of SMALLEST_TILE (a file of one size takes none), or
    the settings are not for a panoptic model.
    """
    if runtime.panoptic:
        check_panoptic(inference)
    fitted = f", fitted to {size_text(inference.resize)}" if inference.resize else ""
    budget, area = Budget(memory_gb, share), size[0] * size[1]

    # What fits even by a bound on its memory needs no measuring, which takes longer than a small image.
    bound = getattr(runtime, "most_bytes_per_pixel", None)
    costs = (
        _costs(runtime, size, inference, bound(area * max(inference.factors(size)) ** 2))
        if bound
        else None
    )
    if costs is None or area * max(batch * (costs.kept + costs.run), costs.ends) > budget.free:
        costs = _costs(runtime, size, inference, runtime.peak_bytes_per_pixel)
    pixels = _pixels_that_fit(runtime, size, inference, budget, largest, costs)

    # Whole where it fits, shrunk where objects would be cut, else in tiles.
    if inference.window is None:
        if pixels >= area:
            at_once = max(1, int(budget.free / (costs.kept * area + costs.run * area)))
            keeps = costs.run * area <= KEPT_SHARE * Budget(memory_gb, share=1.0).free
            return Plan(inference, f"whole{fitted}", at_once, keeps)
        if runtime.panoptic:
            side = int(max(size) * resize_factor(size, inference.resize) * (pixels / area) ** 0.5)
            return Plan(
                replace(inference, resize=(side, side)),
                f"whole, shrunk to {side} pixels to fit into memory",
                at_once=1,
            )
        inference = replace(inference, window=_tile(size, pixels))
    tiles = windows(size, inference.window, inference.overlap)
    how = f"{len(tiles)} tiles of {tiles[0].height}x{tiles[0].width}" if len(tiles) > 1 else "whole"
    return Plan(inference, how + fitted, at_once=1)


@dataclass(frozen=True)
class Budget:
    """Memory in 10^9 bytes for the process, and the share (0..1) of what it does not need itself."""

    memory_gb: float
    share: float

    @property
    def free(self) -> float:
        """Bytes for one image, or for those that go together."""
        return (self.memory_gb * 1e9 - PROCESS_BYTES) * self.share

    def gb_for(self, free: float) -> float:
        """The memory_gb of which so many bytes would be free."""
        return (PROCESS_BYTES + free / self.share) / 1e9


class Costs(NamedTuple):
    """Bytes a pixel of the image: kept while the model runs, of one run of it, and at the peak before and after it."""

    kept: float
    run: float
    ends: float


def _pixels_that_fit(
    runtime: Runtime,
    size: Size,
    inference: InferenceSettings,
    budget: Budget,
    largest: int,
    costs: Costs,
) -> int:
    """Pixels of the image that one run of the model may see. Raises ConfigError where that is too few."""
    kept, run, ends = costs
    area = size[0] * size[1]
    pixels = min(
        int((budget.free - kept * area) / run), int(largest / max(inference.factors(size)) ** 2)
    )
    uncut = (
        getattr(runtime, "fixed_size", None) is not None
    )  # of the one size that it takes, a tile is another
    smallest = inference.window or (size if uncut else (SMALLEST_TILE, SMALLEST_TILE))
    least = min(smallest[0], size[0]) * min(smallest[1], size[1])
    needed = max(kept * area + run * least, ends * area)
    if needed > budget.free:
        raise ConfigError(
            f"{budget.memory_gb:g} GB of memory is too little for an image of {size_text(size)} (height x width) with "
            f"{runtime.name}: set it to at least {budget.gb_for(needed) + 0.05:.1f} GB (--memory-gb), or "
            f"{'export the model for smaller images' if uncut else 'downscale the image'}."
        )
    return max(pixels, least)


def _costs(runtime: Runtime, size: Size, inference: InferenceSettings, peak: float) -> Costs:
    """What a model costs that takes `peak` bytes a pixel of its input.

    While it runs, memory holds for every pixel: the image (16 bit), the mask, and the logits of every pass at 1/4 of
    the side, overlaps counted.
    """
    factors = inference.factors(size)
    areas = sum(factor**2 for factor in factors) * (2 if inference.flip else 1)
    objects = OBJECT_BYTES if runtime.panoptic else 0
    image = 2 * runtime.channels
    kept = (
        objects + image + 1 + 4 * len(runtime.classes) / 16 * areas / (1 - inference.overlap) ** 2
    )
    unscaled = 0 if factors == (1.0,) else 4 * runtime.channels  # float32, beside the resized one
    normalising = (
        3 * 4 * runtime.channels + image
    )  # float32 copies before the model runs, of a window's own copy
    run = MARGIN * max(peak * max(factors) ** 2 + unscaled, normalising)
    output = PANOPTIC_OUTPUT_BYTES if runtime.panoptic else OUTPUT_BYTES
    return Costs(kept, run, max(DECODING_BYTES, 14 + 2 * image, image + 1 + output))


def _tile(size: Size, pixels: int) -> Size:
    """(height, width) of tiles of at most `pixels`: square, stretched where the image is short one way.

    No side is below the least of a window, which ends with the image.
    """
    side = int(pixels**0.5)
    height = min(size[0], side)
    width = min(size[1], pixels // height)
    height = min(size[0], pixels // width)
    return max(height, LEAST_WINDOW), max(width, LEAST_WINDOW)
