"""FRM: a feature refinement module for light-weight semantic segmentation (Wang et al., arXiv:2412.08670).

All four backbone stages are pooled to 1/32, concatenated (Eq. 1) and refined by one transformer block whose attention
is disentangled non-local (Eq. 2-3); a flow-aligned feature pyramid, SFNet's (Li et al., ECCV 2020), brings the result
back to 1/4. Letters: B images, C_i channels of stage i, C = sum C_i, D decoder width, K classes.
The authors published no code: what the paper leaves open was decided by its printed parameter and operation counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg import backbones
from featherseg.core.types import SegOutput
from featherseg.layers.align import FlowAlignment
from featherseg.layers.attention import DisentangledNonLocal
from featherseg.layers.conv import ConvNormAct
from featherseg.layers.network import SegmentationNetwork
from featherseg.layers.resize import pad_images, resize


class ConvFeedForward(nn.Module):
    """Feed-forward network, Sec. 2.2: 1x1, depthwise 3x3, ReLU, 1x1.

    The text says the first 1x1 expands; the printed counts only fit a squeeze to 128, which is the default here.
    """

    def __init__(self, channels: int, *, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, hidden, kernel_size=1)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden)
        self.act = nn.ReLU()
        self.restore = nn.Conv2d(hidden, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w)
        return self.restore(self.act(self.depthwise(self.squeeze(x))))  # (B, C, h, w)


class FeatureRefinement(nn.Module):
    """Sec. 2.2, Fig. 2: four stages in, one semantic map at 1/32 out."""

    def __init__(self, stage_channels: Sequence[int], out_channels: int, *, ffn_hidden: int) -> None:
        super().__init__()
        width = sum(stage_channels)
        self.attention = DisentangledNonLocal(width, key_channels=width // 4)  # "reduced to C/4", Sec. 3.2
        self.feed_forward = ConvFeedForward(width, hidden=ffn_hidden)
        self.reduce = ConvNormAct(width, out_channels, 1)  # "added after FFN for cutting the channels"

    def forward(self, stages: Sequence[Tensor]) -> Tensor:  # stage i = 0..3: (B, C_i, H/2^(i+2), W/2^(i+2))
        *fine, last = stages
        pooled = [_pool(stage, 2 ** (3 - i)) for i, stage in enumerate(fine)]  # strides 8, 4, 2
        x = torch.cat([*pooled, last], dim=1)  # (B, C, H/32, W/32)  Eq. 1
        x = self.attention(x)  # Eq. 2-3, with DNL's own residual
        x = x + self.feed_forward(x)  # residual: assumed, as in every transformer block
        return self.reduce(x)  # (B, D, H/32, W/32)


def _pool(stage: Tensor, k: int) -> Tensor:
    """Average over k x k cells; at the right and lower edge over the part of the cell that lies inside."""
    return F.avg_pool2d(stage, k, ceil_mode=True, count_include_pad=False)  # (B, C_i, ceil(h/k), ceil(w/k))


class AlignedPyramid(nn.Module):
    """SFNet's decoder, "FPN ... following the setting in [12]": top-down, each step aligned along a learned flow.

    forward(stages, context) -> (B, 4 D, H/4, W/4): the refined stages and the context, all brought to the finest.
    """

    def __init__(self, stage_channels: Sequence[int], width: int) -> None:
        super().__init__()
        fine = stage_channels[:-1]
        self.lateral = nn.ModuleList(ConvNormAct(c, width, 1, bias=True) for c in fine)
        self.align = nn.ModuleList(FlowAlignment(width, flow_channels=width // 2) for _ in fine)
        self.smooth = nn.ModuleList(ConvNormAct(width, width, 3) for _ in fine)

    def forward(self, stages: Sequence[Tensor], context: Tensor) -> Tensor:  # context (B, D, H/32, W/32)
        top, outputs = context, [context]
        for i in (2, 1, 0):
            lateral = self.lateral[i](stages[i])  # (B, D, H/2^(i+2), W/2^(i+2))
            top = lateral + self.align[i](lateral, top)
            outputs.append(self.smooth[i](top))
        finest = outputs.pop()  # (B, D, H/4, W/4)
        size = (finest.shape[2], finest.shape[3])
        lifted = [resize(x, size, align_corners=True) for x in reversed(outputs)]
        return torch.cat([finest, *lifted], dim=1)  # (B, 4 D, H/4, W/4)


@dataclass(frozen=True)
class FRMConfig:
    """One row of VARIANTS."""

    backbone: str
    decoder_channels: int
    ffn_hidden: int = 128


VARIANTS = {
    "frm-lite0": FRMConfig("efficientnet-lite0", decoder_channels=64),
}


class FRM(SegmentationNetwork):
    """Fig. 1: images (B, 3, H, W), normalised -> logits (B, K, H/4, W/4), sizes rounded up.

    Runs natively at every size of at least 64x64; a shorter side is padded to 64.
    """

    align_corners = False
    size_divisor = 1
    minimum_size = 64

    def __init__(self, config: FRMConfig, classes: int) -> None:
        super().__init__()
        width = config.decoder_channels
        self.classes = classes
        self.backbone = backbones.build(config.backbone)
        self.context = FeatureRefinement(self.backbone.stage_channels, width, ffn_hidden=config.ffn_hidden)
        self.decoder = AlignedPyramid(self.backbone.stage_channels, width)
        self.fuse = ConvNormAct(4 * width, width, 3)
        self.classifier = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, images: Tensor) -> SegOutput:  # (B, 3, H, W)
        image_size = (images.shape[2], images.shape[3])
        images, padded_size = pad_images(images, minimum=self.minimum_size)
        stages = self.backbone(images)  # 4 x (B, C_i, H/2^(i+2), W/2^(i+2))
        context = self.context(stages)  # (B, D, H/32, W/32)
        features = self.fuse(self.decoder(stages, context))  # (B, D, H/4, W/4)
        return SegOutput(
            logits=self.classifier(features),  # (B, K, H/4, W/4)
            image_size=image_size,
            padded_size=padded_size,
            align_corners=self.align_corners,
            features=features if self.training else None,
        )


def build_frm(name: str, classes: int) -> FRM:
    """A network of VARIANTS, untrained."""
    return FRM(VARIANTS[name], classes)
