"""Whole or tiles: decided by the memory that is allowed, and said in words."""

from dataclasses import dataclass

import pytest

from featherseg import FeathersegError
from featherseg.inference.settings import InferenceSettings
from featherseg.inference.tiling import MARGIN, plan, process_bytes

OWN = process_bytes() / 1e9


@dataclass
class Costs:
    """A model that needs 250 bytes a pixel."""

    peak_bytes_per_pixel: float = 250.0
    channels: int = 3
    classes: tuple = (None,) * 19
    name: str = "costs"
    panoptic: None = None


def test_twelve_megapixels_go_whole_into_four_gigabytes():
    """0.6 of them for the process itself, as with torch's CPU build."""
    assert plan(Costs(), (3000, 4000), InferenceSettings(), OWN + 3.4).how == "whole"


@dataclass
class Bounded(Costs):
    """The same, of which a bound is known as well."""

    def most_bytes_per_pixel(self, area):
        return 250.0 * max(1.0, area / 12_288)


def test_a_bound_on_the_memory_decides_nothing_else_than_the_measure():
    for size in ((100, 100), (360, 480), (700, 900), (400, 60_000), (3000, 4000), (10_000, 10_000)):
        for gigabytes in (OWN + 0.4, 2.0, 4.0, 64.0):
            for inference in (
                InferenceSettings(),
                InferenceSettings(scales=(0.5, 2.0)),
                InferenceSettings((512, 512)),
            ):
                found = []
                for runtime in (Costs(), Bounded()):
                    try:
                        answer = plan(runtime, size, inference, gigabytes, batch=8)
                        found.append((answer.inference, answer.how, min(answer.at_once, 8)))
                    except FeathersegError as error:
                        found.append(str(error))
                assert found[0] == found[1]


def test_a_smaller_budget_gives_tiles_that_fit_it():
    found = plan(Costs(), (3000, 4000), InferenceSettings(), 2.0)
    height, width = found.inference.window
    assert "tiles of" in found.how
    assert process_bytes() + MARGIN * 250 * height * width <= 2e9
    assert height * width > 1_000_000  # and are no smaller than need be


def test_tiles_of_a_panorama_are_stretched_along_it():
    height, width = plan(Costs(), (400, 60_000), InferenceSettings(), 2.0).inference.window
    assert height == 400
    assert width > 5_000


def test_a_narrow_strip_is_cut_as_well():
    found = plan(Costs(), (20, 600_000), InferenceSettings(), OWN + 0.6)
    assert "tiles of 20x" in found.how


def test_a_window_that_was_asked_for_is_kept():
    found = plan(Costs(), (1000, 1000), InferenceSettings(window=(512, 512)), 4.0)
    assert (found.inference.window, found.how) == ((512, 512), "9 tiles of 512x512")


def test_a_shrunk_image_needs_the_memory_of_its_small_form():
    assert (
        plan(Costs(), (9000, 12_000), InferenceSettings(scales=(0.05,)), OWN + 5.9).how == "whole"
    )


def test_small_images_go_together_as_far_as_the_memory_reaches():
    assert plan(Costs(), (360, 480), InferenceSettings(), 4.0).at_once > 8
    assert plan(Costs(), (3000, 4000), InferenceSettings(), 4.0).at_once == 1


def test_even_a_large_budget_does_not_let_attention_see_a_hundred_megapixels():
    assert "tiles" in plan(Costs(), (10_000, 10_000), InferenceSettings(), 1000.0).how


def test_too_little_memory_is_refused_with_what_is_needed():
    with pytest.raises(FeathersegError, match=r"0\.5 GB .* 3000x4000 .* at least 1\.\d GB"):
        plan(Costs(), (3000, 4000), InferenceSettings(), 0.5)
