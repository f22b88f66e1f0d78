"""Attention blocks that several papers use."""

import torch
from torch import Tensor, nn

from featherseg.layers.precision import at_least_fp32, autocast_off


class DisentangledNonLocal(nn.Module):
    """Disentangled non-local block (Yin et al., ECCV 2020; FRM Eq. 2-3).

    Every position gathers from all others by a whitened pairwise term and a unary (saliency) term,
        y_i = x_i + sum_j [gamma * softmax_j((q_i - mu_q)^T (k_j - mu_k)) + softmax_j(m_j)] g_j.

    kv_pool 2: keys, values and the unary term come from the map after a 2x2 max pool, as the FRM
    paper's counts demand (a map with a side of 1 is not pooled); 1 is Eq. 2 to the letter. gamma
    (learnt, from 0) and residual are DNL's own; Eq. 3 shows neither. scale divides q k by the
    square root of their width, as part of the DNL authors' code does. The softmax is always in
    fp32, because q k is large if it is not scaled.
    """

    def __init__(
        self,
        channels: int,
        *,
        key_channels: int,
        kv_pool: int = 2,
        gamma: bool = True,
        residual: bool = True,
        scale: bool = False,
    ) -> None:
        super().__init__()
        # a module, so that counters that go by modules see it
        self.kv_pool = kv_pool
        self.pool = nn.MaxPool2d(kv_pool, kv_pool) if kv_pool > 1 else nn.Identity()
        self.query = nn.Conv2d(channels, key_channels, kernel_size=1)
        self.key = nn.Conv2d(channels, key_channels, kernel_size=1)
        self.unary = nn.Conv2d(channels, 1, kernel_size=1)
        self.value = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1)) if gamma else None
        self.residual = residual
        self.factor = key_channels**-0.5 if scale else 1.0
        for conv in (self.query, self.key, self.unary, self.value):
            nn.init.normal_(conv.weight, std=0.01)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(
        self, x: Tensor
    ) -> Tensor:  # (B, C, h, w), N = h * w; M = (h // 2) * (w // 2), or N without the pool
        """(B, C, h, w) -> (B, C, h, w)."""
        pooled = x if 1 in x.shape[2:] else self.pool(x)  # (B, C, h // 2, w // 2)
        q, k = self.query(x).flatten(2), self.key(pooled).flatten(2)  # (B, C_k, N), (B, C_k, M)
        m, g = self.unary(pooled).flatten(2), self.value(pooled).flatten(2)  # (B, 1, M), (B, C, M)
        with autocast_off(x.device):
            q, k, m, g = (at_least_fp32(t) for t in (q, k, m, g))
            q, k = q - q.mean(-1, keepdim=True), k - k.mean(-1, keepdim=True)
            pairwise = (self.factor * (q.mT @ k)).softmax(-1)  # (B, N, M)  Eq. 3, first term
            context = g @ pairwise.mT  # (B, C, N)  Eq. 2
            if self.gamma is not None:
                context = at_least_fp32(self.gamma) * context
            # (B, C, N)  Eq. 3, second term: the same for every position
            context = context + g @ m.softmax(-1).mT
        context = context.to(x.dtype).reshape(x.shape)  # (B, C, h, w)
        return x + context if self.residual else context

    def macs(self, x: Tensor, y: Tensor) -> int:
        """Count q k, pairwise g and unary g: N positions attend to M positions after the pool."""
        batch, channels, height, width = x.shape
        pool = self.kv_pool if min(height, width) > 1 else 1
        n, m = height * width, (height // pool) * (width // pool)
        return batch * (n * m * self.key.out_channels + n * m * channels + m * channels)
