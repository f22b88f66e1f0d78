"""The rules that give the goldens' weights, images and labels from names and shapes, in numpy.

They are those of the reference's `recipe.py` and `parity/recipe.py`. VAN and CGRSeg use only raw
bits of PCG64, whose stream numpy promises to keep; the peers use its normal distribution.
"""

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

RANGES = {
    "bias": (-0.1, 0.1),
    "bias_small": (-0.002, 0.002),  # of biases that multiply a sum over all pixels
    "norm_weight": (0.5, 1.5),
    "norm_bias": (-0.2, 0.2),
    "mean": (-0.1 * 3.0**0.5, 0.1 * 3.0**0.5),  # a deviation of 0.1
    "var": (0.5, 1.5),
    "scale": (0.1, 0.5),
    "table": (-1.0, 1.0),
}
"""{kind of tensor: range of its values}; the range of "weight" is +-sqrt(3 / fan in)."""


def uniform(tag: str, shape: Sequence[int], low: float, high: float) -> np.ndarray:
    """float64 in [low, high), the same for a tag for ever."""
    raw = np.random.PCG64(zlib.crc32(tag.encode())).random_raw(math.prod(shape)).astype(np.uint64)
    return (low + (high - low) * ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53)).reshape(
        shape
    )


def offsets(rows: int, columns: int) -> np.ndarray:
    """Return (rows, columns) int64: ranks of |dy|, |dx| between two grids, by first appearance."""
    coarse, fine = math.isqrt(rows), math.isqrt(columns)
    step = -(-fine // coarse)
    (y, x), (v, u) = np.divmod(np.arange(rows), coarse), np.divmod(np.arange(columns), fine)
    pairs = zip(
        np.abs(step * y[:, None] - v).ravel().tolist(),
        np.abs(step * x[:, None] - u).ravel().tolist(),
        strict=True,
    )
    rank: dict[tuple[int, int], int] = {}
    return np.array([rank.setdefault(pair, len(rank)) for pair in pairs]).reshape(rows, columns)


def tensor(key: str, shape: Sequence[int], kind: str) -> np.ndarray:
    """The value of one key of VAN or CGRSeg: float32, or int64 of counts and index tables."""
    if kind in ("count", "index_ones"):
        return np.full(shape, int(kind == "index_ones"), np.int64)
    if kind.startswith("index_"):
        return offsets(*shape)
    bound = (3.0 / math.prod(shape[1:])) ** 0.5 if kind == "weight" else 0.0
    return uniform(key, shape, *RANGES.get(kind, (-bound, bound))).astype(np.float32)


def image(tag: str, shape: Sequence[int]) -> np.ndarray:
    """(B, 3, H, W) float32, as if normalised: blocks of 16x16 pixels and fine noise."""
    batch, channels, height, width = shape
    blocks = uniform(
        f"blocks:{tag}", (batch, channels, -(-height // 16), -(-width // 16)), -2.0, 2.0
    )
    large = blocks.repeat(16, axis=2).repeat(16, axis=3)[:, :, :height, :width]
    return (large + uniform(f"noise:{tag}", shape, -0.5, 0.5)).astype(np.float32)


def labels(tag: str, shape: Sequence[int], classes: int) -> np.ndarray:
    """(B, H, W) int64: blocks of 8x8 pixels, about a tenth of them 255, to be ignored."""
    batch, height, width = shape
    blocks = (batch, -(-height // 8), -(-width // 8))
    found = np.floor(uniform(f"label:{tag}", blocks, 0.0, 1.0) * classes).astype(np.int64)
    found[uniform(f"ignore:{tag}", blocks, 0.0, 1.0) < 0.1] = 255
    return found.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]


def peer_tensor(key: str, shape: Sequence[int]) -> np.ndarray:
    """The value of one key of a peer: float32, or int64 of a count of batches."""
    leaf, rng = (
        key.rpartition(".")[2],
        np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))),
    )
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var" or (leaf == "weight" and len(shape) < 2):
        found = rng.uniform(0.5, 1.5, shape)
    elif leaf == "weight":
        found = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    else:
        found = rng.standard_normal(shape) * 0.1
    return np.asarray(found, dtype=np.float32)


def peer_image(seed: int, shape: Sequence[int]) -> np.ndarray:
    """(B, 3, H, W) float32."""
    return (
        np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape)).astype(np.float32)
    )


def flat(tree: Mapping, prefix: str = "") -> dict[str, str]:
    """Return {official key: leaf} of nested keys: {"a": {"b": "3x3"}} -> {"a.b": "3x3"}."""
    found = {}
    for name, below in tree.items():
        found |= (
            flat(below, f"{prefix}{name}.")
            if isinstance(below, Mapping)
            else {f"{prefix}{name}": below}
        )
    return found


def shape_of(text: str) -> tuple[int, ...]:
    """ "32x3x7x7" -> (32, 3, 7, 7); "" -> ()."""
    return tuple(int(side) for side in text.split("x") if side)
