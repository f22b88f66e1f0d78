"""Random tensors that are the same in every run."""

import torch
from torch import Tensor


def seeded(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal values of a shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def seeded64(*shape: int) -> Tensor:
    """The same in double precision."""
    return seeded(*shape, dtype=torch.float64)
