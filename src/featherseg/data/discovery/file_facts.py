"""Facts about the pixels of a dataset's files: each file is decoded once, on all cores."""

import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from featherseg.core.errors import DataError
from featherseg.core.machine import usable_cores
from featherseg.core.types import Color, Size
from featherseg.data.discovery.lookalikes import Look, look_of, seen_rows
from featherseg.data.images.decoding import image_and_turn, is_lossy, mask_and_colors
from featherseg.data.images.image_range import ChannelRange, channel_ranges
from featherseg.data.images.palettes import color_numbers
from featherseg.data.images.unused_parts import OF_PIXELS, unused_parts

AHEAD = 4
"""Number of files for each core that are read ahead; it bounds memory."""

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_KEPT = 256
"""Number of values up to which the facts of a mask are kept; other masks are read each time."""


@dataclass(frozen=True)
class ImageFacts:
    """Facts about one image.

    Attributes:
        size: (height, width).
        bits: Bits per channel.
        turned: Whether EXIF turns the image.
        digest: Digest of the decoded pixels (look and CRC-32): equal for every lossless format.
        unused: Keys of `unused_parts.TOLD`.
    """

    size: Size
    bits: int
    turned: bool
    digest: bytes
    look: Look
    channels: tuple[ChannelRange, ...]
    unused: frozenset[str]


@dataclass(frozen=True)
class MaskFacts:
    """Facts about one mask; `palette` and `veiled` are as for `images.mask_and_colors`."""

    size: Size
    dtype: np.dtype
    colored: bool
    table: np.ndarray  # (4, N) int64
    lossy: bool
    veiled: Color | None
    palette: tuple[Color, ...]

    @property
    def values(self) -> np.ndarray:
        """The raw values in ascending order, (N,); colours as 0xRRGGBB."""
        return self.table[0]

    @property
    def pixels(self) -> np.ndarray:
        """The number of pixels of each value, (N,)."""
        return self.table[1]

    @property
    def alike(self) -> np.ndarray:
        """The number of pixels of each value whose right neighbour has it, too, (N,)."""
        return self.table[2]

    @property
    def flat(self) -> np.ndarray:
        """The same with both the right and the lower neighbour, (N,); 0 for lossless files."""
        return self.table[3]

    @cached_property
    def raw(self) -> np.ndarray:
        """Each value once, as `read_mask` returns it: (1, N), or (1, N, 3) for colours."""
        if not self.colored:
            return self.values.astype(self.dtype)[None]
        return np.stack([self.values >> shift & 255 for shift in (16, 8, 0)], axis=-1).astype(
            np.uint8
        )[None]

    @property
    def grey(self) -> bool:
        """Whether the values are numbers, or colours with equal red, green and blue."""
        return not self.colored or bool((self.raw == self.raw[:, :, :1]).all())


