"""EfficientFormerV2 S0, S1, S2, L (Li et al., ICCV 2023, arXiv:2212.08059), as CGRSeg uses it.

"Rethinking Vision Transformers for MobileNet Size and Speed". Four stages of feed-forward blocks
with a depthwise convolution. The last blocks of the two coarse stages begin with talking-heads
attention, and an attention leads from the third stage to the fourth. There is no norm after a
stage, and convolutions have a bias even before a batch norm, as in the published weights. Stages
are right at every size; those of the authors' code only at multiples of 32.

Letters: B images, C channels, H x W the image, h x w the map of a stage, N = h * w positions.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from featherseg.core.errors import ConfigError
from featherseg.layers.conv import convolve, normalise_act
from featherseg.layers.model import Backbone
from featherseg.layers.position_bias import PositionBias, PositionResize, resize_table
from featherseg.layers.precision import at_least_fp32, autocast_off
from featherseg.layers.resize import resize
from featherseg.layers.scale import LayerScale
from featherseg.layers.stochastic_depth import StochasticDepth

HEADS = 8
SIDE = 16
"""Height and width at 1/32 of the position tables: images of 512 x 512."""

LAYER_SCALE = 1e-5
"""Initial value of every layer scale."""


class ConvNorm(nn.Sequential):
    """Convolution with bias, and batch norm; padded so that stride 1 keeps the size."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(
            nn.Conv2d(
                in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups
            ),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, ceil(h / stride), ceil(w / stride))."""
        conv, norm = self
        assert isinstance(conv, nn.Conv2d)
        return normalise_act(norm, None, convolve(conv, x))


def _attention_macs(block: Any, x: Tensor, y: Tensor) -> int:
    """Count q k, and weights by values, of all heads; queries and keys have their own strides."""
    queries, keys = (
        -(-x.shape[2] // stride) * -(-x.shape[3] // stride)
        for stride in (block.query_stride, block.key_stride)
    )
    return len(x) * queries * keys * (block.key[0].out_channels + block.value[0].out_channels)


class Attention(nn.Module):
    """Talking-heads attention between all positions, plus a depthwise convolution of the values.

    Fig. 2 e. With stride 2 it works on a map of half the size, and the result is resized
    bilinearly. Scores and softmax are always in fp32.
    """

    macs = _attention_macs

    def __init__(
        self, channels: int, *, stride: int, key_channels: int = 32, value_channels: int = 128
    ) -> None:
        super().__init__()
        width = HEADS * value_channels
        self.query_stride = self.key_stride = stride
        self.reduce = (
            ConvNorm(channels, channels, 3, stride=2, groups=channels)
            if stride == 2
            else nn.Identity()
        )
        self.query = ConvNorm(channels, HEADS * key_channels, 1)
        self.key = ConvNorm(channels, HEADS * key_channels, 1)
        self.value = ConvNorm(channels, width, 1)
        self.local = ConvNorm(width, width, 3, groups=width)
        self.position = PositionBias(HEADS, SIDE)
        self.talking_before = nn.Conv2d(HEADS, HEADS, 1)  # mixes the heads' scores
        self.talking_after = nn.Conv2d(HEADS, HEADS, 1)  # mixes the heads' weights
        self.project = nn.Sequential(
            nn.GELU(), nn.Conv2d(width, channels, 1), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w)
        """(B, C, h, w) -> (B, C, h, w)."""
        size = (x.shape[2], x.shape[3])
        x = self.reduce(x)  # (B, C, ceil(h / stride), ceil(w / stride))
        value = self.value(x)  # (B, 8 * 128, ceil(h / stride), ceil(w / stride))
        q, k, v = _heads(self.query(x)), _heads(self.key(x)), _heads(value)  # (B, 8, 32 or 128, N)
        grid = (x.shape[2], x.shape[3])
        with autocast_off(x.device):
            scores = _scores(q, k) + self.position(grid, grid)  # (B, 8, N, N)
            weights = self.talking_after(self.talking_before(scores).softmax(-1))
            gathered = at_least_fp32(v) @ weights.mT  # (B, 8, 128, N)
        x = gathered.to(value.dtype).reshape(value.shape) + self.local(value)
        if self.query_stride == 2:
            x = resize(x, size, align_corners=False)  # (B, 8 * 128, h, w)
        return self.project(x)  # (B, C, h, w)


class LocalQuery(nn.Module):
    """Queries at every second position: a depthwise convolution plus the position (Sec. 3.4)."""

    def __init__(self, channels: int, query_channels: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(channels, channels, 3, 2, padding=1, groups=channels)
        self.project = ConvNorm(channels, query_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C_q, ceil(h / 2), ceil(w / 2))."""
        return self.project(convolve(self.local, x) + x[:, :, ::2, ::2])


