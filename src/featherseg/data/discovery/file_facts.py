"""What the pixels of a dataset's files contain: each file is decoded once, on all cores, and only facts are kept."""

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
from featherseg.data.images.unused_parts import OF_PIXELS, unused_parts

AHEAD = 4
"""Files for each core that are submitted before their results are taken, which bounds memory."""

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_KEPT = 256
"""Different values up to which the facts of a mask are kept; masks with more are read again when asked for."""


@dataclass(frozen=True)
class ImageFacts:
    """Facts of one image. `size` is (height, width), `bits` are those of a channel, `turned` is by EXIF.

    `unused` are keys of `unused_parts.TOLD`. `digest` is of the decoded pixels (their look, and
    a CRC-32 of them all), so the same image in another format has the same.
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
    """Facts of one mask. `values` (N,) are its raw values in ascending order, colours as 0xRRGGBB.

    For each value, `pixels` (N,) counts its pixels, `alike` (N,) those whose right neighbour has the same value, and
    `flat` (N,) those whose right and lower neighbours have it (of lossy files alone, else 0).
    `palette` and `veiled` are as for `images.mask_and_colors`.
    """

    size: Size
    dtype: np.dtype
    colored: bool
    table: np.ndarray  # (4, N) int64
    lossy: bool
    veiled: Color | None
    palette: tuple[Color, ...]

    @property
    def values(self) -> np.ndarray:
        return self.table[0]

    @property
    def pixels(self) -> np.ndarray:
        return self.table[1]

    @property
    def alike(self) -> np.ndarray:
        return self.table[2]

    @property
    def flat(self) -> np.ndarray:
        return self.table[3]

    @cached_property
    def raw(self) -> np.ndarray:
        """Every value once, as `read_mask` gives it: (1, N), or (1, N, 3) of a colour image."""
        if not self.colored:
            return self.values.astype(self.dtype)[None]
        return np.stack([self.values >> shift & 255 for shift in (16, 8, 0)], axis=-1).astype(
            np.uint8
        )[None]

    @property
    def grey(self) -> bool:
        """Whether every value has equal red, green and blue, or is no colour."""
        return not self.colored or bool((self.raw == self.raw[:, :, :1]).all())


class FileFacts:
    """Reads files on all cores, in order; facts are kept, so a file that is asked for again is not decoded again.

    Results and their order do not depend on the number of cores. Memory does not grow with the size of the images; it
    is at most a few KB a file.
    """

    def __init__(self) -> None:
        self._images: dict[tuple[Path, int], ImageFacts | DataError] = {}
        self._masks: dict[tuple[Path, bool], MaskFacts | DataError] = {}
        self._palettes: dict[tuple[Color, ...], tuple[Color, ...]] = {}  # one copy of equal ones

    def images(self, paths: Iterable[Path], channels: int) -> Iterator[ImageFacts | DataError]:
        """The facts of each image in order, or why it cannot be read."""
        return in_threads(partial(self.image, channels=channels), paths)

    def masks(self, paths: Iterable[Path], colors: bool) -> Iterator[MaskFacts | DataError]:
        """The facts of each mask in order, or why it cannot be read; `colors` is as for `images.read_mask`."""
        return in_threads(partial(self.mask, colors=colors), paths)

    def image(self, path: Path, channels: int) -> ImageFacts | DataError:
        """The facts of an image read with so many channels, or why it cannot be read."""
        facts = self._images.get((path, channels))
        if facts is None:
            try:
                facts = _image_facts(path, channels)
            except DataError as error:
                facts = without_traceback(error)
            self._images[path, channels] = facts
        return facts

    def mask(self, path: Path, colors: bool) -> MaskFacts | DataError:
        """The facts of a mask, or why it cannot be read; `colors` is as for `images.read_mask`."""
        return self._masks.get((path, colors)) or self.mask_and_pixels(path, colors)[0]

    def mask_and_pixels(
        self, path: Path, colors: bool
    ) -> tuple[MaskFacts | DataError, np.ndarray | None]:
        """The facts of a mask, and its pixels, which are read each time; or why it cannot be read, and None."""
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
    """The results in the order of the items, computed in as many threads as there are usable cores.

    Only a few items are computed ahead of the one that is taken.
    """
    cores, left = usable_cores(), iter(items)
    if cores == 1:
        yield from map(function, left)
        return
    with (
        warnings.catch_warnings()
    ):  # those that each thread saves while it decodes may be another one's
        pool = ThreadPoolExecutor(cores)
        try:
            waiting = deque(pool.submit(function, item) for item in islice(left, AHEAD * cores))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(left, 1))
        finally:
            pool.shutdown(cancel_futures=True)


def count_values(raw: np.ndarray, flat: bool = False) -> np.ndarray:
    """Raw values of a mask, (H, W) or (H, W, 3) -> (4, N) int64: see `MaskFacts`.

    Rows are counted run by run, which is a tenth of the work: masks have few values in large patches.
    """
    if raw.ndim == 3:
        raw = (
            raw[:, :, 0].astype(np.int32) << 16 | raw[:, :, 1].astype(np.int32) << 8 | raw[:, :, 2]
        )  # (H, W)
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
    look, ranges = (
        look_of(rows),
        channel_ranges(rows if bits == 8 else image),
    )  # of 8 bits an estimate will do
    digest = f"{image.shape} {image.dtype} {zlib.crc32(image.data)} ".encode() + look
    unused = OF_PIXELS & unused_parts(path, channels)[1]
    return ImageFacts(image.shape[:2], bits, turn is not None, digest, look, ranges, unused)


def without_traceback(error: DataError) -> DataError:
    """The error without what keeps the pixels of a file in memory."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error
