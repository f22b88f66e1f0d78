"""Backbones: normalised images in, four stage maps out, fine (1/4) to coarse (1/32).

To add one: its file, its row in BACKBONES, its weights (if any) in weights.PRETRAINED, a test.
"""

from collections.abc import Callable
from functools import partial

from featherseg.backbones.efficientformer_v2 import build_efficientformer_v2
from featherseg.backbones.efficientnet import build_efficientnet, build_lite
from featherseg.backbones.from_timm import PREFIX, TimmBackbone
from featherseg.backbones.mit import build_mit
from featherseg.backbones.mobilenet_v2 import MobileNetV2
from featherseg.backbones.resnet import build_resnet
from featherseg.backbones.van import build_van
from featherseg.core.errors import unknown
from featherseg.layers.model import Backbone

BACKBONES: dict[str, Callable[[], Backbone]] = {
    "efficientformerv2-s0": partial(build_efficientformer_v2, "efficientformerv2-s0"),
    "efficientformerv2-s1": partial(build_efficientformer_v2, "efficientformerv2-s1"),
    "efficientformerv2-s2": partial(build_efficientformer_v2, "efficientformerv2-s2"),
    "efficientformerv2-l": partial(build_efficientformer_v2, "efficientformerv2-l"),
    "efficientnet-b0": partial(build_efficientnet, "efficientnet-b0"),
    "efficientnet-b1": partial(build_efficientnet, "efficientnet-b1"),
    "efficientnet-b2": partial(build_efficientnet, "efficientnet-b2"),
    "efficientnet-b3": partial(build_efficientnet, "efficientnet-b3"),
    "efficientnet-b4": partial(build_efficientnet, "efficientnet-b4"),
    "efficientnet-b5": partial(build_efficientnet, "efficientnet-b5"),
    "efficientnet-lite0": partial(build_lite, "efficientnet-lite0"),
    "efficientnet-lite1": partial(build_lite, "efficientnet-lite1"),
    "efficientnet-lite2": partial(build_lite, "efficientnet-lite2"),
    "mit-b0": partial(build_mit, "mit-b0"),
    "mit-b1": partial(build_mit, "mit-b1"),
    "mobilenet-v2": MobileNetV2,
    "resnet-18": partial(build_resnet, "resnet-18"),
    "resnet-18-deep": partial(build_resnet, "resnet-18-deep"),
    "resnet-50-deep": partial(build_resnet, "resnet-50-deep"),
    "resnet-50": partial(build_resnet, "resnet-50"),
    "resnet-50-v1c": partial(build_resnet, "resnet-50-v1c"),
    "resnet-101-deep": partial(build_resnet, "resnet-101-deep"),
    "resnet-101": partial(build_resnet, "resnet-101"),
    "resnet-101-v1c": partial(build_resnet, "resnet-101-v1c"),
    "van-b0": partial(build_van, "van-b0"),
    "van-b1": partial(build_van, "van-b1"),
    "van-b2": partial(build_van, "van-b2"),
    "van-b3": partial(build_van, "van-b3"),
}


def build(name: str, output_stride: int = 32) -> Backbone:
    """Build an untrained backbone by a name of BACKBONES, or "timm:NAME" for one of timm.

    It maps images (B, 3, H, W) to the list of four stages.

    Every backbone has `stage_channels`, `mean` and `std` (0..255), `first_convolution`,
    `widen(channels)` and `rename_official(state)`. With output_stride 16 or 8 the last stages stay
    at 1/16 or 1/8, by dilation. Raises UnknownName, MissingExtra without timm, and ConfigError for
    a backbone without a dilated form or without such stages.
    """
    if name.startswith(PREFIX):
        backbone: Backbone = TimmBackbone(name)
    elif name in BACKBONES:
        backbone = BACKBONES[name]()
    else:
        raise unknown("backbone", name, BACKBONES)
    if output_stride != 32:
        backbone.dilate(output_stride)
    return backbone
