"""Photometric distortion against a loop over pixels with Python's own colorsys."""

import colorsys

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from featherseg.data.pipeline.colours import Distortion, recoloured


def kept(value):
    return min(max(value, 0.0), 1.0)


def loop(image, d: Distortion):
    """(3, H, W) from 0 to 1, pixel by pixel."""
    out = torch.empty(image.shape, dtype=torch.float64)
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            rgb = [kept(v + d.brightness) for v in image[:, y, x].double().tolist()]
            if d.contrast_first:
                rgb = [kept(v * d.contrast) for v in rgb]
            hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
            rgb = colorsys.hsv_to_rgb((hue + d.hue) % 1.0, kept(saturation * d.saturation), value)
            if not d.contrast_first:
                rgb = [kept(v * d.contrast) for v in rgb]
            out[:, y, x] = torch.tensor(rgb)
    return out


def noise_image(dtype=np.uint8, channels=3):
    """Noise, and the corners of the colour cube: greys, pure and mixed colours."""
    top = np.iinfo(dtype).max
    noise = np.random.default_rng(0).integers(0, top, (channels, 9, 8), dtype=dtype, endpoint=True)
    noise[:, 0, :] = [[top * (i >> c % 3 & 1) for i in range(8)] for c in range(channels)]
    return torch.from_numpy(noise)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "distortion",
    [
        Distortion(brightness=0.12),
        Distortion(brightness=-0.12, contrast=1.4),
        Distortion(contrast=0.6, contrast_first=False),
        Distortion(saturation=1.5),
        Distortion(saturation=0.5, hue=0.1),
        Distortion(hue=-0.1),
        Distortion(brightness=0.1, contrast=1.5, contrast_first=True, saturation=1.3, hue=0.07),
        Distortion(brightness=0.1, contrast=1.5, contrast_first=False, saturation=1.3, hue=0.07),
    ],
)
def test_it_is_the_way_through_hsv_pixel_by_pixel(distortion, dtype):
    image = noise_image(dtype)
    top = np.iinfo(dtype).max
    expected = loop(image.float() / top, distortion) * top
    found = distortion(image)
    assert found.dtype == image.dtype
    assert_close(found.double(), expected, atol=0.51 if dtype == np.uint8 else 0.6, rtol=0)


def test_nothing_is_changed_where_nothing_is_drawn():
    for dtype in (np.uint8, np.uint16):
        assert torch.equal(Distortion(contrast_first=False)(noise_image(dtype)), noise_image(dtype))
    assert_close(
        recoloured(noise_image().float() / 255, 1.0, 1.0),
        noise_image().float() / 255,
        atol=1e-5,
        rtol=0,
    )  # once round


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_keep_their_colours_and_get_the_rest(channels):
    image = noise_image(channels=channels)
    assert torch.equal(Distortion(saturation=0.5, hue=0.1)(image), image)
    assert_close(Distortion(contrast=0.5)(image).float(), image.float() / 2, atol=0.51, rtol=0)


def test_each_change_is_drawn_in_half_of_the_images_and_over_its_whole_range():
    drawn = [Distortion.draw(np.random.default_rng([5, i])) for i in range(2000)]
    assert drawn[:5] == [Distortion.draw(np.random.default_rng([5, i])) for i in range(5)]
    ranges = {
        "brightness": (0.0, -32 / 255, 32 / 255),
        "contrast": (1.0, 0.5, 1.5),
        "saturation": (1.0, 0.5, 1.5),
    }
    for name, (plain, low, high) in {**ranges, "hue": (0.0, -0.1, 0.1)}.items():
        changed = np.array([getattr(d, name) for d in drawn if getattr(d, name) != plain])
        assert 0.45 < len(changed) / len(drawn) < 0.55
        assert low <= changed.min() < low + (high - low) * 0.02
        assert high >= changed.max() > high - (high - low) * 0.02
    assert 0.45 < np.mean([d.contrast_first for d in drawn]) < 0.55
