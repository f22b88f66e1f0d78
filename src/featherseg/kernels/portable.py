"""The kernels in numpy, without a compiler: same arguments, masks and counts as `_native`."""

from math import isqrt

import numpy as np

BLOCK = 1 << 15
"""Pixels of a block: their values of one class stay in the cache."""

RUN = 16
"""Most equal neighbours that are counted at once.

numpy finds a tenth of all places faster than fewer.
"""

CELLS = 1 << 10
"""Cells of a map that are related to their windows at once."""


def upsample_argmax(
    logits: np.ndarray,
    mask: np.ndarray,
    rows: np.ndarray,
    row_shares: np.ndarray,
    columns: np.ndarray,
    column_shares: np.ndarray,
    /,
) -> bool:
    """Fill in the mask of one image; return whether every value was finite.

    logits (K, h, w) float32; mask (H, W) uint8, written. Output row y is between the source rows
    rows[y] and rows[y] + 1, at row_shares[y] of the way, (H,) int32 and float32; columns likewise.
    """
    step = max(1, BLOCK // mask.shape[1])
    for start in range(0, len(mask), step):
        part = slice(start, start + step)
        first, stop = rows[part].min(), rows[part].max() + 2
        with np.errstate(invalid="ignore", over="ignore"):
            # (K, rows of the source, W)
            lines = _stretch(logits[:, first:stop], columns, column_shares)
            if not np.isfinite(lines).all():
                return False
            _pick(lines, rows[part] - first, row_shares[part, None], mask[part])
    return True


def _stretch(lines: np.ndarray, columns: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return source lines at the output's width: (K, n, w) -> (K, n, W)."""
    lines = np.ascontiguousarray(lines)
    left = np.take(lines, columns, axis=2)
    right = np.take(lines, columns + 1, axis=2, mode="clip")
    left *= 1 - shares
    right *= shares
    left += right
    return left


def _pick(lines: np.ndarray, rows: np.ndarray, shares: np.ndarray, mask: np.ndarray) -> None:
    """Write the class of the greatest value between the lines, the lowest of equals: (n, W)."""
    above, below, best = (np.empty(mask.shape, np.float32) for _ in range(3))
    later = np.empty(mask.shape, np.uint8)
    keep, next_rows = 1 - shares, rows + 1
    best.fill(-np.inf)
    mask.fill(0)
    for k, line in enumerate(lines):  # (source rows, W)
        np.take(line, rows, axis=0, out=above, mode="clip")
        np.take(line, next_rows, axis=0, out=below, mode="clip")
        above *= keep
        below *= shares
        above += below
        np.greater(above, best, out=later.view(bool))
        np.maximum(best, above, out=best)
        later *= np.uint8(k)  # classes rise, so the last greater one is the greatest number
        np.maximum(mask, later, out=mask)


def joint_counts(
    label: np.ndarray, prediction: np.ndarray, counts: np.ndarray, classes: int, ignored: int, /
) -> bool:
    """Count pairs of labels; return whether the label has a byte besides classes and `ignored`.

    label, prediction: contiguous uint8 arrays of one size; counts (S, S) int64, written, S = min(K
    + 1, 256). Bytes that are no class count together, in the last row and column.
    """
    joint = label.ravel().astype(np.uint16)
    joint <<= 8
    joint |= prediction.ravel()
    table = _histogram(joint).reshape(256, 256)
    last = len(counts) - 1
    counts[:last] = np.column_stack([table[:last, :last], table[:last, last:].sum(axis=1)])
    counts[last] = [*table[last:, :last].sum(axis=0), table[last:, last:].sum()]
    table[ignored] = 0
    return bool(table[classes:].any())


def _histogram(values: np.ndarray) -> np.ndarray:
    """Count each of 65536 values: (N,) uint16 -> (65536,); equal neighbours are counted at once."""
    begins = np.empty(values.size, dtype=bool)
    np.not_equal(values[1:], values[:-1], out=begins[1:])
    begins[::RUN] = True
    if np.count_nonzero(begins) * 4 > values.size:
        return np.bincount(values, minlength=1 << 16)
    places = np.flatnonzero(begins)
    lengths = np.empty(places.size)
    np.subtract(places[1:], places[:-1], out=lengths[:-1])
    lengths[-1:] = values.size - places[-1:]
    return np.bincount(values[places], weights=lengths, minlength=1 << 16)  # exact below 2^53


def pixel_to_region(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    context: np.ndarray,
    prior: np.ndarray,
    scale: float,
    squared: bool,
    first: int,
    stop: int,
    /,
) -> None:
    """Fill in what the pixels below cell rows `first` to `stop` of one image gather; all float32.

    query (n d, 2h, 2w), key (n d, h, w), value (C, h, w), context (C, 2h, 2w), written. Weights are
    powers of 2 of scale * (q k, or (q - k)^2 if `squared`) + prior (n, 4, R), divided by their sum.
    """
    heads, window, width = len(prior), isqrt(prior.shape[2]), key.shape[2]
    border = ((0, 0), (window // 2,) * 2, (window // 2,) * 2)
    keys, values = (_by_head(np.pad(x, border), heads) for x in (key, value))
    outside = np.pad(np.zeros(key.shape[1:], np.float32), border[1:], constant_values=-np.inf)
    step = max(1, CELLS // width)
    for start in range(first, stop, step):
        rows = min(step, stop - start)
        fine, around = slice(2 * start, 2 * (start + rows)), slice(start, start + rows + window - 1)
        pixels = query[:, fine].reshape(-1, rows, 2, width, 2).transpose(0, 2, 4, 1, 3)
        children = _by_head(pixels.reshape(-1, 4, rows, width), heads)  # (n, d, 4, rows, w)
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            # (R, n, 4, rows, w)
            logits = _logits(children, keys[:, :, around], prior, scale, squared)
            for logit, border_logit in zip(logits, _cells(outside[around], window), strict=True):
                logit += border_logit
            gathered = _weighted(_softmax(logits), values[:, :, around])  # (n, C / n, 4, rows, w)
        # (C, rows, 2, w, 2)
        pixels = gathered.reshape(-1, 2, 2, rows, width).transpose(0, 3, 1, 4, 2)
        context[:, fine] = pixels.reshape(-1, 2 * rows, 2 * width)


def _by_head(x: np.ndarray, heads: int) -> np.ndarray:
    """Split heads: (n c, ...) -> (n, c, ...)."""
    return x.reshape(heads, -1, *x.shape[1:])


def _cells(x: np.ndarray, window: int) -> list[np.ndarray]:
    """Return a map as seen from the windows of its cells.

    (..., rows + k - 1, w + k - 1) -> R views (..., rows, w).
    """
    rows, width = x.shape[-2] - window + 1, x.shape[-1] - window + 1
    return [x[..., i : i + rows, j : j + width] for i, j in np.ndindex(window, window)]


def _logits(
    children: np.ndarray, keys: np.ndarray, prior: np.ndarray, scale: float, squared: bool
) -> np.ndarray:
    """(n, d, 4, rows, w) and (n, d, rows + k - 1, w + k - 1) -> (R, n, 4, rows, w)."""
    heads, depth, *pixels = children.shape
    logits = np.zeros((prior.shape[2], heads, *pixels), np.float32)
    product = np.empty_like(logits[0])
    for logit, there in zip(logits, _cells(keys, isqrt(len(logits))), strict=True):
        for d in range(depth):
            if squared:
                np.subtract(children[:, d], there[:, d, None], out=product)
                product *= product
            else:
                np.multiply(children[:, d], there[:, d, None], out=product)
            logit += product
    logits *= np.float32(scale)
    logits += prior.transpose(2, 0, 1)[..., None, None]
    return logits


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Divide powers of 2 by their sum along the first axis, in place."""
    logits -= logits.max(axis=0)
    np.exp2(logits, out=logits)
    logits /= logits.sum(axis=0)
    return logits


def _weighted(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(R, n, 4, rows, w) and (n, C / n, rows + k - 1, w + k - 1) -> (n, C / n, 4, rows, w)."""
    total = np.zeros((*values.shape[:2], *weights.shape[2:]), np.float32)
    product = np.empty_like(weights[0])
    for weight, there in zip(weights, _cells(values, isqrt(len(weights))), strict=True):
        for d in range(values.shape[1]):
            np.multiply(weight, there[:, d, None], out=product)
            total[:, d] += product
    return total
