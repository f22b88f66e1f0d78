"""Drawing tools for the street scenes of `shapes`: dice, textures, a pinhole camera and a canvas.

A scene must have the same bytes on every machine. So all files of this folder use only integers
and +, -, *, /, sqrt and floor on floats, whose rounding IEEE 754 fixes: no sine, power or
exponential, and no sum or product over an array, whose order is up to the library. Random numbers
are made from the raw words of PCG64, whose stream numpy guarantees, and not by numpy's samplers,
whose streams it does not guarantee (NEP 19).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np

HEIGHT, WIDTH = 256, 512

T = TypeVar("T")
RGB = tuple[float, float, float]


class Dice:
    """Random numbers that depend only on the seed: PCG64 seeded with a tuple of integers."""

    def __init__(self, *seed: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(seed))

    def uniform(self, low: float, high: float) -> float:
        """Return a number in [low, high) with 53 random bits."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) * 2.0**-53)

    def below(self, count: int) -> int:
        """Return an integer in 0..count - 1 (count < 2^32)."""
        return ((int(self._bits.random_raw()) >> 32) * count) >> 32

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.uniform(0.0, 1.0) < probability

    def choose(self, options: Sequence[T]) -> T:
        """Return one of the options, all equally likely."""
        return options[self.below(len(options))]

    def bytes(self, count: int) -> np.ndarray:
        """Return random bytes, (count,) uint8."""
        words = self._bits.random_raw((count + 7) // 8)
        return np.asarray(words, dtype="<u8").view(np.uint8)[:count]


def jitter(dice: Dice, color: RGB, spread: float) -> RGB:
    """Shift brightness and channels of a colour by up to `spread`, clipped to 0..255."""
    brightness = dice.uniform(-spread, spread)
    red, green, blue = (
        min(max(c + brightness + dice.uniform(-spread, spread) * 0.5, 0.0), 255.0) for c in color
    )
    return red, green, blue


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """Blend two colours; `share` is the weight of the second."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def gained(color: RGB, gain: float) -> RGB:
    """Multiply a colour by a gain."""
    return color[0] * gain, color[1] * gain, color[2] * gain


@cache
def fractal(size: int = 512, seed: int = 1) -> np.ndarray:
    """Return tileable fractal noise, (size, size) float32 in -1..1: octaves of random grids."""
    dice, total = Dice(7, seed), np.zeros((size, size))
    cells, weight = 4, 1.0
    while cells <= size // 2:
        grid = dice.bytes(cells * cells).reshape(cells, cells).astype(np.float64) - 127.5
        total += weight * _enlarge(_enlarge(grid, size).T, size).T
        cells, weight = cells * 2, weight * 0.6
    low, high = float(total.min()), float(total.max())
    return ((total - low) * (2.0 / (high - low)) - 1.0).astype(np.float32)


def _enlarge(grid: np.ndarray, size: int) -> np.ndarray:
    """Interpolate linearly along the first axis to `size` rows, wrapping around."""
    step = size // len(grid)
    at = np.arange(size)
    cell, share = at // step, ((at % step) / step)[:, None]
    return grid[cell] * (1.0 - share) + grid[(cell + 1) % len(grid)] * share


@cache
def grain() -> np.ndarray:
    """Return white noise, (1024, 1024) float32 in -1..1."""
    return (Dice(7, 2).bytes(1 << 20).reshape(1024, 1024).astype(np.float32) - 127.5) * (1 / 127.5)


@cache
def surfaces() -> np.ndarray:
    """Return tileable textures of 4 x 4 m, (4, 256, 256) float32 in about -1..1.

    They are asphalt, slabs, bricks and cobbles.
    """
    rows, cols = np.arange(256)[:, None], np.arange(256)[None, :]
    noise = grain()[:256, :256] * 0.5 + fractal()[:256, :256] * 0.5
    return np.stack(
        [
            noise * 0.7,
            _blocks(rows, cols, 64, 64, 2) + noise * 0.25,
            _blocks(rows, cols, 8, 16, 1) + noise * 0.25,
            _blocks(rows, cols, 16, 16, 3) + noise * 0.35,
        ]
    ).astype(np.float32)


def _blocks(rows: np.ndarray, cols: np.ndarray, height: int, width: int, joint: int) -> np.ndarray:
    """Return stones in running bond with dark joints; each stone has its own brightness."""
    shifted = cols + (rows // height % 2) * (width // 2)
    stone = (rows // height) * 31 + (shifted % 256 // width) * 17
    value = (stone * 2654435761 % 4294967296 // 65536 % 256) / 255.0 * 0.6 - 0.1
    return np.where((rows % height < joint) | (shifted % width < joint), -0.9, value)


def noise_window(texture: np.ndarray, dice: Dice, height: int, width: int) -> np.ndarray:
    """Return a random (height, width) window of a texture as a view."""
    top, left = dice.below(texture.shape[0] - height + 1), dice.below(texture.shape[1] - width + 1)
    return texture[top : top + height, left : left + width]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera along the street: X metres to the right, Y up from the ground, Z ahead.

    A point is at column `vanish + focal * X / Z` and row `horizon_at(column) + focal * (height - Y)
    / Z`; `roll` is the slope of the horizon (a shear, which a small roll is to first order).
    """

    focal: float
    height: float
    vanish: float
    horizon: float
    roll: float

    def column(self, x: float, z: float) -> float:
        """Return the column of a point, in pixels, not rounded."""
        return self.vanish + self.focal * x / z

    def horizon_at(self, column: float) -> float:
        """Return the row of the horizon at a column."""
        return self.horizon + self.roll * (column - self.vanish)

    def horizons(self, columns: np.ndarray) -> np.ndarray:
        """Return the rows of the horizon at the centres of columns, (w,) float32."""
        away = columns.astype(np.float64) + 0.5 - self.vanish
        return (away * self.roll + self.horizon).astype(np.float32)

    def row(self, column: float, y: float, z: float) -> float:
        """Return the row of a point at a column, in pixels, not rounded."""
        return self.horizon_at(column) + self.focal * (self.height - y) / z


class Canvas:
    """The image while it is painted, from far to near: each pixel has the number of a swatch.

    A swatch is a colour (in clear daylight, 0..255; lamps are brighter), a class and an instance
    id, so that label and instances are exact. swatch (H, W) uint16; shade (H, W) float32 multiplies
    the colour; nearness (H, W) float32 = 1 / Z per metre, for the haze. Without `lit` only label
    and instances are computed. Swatch 0 is the background, whose colour `develop` adds.
    """

    def __init__(self, background: int, lit: bool = True) -> None:
        self.lit = lit
        self.swatch = np.zeros((HEIGHT, WIDTH), np.uint16)
        self.shade = np.ones((HEIGHT, WIDTH), np.float32)
        self.nearness = np.ones((HEIGHT, WIDTH), np.float32)
        self._colors: list[RGB] = [(0.0, 0.0, 0.0)]
        self._classes = [background]
        self._instances = [0]
        self._last_instance = 0

    def new_instance(self) -> int:
        """Return the next free instance id, from 1."""
        self._last_instance += 1
        return self._last_instance

    def paint(
        self,
        corner: tuple[int, int],
        parts: np.ndarray,
        colors: Sequence[RGB],
        class_id: int,
        *,
        nearness: np.ndarray | float,
        shade: np.ndarray | float = 1.0,
        instance: int = 0,
    ) -> None:
        """Paint colors[p - 1] where `parts` (h, w) uint8 is p > 0.

        corner is the (row, column) of the upper left pixel of `parts`; nearness and shade broadcast
        to (h, w).
        """
        rows = slice(corner[0], corner[0] + parts.shape[0])
        cols = slice(corner[1], corner[1] + parts.shape[1])
        painted = parts > 0
        swatches = parts.astype(np.uint16) + (len(self._colors) - 1)
        np.copyto(self.swatch[rows, cols], swatches, where=painted)
        self._colors += colors
        self._classes += [class_id] * len(colors)
        self._instances += [instance] * len(colors)
        if self.lit:
            np.copyto(self.shade[rows, cols], shade, where=painted, casting="same_kind")
            np.copyto(self.nearness[rows, cols], nearness, where=painted, casting="same_kind")

    def label(self) -> np.ndarray:
        """Return the class of every pixel, (H, W) uint8."""
        return np.array(self._classes, np.uint8)[self.swatch]

    def instances(self) -> np.ndarray:
        """Return instance ids (H, W) int32: visible ones are 1..n from far to near, 0 = none."""
        # Ids of instances that others hide completely are not used
        visible = np.zeros(len(self._classes), bool)
        visible[self.swatch] = True
        ids = {i for i, shown in zip(self._instances, visible.tolist(), strict=True) if shown}
        number = {old: new for new, old in enumerate(sorted(ids - {0}), start=1)}
        return np.array([number.get(i, 0) for i in self._instances], np.int32)[self.swatch]

    def color(self) -> np.ndarray:
        """Return the colour of every pixel times its shade, (3, H, W) float32."""
        index = self.swatch.astype(np.intp)
        color = np.empty((3, HEIGHT, WIDTH), np.float32)
        for channel, values in enumerate(zip(*self._colors, strict=True)):
            np.multiply(np.array(values, np.float32).take(index), self.shade, out=color[channel])
        return color


@dataclass(frozen=True)
class Patch:
    """The pixels covered by an upright rectangle or box, and the points of the world they show.

    Attributes:
        corner: (row, column) of the upper left pixel.
        y: Metres above the ground, (h, w) float32.
        z: Depth of each column, (w,).
        front: Columns on the face towards the camera; others show the face along the street, (w,).
        along: Metres along the face from the corner that both faces share (for the face along the
            street, away from the camera), (w,).
    """

    corner: tuple[int, int]
    y: np.ndarray
    z: np.ndarray
    front: np.ndarray
    along: np.ndarray


def box_patch(
    camera: Camera, x: float, width: float, near: float, far: float, top: float
) -> Patch | None:
    """Return the visible faces of a box from x to x + width (to the left if width < 0).

    The face at depth `near` faces the camera; the face in the plane x, near..far in depth, is
    visible if it is on the camera's side of the box. None if the box is outside the image.
    """
    side = 1.0 if width > 0 else -1.0
    ends = [camera.column(x, near), camera.column(x + width, near)]
    if x * side > 0:
        ends.append(camera.column(x, far))
    first, last = max(_ceil(min(ends) - 0.5), 0), min(_ceil(max(ends) - 0.5), WIDTH)
    if first >= last:
        return None
    columns = np.arange(first, last)
    away = (columns + (0.5 - camera.vanish)) * side  # (w,) pixels outwards from the vanishing point
    z = np.full(len(columns), near)
    if x * side > 0:
        z = np.maximum(camera.focal * abs(x) / np.maximum(away, 1e-3), near)
    front = z <= near
    along = np.where(front, away * (near / camera.focal) - x * side, z - near)

    # Rows from the top of the box to the ground, over all columns
    horizon = camera.horizons(columns)
    upper = horizon + (camera.focal * (camera.height - top)) / z
    lower = horizon + (camera.focal * camera.height) / z
    start = max(_ceil(float(upper.min()) - 0.5), 0)
    stop = min(_ceil(float(lower.max()) - 0.5), HEIGHT)
    if start >= stop:
        return None
    scale = (z * (1.0 / camera.focal)).astype(np.float32)
    rows = (np.arange(start, stop, dtype=np.float32) + np.float32(0.5))[:, None]
    y = np.float32(camera.height) - (rows - horizon) * scale  # (h, w)
    return Patch((start, first), y, z.astype(np.float32), front, along.astype(np.float32))


def _ceil(value: float) -> int:
    return -int(-value // 1)
