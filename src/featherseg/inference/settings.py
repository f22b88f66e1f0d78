"""How a model is run on an image: whole or by windows, resized, mirrored, at several scales."""

from dataclasses import dataclass

from featherseg.core.errors import ConfigError
from featherseg.core.types import Resize, Size
from featherseg.core.wording import size_text
from featherseg.inference.runtimes import Runtime
from featherseg.layers.sizes import resize_factor

LEAST_WINDOW = 32
"""Smallest side of a window in pixels."""


@dataclass(frozen=True)
class InferenceSettings:
    """How a model is run on an image. The default is the whole image, once.

    Scores have the size of the image, whatever size the model sees.

    Args:
        window: (height, width) of a sliding window, in pixels of the image; None: the whole image.
        overlap: The share of a window that its neighbour covers too.
        scales: Factors by which the image or each window is resized, on top of `resize`.
        flip: Also run on the mirrored image.
        resize: (short side, long side) in pixels: the image is scaled as large as fits in both.
            None: its own size.

    Raises:
        ConfigError: A value is out of range.
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
                f"window = {size_text(self.window)}: expected at least {least} pixels "
                "(height x width)."
            )
        if not 0 <= self.overlap <= 0.9:
            raise ConfigError(f"overlap = {self.overlap}: expected a share from 0 to 0.9.")
        if self.resize is not None and not 1 <= self.resize[0] <= self.resize[1]:
            raise ConfigError(
                f"resize = {size_text(self.resize)}: expected the short side first, at least 1 "
                "pixel."
            )

    def factors(self, size: Size) -> tuple[float, ...]:
        """Return the factors by which an image of `size` is resized, one for each scale."""
        return tuple(resize_factor(size, self.resize) * scale for scale in self.scales)

    def __str__(self) -> str:
        """Return "whole, fitted to 512x2048, flip, scales 0.75 1.0", for reports."""
        parts = ["whole" if self.window is None else f"windows of {size_text(self.window)}"]
        parts += [f"fitted to {size_text(self.resize)}"] if self.resize else []
        parts += ["flip"] if self.flip else []
        parts += [f"scales {' '.join(map(str, self.scales))}"] if self.scales != (1.0,) else []
        return ", ".join(parts)


def own_settings(runtime: Runtime) -> InferenceSettings:
    """Return the default settings: the whole image, once, at the size of the validation."""
    return InferenceSettings(resize=runtime.test_resize)


def check_panoptic(inference: InferenceSettings) -> None:
    """Raise ConfigError for windows, flip or several scales: objects of passes are not joined."""
    if inference.window is not None or inference.flip or len(inference.scales) > 1:
        raise ConfigError(
            f"a panoptic model runs once, on the whole image, not on {inference}, because objects "
            "of several passes are not joined. Leave these settings out."
        )
