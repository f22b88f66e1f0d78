"""Options that several verbs share, from text to values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from featherseg.core.errors import ConfigError
from featherseg.core.types import Size

if TYPE_CHECKING:
    from featherseg.inference.modes import Mode


def parse_mode(window: str | None, scales: str, flip: bool) -> Mode:
    """`--window 512x512 --scales 0.75,1 --flip` -> Mode. Raises ConfigError."""
    from featherseg.inference.modes import Mode

    return Mode(window=parse_size(window, "--window") if window else None, scales=parse_scales(scales), flip=flip)


def parse_size(text: str, option: str) -> Size:
    """`"512x1024"` -> (512, 1024), height first; `option` is named in the message. Raises ConfigError."""
    match = re.fullmatch(r"([1-9]\d{0,5})[xX]([1-9]\d{0,5})", text.strip())
    if match is None:
        raise ConfigError(f"{option} {text!r}: expected HEIGHTxWIDTH in pixels, each at least 1, such as 512x1024.")
    return int(match[1]), int(match[2])


def parse_scales(text: str) -> tuple[float, ...]:
    """`"0.75,1,1.25"` -> (0.75, 1.0, 1.25). Raises ConfigError."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--scales {text!r}: expected factors with commas between, such as 0.75,1,1.25.") from None