class AttentionDownsample(nn.Module):
    """Attention of every second position to all, plus a strided convolution (Fig. 2 f)."""

    query_stride, key_stride = 2, 1
    macs = _attention_macs

    def __init__(
        self, channels: int, out_channels: int, *, key_channels: int = 16, value_channels: int = 64
    ) -> None:
        super().__init__()
        width = HEADS * value_channels
        self.query = LocalQuery(channels, HEADS * key_channels)
        self.key = ConvNorm(channels, HEADS * key_channels, 1)
        self.value = ConvNorm(channels, width, 1)
        self.local = ConvNorm(width, width, 3, stride=2, groups=width)
        self.position = PositionBias(HEADS, 2 * SIDE, stride=2)
        self.project = nn.Sequential(
            nn.GELU(), nn.Conv2d(width, out_channels, 1), nn.BatchNorm2d(out_channels)
        )
        self.shortcut = ConvNorm(channels, out_channels, 3, stride=2)

    def forward(
        self, x: Tensor
    ) -> Tensor:  # (B, C, h, w), N = h * w; M = ceil(h / 2) * ceil(w / 2)
        """(B, C, h, w) -> (B, C_out, ceil(h / 2), ceil(w / 2))."""
        query, value = self.query(x), self.value(x)
        local = self.local(value)  # (B, 8 * 64, ceil(h / 2), ceil(w / 2))
        # (B, 8, 16, M), (B, 8, 16, N), (B, 8, 64, N)
        q, k, v = _heads(query), _heads(self.key(x)), _heads(value)
        with autocast_off(x.device):
            bias = self.position((query.shape[2], query.shape[3]), (x.shape[2], x.shape[3]))
            weights = (_scores(q, k) + bias).softmax(-1)  # (B, 8, M, N)
            gathered = at_least_fp32(v) @ weights.mT  # (B, 8, 64, M)
        gathered = gathered.to(value.dtype).reshape(local.shape)
        # (B, C_out, ceil(h / 2), ceil(w / 2))
        return self.project(gathered + local) + self.shortcut(x)


