"""The kernels on other devices than the CPU: Triton if it is installed, else torch's operations."""

from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

BLOCK_BYTES = 64 * 2**20
"""Bytes of a block of rows of full-resolution scores without Triton."""

Places = tuple[np.ndarray, np.ndarray]
"""For each row (or column) of the output: the source place before it (int32) and the distance to
it (float32).
"""


def has_triton(x: Tensor) -> bool:
    """Whether the Triton kernels can run on this tensor's device."""
    return x.device.type == "cuda" and find_spec("triton") is not None


def upsample_argmax(logits: Tensor, rows: Places, columns: Places) -> tuple[Tensor, bool]:
    """logits (B, K, h, w) float32 -> mask (B, H, W) uint8, and whether all logits are finite."""
    low, high = logits.aminmax() if logits.numel() else (logits.new_zeros(()),) * 2
    finite = bool((low.isfinite() & high.isfinite()).item())
    tables = [torch.from_numpy(values).to(logits.device) for values in (*rows, *columns)]
    mask = torch.empty(
        (len(logits), len(rows[0]), len(columns[0])), dtype=torch.uint8, device=logits.device
    )
    if has_triton(logits):
        from featherseg.kernels import triton_kernels

        triton_kernels.upsample_argmax(logits, mask, *tables)
    else:
        _in_blocks(logits, mask, *tables)
    return mask, finite


def joint_counts(label: Tensor, prediction: Tensor, side: int) -> Tensor:
    """Count the pairs of bytes of two uint8 tensors -> (S, S) int64; S - 1 and more are one."""
    label, prediction = (
        label.flatten().clamp(max=side - 1),
        prediction.flatten().clamp(max=side - 1),
    )
    if has_triton(label):
        from featherseg.kernels import triton_kernels

        return triton_kernels.joint_counts(label, prediction, side)
    return torch.bincount(label.long() * side + prediction, minlength=side**2).view(side, side)


def _in_blocks(
    logits: Tensor,
    mask: Tensor,
    rows: Tensor,
    row_shares: Tensor,
    columns: Tensor,
    column_shares: Tensor,
) -> None:
    """Fill in the mask one block of rows at a time; the scores at full resolution never exist."""
    left, right = columns, (columns + 1).clamp(max=logits.shape[3] - 1)
    next_rows = (rows + 1).clamp(max=logits.shape[2] - 1)
    step = max(1, BLOCK_BYTES // (4 * logits.shape[1] * max(1, len(logits)) * mask.shape[2]))
    for start in range(0, mask.shape[1], step):
        part = slice(start, start + step)
        share = row_shares[part, None]
        # (B, K, n, w)
        lines = logits[:, :, rows[part]] * (1 - share) + logits[:, :, next_rows[part]] * share
        # (B, K, n, W)
        scores = lines[..., left] * (1 - column_shares) + lines[..., right] * column_shares
        mask[:, part] = scores.argmax(dim=1).to(torch.uint8)
