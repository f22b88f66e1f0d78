"""How a model is run on an image: whole or window by window, resized, mirrored, at several scales."""

from dataclasses import dataclass

from featherseg.core.errors import ConfigError
from featherseg.core.types import Resize, Size
from featherseg.core.wording import size_text
from featherseg.inference.runtimes import Runtime
from featherseg.layers.resize import resize_factor

LEAST_WINDOW = 32
"""Pixels of a window's sides, at least."""


@dataclass(frozen=True)
class InferenceSettings:
    """How a model is run on an image. The default is the whole image, once.

    window: (height, width) in pixels of the image; None = whole. overlap: share of a window that its neighbour covers
    as well. resize: (short side, long side) in pixels that the image is brought to fit for the model, its ratio kept;
    None = its own size. scales: factors the image (or each window) is resized by on top of that. flip: also mirrored.
    Scores come at the image's own size, whatever size the model was given.
    Raises ConfigError for values out of range.
    """

    window: Size | None = None
    overlap: float = 0.25
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    resize: Resize | None = None

    def __post_init__(self) -> None:
        if not self.scales or any(not 0.001 <= s <= 10 for s in self.scales):
            raise ConfigError(
                f"scales = {list(self.scales)}: expected at least one factor from 0.001 to 10."
            )
        if self.window is not None and min(self.window) < LEAST_WINDOW:
            least = size_text((LEAST_WINDOW, LEAST_WINDOW))
            raise ConfigError(
                f"window = {size_text(self.window)}: expected at least {least} pixels (height x width)."
            )
        if not 0 <= self.overlap <= 0.9:
            raise ConfigError(f"overlap = {self.overlap}: expected a share from 0 to 0.9.")
        if self.resize is not None and not 1 <= self.resize[0] <= self.resize[1]:
            raise ConfigError(
                f"resize = {size_text(self.resize)}: expected the short side first, at least 1 pixel."
            )

    def factors(self, size: Size) -> tuple[float, ...]:
        """What an image of `size` is resized by before the model, one factor a scale."""
        return tuple(resize_factor(size, self.resize) * scale for scale in self.scales)

    def __str__(self) -> str:
        """For reports: "whole, fitted to 512x2048, flip, scales 0.75 1.0"."""
        parts = ["whole" if self.window is None else f"windows of {size_text(self.window)}"]
        parts += [f"fitted to {size_text(self.resize)}"] if self.resize else []
        parts += ["flip"] if self.flip else []
        parts += [f"scales {' '.join(map(str, self.scales))}"] if self.scales != (1.0,) else []
        return ", ".join(parts)


def own_settings(runtime: Runtime) -> InferenceSettings:
    """The settings unless others are asked for: whole, once, at the size that the model was validated at."""
    return InferenceSettings(resize=runtime.test_resize)


def check_panoptic(inference: InferenceSettings) -> None:
    """Raises ConfigError for settings in which objects cannot be put together: windows, mirrored, several scales."""
    if inference.window is not None or inference.flip or len(inference.scales) > 1:
        raise ConfigError(
            f"a panoptic model runs once, on the whole image, not on {inference}: objects of several passes are not "
            f"put together. Leave these settings out."
        )
