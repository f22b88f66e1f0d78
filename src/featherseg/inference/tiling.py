"""Whole or in tiles: how an image is predicted within a budget of memory."""

import sys
from dataclasses import dataclass, replace
from typing import NamedTuple

from featherseg.core.errors import ConfigError
from featherseg.core.types import Size
from featherseg.core.wording import size_text
from featherseg.inference.runtimes import Runtime
from featherseg.inference.settings import LEAST_WINDOW, InferenceSettings, check_panoptic
from featherseg.inference.sliding_window import windows
from featherseg.layers.sizes import resize_factor

DEFAULT_GB = 4.0
"""Memory that a prediction may take: resident bytes of the process, in 10^9."""

MARGIN = 1.05
"""Memory of a forward over its live tensors (measured: 1.00 to 1.01 on 3 to 12 megapixels)."""

LARGEST_PASS = 32_000_000
"""Most pixels in one run of the model: beyond, attention outgrows what is counted per pixel."""

DECODING_BYTES = 36
"""Peak of decoding an image, in bytes per pixel.

Measured over formats and modes: 8 to 25, with 16-bit alpha 32.
"""

OUTPUT_BYTES, PANOPTIC_OUTPUT_BYTES = 14, 32
"""Peak of drawing and writing besides image and mask, in bytes per pixel.

Measured at 8 megapixels of noise: 12 and 28.
"""

OBJECT_BYTES = 80
"""Peak of forming objects, in bytes per pixel (measured: 70 to 73 at 1024 x 2048)."""

KEPT_SHARE = 0.1
"""Share of the free memory that a runtime may keep after a run of the model."""

SMALLEST_TILE = 256
"""Smallest side of tiles in pixels: below, the model would see too little around each pixel."""


