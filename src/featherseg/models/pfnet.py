"""PFNet: point flow for aerial image segmentation (Li et al., CVPR 2021, arXiv:2103.06564).

A feature pyramid whose top-down steps, the point flow modules, hand context from the coarse to the
fine map at a few points only: where edges are likely, and where the maps match best. Elsewhere
nothing of the coarse map reaches the fine one. What the paper leaves open is as in its authors'
model (lxtGH/PFSegNets), which was described in words: none of their code is used. The stem, the
dilated stages that keep their strides and the pyramid pooling are those of SFNet.

Letters: B images, H x W the image or a fine map, h x w a coarse map, D decoder width, P points,
K classes.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from featherseg import backbones
from featherseg.layers.align import AlignedPyramid
from featherseg.layers.conv import ConvNormAct
from featherseg.layers.model import Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.pooling import PyramidPooling, RegionMean, region_places
from featherseg.layers.precision import at_least_fp32, autocast_off
from featherseg.layers.resize import resize

KEY_CHANNELS = 64
"""Channels that the two maps are reduced to before they are matched."""


class PointFlow(nn.Module):
    """Point flow module: adds mixtures of points of the coarse map to points of the fine map."""

    not_in_ncnn = "topk, gather and scatter"

    def __init__(self, channels: int, *, max_pool: int, mean_pool: int, edge_points: int) -> None:
        super().__init__()
        self.max_pool, self.edge_points = max_pool, edge_points
        self.down_coarse = nn.Conv2d(channels, KEY_CHANNELS, kernel_size=1)
        self.down_fine = nn.Conv2d(channels, KEY_CHANNELS, kernel_size=1)
        self.match = nn.Conv2d(2 * KEY_CHANNELS, 1, kernel_size=3, padding=1)
        self.pool = RegionMean(mean_pool)
        self.edge = nn.Sequential(
            ConvNormAct(channels, channels, 3),
            nn.Conv2d(channels, 1, kernel_size=3, padding=1, bias=False),
        )

    def forward(self, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """fine (B, D, H, W), coarse (B, D, h, w) -> fine map, logits of edges (B, 1, h, w)."""
        size = (coarse.shape[2], coarse.shape[3])
        lowered = resize(self.down_fine(fine), size, align_corners=True)
        certainty = self.match(torch.cat([self.down_coarse(coarse), lowered], dim=1)).sigmoid()
        smooth = resize(self.pool(certainty), size, align_corners=True)  # (B, 1, h, w)
        edge = self.edge(coarse - coarse * smooth)  # (B, 1, h, w)

        # the likeliest edges: the fine map is sampled at the centres of their cells (a graph has a
        # fixed P, so in a map of fewer cells the last one fills up and counts once)
        cells = size[0] * size[1]
        absent = torch.sym_max(self.edge_points - cells, 0)
        logits = F.pad(edge.flatten(1), (0, absent), value=-torch.inf)
        edges = logits.topk(self.edge_points, dim=1).indices  # (B, P)
        exists, edges = edges < cells, edges.clamp(max=cells - 1)
        at_edges = mix(gather(coarse, edges), sample(fine, edges, size), exists)

        # the best match of each region, P = max_pool squared: the fine map is read at its cell
        with torch.no_grad():
            best = region_places(certainty, self.max_pool).flatten(1)  # (B, P)
        matched = certainty.flatten(1).gather(1, best).view(-1, 1, self.max_pool, self.max_pool)
        raised = coarse + coarse * resize(matched, size, align_corners=True)
        places = scaled(best, fine, coarse)
        at_matches = mix(gather(raised, best), gather(fine, places))

        # matches are written last: a cell that is both is a match
        out = scatter(fine.flatten(2), scaled(edges, fine, coarse), at_edges)
        return scatter(out, places, at_matches).view_as(fine), edge

    def macs(self, x: Tensor, y: tuple[Tensor, Tensor]) -> int:
        """Count affinities and mixtures of both kinds of points; ptflops misses them."""
        return 2 * x.shape[0] * x.shape[1] * (self.edge_points**2 + self.max_pool**4)


def gather(x: Tensor, places: Tensor) -> Tensor:
    """Read a map at numbered cells: (B, D, h, w), (B, P) -> (B, D, P)."""
    return x.flatten(2).gather(2, places[:, None].expand(-1, x.shape[1], -1))


def scatter(x: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """Write values (B, D, P) to places (B, P) of the cells (B, D, N) -> (B, D, N)."""
    return x.scatter(2, places[:, None].expand(-1, x.shape[1], -1), values.to(x.dtype))


def sample(x: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
    """Sample a map at the centres of cells (B, P) of another size: (B, D, H, W) -> (B, D, P)."""
    row = torch.div(places, size[1], rounding_mode="floor")
    column = places - row * size[1]  # a graph has no remainder by a side that may change
    with autocast_off(x.device):
        values = at_least_fp32(x)
        centres = torch.stack(
            [
                (2 * column + 1).to(values.dtype) / size[1] - 1,
                (2 * row + 1).to(values.dtype) / size[0] - 1,
            ],
            dim=-1,
        )  # (B, P, 2), x and y from -1 to 1
        sampled = F.grid_sample(values, centres[:, None], align_corners=False)  # (B, D, 1, P)
    return sampled[:, :, 0].to(x.dtype)


def scaled(places: Tensor, fine: Tensor, coarse: Tensor) -> Tensor:
    """Return the fine map's cells for cells (B, P) of the coarse map, as the authors compute them.

    Cell (y, x) becomes number r x + r y W rounded down, with r the ratio of heights for both axes.
    A ratio other than 2 moves cells along their row.
    """
    width = coarse.shape[3]
    row = torch.div(places, width, rounding_mode="floor")
    column = places - row * width
    number = (column + row * fine.shape[3]) * fine.shape[2]
    return torch.div(number, coarse.shape[2], rounding_mode="floor")


def mix(coarse: Tensor, fine: Tensor, exists: Tensor | None = None) -> Tensor:
    """Add to each fine point all coarse ones, weighted by affinity: 2 x (B, D, P) -> (B, D, P).

    exists (B, P): which coarse points count; all without it.
    """
    with autocast_off(fine.device):
        values, queries = at_least_fp32(coarse), at_least_fp32(fine)
        affinity = queries.mT @ values  # (B, P, P)
        if exists is not None:
            affinity = affinity.masked_fill(~exists[:, None], -torch.inf)
        weights = affinity.softmax(-1)
        return (values @ weights.mT + queries).to(fine.dtype)


class PointPyramid(AlignedPyramid):
    """The decoder of SFNet with point flow modules in place of learned flows."""

    def __init__(self, stage_channels: Sequence[int], width: int, config: "PFNetConfig") -> None:
        super().__init__(stage_channels, width)
        self.align = nn.ModuleList(
            PointFlow(
                width,
                max_pool=config.max_pool,
                mean_pool=config.mean_pool,
                edge_points=config.edge_points,
            )
            for _ in stage_channels[:-1]
        )

    def walk(self, stages: Sequence[Tensor], context: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the sums of the top-down path and the logits of edges, both fine to coarse.

        Sum i = 0..2: (B, D, H/2^(i+2), W/2^(i+2)). Edges: (B, 1, H/2^(i+3), W/2^(i+3)).
        """
        sums, edges = [context], list[Tensor]()
        for stage, lateral, align in reversed(
            list(zip(stages, self.lateral, self.align, strict=False))
        ):
            fine = lateral(stage)
            with_points, edge = align(fine, sums[0])
            sums.insert(0, fine + with_points)
            edges.insert(0, edge)
        return sums[:-1], edges


