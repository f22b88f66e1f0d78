"""Options that several verbs share, from text to values."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from featherseg.core.errors import ConfigError
from featherseg.core.types import Fit, Size

if TYPE_CHECKING:
    from featherseg.inference.modes import Mode
    from featherseg.inference.runtimes import Runtime

FIT_HELP = "Bring images to fit SHORTxLONG pixels for the network, or `off` [default: the run's data.test_fit]."


def parse_mode(window: str | None, scales: str, flip: bool, fit: str | None = None) -> Mode:
    """`--window 512x512 --scales 0.75,1 --flip --fit 512x2048` -> Mode. Raises ConfigError."""
    from featherseg.inference.modes import Mode

    return Mode(
        window=parse_size(window, "--window") if window else None,
        scales=parse_scales(scales),
        flip=flip,
        fit=None if fit in (None, "off") else parse_fit(str(fit)),
    )


def with_own_fit(mode: Mode, fit: str | None, runtime: Runtime) -> Mode:
    """The mode at the size that the network was validated at, unless --fit asked for another."""
    return mode if fit else replace(mode, fit=runtime.test_fit)


def parse_fit(text: str) -> Fit:
    """`"512x2048"` -> (512, 2048), short side first. Raises ConfigError."""
    short, long = parse_size(text, "--fit", "SHORTxLONG")
    if short > long:
        raise ConfigError(f"--fit {text!r}: expected the short side first, such as {long}x{short}.")
    return short, long


def parse_size(text: str, option: str, form: str = "HEIGHTxWIDTH") -> Size:
    """`"512x1024"` -> (512, 1024), height first; `option` and `form` stand in the message. Raises ConfigError."""
    match = re.fullmatch(r"([1-9]\d{0,5})[xX]([1-9]\d{0,5})", text.strip())
    if match is None:
        raise ConfigError(f"{option} {text!r}: expected {form} in pixels, each at least 1, such as 512x1024.")
    return int(match[1]), int(match[2])


def parse_scales(text: str) -> tuple[float, ...]:
    """`"0.75,1,1.25"` -> (0.75, 1.0, 1.25). Raises ConfigError."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--scales {text!r}: expected factors with commas between, such as 0.75,1,1.25.") from None
