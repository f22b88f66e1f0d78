"""RSP: cross-scale pixel-to-region relation (Bai et al., arXiv:2106.01744).

A reconstruction: the paper's method section was not available to us. From its abstract and
introduction: a pixel of a fine map gathers, from a window around its place in the map one level
coarser, what it composes well with (Relational Semantics Extractor, RSE). The result is passed on
in the fine map (Relational Semantics Propagator, RSP). Several RSPs form a head that hands the
context down from coarse to fine. By its words ("local relation", "composability") the relation is
that of local relation networks (Hu et al., ICCV 2019, arXiv:1904.11491). Everything else is our
choice, listed in docs/papers/rsp.md.

Letters: B images, C width of the pyramid, h x w a coarse map, n heads, R = k x k cells of a window,
K classes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from featherseg import backbones
from featherseg.kernels import pixel_to_region
from featherseg.kernels.relation import learns, learnt_pixel_to_region
from featherseg.layers.conv import DepthwiseSeparable
from featherseg.layers.model import Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.precision import at_least_fp32, autocast_off
from featherseg.layers.pyramid import FPN, BiFPN
from featherseg.layers.resize import resize

Composability = Literal["dot", "difference"]
Prior = bool | Literal["learned"]
PRIOR_WIDTH = 32
BLOCK = 2
"""Side of a block in cells: fastest of 1, 2, 4 and 2 x 4 in training, good in ONNX Runtime."""

OUTSIDE = -6e4
"""A logit that softmax makes 0, within the range of half precision."""


class LearnedPrior(nn.Module):
    """A learned value for each head and distance, as in Swin (Liu et al., arXiv:2103.14030, Eq. 4).

    The four pixels of a cell and the R cells of a window have 4 R different distances.
    """

    macs, no_decay = 0, True

    def __init__(self, heads: int, window: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(4, window**2, heads))

    def forward(self, distances: Tensor) -> Tensor:
        """Return g for all of `distances`: (4, R, 2) -> (4, R, n)."""
        return self.table


class PixelToRegion(nn.Module):
    """RSE: each pixel of a fine map gathers from k x k cells around its parent, one level coarser.

    context(p) = O sum_r softmax_r(f(q_p, k_r) / sqrt(d) + g(r - p)) v_r for each head; d is its
    width of q. The parent of pixel (y, x) is cell (y // 2, x // 2); cells outside the map are
    ignored. f is the dot product, or minus the squared distance ("difference"). g, the geometric
    prior, is a perceptron of the distance (dy, dx) between the centres of cell and pixel, in half
    windows: the four pixels of a cell have four priors. It may also be a table ("learned"), or 0
    (False). Always in fp32.
    """

    few_dimensions = False  # exporters/fixed_graph.py

    def __init__(
        self,
        channels: int,
        *,
        window: int = 5,
        heads: int = 8,
        prior: Prior = True,
        composability: Composability = "dot",
    ) -> None:
        super().__init__()
        self.window, self.heads, self.composability = window, heads, composability
        self.query = nn.Conv2d(channels, channels // 2, kernel_size=1, bias=False)
        self.key = nn.Conv2d(channels, channels // 2, kernel_size=1, bias=False)
        self.value = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
        self.out = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
        self.prior: nn.Module | None = None
        if prior == "learned":
            self.prior = LearnedPrior(heads, window)
        elif prior:
            self.prior = nn.Sequential(
                nn.Linear(2, PRIOR_WIDTH), nn.ReLU(), nn.Linear(PRIOR_WIDTH, heads)
            )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low (B, C, 2h, 2w), high (B, C, h, w) -> (B, C, 2h, 2w)."""
        assert low.shape[2:] == (2 * high.shape[2], 2 * high.shape[3]), (low.shape, high.shape)
        query, key, value = self.query(low), self.key(high), self.value(high)
        with autocast_off(low.device):
            # (B, C, 2h, 2w)
            context = self.gather(at_least_fp32(query), at_least_fp32(key), at_least_fp32(value))
        return self.out(context.to(low.dtype))  # (B, C, 2h, 2w)

    def gather(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Sum over r: q (B, C/2, 2h, 2w), k (B, C/2, h, w), v (B, C, h, w) -> (B, C, 2h, 2w).

        Blocks of T x T cells (T = BLOCK) are computed at once: their 4 T^2 pixels share the S^2
        cells that any of them reaches, S = T + k - 1. Everything is then a product of small
        matrices, which torch and every runtime compute fast. Cells outside a pixel's window or the
        map get the logit OUTSIDE, which softmax makes 0. With `few_dimensions` all windows are
        unfolded instead; training on a CPU uses a kernel.
        """
        if self.few_dimensions:
            return self.gather_unfolded(query, key, value)
        if self.training and learns(query):
            none = query.new_zeros(self.heads, 4, self.window**2)
            prior = none if self.prior is None else self.priors()
            return learnt_pixel_to_region(query, key, value, prior, self.composability)
        batch, _, height, width = key.shape
        rows, columns = (height + BLOCK - 1) // BLOCK, (width + BLOCK - 1) // BLOCK
        below, right = BLOCK * rows - height, BLOCK * columns - width
        reach = self.window // 2
        border = (0, 0, reach, reach + right, reach, reach + below)
        # (B, n, 2 T rows, 2 T columns, d)
        children = self.by_head(F.pad(query, (0, 2 * right, 0, 2 * below)))
        # (B, n, h, w, d), (B, n, h, w, C / n)
        keys, values = self.by_head(key), self.by_head(value)

        # One more dimension of q (always 1) and k: what a cell adds to the logits of all pixels.
        # -(q - k)^2 = 2 q k - k^2 - q^2, and -q^2 changes no softmax
        scale = keys.shape[-1] ** -0.5
        offset = torch.zeros_like(keys[..., :1])  # (B, n, h, w, 1)
        if self.composability == "difference":
            offset, scale = -scale * keys.square().sum(-1, keepdim=True), 2 * scale
        offset = F.pad(offset, border, value=OUTSIDE)
        keys = torch.cat([F.pad(keys * scale, border), offset], dim=-1)  # (..., d + 1)

        # Each block of pixels against the cells in its reach
        side = 2 * BLOCK
        children = children.unflatten(2, (rows, side)).unflatten(4, (columns, side)).transpose(3, 4)
        children = F.pad(
            children.reshape(batch, self.heads, rows * columns, side**2, -1), (0, 1), value=1.0
        )
        # (B, n, blocks, 4 T^2, S^2)
        logits = children @ self.windows(keys, rows, columns).mT + self.bias()[:, None]
        # (..., 4 T^2, C / n)
        context = logits.softmax(-1) @ self.windows(F.pad(values, border), rows, columns)
        context = context.reshape(batch, self.heads, rows, columns, side, side, -1).permute(
            0, 1, 6, 2, 4, 3, 5
        )
        return context.reshape(batch, -1, side * rows, side * columns)[
            :, :, : 2 * height, : 2 * width
        ]

    def gather_unfolded(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Compute `gather` cell by cell, from copies of all windows."""
        batch, _, height, width = key.shape

        def windows(x: Tensor) -> Tensor:  # (B, n c, h, w) -> (B, n, c, R, h * w), zeros outside
            """(B, n c, h, w) -> (B, n, c, R, h * w), zeros outside the map."""
            cells = F.unfold(x, self.window, padding=self.window // 2)
            return cells.reshape(batch, self.heads, -1, self.window**2, height * width)

        children = F.pixel_unshuffle(query, 2).reshape(batch, self.heads, -1, 4, height * width)
        keys, depth = windows(key), children.shape[2]
        logits = torch.einsum("bndcl,bndrl->bnlcr", children, keys)  # (B, n, h * w, 4, R)
        if self.composability == "difference":
            logits = 2 * logits - keys.square().sum(2).mT[..., None, :]
        logits = logits / depth**0.5
        if self.prior is not None:
            logits = logits + self.priors()[:, None]
        inside = torch.ones(1, 1, height, width, dtype=key.dtype, device=key.device)
        # (1, R, h * w), 0 outside the map
        inside = F.unfold(inside, self.window, padding=self.window // 2)
        weight = logits.masked_fill((inside == 0).mT[:, None, :, None], float("-inf")).softmax(-1)
        # (B, n, C / n, 4, h * w)
        context = torch.einsum("bnlcr,bndrl->bndcl", weight, windows(value))
        return F.pixel_shuffle(context.reshape(batch, -1, height, width), 2)  # (B, C, 2h, 2w)

    def for_cpu(self) -> "PixelToRegion":
        """Return an equal layer (within rounding), faster on a CPU.

        The weights must not change any more.
        """
        return FusedPixelToRegion(self)

    def macs(self, x: Tensor, y: Tensor) -> int:
        """Count each fine pixel by the keys and values of its window, however that is computed."""
        return (
            y.numel()
            // y.shape[1]
            * self.window**2
            * (self.key.out_channels + self.value.out_channels)
        )

    def priors(self) -> Tensor:
        """Return g of each head for the four pixels of a cell and the R cells around: (n, 4, R)."""
        assert self.prior is not None
        return at_least_fp32(self.prior(distances(self.window, self.query.weight))).permute(2, 0, 1)

    def bias(self) -> Tensor:
        """Return g for the pixels of a block and the cells in their reach: (n, 4 T^2, S^2).

        It is OUTSIDE beyond a pixel's window.
        """
        size = (self.heads, 2, 2, self.window, self.window)
        priors = (
            self.query.weight.new_zeros(size) if self.prior is None else self.priors().reshape(size)
        )
        places = range(BLOCK)
        cells = [
            F.pad(priors, (x, BLOCK - 1 - x, y, BLOCK - 1 - y), value=OUTSIDE)
            for y in places
            for x in places
        ]
        bias = torch.stack(cells, dim=1).unflatten(1, (BLOCK, BLOCK))  # (n, T, T, 2, 2, S, S)
        return bias.transpose(2, 3).reshape(self.heads, 4 * BLOCK**2, -1)

    def windows(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Return the cells in reach of each block of a padded map.

        (B, n, T rows + k - 1, T columns + k - 1, c) -> (B, n, rows * columns, S^2, c).
        """
        more = (self.window - 1) // BLOCK  # blocks beside a block that are in its reach
        x = x.unflatten(3, (columns + more, BLOCK))
        # (.., columns, S, c)
        x = torch.cat([x[:, :, :, i : i + columns] for i in range(more + 1)], dim=4)
        # (B, n, rows + more, columns, T, S, c)
        x = x.unflatten(2, (rows + more, BLOCK)).transpose(3, 4)
        # (B, n, rows, columns, S, S, c)
        x = torch.cat([x[:, :, i : i + rows] for i in range(more + 1)], dim=4)
        return x.flatten(4, 5).flatten(2, 3)

    def by_head(self, x: Tensor) -> Tensor:
        """(B, n c, h, w) -> (B, n, h, w, c)."""
        return x.unflatten(1, (self.heads, -1)).permute(0, 1, 3, 4, 2)


class FusedPixelToRegion(PixelToRegion):
    """A PixelToRegion that gathers in one kernel, without copies of windows; equal within rounding.

    It shares the parts of the layer that it is made from. Their weights must not change any more,
    because the geometric prior is computed once. With gradients, in float64, on other devices, and
    in a compiled or exported graph it computes like a PixelToRegion.
    """

    table: Tensor  # (n, 4, R)

    def __init__(self, plain: PixelToRegion) -> None:
        super().__init__(
            plain.query.in_channels,
            window=plain.window,
            heads=plain.heads,
            prior=plain.prior is not None,
            composability=plain.composability,
        )
        for name, part in plain.named_children():
            self.add_module(name, part)
        with torch.no_grad():
            none = plain.query.weight.new_zeros(plain.heads, 4, plain.window**2)
            table = none if plain.prior is None else plain.priors()
        self.register_buffer("table", table, persistent=False)
        self.train(plain.training)

    def gather(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Sum over r in one kernel, or as PixelToRegion does: -> (B, C, 2h, 2w)."""
        trained = query.requires_grad or key.requires_grad or value.requires_grad
        takes = query.dtype == torch.float32 and query.device.type in ("cpu", "meta")
        if trained or not takes or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return super().gather(query, key, value)
        # (B, C, 2h, 2w)
        return pixel_to_region(query, key, value, at_least_fp32(self.table), self.composability)

    def for_cpu(self) -> "FusedPixelToRegion":
        """Return the layer itself."""
        return self


def distances(window: int, like: Tensor) -> Tensor:
    """Return the distances from the four pixels of a cell to the R cells around it: (4, R, 2).

    (dy, dx) between centres, in half windows, with the type and device of `like`.
    """
    steps = torch.arange(window, dtype=like.dtype, device=like.device) - window // 2
    # -0.25, 0.25: centres of half cells
    fine = torch.arange(2, dtype=like.dtype, device=like.device) / 2 - 0.25
    along = (steps - fine[:, None]) / (window / 2)  # (2, k)
    # (2, 2, k, k)
    dy, dx = torch.broadcast_tensors(along[:, None, :, None], along[None, :, None, :])
    return torch.stack((dy, dx), dim=-1).reshape(4, window**2, 2)


class Propagation(nn.Module):
    """RSP: add to the fine map what the coarse one has for it: low + SepConv(low | RSE(low, high)).

    Without a relation: the paper's two baselines, which resize the coarse map bilinearly,
    SepConv(low | up(high)) ("concat") and SepConv(low + up(high)) ("sum"). | concatenates.
    """

    def __init__(self, channels: int, relation: PixelToRegion | None, *, add: bool = False) -> None:
        super().__init__()
        self.relation, self.add = relation, add
        self.fuse = DepthwiseSeparable(channels if add else 2 * channels, channels)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low (B, C, 2h, 2w), high (B, C, h, w) -> (B, C, 2h, 2w)."""
        if self.relation is not None:
            context = self.relation(low, high)  # (B, C, 2h, 2w)
        else:
            # (B, C, 2h, 2w)
            context = resize(high, (low.shape[2], low.shape[3]), align_corners=False)
        return low + self.fuse(low + context if self.add else torch.cat([low, context], dim=1))


class TopDownHead(nn.Module):
    """RSP head: H_5 = P_5, then H_l = RSP(P_l, H_(l+1)) down to H_2, which is classified."""

    def __init__(
        self, channels: int, classes: int, make_propagation: Callable[[], Propagation]
    ) -> None:
        super().__init__()
        self.propagate = nn.ModuleList(make_propagation() for _ in range(3))  # to H_2, H_3, H_4
        self.smooth = DepthwiseSeparable(channels, channels)
        self.drop = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(channels, classes, kernel_size=1)

    def forward(self, pyramid: Sequence[Tensor]) -> Decoded:
        """level i = 0..3: (B, C, H/2^(i+2), W/2^(i+2)) -> logits (B, K, H/4, W/4) and features."""
        *fine, top = pyramid
        for low, propagate in zip(reversed(fine), reversed(self.propagate), strict=True):
            top = propagate(low, top)  # (B, C, H/2^(i+2), W/2^(i+2)) for i = 2, 1, 0
        features = self.smooth(top)  # (B, C, H/4, W/4)
        return Decoded(self.classifier(self.drop(features)), features)


class RSPConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model].

    channels is the width of neck and head, repeats the number of BiFPN layers (an FPN is one pass),
    window is k. aggregation "sum" and "concat" are the paper's baselines; the four keys after it
    concern "rsp" only. prior: how the relation sees positions, by a perceptron (true), by a table
    of learned values ("learned"), or not (false).
    """

    channels: Annotated[int, Field(ge=1)] = 64
    neck: Literal["bifpn", "fpn"] = "bifpn"
    repeats: Annotated[int, Field(ge=1, le=64)] = 3
    aggregation: Literal["rsp", "sum", "concat"] = "rsp"
    window: Literal[1, 3, 5, 7, 9] = 5
    heads: Annotated[int, Field(ge=1)] = 8
    prior: Prior = True
    composability: Composability = "dot"

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.aggregation == "rsp" and self.channels % (2 * self.heads):
            raise ValueError(
                f"channels = {self.channels}, heads = {self.heads}: expected a multiple of "
                f"{2 * self.heads} channels, because keys have half of them in `heads` heads"
            )
        return self


class RSP(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, K, H'/4, W'/4), padded to multiples of 32.

    Its pyramid are the neck's maps P_2 to P_5: (B, C, H'/2^(i+2), W'/2^(i+2)) for i = 0..3.
    """

    align_corners = False
    size_divisor = 32
    minimum_size = 1
    lone_side = 32
    class_bias = "head.classifier.bias"

    def __init__(self, config: RSPConfig, classes: int) -> None:
        super().__init__()
        self.classes, self.feature_channels = classes, config.channels
        self.backbone = backbones.build(config.backbone)
        self.neck = build_neck(config, self.backbone.stage_channels)
        self.head = TopDownHead(config.channels, classes, partial(build_propagation, config))

    @property
    def pyramid_channels(self) -> Sequence[int]:
        """Channels of the neck's four maps."""
        return (self.neck.channels,) * 4

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the neck's maps P_2 to P_5."""
        return self.neck(self.backbone(images))

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """Return logits (B, K, H'/4, W'/4) and features (B, C, H'/4, W'/4)."""
        return self.head(pyramid)


_entry = partial(ModelEntry, RSP, paper="RSP, arXiv:2106.01744 (reconstruction)")
_panoptic = partial(_entry, panoptic=True)
VARIANTS = {
    "rsp-lite0": _entry(
        RSPConfig(backbone="efficientnet-lite0"), params=3_149_941, macs=5_680_117_504
    ),
    "rsp-lite0-w128": _entry(
        RSPConfig(backbone="efficientnet-lite0", channels=128),
        params=3_618_421,
        macs=10_513_299_200,
    ),
    "rsp-lite2": _entry(
        RSPConfig(backbone="efficientnet-lite2"), params=4_552_117, macs=7_664_555_776
    ),
    "rsp-b3": _entry(RSPConfig(backbone="efficientnet-b3"), params=10_301_085, macs=11_628_312_384),
    "rsp-b5": _entry(RSPConfig(backbone="efficientnet-b5"), params=27_498_149, macs=25_955_209_792),
    "rsp-r50": _entry(RSPConfig(backbone="resnet-50"), params=23_913_141, macs=45_494_957_824),
    "rsp-lite0-panoptic": _panoptic(
        RSPConfig(backbone="efficientnet-lite0"), params=3_208_920, macs=6_590_543_616
    ),
    "rsp-b3-panoptic": _panoptic(
        RSPConfig(backbone="efficientnet-b3"), params=10_360_064, macs=12_538_738_496
    ),
    "rsp-b5-panoptic": _panoptic(
        RSPConfig(backbone="efficientnet-b5"), params=27_557_128, macs=26_865_635_904
    ),
    "rsp-r50-panoptic": _panoptic(
        RSPConfig(backbone="resnet-50"), params=23_972_120, macs=46_405_383_936
    ),
}


def build_neck(config: RSPConfig, stage_channels: Sequence[int]) -> BiFPN | FPN:
    """Build the neck of a row: four stages -> four maps of config.channels at the same sizes."""
    if config.neck == "fpn":
        return FPN(stage_channels, config.channels)
    return BiFPN(stage_channels, config.channels, config.repeats)


def build_propagation(config: RSPConfig) -> Propagation:
    """Build one step down of the head: low (B, C, 2h, 2w), high (B, C, h, w) -> (B, C, 2h, 2w)."""
    if config.aggregation != "rsp":
        return Propagation(config.channels, relation=None, add=config.aggregation == "sum")
    relation = PixelToRegion(
        config.channels,
        window=config.window,
        heads=config.heads,
        prior=config.prior,
        composability=config.composability,
    )
    return Propagation(config.channels, relation)
