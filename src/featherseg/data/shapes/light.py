"""Render a painted scene of `shapes`: sky, haze, light, lamps, wet ground, rain, lens and noise."""

from functools import cache

import numpy as np

from featherseg.data.shapes.canvas import HEIGHT, WIDTH, Canvas, Dice, fractal, noise_window
from featherseg.data.shapes.scene import LAMP, PAVEMENT, Pole, Scene, Weather


def develop(canvas: Canvas, scene: Scene, looks: Dice) -> np.ndarray:
    """Return the finished image, (H, W, 3) uint8 RGB."""
    # From the scene to the sensor: light and air, reflections, lamps, lens, rain, noise
    weather, color = scene.weather, canvas.color()
    _add_light(color, canvas, scene)
    sky = canvas.swatch == 0
    sky = sky[: HEIGHT - int(sky.any(axis=1)[::-1].argmax())]  # (h, W) to the lowest row with sky
    np.copyto(color[:, : len(sky)], _sky(weather, scene.camera.horizon, len(sky), looks), where=sky)
    if weather.wet:
        _mirror(color, canvas.label() <= PAVEMENT, scene)
    if weather.lamps:
        _halos(color, scene)
    if looks.chance(0.6):
        color *= _vignette()
    _soften(color, looks.uniform(0.0, 0.5))
    if weather.rain:
        _streak(color, weather.rain, looks)
    _add_noise(color, weather.noise * looks.uniform(0.5, 1.5), looks)
    np.clip(color, 0, 255, out=color)
    return np.ascontiguousarray(color.astype(np.uint8).transpose(1, 2, 0))


def _sky(weather: Weather, horizon: float, height: int, looks: Dice) -> np.ndarray:
    """Return the sky, (3, height, W): a gradient to the horizon, and clouds by noise and cover."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    share = np.minimum(rows * np.float32(1 / max(horizon, 1.0)), 1)
    clouds = noise_window(fractal(1024, 5), looks, HEIGHT, WIDTH)[:height]
    cover = np.clip((clouds + weather.cover) * 2.2, 0, 1) * (1 - share * 0.5)  # (height, W)
    layers = np.empty((3, height, WIDTH), np.float32)
    for channel in range(3):
        top, low, cloud = weather.sky[0][channel], weather.sky[1][channel], weather.cloud[channel]
        ramp = (low - top) * share + top  # (height, 1)
        layers[channel] = (cloud - ramp) * cover + ramp
    return layers


def _add_light(color: np.ndarray, canvas: Canvas, scene: Scene) -> None:
    """Add light of the weather, headlights on near surfaces, and haze before distant ones."""
    weather, camera = scene.weather, scene.camera
    if weather.beam:
        away = (np.arange(WIDTH) - camera.vanish).astype(np.float32)  # (W,)
        away *= np.float32(2.5 / camera.focal)
        width = np.maximum(1 - away * away, 0)
        depth = np.minimum(canvas.nearness * 12, 1) * np.float32(weather.beam)
        color *= width * depth + 1
    # Distant surfaces take the colour of the air
    through = canvas.nearness * np.float32(weather.haze)
    through /= through + 1  # (H, W) transmittance
    for channel in range(3):
        air = np.float32(weather.sky[1][channel])
        color[channel] *= np.float32(weather.gain[channel])
        color[channel] -= air
        color[channel] *= through
        color[channel] += air


def _mirror(color: np.ndarray, ground: np.ndarray, scene: Scene) -> None:
    """Mirror what is above the horizon in wet ground, fading towards the camera."""
    middle = min(max(int(scene.camera.horizon), 1), HEIGHT - 1)
    rows = np.arange(middle, HEIGHT)
    fading = (HEIGHT - rows) * (scene.weather.wet / (HEIGHT - middle))
    strength = fading.astype(np.float32)[:, None]
    below = color[:, middle:]
    below += (color[:, np.maximum(2 * middle - 1 - rows, 0)] - below) * (ground[middle:] * strength)


def _halos(color: np.ndarray, scene: Scene) -> None:
    """Add a warm halo around every street lamp."""
    camera = scene.camera
    for lamp in scene.things:
        if not isinstance(lamp, Pole) or lamp.kind != LAMP:
            continue
        column = camera.column(lamp.x + lamp.side * 1.2, lamp.near)
        row = camera.row(column, lamp.height - 0.2, lamp.near)
        reach = camera.focal * 1.6 / lamp.near
        left, right = max(int(column - 3 * reach), 0), min(int(column + 3 * reach), WIDTH)
        top, bottom = max(int(row - 3 * reach), 0), min(int(row + 3 * reach), HEIGHT)
        if left >= right or top >= bottom:
            continue
        scale = np.float32(1 / reach)
        dx = (np.arange(left, right, dtype=np.float32) - np.float32(column)) * scale
        dy = (np.arange(top, bottom, dtype=np.float32) - np.float32(row))[:, None] * scale
        distance = dx * dx + dy * dy
        halo = np.maximum(1 - distance * np.float32(1 / 9), 0) / (distance * 4 + 1)
        for channel, strength in enumerate((120, 105, 66)):
            color[channel, top:bottom, left:right] += halo * np.float32(strength)


@cache
def _vignette() -> np.ndarray:
    """Return (H, W) float32: 1 in the centre, 0.72 in the corners."""
    rows, columns = (np.arange(HEIGHT) - 127.5) / 128, (np.arange(WIDTH) - 255.5) / 256
    return (1 - 0.14 * (rows[:, None] * rows[:, None] + columns * columns)).astype(np.float32)


def _soften(color: np.ndarray, share: float) -> None:
    """Blur each pixel with its neighbours along rows, then along columns, but not the borders."""
    centre, side = np.float32(1 - share), np.float32(share / 2)
    for axis in (1, 2):
        size = color.shape[axis]
        before, at, after = (
            tuple([slice(None)] * axis + [slice(i, size - 2 + i)]) for i in range(3)
        )
        around = color[before] + color[after]
        around *= side
        middle = color[at] * centre
        middle += around
        color[at] = middle


def _streak(color: np.ndarray, streaks: int, looks: Dice) -> None:
    """Add slanting bright streaks of rain, one pixel wide, 6 to 21 pixels long."""
    slant = np.float32(looks.uniform(-0.35, 0.35))
    draws = looks.bytes(streaks * 4).reshape(streaks, 4).astype(np.int64)
    step = np.arange(21)
    rows = draws[:, :1] + step
    columns = draws[:, 1:2] * 2 + np.floor(step * slant).astype(np.int64)
    shown = (step < 6 + draws[:, 2:3] // 16) & (rows < HEIGHT) & (columns >= 0) & (columns < WIDTH)
    color[:, rows[shown], columns[shown]] += np.float32(26)


def _add_noise(color: np.ndarray, deviation: float, looks: Dice) -> None:
    """Add uniform noise of this standard deviation, from bytes, which have 73.9."""
    noise = looks.bytes(3 * HEIGHT * WIDTH).reshape(3, HEIGHT, WIDTH).astype(np.float32)
    noise -= np.float32(127.5)
    noise *= np.float32(deviation / 73.9)
    color += noise
