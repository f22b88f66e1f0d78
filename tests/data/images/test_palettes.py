"""Colours for classes that have none: bright, different, also for the colour-blind."""

import numpy as np
import pytest

from featherseg.core.errors import ConfigError, UnknownName
from featherseg.core.types import ClassInfo
from featherseg.data.images.palettes import (
    bright_palette,
    class_colors,
    recolored,
    voc_palette,
)

VISIONS = {
    "usual": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
"""What an eye makes of linear RGB (Machado, Oliveira and Fernandes, 2009, severity 1)."""


def oklab(colors, vision) -> np.ndarray:
    """Colours (n, 3) 0..255 as that eye sees them, in OKLab (Ottosson, 2020)."""
    values = np.array(colors) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = (linear @ np.transpose(vision)).clip(0, 1)
    cones = linear @ np.transpose([
        [0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998],
    ])  # fmt: skip
    return np.cbrt(cones) @ np.transpose([
        [0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868],
    ])  # fmt: skip


@pytest.mark.parametrize("vision", VISIONS)
def test_every_eye_tells_the_first_seven_colours_apart(vision):
    seen = oklab(bright_palette()[:7], VISIONS[vision])
    gaps = np.linalg.norm(seen[:, None] - seen, axis=2)[np.triu_indices(7, 1)]
    assert gaps.min() > 0.07  # the first seven of Pascal VOC: 0.03 for a deuteranope


def test_no_early_colour_is_that_of_leaves_soil_or_road():
    usual = VISIONS["usual"]
    nature = oklab([(60, 105, 45), (110, 85, 60), (110, 110, 105)], usual)
    seen = oklab(bright_palette()[:5], usual)
    assert np.linalg.norm(seen[:, None] - nature, axis=2).min() > 0.12


def test_all_colours_differ_and_none_is_black():
    for palette in (voc_palette(255), bright_palette()):
        assert len({*palette, (0, 0, 0)}) == len(palette) + 1 >= 256


def test_a_known_colour_is_taken_once_and_black_for_background_alone():
    red, names = (255, 0, 0), ["car", "Background", "van", "tyre", "road"]
    known = {"car": red, "van": red, "tyre": (0, 0, 0), "road": None}
    found = class_colors(names, known)
    made_up = bright_palette()[:3]
    assert found == dict(zip(names, [red, (0, 0, 0), *made_up], strict=True))


CLASSES = (ClassInfo("soil", (1, 2, 3)), ClassInfo("a=b", (4, 5, 6), thing=True))


def test_a_palette_changes_all_colours_or_those_of_some_classes():
    assert recolored(CLASSES, None) == CLASSES
    bright = recolored(CLASSES, "bright")
    assert [info.color for info in bright] == bright_palette()[:2]
    assert bright[1].thing
    assert recolored(CLASSES, "a=b=#ff0010") == (
        CLASSES[0],
        ClassInfo("a=b", (255, 0, 16), thing=True),
    )


@pytest.mark.parametrize("text", ["", "brigth", "soil", "soil=red", "soil=#ff0000,"])
def test_a_palette_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match=r"expected bright, or .* soil=#d55e00"):
        recolored(CLASSES, text)


def test_a_palette_names_classes_that_exist():
    with pytest.raises(UnknownName, match=r"unknown class .sail.\. Did you mean .soil."):
        recolored(CLASSES, "sail=#ff0000")
