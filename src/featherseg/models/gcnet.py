"""GCNet, the Golden Cudgel Network (Yang et al., CVPR 2025, arXiv:2503.03325).

One branch keeps details at 1/8, the other gathers context down to 1/64. They exchange their maps
twice, and DAPPM pools the context. In training every block (GCBlock) is a sum of several paths. For
inference each block folds into one 3x3 convolution, with the same result. A file of the authors has
one of the two forms, and the model takes the form of the file that it loads. What the paper leaves
open is as in the authors' code (gyyang23/GCNet).

Letters: B images, C channels of the stem, D channels of a block, H x W the image, h x w a map,
K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from featherseg.layers.conv import ConvNormAct
from featherseg.layers.folding import factors
from featherseg.layers.model import Backbone, Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.official_keys import rename_start
from featherseg.layers.pooling import DeepAggregationPooling
from featherseg.layers.pre_norm import PreNormHead
from featherseg.layers.residual import conv_norm, start_kaiming
from featherseg.layers.resize import resize


class GCBlock(nn.Module):
    """Golden cudgel block: ReLU of a sum of paths in training, of one 3x3 convolution in inference.

    Two paths are 3x3 and 1x1 convolutions, one is two 1x1 convolutions, all with batch norms and
    without activations. The last path is a batch norm of the input; a block that changes the shape
    has none. Without `act` there is no ReLU behind the sum.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, act: bool = True
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self.act: nn.Module = nn.ReLU() if act else nn.Identity()
        self.paths = nn.ModuleList()
        self.fused: nn.Conv2d | None = None
        self.unfold()

    def unfold(self) -> None:
        """Take the form for training, with new weights."""
        like = self.fused
        self.fused = None
        self.paths = nn.ModuleList(
            nn.Sequential(
                *conv_norm(self.in_channels, self.out_channels, kernel, stride=self.stride),
                *conv_norm(self.out_channels, self.out_channels, 1),
            )
            for kernel in (3, 3, 1)
        )
        if self.stride == 1 and self.in_channels == self.out_channels:
            self.paths.append(nn.BatchNorm2d(self.in_channels))
        if like is not None:
            self.to(like.weight).train(self.training)

    def fold(self) -> None:
        """Take the form for inference, one convolution, with new weights."""
        like = next(self.parameters())
        self.paths = nn.ModuleList()
        self.fused = nn.Conv2d(self.in_channels, self.out_channels, 3, self.stride, padding=1)
        self.to(like).train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, ceil(h / stride), ceil(w / stride))."""
        if self.fused is not None:
            return self.act(self.fused(x))
        return self.act(torch.stack([path(x) for path in self.paths]).sum(0))

    def merge_paths(self) -> None:
        """Fold all paths into one convolution, in place, for inference."""
        if self.fused is not None:
            return
        kernels, biases = zip(*map(_as_kernel, self.paths), strict=True)
        self.fold()
        assert self.fused is not None
        assert self.fused.bias is not None
        with torch.no_grad():
            self.fused.weight.copy_(torch.stack(kernels).sum(0))
            self.fused.bias.copy_(torch.stack(biases).sum(0))
        self.fused.requires_grad_(False)


def _as_kernel(path: Any) -> tuple[Tensor, Tensor]:
    """Return a path as one 3x3 convolution, in float64: kernel (D, C, 3, 3), bias (D,)."""
    if isinstance(path, nn.BatchNorm2d):
        factor, shift = factors(path)
        return F.pad(torch.diag(factor)[:, :, None, None], (1, 1, 1, 1)), shift
    first, first_norm, second, second_norm = path
    factor, bias = factors(first_norm)
    kernel = first.weight.detach().double() * factor[:, None, None, None]
    factor, shift = factors(second_norm)
    mix = second.weight.detach().double()[:, :, 0, 0] * factor[:, None]  # (D, D)
    kernel = torch.einsum("om,mchw->ochw", mix, kernel)
    if kernel.shape[-1] == 1:
        kernel = F.pad(kernel, (1, 1, 1, 1))  # 1x1 in the middle of 3x3
    return kernel, mix @ bias + shift


def stage(in_channels: int, width: int, blocks: int, *, stride: int = 1) -> nn.Sequential:
    """Return blocks of one width, the first with `stride`, the last without ReLU."""
    layers = [GCBlock(in_channels, width, stride=stride, act=blocks > 1)]
    layers += [GCBlock(width, width, act=number < blocks) for number in range(2, blocks + 1)]
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Trunk:
    """Channels C of the stem, and numbers of blocks of the stem and of each stage of a branch."""

    channels: int
    stem: tuple[int, int] = (4, 4)
    semantic: tuple[int, int, int] = (5, 5, 2)
    detail: tuple[int, int, int] = (4, 4, 2)


TRUNKS = {
    "gcnet-s": Trunk(32),
    "gcnet-m": Trunk(64),
    "gcnet-l": Trunk(64, stem=(5, 5), semantic=(5, 5, 3), detail=(5, 5, 3)),
}


class TwoBranches(Backbone):
    """The two branches: normalised images (B, 3, H, W) -> four maps, sizes rounded up.

    The stem's (B, 2 C, H/8, W/8); details after the first exchange (B, 2 C, H/8, W/8) and at the
    end (B, 4 C, H/8, W/8); context (B, 16 C, H/64, W/64).
    """

    first_convolution = "stem.0.0"
    checkpointed = (GCBlock,)

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        c = trunk.channels
        self.stage_channels = (2 * c, 2 * c, 4 * c, 16 * c)
        self.stem = nn.Sequential(
            ConvNormAct(3, c, 3, stride=2),
            ConvNormAct(c, c, 3, stride=2),
            *(GCBlock(c, c) for _ in range(trunk.stem[0])),
            GCBlock(c, 2 * c, stride=2),
            *(GCBlock(2 * c, 2 * c) for _ in range(1, trunk.stem[1])),
        )
        self.semantic = nn.ModuleList(
            stage(width // 2, width, blocks, stride=2)
            for width, blocks in zip((4 * c, 8 * c, 16 * c), trunk.semantic, strict=True)
        )
        self.detail = nn.ModuleList(
            stage(2 * c, width, blocks)
            for width, blocks in zip((2 * c, 2 * c, 4 * c), trunk.detail, strict=True)
        )
        self.compress = nn.ModuleList(
            nn.Sequential(*conv_norm(width, 2 * c, 1)) for width in (4 * c, 8 * c)
        )
        self.down = nn.ModuleList(
            [
                nn.Sequential(*conv_norm(2 * c, 4 * c, 3, stride=2)),
                nn.Sequential(
                    *conv_norm(2 * c, 4 * c, 3, stride=2),
                    nn.ReLU(),
                    *conv_norm(4 * c, 8 * c, 3, stride=2),
                ),
            ]
        )
        self.act = nn.ReLU()
        start_kaiming(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the four maps."""
        semantic = detail = shared = self.stem(images)  # (B, 2 C, H/8, W/8)
        size = (shared.shape[2], shared.shape[3])
        exchanged = []
        for i in (0, 1):
            # the authors' ReLU works in place, so that the sums below contain its result
            semantic = self.act(self.semantic[i](semantic))  # (B, 4 C or 8 C, H/16 or H/32, ...)
            detail = self.act(self.detail[i](detail))  # (B, 2 C, H/8, W/8)
            lifted = resize(self.compress[i](semantic), size, align_corners=False)
            semantic = semantic + self.down[i](detail)
            detail = detail + lifted
            exchanged.append(detail)
            semantic, detail = self.act(semantic), self.act(detail)
        details = self.detail[2](detail)  # (B, 4 C, H/8, W/8)
        context = self.semantic[2](semantic)  # (B, 16 C, H/64, W/64)
        return [shared, exchanged[0], details, context]

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, no unused keys).

        The blocks take the form of the keys, for training or for inference.
        """
        renamed = {_rename(key): value for key, value in state.items()}
        take_form(self, any(".fused." in key for key in renamed))
        return renamed, []


def take_form(module: nn.Module, folded: bool) -> None:
    """Bring all blocks into the form for inference or for training; those that have it stay."""
    for block in module.modules():
        if isinstance(block, GCBlock) and (block.fused is not None) != folded:
            block.fold() if folded else block.unfold()


class GCNetConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model].

    context_channels: width of each scale of DAPPM.
    """

    backbone: Literal["gcnet-s", "gcnet-m", "gcnet-l"]
    context_channels: Annotated[int, Field(ge=1)] = 128
    head_channels: Annotated[int, Field(ge=1)] = 64


