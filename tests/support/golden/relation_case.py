"""What pixels ask of windows of cells."""

import torch


def case(batch=1, height=4, width=6, heads=2, depth=2, value_depth=3, window=3, seed=0):
    """query, key, value, prior, with logits up to about 10."""
    generator = torch.Generator().manual_seed(seed)
    keys, values = heads * depth, heads * value_depth
    query = 2 * torch.randn(batch, keys, 2 * height, 2 * width, generator=generator)
    key = 2 * torch.randn(batch, keys, height, width, generator=generator)
    value = torch.randn(batch, values, height, width, generator=generator)
    return query, key, value, torch.randn(heads, 4, window**2, generator=generator)
