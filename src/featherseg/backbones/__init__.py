"""Backbones: normalised images in, four stage maps out, fine (1/4) to coarse (1/32).

To add one: its file, its row in BACKBONES, its weights (if any) in weights.PRETRAINED, a test.
"""

from collections.abc import Callable
from functools import partial

from featherseg.backbones.efficientformer_v2 import build_efficientformer_v2
from featherseg.backbones.efficientnet import build_lite
from featherseg.backbones.van import build_van
from featherseg.core.errors import unknown
from featherseg.layers.network import Backbone

BACKBONES: dict[str, Callable[[], Backbone]] = {
    "efficientformerv2-s0": partial(build_efficientformer_v2, "efficientformerv2-s0"),
    "efficientformerv2-s1": partial(build_efficientformer_v2, "efficientformerv2-s1"),
    "efficientformerv2-s2": partial(build_efficientformer_v2, "efficientformerv2-s2"),
    "efficientformerv2-l": partial(build_efficientformer_v2, "efficientformerv2-l"),
    "efficientnet-lite0": partial(build_lite, "efficientnet-lite0"),
    "efficientnet-lite1": partial(build_lite, "efficientnet-lite1"),
    "efficientnet-lite2": partial(build_lite, "efficientnet-lite2"),
    "van-b0": partial(build_van, "van-b0"),
    "van-b1": partial(build_van, "van-b1"),
    "van-b2": partial(build_van, "van-b2"),
    "van-b3": partial(build_van, "van-b3"),
}


def build(name: str) -> Backbone:
    """An untrained backbone by its catalogue name; its forward maps images (B, 3, H, W) to the list of four stages.

    Every backbone has `stage_channels`, `mean` and `std` (0..255), `first_convolution`, `widen(channels)` and
    `rename_official(state)`. Raises UnknownName.
    """
    if name not in BACKBONES:
        raise unknown("backbone", name, BACKBONES)
    return BACKBONES[name]()