class FileFacts:
    """Reads files on all cores, in order, and keeps their facts: a few KB a file.

    Results and their order do not depend on the number of cores.
    """

    def __init__(self) -> None:
        self._images: dict[tuple[Path, int], ImageFacts | DataError] = {}
        self._masks: dict[tuple[Path, bool], MaskFacts | DataError] = {}
        self._palettes: dict[tuple[Color, ...], tuple[Color, ...]] = {}  # one copy of equal ones

    def images(self, paths: Iterable[Path], channels: int) -> Iterator[ImageFacts | DataError]:
        """Yield the facts of each image in order, or why it cannot be read."""
        return in_threads(partial(self.image, channels=channels), paths)

    def masks(self, paths: Iterable[Path], colors: bool) -> Iterator[MaskFacts | DataError]:
        """Yield the facts of each mask in order, or why it cannot be read; see `read_mask`."""
        return in_threads(partial(self.mask, colors=colors), paths)

    def image(self, path: Path, channels: int) -> ImageFacts | DataError:
        """Return the facts of an image with this number of channels, or why it cannot be read."""
        facts = self._images.get((path, channels))
        if facts is None:
            try:
                facts = _image_facts(path, channels)
            except DataError as error:
                facts = without_traceback(error)
            self._images[path, channels] = facts
        return facts

    def mask(self, path: Path, colors: bool) -> MaskFacts | DataError:
        """Return the facts of a mask, or why it cannot be read; see `read_mask` for `colors`."""
        return self._masks.get((path, colors)) or self.mask_and_pixels(path, colors)[0]

    def mask_and_pixels(
        self, path: Path, colors: bool
    ) -> tuple[MaskFacts | DataError, np.ndarray | None]:
        """Return (facts of a mask, its pixels), or (why it cannot be read, None)."""
        try:
            raw, palette, veiled = mask_and_colors(path, colors)  # (H, W) or (H, W, 3)
            facts: MaskFacts | DataError = self._masks.get((path, colors)) or self._facts_of(
                path, raw, palette, veiled
            )
        except DataError as error:
            facts, raw = without_traceback(error), None
        if isinstance(facts, DataError) or facts.table.shape[1] <= MOST_KEPT:
            self._masks[path, colors] = facts
        return facts, raw

    def _facts_of(
        self, path: Path, raw: np.ndarray, colors: list[Color], veiled: Color | None
    ) -> MaskFacts:
        lossy, palette = is_lossy(path), tuple(colors) if raw.ndim == 2 else ()
        return MaskFacts(
            size=(raw.shape[0], raw.shape[1]),
            dtype=raw.dtype,
            colored=raw.ndim == 3,
            table=count_values(raw, flat=lossy),
            lossy=lossy,
            veiled=veiled,
            palette=self._palettes.setdefault(palette, palette),
        )


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the results in the order of the items, computed by one thread per usable core.

    Only a few items are computed ahead.
    """
    cores, remaining = usable_cores(), iter(items)
    if cores == 1:
        yield from map(function, remaining)
        return
    # Decoders save and restore the warning filters, which all threads share
    with warnings.catch_warnings():
        pool = ThreadPoolExecutor(cores)
        try:
            jobs = deque(pool.submit(function, item) for item in islice(remaining, AHEAD * cores))
            while jobs:
                yield jobs.popleft().result()
                jobs.extend(pool.submit(function, item) for item in islice(remaining, 1))
        finally:
            pool.shutdown(cancel_futures=True)


def count_values(raw: np.ndarray, flat: bool = False) -> np.ndarray:
    """Return values, pixels, alike and flat of `MaskFacts`, (4, N) int64, of (H, W) or (H, W, 3).

    Counting runs of equal pixels is a tenth of the work: masks have large patches.
    """
    if raw.ndim == 3:
        raw = color_numbers(raw)  # (H, W)
    # A run begins at the left edge and wherever a value differs from its left neighbour
    pixels, begins = raw.ravel(), np.empty(raw.shape, bool)
    np.not_equal(pixels[1:], pixels[:-1], out=begins.ravel()[1:])
    begins[:, 0] = True
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=raw.size)
    of_runs = pixels[starts]
    if raw.dtype == np.uint8:
        values = np.flatnonzero(np.bincount(of_runs))
        places = np.searchsorted(values, of_runs)
    else:
        values, places = np.unique(of_runs, return_inverse=True)
    counts = np.bincount(places, lengths)  # exact: below 2**53
    alike = np.bincount(places, lengths - 1)
    flats = np.zeros(len(values), int)
    if flat:
        inside = ~begins[:-1, 1:] & (raw[:-1, :-1] == raw[1:, :-1])
        flats = np.bincount(np.searchsorted(values, raw[:-1, :-1][inside]), minlength=len(values))
    return np.stack([values, counts, alike, flats]).astype(np.int64)


def _image_facts(path: Path, channels: int) -> ImageFacts:
    pixels, turn = image_and_turn(path, channels)
    image = np.ascontiguousarray(pixels)  # (H, W, C)
    rows, bits = np.ascontiguousarray(seen_rows(image)), 8 * image.dtype.itemsize
    look = look_of(rows)
    ranges = channel_ranges(rows if bits == 8 else image)  # for 8 bits an estimate is enough
    digest = f"{image.shape} {image.dtype} {zlib.crc32(image.data)} ".encode() + look
    unused = OF_PIXELS & unused_parts(path, channels)[1]
    return ImageFacts(image.shape[:2], bits, turn is not None, digest, look, ranges, unused)


def without_traceback(error: DataError) -> DataError:
    """Return the error without its traceback, which keeps the pixels of a file in memory."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error