def _heads(x: Tensor) -> Tensor:
    """Split heads: (B, 8 * d, h, w) -> (B, 8, d, N)."""
    return x.reshape(x.shape[0], HEADS, x.shape[1] // HEADS, x.shape[2] * x.shape[3])


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """Return q k / sqrt(d) of (B, 8, d, M) and (B, 8, d, N): (B, 8, M, N)."""
    return (at_least_fp32(q).mT @ at_least_fp32(k)) * q.shape[2] ** -0.5


class FeedForward(nn.Module):
    """1x1, depthwise 3x3, 1x1, each with batch norm, GELU after the first two (Fig. 2 c)."""

    def __init__(self, channels: int, *, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.expand = ConvNorm(channels, hidden, 1)
        self.depthwise = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.project = ConvNorm(hidden, channels, 1)
        self.act = nn.GELU()
        for conv in (self.expand[0], self.project[0]):
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            nn.init.trunc_normal_(conv.weight, std=0.02)  # as the authors do, here only
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return self.project(self.act(self.depthwise(self.act(self.expand(x)))))


class Residual(nn.Module):
    """x + scale * branch(x)."""

    def __init__(self, branch: nn.Module, channels: int, *, drop: float) -> None:
        super().__init__()
        self.branch, self.scale, self.drop = (
            branch,
            LayerScale(channels, LAYER_SCALE),
            StochasticDepth(drop),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return x + self.drop(self.scale(self.branch(x)))


class Block(nn.Module):
    """Attention, in some blocks, then the feed-forward network."""

    def __init__(
        self, attention: Attention | None, channels: int, *, expansion: int, drop: float
    ) -> None:
        super().__init__()
        self.attention = (
            nn.Identity() if attention is None else Residual(attention, channels, drop=drop)
        )
        self.feed_forward = Residual(
            FeedForward(channels, expansion=expansion), channels, drop=drop
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return self.feed_forward(self.attention(x))


@dataclass(frozen=True)
class EfficientFormerV2Config:
    """One row of VARIANTS: the result of the authors' search, for each of the four stages.

    expansions has one number per block, the width of its feed-forward network in multiples of the
    stage's channels. attention_blocks is the number of last blocks of stages 3 and 4 with
    attention. drop_path is the rate of stochastic depth at the last block, from 0 at the first.
    """

    channels: tuple[int, int, int, int]
    expansions: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    attention_blocks: int
    drop_path: float = 0.0


VARIANTS = {
    "efficientformerv2-s0": EfficientFormerV2Config(
        channels=(32, 48, 96, 176),
        expansions=((4, 4), (4, 4), (4, 3, 3, 3, 4, 4), (4, 3, 3, 4)),
        attention_blocks=2,
    ),
    "efficientformerv2-s1": EfficientFormerV2Config(
        channels=(32, 48, 120, 224),
        expansions=((4, 4, 4), (4, 4, 4), (4, 4, 3, 3, 3, 3, 4, 4, 4), (4, 4, 3, 3, 4, 4)),
        attention_blocks=2,
    ),
    "efficientformerv2-s2": EfficientFormerV2Config(
        channels=(32, 64, 144, 288),
        expansions=(
            (4,) * 4,
            (4,) * 4,
            (4, 4, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4),
            (4, 4, 3, 3, 3, 3, 4, 4),
        ),
        attention_blocks=4,
        drop_path=0.02,
    ),
    "efficientformerv2-l": EfficientFormerV2Config(
        channels=(40, 80, 192, 384),
        expansions=(
            (4,) * 5,
            (4,) * 5,
            (*(4,) * 4, *(3,) * 7, *(4,) * 4),
            (4, 4, 4, 3, 3, 3, 3, 4, 4, 4),
        ),
        attention_blocks=6,
        drop_path=0.1,
    ),
}


def _stage(config: EfficientFormerV2Config, number: int) -> nn.Sequential:
    """Return stage 0 to 3: embed (halve the size, except in the first), then blocks.

    (B, C_in, h, w) -> (B, C, ceil(h / 2), ceil(w / 2)).
    """
    channels, expansions = config.channels[number], config.expansions[number]
    before, total = sum(map(len, config.expansions[:number])), sum(map(len, config.expansions))
    blocks = []
    for i, expansion in enumerate(expansions):
        attends = number >= 2 and i >= len(expansions) - config.attention_blocks
        attention = Attention(channels, stride=2 if number == 2 else 1) if attends else None
        drop = config.drop_path * (before + i) / (total - 1)
        blocks.append(Block(attention, channels, expansion=expansion, drop=drop))
    embed: nn.Module = nn.Identity()
    if number == 3:
        embed = AttentionDownsample(config.channels[2], channels)
    elif number > 0:
        embed = ConvNorm(config.channels[number - 1], channels, 3, stride=2)
    return nn.Sequential(OrderedDict(embed=embed, blocks=nn.Sequential(*blocks)))


class EfficientFormerV2(Backbone):
    """ImageNet-normalised images (B, C, H, W) -> four stages: 1/4, 1/8, 1/16, 1/32."""

    first_convolution = "stem.0"
    checkpointed = (AttentionDownsample, Block, ConvNorm)

    def __init__(self, config: EfficientFormerV2Config) -> None:
        super().__init__()
        first, self.stage_channels = config.channels[0], config.channels
        self.stem = nn.Sequential(
            *(nn.Conv2d(3, first // 2, 3, 2, padding=1), nn.BatchNorm2d(first // 2), nn.GELU()),
            *(nn.Conv2d(first // 2, first, 3, 2, padding=1), nn.BatchNorm2d(first), nn.GELU()),
        )
        self.stages = nn.ModuleList(_stage(config, number) for number in range(4))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3, sizes rounded up."""
        x = self.stem(images)  # (B, C_0, H/4, W/4)
        stages = []
        for stage in self.stages:
            x = stage(x)
            stages.append(x)
        return stages  # (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3, sizes rounded up

    def mmseg_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return the groups of CGRSeg's published configs, whose custom_keys match parts of names.

        'head' (10 times the rate) matches decode_head, but also talking_head1 and 2 of the
        backbone. 'norm' (no decay) matches the norms of the feed-forward networks and of the first
        two downsamplings; those of the attentions and the stem have other names, and 'head' comes
        before 'norm' in the head. So all of these decay, like biases, layer scales and position
        tables.
        """
        modules = list(self.modules())
        talking = [
            h
            for m in modules
            if isinstance(m, Attention)
            for h in (m.talking_before, m.talking_after)
        ]
        downsamplings = [
            m for stage in self.stages for m in stage.children() if isinstance(m, ConvNorm)
        ]
        normed = [*downsamplings, *(m for m in modules if isinstance(m, FeedForward))]
        kinds = nn.BatchNorm2d | nn.SyncBatchNorm
        norms = [m for part in normed for m in part.modules() if isinstance(m, kinds)]
        return [p for h in talking for p in h.parameters()], [
            p for norm in norms for p in norm.parameters()
        ]

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, keys that are not used).

        The keys are those of EfficientFormerV2's ImageNet code or of CGRSeg's backbone. ImageNet's
        position tables are for 224 x 224: ours start at zero instead, as the authors' do, or are
        resized from them if `set_position_resize` chose "two-dimensional".
        """
        renamed, unused = {}, []
        segmentation = any(key.endswith(".attention_biases_seg") for key in state)
        for key, value in state.items():
            tail = key.rpartition(".")[2]
            if (
                key in OFFICIAL_HEAD
                or tail in OFFICIAL_INDICES
                or (tail == "attention_biases" and segmentation)
            ):
                unused.append(key)
            elif tail == "attention_biases":
                name = _rename(f"{key}_seg")
                renamed[name], used = self._table_from_imagenet(name, value)
                unused += [] if used else [key]
            else:
                renamed[_rename(key)] = value.flatten() if key.endswith(OFFICIAL_SCALES) else value
        return renamed, unused

    def _table_from_imagenet(self, name: str, official: Tensor) -> tuple[Tensor, bool]:
        """Return (position table (8, side * side) under our name, whether it is official)."""
        owner = dict(self.named_modules()).get(name.removesuffix(".table"))
        if not isinstance(owner, PositionBias):
            return official, True  # no such table here: refused by its name
        if owner.how == "flattened":
            return torch.zeros_like(owner.table), False
        if official.dim() != 2 or math.isqrt(official.shape[1]) ** 2 != official.shape[1]:
            return official, True  # no square of offsets: refused by its shape
        return resize_table(official, (owner.side, owner.side)), True


def set_position_resize(backbone: Backbone, how: PositionResize) -> None:
    """Choose how an EfficientFormerV2 resizes its position biases; call before weights are loaded.

    Raises ConfigError for a backbone without position biases.
    """
    tables = [module for module in backbone.modules() if isinstance(module, PositionBias)]
    if not tables:
        raise ConfigError(
            f"position_resize = {how!r}: {type(backbone).__name__} has no position tables. Leave "
            "this key out."
        )
    for table in tables:
        table.how = how


OFFICIAL_HEAD = {
    *(f"{head}.{part}" for head in ("head", "dist_head", "norm") for part in ("weight", "bias")),
    *(f"norm.{part}" for part in ("running_mean", "running_var", "num_batches_tracked")),
}
OFFICIAL_INDICES = ("attention_bias_idxs", "attention_bias_idxs_seg")
OFFICIAL_SCALES = (".layer_scale_1", ".layer_scale_2")
"""Names of layer scales, whose shape is (C, 1, 1); ours are (C,)."""

OFFICIAL_ATTENTION = {
    "attention_biases_seg": "position.table",
    "stride_conv.": "reduce.",
    "q.": "query.",
    "k.": "key.",
    "v.": "value.",
    "v_local.": "local.",
    "talking_head1.": "talking_before.",
    "talking_head2.": "talking_after.",
    "proj.": "project.",
}
"""Names inside both kinds of attention: the authors' -> ours."""

OFFICIAL_BLOCK = {
    "layer_scale_1": "attention.scale.weight",
    "layer_scale_2": "feed_forward.scale.weight",
    "mlp.fc1.": "feed_forward.branch.expand.0.",
    "mlp.norm1.": "feed_forward.branch.expand.1.",
    "mlp.mid.": "feed_forward.branch.depthwise.0.",
    "mlp.mid_norm.": "feed_forward.branch.depthwise.1.",
    "mlp.fc2.": "feed_forward.branch.project.0.",
    "mlp.norm2.": "feed_forward.branch.project.1.",
    **{
        f"token_mixer.{theirs}": f"attention.branch.{ours}"
        for theirs, ours in OFFICIAL_ATTENTION.items()
    },
}
"""Names inside a block, `network.4.7.<theirs>` -> `stages.2.blocks.7.<ours>`."""

OFFICIAL_EMBED = {
    "proj.": "0.",
    "norm.": "1.",
    "conv.": "shortcut.0.",
    "bn.": "shortcut.1.",
    "attn.q.local.0.": "query.local.",
    "attn.q.proj.": "query.project.",
    **{f"attn.{theirs}": ours for theirs, ours in OFFICIAL_ATTENTION.items()},
}
"""Names before a stage, `network.5.<theirs>` -> `stages.3.embed.<ours>`."""


def _rename(key: str) -> str:
    """Rename `network.4.7.mlp.mid.` to `stages.2.blocks.7.feed_forward.branch.depthwise.0.`, etc.

    Keys of other models stay.
    """
    if key.startswith("patch_embed."):
        return key.replace("patch_embed.", "stem.", 1)
    match = re.fullmatch(r"network\.(\d+)\.((\d+)\.)?(.+)", key)
    if match is None:
        return key
    # even: the blocks of a stage; odd: what stands before the next
    number, odd = divmod(int(match[1]), 2)
    if bool(odd) == bool(match[3]):
        return key
    place = f"stages.{number + 1}.embed" if odd else f"stages.{number}.blocks.{match[3]}"
    for theirs, ours in (OFFICIAL_EMBED if odd else OFFICIAL_BLOCK).items():
        if match[4].startswith(theirs):
            return f"{place}.{ours}{match[4].removeprefix(theirs)}"
    return key


def build_efficientformer_v2(name: str) -> EfficientFormerV2:
    """Build `efficientformerv2-s0`, `-s1`, `-s2` or `-l`, untrained."""
    return EfficientFormerV2(VARIANTS[name])
