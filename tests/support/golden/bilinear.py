"""Bilinear interpolation by its definition, in float64: what `kernels` is compared with."""

import numpy as np


def shares(source: int, target: int, align_corners: bool) -> np.ndarray:
    """What every source place gives to every output place, (target, source) float64."""
    found = np.zeros((target, source))
    for i in range(target):
        if align_corners:
            place = i * (source - 1) / max(target - 1, 1)
        else:
            place = min(max((i + 0.5) * source / target - 0.5, 0.0), source - 1)
        low = min(int(place), source - 1)
        found[i, low] += 1 - (place - low)
        found[i, min(low + 1, source - 1)] += place - low
    return found


def interpolated(x: np.ndarray, size: tuple[int, int], align_corners: bool = False) -> np.ndarray:
    """(B, K, h, w) -> (B, K, *size) float64."""
    down, across = (shares(n, m, align_corners) for n, m in zip(x.shape[2:], size, strict=True))
    return np.einsum("bkhw,yh,xw->bkyx", x.astype(np.float64), down, across, optimize=True)


def brought_back(
    slopes: np.ndarray, size: tuple[int, int], align_corners: bool = False
) -> np.ndarray:
    """Return the source's gradient (B, K, *size) float64 from its interpolation's, (B, K, H, W)."""
    down, across = (
        shares(n, m, align_corners) for n, m in zip(size, slopes.shape[2:], strict=True)
    )
    return np.einsum("bkyx,yh,xw->bkhw", slopes, down, across, optimize=True)
