"""The kernels in numpy, for where no compiler was: same arguments, same bits as the extension `_native`."""

import numpy as np

BLOCK = 1 << 15
"""Pixels that are worked on together: their values of one class stay in the cache."""
RUN = 16
"""Equal neighbours that are counted at once, at most: numpy finds about a tenth of all places faster than fewer."""


def upsample_argmax(
    logits: np.ndarray,
    mask: np.ndarray,
    rows: np.ndarray,
    row_shares: np.ndarray,
    columns: np.ndarray,
    column_shares: np.ndarray,
    /,
) -> bool:
    """Fill in the mask of one picture; -> whether every value was finite.

    logits (K, h, w) float32; mask (H, W) uint8, written; output row y lies between the source rows rows[y] and
    rows[y] + 1, row_shares[y] of the way, (H,) int32 and float32; columns likewise.
    """
    step = max(1, BLOCK // mask.shape[1])
    for start in range(0, len(mask), step):
        part = slice(start, start + step)
        first, stop = rows[part].min(), rows[part].max() + 2
        with np.errstate(invalid="ignore", over="ignore"):
            lines = _stretch(logits[:, first:stop], columns, column_shares)  # (K, rows of the source, W)
            if not np.isfinite(lines).all():
                return False
            _pick(lines, rows[part] - first, row_shares[part, None], mask[part])
    return True


def _stretch(lines: np.ndarray, columns: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Source lines at the output's width: (K, n, w) -> (K, n, W)."""
    lines = np.ascontiguousarray(lines)
    left = np.take(lines, columns, axis=2)
    right = np.take(lines, columns + 1, axis=2, mode="clip")
    left *= 1 - shares
    right *= shares
    left += right
    return left


def _pick(lines: np.ndarray, rows: np.ndarray, shares: np.ndarray, mask: np.ndarray) -> None:
    """The class with the greatest value between the lines, the lowest of equals: into mask (n, W)."""
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
        later *= np.uint8(k)  # classes rise, so the last that was greater is the greatest number
        np.maximum(mask, later, out=mask)


def joint_counts(truth: np.ndarray, prediction: np.ndarray, counts: np.ndarray, classes: int, ignored: int, /) -> bool:
    """Count pairs of labels; -> whether the truth holds a byte that is neither a class nor `ignored`.

    truth, prediction: contiguous uint8 arrays of one size; counts (S, S) int64, written, S = min(K + 1, 256): bytes
    that are no class count together, in the last row and column.
    """
    joint = truth.ravel().astype(np.uint16)
    joint <<= 8
    joint |= prediction.ravel()
    table = _histogram(joint).reshape(256, 256)
    last = len(counts) - 1
    counts[:last] = np.column_stack([table[:last, :last], table[:last, last:].sum(axis=1)])
    counts[last] = [*table[last:, :last].sum(axis=0), table[last:, last:].sum()]
    table[ignored] = 0
    return bool(table[classes:].any())


def _histogram(values: np.ndarray) -> np.ndarray:
    """How often each of 65536 values occurs: (N,) uint16 -> (65536,). Runs of equal neighbours are counted at once."""
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