class GCNet(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, K, H/8, W/8), sizes rounded up.

    The auxiliary logits `aux` have the same shape. Runs natively at every size.
    """

    align_corners = False
    size_divisor = 1
    minimum_size = 1
    lone_side = 64
    class_bias = "head.1.2.bias"

    def __init__(self, config: GCNetConfig, classes: int) -> None:
        super().__init__()
        self.backbone = TwoBranches(TRUNKS[config.backbone])
        _, exchanged, details, context = self.backbone.stage_channels
        self.classes, self.feature_channels = classes, details
        self.context = DeepAggregationPooling(context, config.context_channels, details)
        self.head = PreNormHead(details, config.head_channels, classes)
        self.aux_heads = nn.ModuleDict(
            {"aux": PreNormHead(exchanged, config.head_channels, classes)}
        )
        for part in (self.context, self.head, self.aux_heads):
            start_kaiming(part)

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """Return logits (B, K, H/8, W/8), features (B, 4 C, H/8, W/8), and auxiliary logits."""
        _, exchanged, details, context = pyramid
        size = (details.shape[2], details.shape[3])
        pooled = resize(self.context(context), size, align_corners=False)
        features = details + pooled  # (B, 4 C, H/8, W/8)
        return Decoded(
            self.head(features), features, lambda: {"aux": self.aux_heads["aux"](exchanged)}
        )

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, no unused keys).

        The model takes the form of the keys. A file without the auxiliary head leaves ours
        unchanged.
        """
        return self.rename_parts(state, OFFICIAL_PARTS)

    def with_own_aux_heads(self, renamed: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take the form of a state, so that a run of folded weights opens; then as every model."""
        take_form(self, any(".fused." in key for key in renamed))
        return super().with_own_aux_heads(renamed)


_entry = partial(ModelEntry, GCNet, paper="GCNet, arXiv:2503.03325")
VARIANTS = {
    "gcnet-s": _entry(GCNetConfig(backbone="gcnet-s"), params=9_169_971, macs=11_276_582_912),
    "gcnet-m": _entry(
        GCNetConfig(backbone="gcnet-m", head_channels=128), params=34_056_019, macs=44_590_039_040
    ),
    "gcnet-l": _entry(
        GCNetConfig(backbone="gcnet-l", head_channels=256), params=44_861_587, macs=57_897_517_056
    ),
}


OFFICIAL_INSIDE = {
    **{
        f".{path}.conv{j + 1}.{theirs}.": f".paths.{i}.{2 * j + k}."
        for i, path in enumerate(("path_3x3_1", "path_3x3_2", "path_1x1"))
        for j in (0, 1)
        for k, theirs in enumerate(("conv", "bn"))
    },
    ".path_residual.": ".paths.3.",
    ".reparam_3x3.": ".fused.",
    ".conv.": ".0.",
    ".bn.": ".1.",
}
"""Names inside a block, and of a convolution and its norm: the authors' -> ours."""

OFFICIAL_BACKBONE = {
    "semantic_branch_layers.": "semantic.",
    "detail_branch_layers.": "detail.",
    "compression_1.": "compress.0.",
    "compression_2.": "compress.1.",
    "down_1.": "down.0.",
    "down_2.0.conv.": "down.1.0.",
    "down_2.0.bn.": "down.1.1.",
    "down_2.1.conv.": "down.1.3.",
    "down_2.1.bn.": "down.1.4.",
}

OFFICIAL_POOLED = {
    "scales.0.": "finest.",
    **{f"scales.{i}.1.": f"scales.{i - 1}.1." for i in (1, 2, 3, 4)},
    **{f"processes.{i}.": f"process.{i}." for i in (0, 1, 2, 3)},
    "compression.": "compress.",
    "shortcut.": "shortcut.",
}

OFFICIAL_HEAD = {"0.": "0.0.", "2.conv.": "0.2.", "2.bn.": "1.0."}

OFFICIAL_PARTS = {
    **{
        f"backbone.spp.{theirs}{layer}.": f"context.{ours}{i}."
        for theirs, ours in OFFICIAL_POOLED.items()
        for layer, i in (("bn", 0), ("conv", 2))
    },
    **{f"decode_head.head.{theirs}": f"head.{ours}" for theirs, ours in OFFICIAL_HEAD.items()},
    "decode_head.conv_seg.": "head.1.2.",
    **{
        f"decode_head.aux_head_c4.{theirs}": f"aux_heads.aux.{ours}"
        for theirs, ours in OFFICIAL_HEAD.items()
    },
    "decode_head.aux_cls_seg_c4.": "aux_heads.aux.1.2.",
}
"""Start of the authors' key -> start of ours."""


def _rename(key: str) -> str:
    """Rename `stem.2.path_1x1.conv2.bn.bias` to `stem.2.paths.2.3.bias`; other keys stay."""
    key = rename_start(key, OFFICIAL_BACKBONE)
    for theirs, ours in OFFICIAL_INSIDE.items():
        if theirs in key:
            return key.replace(theirs, ours, 1)
    return key
