"""Mix Transformer (MiT) B0 and B1, SegFormer's encoder (Xie et al., NeurIPS 2021).

arXiv:2105.15203, Sec. 3.1, Table 6. Four stages of overlapping patches. A block is attention to a
map reduced by a strided convolution, then a feed-forward network with a depthwise 3x3 instead of
position codes. Written from the paper, which leaves the eps of its norms open: as in the published
weights, 1e-6 in and after blocks, 1e-5 after strided convolutions.

Letters: B images, C channels, H x W the image, h x w the map of a stage, R its reduction. Inside a
stage maps are (B, h, w, C), for linear layers and LayerNorm; convolutions use a view.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.backbones.staged import StagedBackbone
from featherseg.layers.conv import convolve
from featherseg.layers.initialise import initialise_by_fan_out
from featherseg.layers.stochastic_depth import StochasticDepth

EXPANSION = 4
"""Width of the feed-forward networks in multiples of the stage's channels."""

DROP_PATH = 0.1
"""Rate of stochastic depth at the last block, from 0 at the first."""


def convolve_last(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve a map whose channels come last: (B, h, w, C_in) -> (B, h', w', C_out)."""
    return convolve(conv, x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class EfficientAttention(nn.Module):
    """softmax(q k^T / sqrt(d)) v (Eq. 1), k and v from a map reduced R times per side (Eq. 2).

    Rows and columns that the reduction does not cover, fewer than R, are not attended to.
    """

    def __init__(self, channels: int, *, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.project = nn.Linear(channels, channels)
        self.reduce = nn.Conv2d(channels, channels, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(channels) if reduction > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # N = h * w, M = (h // R) * (w // R), d = C / n
        """(B, h, w, C) -> (B, h, w, C)."""
        low = x if self.reduce is None else convolve_last(self.reduce, x)  # (B, h // R, w // R, C)
        key, value = self.key_value(self.norm(low)).chunk(2, dim=-1)  # 2 x (B, h // R, w // R, C)
        # (B, n, N, d), 2 x (B, n, M, d)
        query, key, value = (self._split(t) for t in (self.query(x), key, value))
        out = F.scaled_dot_product_attention(query, key, value)  # (B, n, N, d)
        return self.project(out.transpose(1, 2).reshape(x.shape))  # (B, h, w, C)

    def macs(self, x: Tensor, y: Tensor) -> int:
        """Count q k, and weights by values: N positions attend to the M of the reduced map."""
        return 2 * x.numel() * (x.shape[1] // self.reduction) * (x.shape[2] // self.reduction)

    def _split(self, x: Tensor) -> Tensor:
        """Split heads: (B, h, w, C) -> (B, n, h * w, d)."""
        return x.flatten(1, 2).unflatten(2, (self.heads, -1)).transpose(1, 2)


class MixFeedForward(nn.Module):
    """Linear, depthwise 3x3, GELU, linear (Eq. 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = EXPANSION * channels
        self.expand = nn.Linear(channels, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = nn.GELU()
        self.project = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, C)."""
        return self.project(self.act(convolve_last(self.depthwise, self.expand(x))))


class Block(nn.Module):
    """x + Attention(LN(x)), then the same with the feed-forward network."""

    def __init__(self, channels: int, *, heads: int, reduction: int, drop: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, eps=1e-6)
        self.attention = EfficientAttention(channels, heads=heads, reduction=reduction)
        self.feed_forward_norm = nn.LayerNorm(channels, eps=1e-6)
        self.feed_forward = MixFeedForward(channels)
        self.drop = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, C)."""
        x = x + self.drop(self.attention(self.attention_norm(x)))
        return x + self.drop(self.feed_forward(self.feed_forward_norm(x)))


@dataclass(frozen=True)
class MiTConfig:
    """One row of VARIANTS (Table 6): channels, blocks, heads and reduction R of the four stages."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    heads: tuple[int, int, int, int] = (1, 2, 5, 8)
    reductions: tuple[int, int, int, int] = (8, 4, 2, 1)


VARIANTS = {
    "mit-b0": MiTConfig(channels=(32, 64, 160, 256)),
    "mit-b1": MiTConfig(channels=(64, 128, 320, 512)),
}


class Stage(nn.Module):
    """Overlapping patches (strided convolution, LayerNorm), blocks, LayerNorm."""

    def __init__(self, config: MiTConfig, number: int) -> None:
        super().__init__()
        channels, before = config.channels[number], (3, *config.channels)[number]
        kernel, stride = (3, 2) if number else (7, 4)
        self.embed = nn.Conv2d(before, channels, kernel, stride, padding=kernel // 2)
        self.embed_norm = nn.LayerNorm(channels)
        first, last = sum(config.depths[:number]), sum(config.depths) - 1
        self.blocks = nn.Sequential(
            *(
                Block(
                    channels,
                    heads=config.heads[number],
                    reduction=config.reductions[number],
                    drop=DROP_PATH * (first + i) / last,
                )
                for i in range(config.depths[number])
            )
        )
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C, ceil(h / s), ceil(w / s)), s = 4 in the first stage, else 2."""
        x = self.embed(x).permute(0, 2, 3, 1)  # (B, ceil(h / stride), ceil(w / stride), C)
        return self.norm(self.blocks(self.embed_norm(x))).permute(0, 3, 1, 2)


OFFICIAL_EMBED = {"proj.": "embed.", "norm.": "embed_norm."}
"""Names inside a patch embedding, `patch_embed1.<theirs>` -> `stages.0.<ours>`."""

OFFICIAL_BLOCK = {
    "norm1.": "attention_norm.",
    "attn.q.": "attention.query.",
    "attn.kv.": "attention.key_value.",
    "attn.proj.": "attention.project.",
    "attn.sr.": "attention.reduce.",
    "attn.norm.": "attention.norm.",
    "norm2.": "feed_forward_norm.",
    "mlp.fc1.": "feed_forward.expand.",
    "mlp.dwconv.dwconv.": "feed_forward.depthwise.",
    "mlp.fc2.": "feed_forward.project.",
}
"""Names inside a block, `block1.0.<theirs>` -> `stages.0.blocks.0.<ours>`."""


class MiT(StagedBackbone):
    """ImageNet-normalised images (B, C, H, W) of at least 32 x 32 -> four stages: 1/4 to 1/32."""

    first_convolution = "stages.0.embed"
    checkpointed = (Block,)
    official_embed = OFFICIAL_EMBED
    official_block = OFFICIAL_BLOCK

    def __init__(self, config: MiTConfig) -> None:
        super().__init__()
        self.stage_channels = config.channels
        self.stages = nn.ModuleList(Stage(config, number) for number in range(4))
        _initialise(self)


def _initialise(module: nn.Module) -> None:
    """Initialise linear layers with std 0.02, convolutions by fan-out; the paper does not say."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    initialise_by_fan_out(module)


def build_mit(name: str) -> MiT:
    """Build `mit-b0` or `mit-b1`, untrained."""
    return MiT(VARIANTS[name])