@dataclass(frozen=True)
class Plan:
    """How images will be predicted.

    Attributes:
        inference: The settings.
        how: Their name: "whole" or "6 tiles of 1024x1024".
        at_once: How many images go through the model at a time.
        keeps: Whether a runtime may keep the memory of the last run, because it is little.
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
    """Decide how an image is predicted within a memory: whole if it fits, else in tiles.

    A window in `inference` stays. Objects cannot be joined across tiles: for a panoptic model the
    image is shrunk instead.

    Args:
        runtime: The model.
        size: (height, width) of the image.
        inference: The settings.
        memory_gb: Memory of the process, in 10^9 bytes.
        share: The share, 0..1, of the free memory that this image may take.
        largest: Most pixels in one run of the model.
        batch: Most images of this size at a time; the caller uses no larger `at_once`.

    Raises:
        ConfigError: The memory is too small for the image, or for tiles of SMALLEST_TILE (a file of
            one size takes none); or the settings are not for a panoptic model.
    """
    if runtime.panoptic:
        check_panoptic(inference)
    fitted = f", fitted to {size_text(inference.resize)}" if inference.resize else ""
    budget, area = Budget(memory_gb, share), size[0] * size[1]

    # If an upper bound fits, the exact peak is not measured, which takes longer than a small image
    bound = getattr(runtime, "most_bytes_per_pixel", None)
    costs = None
    if bound:
        seen = area * max(inference.factors(size)) ** 2
        costs = _costs(runtime, size, inference, bound(seen))
    if costs is None or area * max(batch * (costs.kept + costs.run), costs.ends) > budget.free:
        costs = _costs(runtime, size, inference, runtime.peak_bytes_per_pixel)
    pixels = _pixels_that_fit(runtime, size, inference, budget, largest, costs)

    # Whole if it fits, shrunk if objects would be cut, else in tiles
    if inference.window is None:
        if pixels >= area:
            at_once = max(1, int(budget.free / (costs.kept * area + costs.run * area)))
            keeps = costs.run * area <= KEPT_SHARE * Budget(memory_gb, share=1.0).free
            return Plan(inference, f"whole{fitted}", at_once, keeps)
        if runtime.panoptic:
            side = int(max(size) * resize_factor(size, inference.resize) * (pixels / area) ** 0.5)
            how = f"whole, shrunk to {side} pixels to fit into memory"
            return Plan(replace(inference, resize=(side, side)), how, at_once=1)
        inference = replace(inference, window=_tile(size, pixels))
    tiles = windows(size, inference.window, inference.overlap)
    how = f"{len(tiles)} tiles of {tiles[0].height}x{tiles[0].width}" if len(tiles) > 1 else "whole"
    return Plan(inference, how + fitted, at_once=1)


def process_bytes() -> int:
    """Return the memory of Python, torch, weights and a block of full-resolution scores.

    Measured: 0.2 GB without torch, 0.3 to 0.5 GB with its CPU build, 0.9 GB with that for CUDA,
    which loads its libraries on the CPU too.
    """
    torch = sys.modules.get("torch")
    with_cuda = torch is not None and torch.backends.cuda.is_built()
    return 1_100_000_000 if with_cuda else 600_000_000


@dataclass(frozen=True)
class Budget:
    """Memory of the process in 10^9 bytes, and the share, 0..1, of the free part that is used."""

    memory_gb: float
    share: float

    @property
    def free(self) -> float:
        """Bytes for one image, or for those that go through the model together."""
        return (self.memory_gb * 1e9 - process_bytes()) * self.share

    def gb_for(self, free: float) -> float:
        """Return the memory_gb of which `free` bytes are free."""
        return (process_bytes() + free / self.share) / 1e9


class Costs(NamedTuple):
    """Bytes per pixel of an image.

    Attributes:
        kept: Kept while the model runs.
        run: Taken by one run of the model.
        ends: The peak before and after the model runs.
    """

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
    """Return how many pixels of the image one run of the model may see.

    Raises:
        ConfigError: They are too few.
    """
    kept, run, ends = costs
    area = size[0] * size[1]
    by_memory = int((budget.free - kept * area) / run)
    pixels = min(by_memory, int(largest / max(inference.factors(size)) ** 2))
    one_size = getattr(runtime, "fixed_size", None) is not None  # it takes no tiles
    smallest = inference.window or (size if one_size else (SMALLEST_TILE, SMALLEST_TILE))
    least = min(smallest[0], size[0]) * min(smallest[1], size[1])
    needed = max(kept * area + run * least, ends * area)
    if needed > budget.free:
        remedy = "export the model for smaller images" if one_size else "downscale the image"
        raise ConfigError(
            f"{budget.memory_gb:g} GB of memory is too little for an image of {size_text(size)} "
            f"(height x width) with {runtime.name}: set it to at least "
            f"{budget.gb_for(needed) + 0.05:.1f} GB (--memory-gb), or {remedy}."
        )
    return max(pixels, least)


def _costs(runtime: Runtime, size: Size, inference: InferenceSettings, peak: float) -> Costs:
    """Return the memory per pixel of an image, for a model that takes `peak` bytes per input pixel.

    While the model runs, memory contains for every pixel the image (16 bits), the mask, and the
    logits of every pass at 1/4 of the side, overlaps counted.
    """
    factors = inference.factors(size)
    areas = sum(factor**2 for factor in factors) * (2 if inference.flip else 1)
    logits = 4 * len(runtime.classes) / 16 * areas / (1 - inference.overlap) ** 2
    image = 2 * runtime.channels
    kept = (OBJECT_BYTES if runtime.panoptic else 0) + image + 1 + logits

    unscaled = 0 if factors == (1.0,) else 4 * runtime.channels  # float32, beside the resized one
    normalising = 3 * 4 * runtime.channels + image  # float32 copies, and one of a window
    run = MARGIN * max(peak * max(factors) ** 2 + unscaled, normalising)
    output = PANOPTIC_OUTPUT_BYTES if runtime.panoptic else OUTPUT_BYTES
    return Costs(kept, run, max(DECODING_BYTES, 14 + 2 * image, image + 1 + output))


def _tile(size: Size, pixels: int) -> Size:
    """Return (height, width) of tiles of at most `pixels`: squares, longer if one side is short.

    No side is below LEAST_WINDOW; a window ends at the image's edge.
    """
    side = int(pixels**0.5)
    height = min(size[0], side)
    width = min(size[1], pixels // height)
    height = min(size[0], pixels // width)
    return max(height, LEAST_WINDOW), max(width, LEAST_WINDOW)
