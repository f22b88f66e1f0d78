"""VAN-B0 to B3, a visual attention network (Guo et al., arXiv:2202.09741): tiny to large.

Four stages. A block is attention with a large kernel, then a feed-forward network with a depthwise
convolution, each on batch-normed input, scaled per channel and added. Every stage ends in a
LayerNorm over channels, with eps 1e-6 as in the authors' classification code (their segmentation
code has 1e-5). There is no stochastic depth.

Letters: B images, C channels, H x W the image, h x w the map of a stage.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from featherseg.backbones.staged import StagedBackbone
from featherseg.layers.conv import convolve, normalise_act
from featherseg.layers.folding import fold_shortcut
from featherseg.layers.initialise import initialise_by_fan_out
from featherseg.layers.scale import LayerScale

EXPANSIONS = (8, 8, 4, 4)
"""Width of the feed-forward networks of each stage, in multiples of the stage's channels."""

LAYER_SCALE = 1e-2
"""Initial value of every layer scale."""


class LargeKernelAttention(nn.Module):
    """Attention = Conv1x1(DW-D-Conv(DW-Conv(F))), Output = Attention * F (Sec. 3.1).

    The 5x5 and the 7x7 with dilation 3 together see 23x23 positions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.dilated = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        near = convolve(self.depthwise, x)  # (B, C, h, w)
        return x * convolve(self.pointwise, convolve(self.dilated, near))  # (B, C, h, w)


class Attention(nn.Module):
    """1x1, GELU, large-kernel attention, 1x1, and a shortcut around the four."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(channels, channels, 1)
        self.act = nn.GELU()
        self.large_kernel = LargeKernelAttention(channels)
        self.project_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        gathered = self.large_kernel(self.act(convolve(self.project_in, x)))
        return x + convolve(self.project_out, gathered)  # (B, C, h, w)


class FeedForward(nn.Module):
    """1x1, depthwise 3x3, GELU, 1x1, with `expansion` times the channels between."""

    def __init__(self, channels: int, *, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = nn.GELU()
        self.project = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        x = self.act(convolve(self.depthwise, convolve(self.expand, x)))  # (B, expansion * C, h, w)
        return convolve(self.project, x)  # (B, C, h, w)


class Block(nn.Module):
    """x + scale * Attention(BN(x)), then the same with FeedForward."""

    def __init__(self, channels: int, *, expansion: int) -> None:
        super().__init__()
        self.attention_norm = nn.BatchNorm2d(channels)
        self.attention = Attention(channels)
        self.attention_scale = LayerScale(channels, LAYER_SCALE)
        self.feed_forward_norm = nn.BatchNorm2d(channels)
        self.feed_forward = FeedForward(channels, expansion=expansion)
        self.feed_forward_scale = LayerScale(channels, LAYER_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        x = x + self.attention_scale(self.attention(normalise_act(self.attention_norm, None, x)))
        normed = normalise_act(self.feed_forward_norm, None, x)
        return x + self.feed_forward_scale(self.feed_forward(normed))  # (B, C, h, w)

    def fold_own(self) -> None:
        """Fold norm and scale into the attention in place; its shortcut hides them from `fold`."""
        fold_shortcut(self)


class Stage(nn.Module):
    """Embed (strided convolution, batch norm), blocks, LayerNorm."""

    def __init__(
        self, in_channels: int, channels: int, depth: int, *, expansion: int, first: bool
    ) -> None:
        super().__init__()
        kernel, stride = (7, 4) if first else (3, 2)
        self.embed = nn.Sequential(
            nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2),
            nn.BatchNorm2d(channels),
        )
        self.blocks = nn.Sequential(*(Block(channels, expansion=expansion) for _ in range(depth)))
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C, ceil(h / stride), ceil(w / stride))."""
        conv, norm = self.embed
        # (B, C, ceil(h / stride), ceil(w / stride))
        x = self.blocks(normalise_act(norm, None, conv(x)))
        # no copy of a map that is in channels_last
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class VANConfig:
    """One row of VARIANTS: channels and number of blocks of the four stages."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


VARIANTS = {
    "van-b0": VANConfig(channels=(32, 64, 160, 256), depths=(3, 3, 5, 2)),
    "van-b1": VANConfig(channels=(64, 128, 320, 512), depths=(2, 2, 4, 2)),
    "van-b2": VANConfig(channels=(64, 128, 320, 512), depths=(3, 3, 12, 3)),
    "van-b3": VANConfig(channels=(64, 128, 320, 512), depths=(3, 5, 27, 3)),
}


OFFICIAL_EMBED = {"proj.": "embed.0.", "norm.": "embed.1."}
"""Names inside a patch embedding, `patch_embed1.<theirs>` -> `stages.0.<ours>`."""

OFFICIAL_BLOCK = {
    "norm1.": "attention_norm.",
    "attn.proj_1.": "attention.project_in.",
    "attn.spatial_gating_unit.conv0.": "attention.large_kernel.depthwise.",
    "attn.spatial_gating_unit.conv_spatial.": "attention.large_kernel.dilated.",
    "attn.spatial_gating_unit.conv1.": "attention.large_kernel.pointwise.",
    "attn.proj_2.": "attention.project_out.",
    "layer_scale_1": "attention_scale.weight",
    "norm2.": "feed_forward_norm.",
    "mlp.fc1.": "feed_forward.expand.",
    "mlp.dwconv.dwconv.": "feed_forward.depthwise.",
    "mlp.fc2.": "feed_forward.project.",
    "layer_scale_2": "feed_forward_scale.weight",
}
"""Names inside a block, `block1.0.<theirs>` -> `stages.0.blocks.0.<ours>`."""


class VAN(StagedBackbone):
    """ImageNet-normalised images (B, C, H, W) -> four stages: 1/4, 1/8, 1/16, 1/32."""

    first_convolution = "stages.0.embed.0"
    checkpointed = (Block,)
    official_embed = OFFICIAL_EMBED
    official_block = OFFICIAL_BLOCK

    def __init__(self, config: VANConfig) -> None:
        super().__init__()
        self.stage_channels = config.channels
        widths = (3, *config.channels)
        self.stages = nn.ModuleList(
            Stage(widths[i], widths[i + 1], config.depths[i], expansion=EXPANSIONS[i], first=i == 0)
            for i in range(4)
        )
        initialise_by_fan_out(self)


def build_van(name: str) -> VAN:
    """Build `van-b0` to `van-b3`, untrained."""
    return VAN(VARIANTS[name])
