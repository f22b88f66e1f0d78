"""BiAlignNet: scene parsing via bi-direction alignment (Wu et al., ICIP 2021, arXiv:2105.11651).

Two paths read the image: three strided convolutions keep details (spatial path, 1/8), DFNet and
pyramid pooling gather context (context path, 1/32). Two gated flows align the paths with each other
at 1/8: one warps the context to the details, the other the details to the context. Both are
classified together, and the logits are shuffled to the image's size. For training, auxiliary heads
classify two stages of the backbone and find edges. What the paper leaves open is as in its authors'
model (jojacola/BiAlignNet), which was described in words: none of their code is used. DFNet: Li et
al., "Partial order pruning", CVPR 2019, arXiv:1903.03777.

Letters: B images, H x W the image, D width of the paths, K classes.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from featherseg.layers.align import FlowAlignment, positions
from featherseg.layers.conv import ConvNormAct, widen_input
from featherseg.layers.model import Backbone, Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.official_keys import rename_start
from featherseg.layers.pooling import PyramidPooling
from featherseg.layers.precision import at_least_fp32
from featherseg.layers.residual import basic_block, conv_norm, start_kaiming
from featherseg.layers.resize import resize

SHUFFLE = 8
"""Side in pixels of the block that one position of the head becomes."""


class BlockGroup(NamedTuple):
    """Basic blocks of one width, the first with `stride`; `official` is the authors' name."""

    official: str
    width: int
    blocks: int
    stride: int


TRUNKS: dict[str, tuple[tuple[BlockGroup, ...], ...]] = {
    "dfnet-1": (
        (BlockGroup("stage2", 64, 3, 2), BlockGroup("stage3", 128, 3, 2)),
        (BlockGroup("stage4", 256, 3, 2),),
        (BlockGroup("stage5", 512, 1, 1),),
    ),
    "dfnet-2": (
        (BlockGroup("stage2_1", 64, 2, 2), BlockGroup("stage2_2", 128, 1, 1)),
        (BlockGroup("stage3_1", 128, 10, 2), BlockGroup("stage3_2", 256, 1, 1)),
        (BlockGroup("stage4_1", 256, 4, 2), BlockGroup("stage4_2", 512, 2, 1)),
    ),
}
"""Backbone -> for each map behind the stem, the groups of blocks that lead to it."""