class StackedEdges(nn.Module):
    """The edges of all modules at the size of the finest."""

    macs = 0

    def forward(self, edges: Sequence[Tensor]) -> Tensor:
        """3 x (B, 1, h, w) of different sizes -> (B, 3, h, w)."""
        size = (edges[0].shape[2], edges[0].shape[3])
        return torch.cat([edges[0], *(resize(x, size, align_corners=True) for x in edges[1:])], 1)


class PFNetConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model]. decoder_channels is D.

    max_pool and mean_pool: regions per side of a point flow module's two pools. edge_points: number
    of points at edges; all cells if the coarse map has fewer.
    """

    backbone: Literal["resnet-50-deep", "resnet-101-deep"] = "resnet-50-deep"
    decoder_channels: Annotated[int, Field(ge=2)] = 256
    max_pool: Annotated[int, Field(ge=1, le=64)] = 14
    mean_pool: Annotated[int, Field(ge=1, le=64)] = 9
    edge_points: Annotated[int, Field(ge=1, le=4096)] = 128


class PFNet(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, K, H/4, W/4), sizes rounded up.

    Auxiliary logits `edge` (B, 3, H/8, W/8) of boundaries, one channel per point flow module, fine
    to coarse. Runs natively at every size of at least 64x64; a shorter side is padded to 64.
    """

    align_corners = True
    size_divisor = 1
    minimum_size = 64
    boundary_head = "edge"

    def __init__(self, config: PFNetConfig, classes: int) -> None:
        super().__init__()
        width = config.decoder_channels
        self.classes, self.feature_channels = classes, width
        self.backbone = backbones.build(config.backbone)
        self.backbone.dilate_blocks(2, 2)
        self.backbone.dilate_blocks(3, 4)
        channels = self.backbone.stage_channels
        self.context = PyramidPooling(channels[-1], width)
        self.decoder = PointPyramid(channels, width, config)
        self.fuse = ConvNormAct(4 * width, width, 3)
        self.classifier = nn.Conv2d(width, classes, kernel_size=1)
        self.aux_heads = nn.ModuleDict({"edge": StackedEdges()})

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """Return logits (B, K, H/4, W/4), features (B, D, H/4, W/4), and logits of edges."""
        context = self.context(pyramid[-1])  # (B, D, H/32, W/32)
        sums, edges = self.decoder.walk(pyramid, context)
        features = self.fuse(self.decoder.join(sums, context))  # (B, D, H/4, W/4)
        return Decoded(
            self.classifier(features), features, lambda: {"edge": self.aux_heads["edge"](edges)}
        )

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, unused keys)."""
        return self.rename_parts(state, OFFICIAL_PARTS)


_entry = partial(ModelEntry, PFNet, paper="PFNet, arXiv:2103.06564")
VARIANTS = {
    "pfnet-r50": _entry(
        PFNetConfig(backbone="resnet-50-deep"), params=32_994_774, macs=171_233_206_272
    ),
    "pfnet-r50-small": _entry(
        PFNetConfig(backbone="resnet-50-deep", max_pool=8, mean_pool=8, edge_points=32),
        params=32_994_774,
        macs=171_156_897_792,
    ),
}


OFFICIAL_POINT_FLOW = {
    "down_h.": "down_coarse.",
    "down_l.": "down_fine.",
    "point_matcher.match_conv.": "match.",
    "edge_final.0.": "edge.0.0.",
    "edge_final.1.": "edge.0.1.",
    "edge_final.3.": "edge.1.",
}
"""Names inside a point flow module."""

OFFICIAL_PARTS = {
    "layer0.0.": "backbone.conv1.",  # the stem as torchvision would call it
    "layer0.1.": "backbone.bn1.",
    "layer": "backbone.layer",
    "head.ppm.stages.": "context.branches.",
    "head.ppm.bottleneck.": "context.reduce.",
    "head.fpn_in.": "decoder.lateral.",
    **{f"head.fpn_out.{i}.0.": f"decoder.smooth.{i}." for i in range(3)},
    **{
        f"head.fpn_out_align.{i}.{theirs}": f"decoder.align.{i}.{ours}"
        for i in range(3)
        for theirs, ours in OFFICIAL_POINT_FLOW.items()
    },
    "head.conv_last.0.": "fuse.",
    "head.conv_last.1.": "classifier.",
}
"""Start of the authors' key -> start of ours."""
