"""From the raw values of a mask file to class ids, by one explicit map."""

from collections.abc import Mapping

import numpy as np

from featherseg.core.errors import DataError
from featherseg.data.images.palettes import color_numbers

SHOWN_VALUES = 5
"""Most values that a message names before "and N more"."""

MANY_COLORS = 500
"""A mask with more colours shows no classes: it is a photograph, or was smoothed."""

TOML = "[map]"
"""How `expected` begins if the map is in a user's dataset.toml."""


class LabelMap:
    """A map raw value -> class id (0..254, or 255 = ignore), applied to masks.

    Args:
        ids: The map.
        colors: Whether raw values are colours, as 0xRRGGBB.
        expected: What the values are, for messages.
    """

    def __init__(self, ids: Mapping[int, int], *, colors: bool = False, expected: str) -> None:
        self.ids = dict(sorted(ids.items()))
        self.colors = colors
        self.expected = expected
        self._raw = np.array(list(self.ids), dtype=np.int64)  # sorted
        self._ids = np.array(list(self.ids.values()), dtype=np.uint8)
        # Raw value of up to 16 bits -> id, -1 = not in the map
        self._table = np.full(65536, -1, dtype=np.int16)
        # A negative number would count from the end
        small = (self._raw >= 0) & (self._raw < len(self._table))
        self._table[self._raw[small]] = self._ids[small]

    def apply(self, raw: np.ndarray) -> np.ndarray:
        """Return ids (H, W) int16 of raw values (H, W) or colours (H, W, 3); -1: not in the map."""
        values = self.values(raw)
        if values.dtype in (np.uint8, np.uint16):
            return self._table.take(values)
        at = np.searchsorted(self._raw, values).clip(max=len(self._raw) - 1)
        return np.where(self._raw[at] == values, self._ids[at].astype(np.int16), np.int16(-1))

    def outside(self, raw: np.ndarray, pixels: np.ndarray | None = None) -> dict[int, int]:
        """Return {value that is not in the map: its pixels}, the most frequent first.

        pixels: how many pixels each element of `raw` counts for; one by default.
        """
        lacking = self.apply(raw) < 0
        values, places = np.unique(self.values(raw)[lacking], return_inverse=True)
        counts = np.bincount(
            places.ravel(), None if pixels is None else pixels[lacking], len(values)
        )
        order = np.argsort(-counts, kind="stable")
        return {int(values[i]): int(counts[i]) for i in order}

    def __call__(self, raw: np.ndarray, name: str) -> np.ndarray:
        """Return class ids (H, W) uint8. Raises DataError with the values outside the map."""
        try:
            ids = self.apply(raw)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        if ids.min(initial=0) < 0:
            outside = self.outside(raw)
            raise DataError(f"{name} {self.describe(outside)}. {self.advice(outside)}".strip())
        return ids.astype(np.uint8)

    def describe(self, outside: Mapping[int, int]) -> str:
        """Return `holds value 78 (1204 pixels), which is not in ...`."""
        shown = [
            f"{self.text(value)} ({n} pixel{'s' * (n != 1)})"
            for value, n in list(outside.items())[:SHOWN_VALUES]
        ]
        more = f" and {len(outside) - len(shown)} more" if len(outside) > len(shown) else ""
        return f"holds value {', '.join(shown)}{more}, which is not in {self.expected}"

    def advice(self, outside: Mapping[int, int]) -> str:
        """Return a line of a dataset.toml for 255 or white, often the unlabelled value; else ""."""
        void, text = (0xFFFFFF, '"#ffffff"') if self.colors else (255, "255")
        if void not in outside or not self.expected.startswith(TOML):
            return ""
        return f'where {text} marks what is not labelled, add to [map]: {text} = "ignore"'

    def text(self, value: int) -> str:
        """Return a raw value as the user writes it: `78`, or `#40a0ff` for a colour."""
        return f"#{value:06x}" if self.colors else str(value)

    def values(self, raw: np.ndarray) -> np.ndarray:
        """Return one number per pixel, (H, W). Raises DataError for colours instead of numbers."""
        if raw.ndim == 2:
            return raw
        if self.colors:
            return color_numbers(raw)
        if (raw == raw[:, :, :1]).all():  # grey, stored as RGB
            return raw[:, :, 0]
        text = (
            f"the mask is a colour image, but class numbers are expected, those of {self.expected}."
        )
        if self.expected.startswith(TOML):
            colors, counts = np.unique(raw.reshape(-1, 3), axis=0, return_counts=True)
            if len(colors) > MANY_COLORS:
                text += (
                    f" It has {len(colors):,} colours, as a photograph has, or a mask that was "
                    "saved as JPEG: are images and masks exchanged there? A mask is a PNG with one "
                    "value or colour a class."
                )
            else:
                common = ", ".join(
                    "#{:02x}{:02x}{:02x}".format(*colors[i])
                    for i in np.argsort(-counts)[:SHOWN_VALUES]
                )
                text += (
                    ' Use colours there, as in "#rrggbb" = "CLASS"; the most frequent in this '
                    f"mask: {common}."
                )
        raise DataError(text)