class DFNet(Backbone):
    """Normalised images (B, 3, H, W) -> four maps, fine to coarse, sizes rounded up.

    DFNet2: (B, 64, H/4, W/4), (B, 128, H/8, W/8), (B, 256, H/16, W/16), (B, 512, H/32, W/32).
    DFNet1 has 128 channels at 1/16, 256 and 512 at 1/32.
    """

    first_convolution = "stem.0"

    def __init__(self, trunk: tuple[tuple[BlockGroup, ...], ...]) -> None:
        super().__init__()
        self.trunk = trunk
        self.stage_channels = (64, *(stage[-1].width for stage in trunk))
        self.stem = nn.Sequential(
            *conv_norm(3, 32, 3, stride=2), nn.ReLU(), *conv_norm(32, 64, 3, stride=2), nn.ReLU()
        )
        self.stages = nn.ModuleList()
        channels = 64
        for stage in trunk:
            groups = []
            for group in stage:
                blocks = [basic_block(channels, group.width, group.stride)]
                blocks += [basic_block(group.width, group.width, 1) for _ in range(1, group.blocks)]
                groups.append(nn.Sequential(*blocks))
                channels = group.width
            self.stages.append(nn.Sequential(*groups))
        start_kaiming(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the four maps."""
        maps = [self.stem(images)]  # (B, 64, H/4, W/4)
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, no unused keys)."""
        parts = {
            f"{group.official}.": f"stages.{i}.{j}."
            for i, stage in enumerate(self.trunk)
            for j, group in enumerate(stage)
        }
        renamed = {
            rename_start(key, {"stage1.": "stem."} | parts, tuple(parts)): value
            for key, value in state.items()
        }
        return renamed, []


class SpatialPath(nn.Sequential):
    """Details by three strided convolutions and a 1x1: (B, 3, H, W) -> (B, D, H/8, W/8)."""

    def __init__(self, width: int) -> None:
        super().__init__(
            ConvNormAct(3, 64, 7, stride=2),
            ConvNormAct(64, 64, 3, stride=2),
            ConvNormAct(64, 64, 3, stride=2),
            ConvNormAct(64, width, 1),
        )


class GatedAlignment(FlowAlignment):
    """Gated flow alignment module: warps one of two maps along a flow computed from both.

    A gate computed from the warped map damps the flow. The authors build the grid of positions with
    align_corners=True and sample it with False. So a flow of zero is not the identity: it shrinks
    the map towards its centre.
    """

    def __init__(self, channels: int, *, warps: Literal["fine", "coarse"]) -> None:
        super().__init__(channels, flow_channels=channels // 2)
        self.gate = nn.Conv2d(channels, 2, kernel_size=1)
        self.warps_fine = warps == "fine"

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """fine (B, D, H/8, W/8), coarse (B, D, h, w) -> (B, D, H/8, W/8)."""
        size = (fine.shape[2], fine.shape[3])
        lifted = resize(self.down_coarse(coarse), size, align_corners=True)
        flow = self.flow(torch.cat([lifted, self.down_fine(fine)], dim=1))  # (B, 2, H/8, W/8)
        moved = fine if self.warps_fine else coarse
        gate = resize(self.gate(moved).sigmoid(), size, align_corners=True)
        return self.warp(moved, as_aligned(flow * gate, (moved.shape[2], moved.shape[3])))


def as_aligned(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the flow by which `warp`, with aligned corners, samples as without aligned corners.

    Position g of a side of n cells is place ((g + 1) n - 1) / 2 without aligned corners, and
    (g + 1) (n - 1) / 2 with them, so g becomes g n / (n - 1). `warp` divides a flow by its own
    size. In fp32: positions in half precision are off by whole pixels.

    Args:
        flow: (B, 2, H, W).
        size: (h, w) of the map that is warped.
    """
    flow = at_least_fp32(flow)
    height, width = flow.shape[2:]
    (rows, columns), (x, y) = size, positions(flow)  # (B, H, W) each
    return flow + torch.stack([x * (width / (columns - 1)), y * (height / (rows - 1))], dim=1)


class ShuffledHead(nn.Sequential):
    """3x3 convolution, norm, ReLU, 1x1 to 64 values per class, which become 8x8 pixels."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__(
            ConvNormAct(channels, width, 3), nn.Conv2d(width, classes * SHUFFLE**2, kernel_size=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H/8, W/8) -> (B, K, H, W)."""
        hidden, project = self
        return F.pixel_shuffle(project(hidden(x)), SHUFFLE)


class BiAlignNetConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model]. decoder_channels is D."""

    backbone: Literal["dfnet-1", "dfnet-2"]
    decoder_channels: Annotated[int, Field(ge=2)] = 128


class BiAlignNet(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, K, H, W).

    Auxiliary logits: `aux8` and `aux16` (B, K, ...) on two stages of the backbone, at 1/8 and 1/16
    of DFNet2 and at 1/16 and 1/32 of DFNet1; `edge` (B, 1, H, W). Images are padded to a multiple
    of 8 and to at least 64x64; the authors resize the logits of other sizes to the image.
    """

    align_corners = True
    size_divisor = SHUFFLE
    minimum_size = 64
    boundary_head = "edge"
    class_bias = "head.1.bias"

    def __init__(self, config: BiAlignNetConfig, classes: int) -> None:
        super().__init__()
        self.width = width = config.decoder_channels
        self.classes, self.feature_channels = classes, 2 * width
        self.backbone = DFNet(TRUNKS[config.backbone])
        _, fine, middle, coarse = self.backbone.stage_channels
        self.context = PyramidPooling(coarse, width)
        self.spatial = SpatialPath(width)
        self.context_to_spatial = GatedAlignment(width, warps="coarse")
        self.spatial_to_context = GatedAlignment(width, warps="fine")
        self.head = ShuffledHead(2 * width, 2 * width, classes)
        self.aux_heads = nn.ModuleDict(
            {
                "aux8": nn.Conv2d(fine, classes, kernel_size=1),
                "aux16": nn.Conv2d(middle, classes, kernel_size=1),
                "edge": ShuffledHead(width, width // 2, 1),
            }
        )

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """Channels of the spatial path and of the backbone's maps."""
        return (self.width, *self.backbone.stage_channels)

    def widen(self, channels: int) -> None:
        """Accept another number of channels; call after loading three-channel weights."""
        super().widen(channels)
        first = self.spatial.get_submodule("0.0")
        assert isinstance(first, nn.Conv2d)
        widen_input(first, channels)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the spatial path's map (B, D, H/8, W/8) and the backbone's four maps."""
        return [self.spatial(images), *self.backbone(images)]

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """Return logits (B, K, H, W), features (B, 2 D, H/8, W/8), and auxiliary logits."""
        details, _, fine, middle, coarse = pyramid
        context = self.context(coarse)  # (B, D, H/32, W/32)
        warped_context = self.context_to_spatial(details, context)  # (B, D, H/8, W/8)
        warped_details = self.spatial_to_context(details, context)  # (B, D, H/8, W/8)
        features = torch.cat([warped_context, warped_details], dim=1)  # (B, 2 D, H/8, W/8)

        def aux() -> dict[str, Tensor]:
            """Return the logits of two backbone stages and of edges."""
            return {
                "aux8": self.aux_heads["aux8"](fine),
                "aux16": self.aux_heads["aux16"](middle),
                "edge": self.aux_heads["edge"](warped_details),
            }

        return Decoded(self.head(features), features, aux)

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, no unused keys).

        A file without auxiliary heads leaves ours unchanged.
        """
        return self.rename_parts(state, OFFICIAL_PARTS)


_entry = partial(ModelEntry, BiAlignNet, paper="BiAlignNet, arXiv:2105.11651")
VARIANTS = {
    "bialignnet-df1": _entry(
        BiAlignNetConfig(backbone="dfnet-1"), params=9_447_332, macs=18_242_338_816
    ),
    "bialignnet-df2": _entry(
        BiAlignNetConfig(backbone="dfnet-2"), params=18_901_412, macs=28_979_757_056
    ),
}


OFFICIAL_ALIGNMENT = {
    "down_h.": "down_coarse.",
    "down_l.": "down_fine.",
    "flow_make.": "flow.",
    "gate.gate.0.": "gate.",
}
"""Names inside a gated alignment: the authors' -> ours. `spatial2Context` warps the context."""

OFFICIAL_HEAD = {"conv.conv.": "0.0.", "conv.bn.": "0.1.", "conv_out.": "1."}

OFFICIAL_PARTS = {
    "ppm.stages.": "context.branches.",
    "ppm.bottleneck.": "context.reduce.",
    **{
        f"sp.{layer}.{theirs}.": f"spatial.{i}.{ours}."
        for i, layer in enumerate(("conv1", "conv2", "conv3", "conv_out"))
        for theirs, ours in (("conv", 0), ("bn", 1))
    },
    **{
        f"{theirs}.{a}": f"{ours}.{b}"
        for theirs, ours in (
            ("spatial2Context", "context_to_spatial"),
            ("context2Spatial", "spatial_to_context"),
        )
        for a, b in OFFICIAL_ALIGNMENT.items()
    },
    **{f"conv_out.{theirs}": f"head.{ours}" for theirs, ours in OFFICIAL_HEAD.items()},
    **{f"spatial_out.{theirs}": f"aux_heads.edge.{ours}" for theirs, ours in OFFICIAL_HEAD.items()},
    "cxt8_aux.conv_out.": "aux_heads.aux8.",
    "cxt16_aux.conv_out.": "aux_heads.aux16.",
}
"""Start of the authors' key -> start of ours."""
