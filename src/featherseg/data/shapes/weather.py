"""Weather of `shapes`: clear, overcast, fog, rain, dusk and night; sky, light, haze, noise."""

from collections.abc import Callable

from featherseg.data.shapes.canvas import RGB, Dice, mix
from featherseg.data.shapes.scene import Weather


def plan_weather(dice: Dice) -> Weather:
    """Draw the weather: of nine scenes three are clear, two overcast, one each of the others."""
    name = dice.choose(
        ("clear", "clear", "clear", "overcast", "overcast", "fog", "rain", "dusk", "night")
    )
    exposure, sun = dice.uniform(0.8, 1.15), dice.choose((-1, 1))
    gain = tuple(exposure * dice.uniform(0.9, 1.1) for _ in range(3))
    return _WEATHERS[name](dice, (gain[0], gain[1], gain[2]), sun)


def _clear(dice: Dice, gain: RGB, sun: int) -> Weather:
    top = dice.choose(
        ((88, 140, 205), (120, 165, 215), (70, 115, 180), (150, 180, 215), (176, 190, 204))
    )
    low = dice.choose(((190, 210, 228), (215, 222, 226), (235, 220, 195)))
    return Weather(
        "clear", gain, (top, low), (236, 236, 238), cover=dice.uniform(-0.6, 0.5),
        haze=dice.uniform(250, 700), sun=sun, noise=4, shadow=dice.uniform(0.4, 0.65),
    )  # fmt: skip


def _overcast(dice: Dice, gain: RGB, sun: int) -> Weather:
    grey = dice.uniform(140, 235)
    sky: tuple[RGB, RGB] = (grey * 0.9, grey * 0.93, grey * 0.97), (grey, grey, grey * 1.01)
    return Weather(
        "overcast", _dimmed(gain, (0.85, 0.88, 0.92)), sky, mix(sky[0], (60, 64, 70), 0.2),
        cover=dice.uniform(-0.2, 0.5), haze=dice.uniform(150, 400), sun=sun, noise=6,
    )  # fmt: skip


def _rain(dice: Dice, gain: RGB, sun: int) -> Weather:
    grey = dice.uniform(110, 200)
    sky: tuple[RGB, RGB] = (grey * 0.88, grey * 0.92, grey * 0.97), (grey, grey * 1.01, grey * 1.03)
    streaks = 40 + dice.below(100)
    return Weather(
        "rain", _dimmed(gain, (0.72, 0.76, 0.8)), sky, mix(sky[0], (50, 54, 60), 0.25),
        cover=dice.uniform(-0.1, 0.5), haze=dice.uniform(50, 160), sun=sun, noise=7,
        wet=dice.uniform(0.25, 0.5), rain=streaks, lamps=streaks > 90,
    )  # fmt: skip


def _fog(dice: Dice, gain: RGB, sun: int) -> Weather:
    grey = dice.uniform(150, 225)
    air: RGB = (grey, grey * dice.uniform(0.97, 1.02), grey * dice.uniform(0.95, 1.05))
    return Weather(
        "fog", gain, (air, air), air, cover=-1.0, haze=dice.uniform(18, 60), sun=sun, noise=5
    )


def _dusk(dice: Dice, gain: RGB, sun: int) -> Weather:
    dim = dice.uniform(0.55, 0.8)
    top = dice.choose(((70, 80, 130), (110, 100, 140), (60, 90, 150), (120, 110, 116)))
    low = dice.choose(((245, 160, 95), (230, 140, 130), (250, 195, 120), (200, 150, 120)))
    return Weather(
        "dusk", _dimmed(gain, (dim, dim * 0.86, dim * 0.82)), (top, low), (190, 120, 110),
        cover=dice.uniform(-0.6, 0.4), haze=300, sun=sun, noise=7, shadow=0.75, lamps=True,
    )  # fmt: skip


def _night(dice: Dice, gain: RGB, sun: int) -> Weather:
    dim = dice.uniform(0.4, 0.55)
    top = dice.choose(((14, 18, 38), (25, 25, 32), (44, 38, 40), (58, 54, 60)))
    wet = dice.uniform(0.2, 0.5) if dice.chance(0.4) else 0.0
    return Weather(
        "night", _dimmed(gain, (dim * 0.95, dim * 0.92, dim)),
        (top, mix(top, (70, 60, 58), 0.5)), (48, 46, 52), cover=-0.2, haze=200, sun=sun, noise=9,
        wet=wet, lamps=True, beam=dice.uniform(0.4, 1.0),
    )  # fmt: skip


def _dimmed(gain: RGB, factors: RGB) -> RGB:
    return gain[0] * factors[0], gain[1] * factors[1], gain[2] * factors[2]


_WEATHERS: dict[str, Callable[[Dice, RGB, int], Weather]] = {
    "clear": _clear,
    "overcast": _overcast,
    "rain": _rain,
    "fog": _fog,
    "dusk": _dusk,
    "night": _night,
}
