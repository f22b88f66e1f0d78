"""Lite is compared with the package `efficientnet_lite_pytorch`, the source of the published
weights; B0 to B5 are compared with recorded outputs of `efficientnet-pytorch` 0.7.1.
"""

import zlib
from math import prod, sqrt

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch.testing import assert_close

from featherseg import backbones
from featherseg.backbones.efficientnet import (
    OFFICIAL_PARTS,
    Group,
    InvertedBottleneck,
    PaddedBottleneck,
    SqueezeExcitation,
    _rename,
)
from featherseg.backbones.weights import find_pretrained, load_official, read_state
from featherseg.core.errors import WeightsError
from featherseg.costs.cost import count_parameters
from featherseg.exporters.parity import perturb
from featherseg.layers.stochastic_depth import StochasticDepth

SIZES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}
"""Pixels of a side; the package's constant padding is right only at its own training size."""


@pytest.mark.seconds
@pytest.mark.parametrize("name", SIZES)
def test_the_last_stage_equals_the_published_network(name):
    state = read_state(find_pretrained(name), is_published=True)
    theirs = EfficientNet.from_name(name).eval()
    theirs.load_state_dict(state)
    ours = backbones.build(name).eval()
    unused = load_official(ours, state)
    assert {key.split(".")[0] for key in unused} == {"_conv_head", "_bn1", "_fc"}
    images = torch.randn(1, 3, SIZES[name], SIZES[name], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.extract_features(images)  # after the head's convolution, norm and ReLU6
        head = theirs._bn1(theirs._conv_head(ours(images)[-1]))
    assert_close(head.clamp(0, 6), expected.clamp(0, 6), atol=1e-4, rtol=1e-4)


PACKAGE = {  # blocks, parameters with head, root mean square of each stage
    "efficientnet-b0": (16, 5_288_548, (0.178655, 0.26457, 0.30737, 0.161498)),
    "efficientnet-b1": (23, 7_794_184, (0.23113, 0.222299, 0.343687, 0.24064)),
    "efficientnet-b2": (23, 9_109_994, (0.23113, 0.252183, 0.345275, 0.229662)),
    "efficientnet-b3": (26, 12_233_232, (0.282545, 0.263965, 0.317461, 0.216508)),
    "efficientnet-b4": (32, 19_341_616, (0.322883, 0.341891, 0.407563, 0.228711)),
    "efficientnet-b5": (39, 30_389_784, (0.401215, 0.453051, 0.444454, 0.279051)),
}
"""Outputs of `efficientnet-pytorch` 0.7.1 in float64 with the weights of `noise`, on a seeded image
of 65 x 99. Its own stages and ours differed by at most 1e-15.
"""

HEAD = {
    "_conv_head.weight": (1280, 320, 1, 1), "_bn1.weight": (1280,), "_bn1.bias": (1280,),
    "_bn1.running_mean": (1280,), "_bn1.running_var": (1280,), "_bn1.num_batches_tracked": (),
    "_fc.weight": (1000, 1280), "_fc.bias": (1000,),
}  # fmt: skip
"""What a checkpoint of B0 has beside the backbone."""


def noise(key, shape):
    """A tensor drawn by its official name."""
    generator, kind = (
        torch.Generator().manual_seed(zlib.crc32(key.encode())),
        key.rsplit(".", 1)[-1],
    )
    if kind == "num_batches_tracked":
        return torch.tensor(0)
    if kind == "weight" and len(shape) > 1:
        return torch.randn(shape, generator=generator) * sqrt(1 / prod(shape[1:]))
    if kind in ("weight", "running_var"):
        return torch.rand(shape, generator=generator) + 0.5
    return torch.randn(shape, generator=generator) * 0.1


def official_state(backbone, blocks):
    """Return the package's keys for a network of this many blocks, without head, as noise."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    keys = ["_conv_stem.weight", *(f"_bn0.{t}" for t in norm)]
    for i in range(blocks):
        for part in OFFICIAL_PARTS:
            tensors = (
                norm
                if part.startswith("bn")
                else ("weight", "bias")
                if part.startswith("se")
                else ("weight",)
            )
            keys += [f"_blocks.{i}._{part}.{tensor}" for tensor in tensors]
    own = backbone.state_dict()
    places = [
        f"groups.{n}.{i}" for n, group in enumerate(backbone.groups) for i in range(len(group))
    ]
    assert len(places) == blocks
    shapes = {key: own[_rename(key, places)].shape for key in keys if _rename(key, places) in own}
    return {key: noise(key, shape) for key, shape in shapes.items()}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n[-1] in "245")) for n in PACKAGE]
)
def test_b_answers_as_the_package_does(name):
    blocks, _, expected = PACKAGE[name]
    backbone = backbones.build(name).eval()
    assert load_official(backbone, official_state(backbone, blocks)) == []
    images = torch.randn(1, 3, 65, 99, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        stages = backbone.double()(images)
    assert [float(s.square().mean().sqrt()) for s in stages] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", PACKAGE)
def test_b_weighs_what_the_package_has_without_its_head(name):
    with torch.device("meta"):
        backbone = backbones.build(name)
    out = backbone.stage_channels[-1]
    head = 4 * out  # 1280 channels for 320
    assert count_parameters(backbone) == PACKAGE[name][1] - (
        out * head + 2 * head + 1000 * head + 1000
    )


def test_the_head_of_b_is_listed_and_a_foreign_key_refused():
    backbone = backbones.build("efficientnet-b0")
    state = official_state(backbone, 16) | {key: torch.zeros(shape) for key, shape in HEAD.items()}
    assert load_official(backbone, state) == list(HEAD)
    with pytest.raises(WeightsError, match=r"unexpected: _blocks\.16\._bn1\.bias"):
        load_official(backbone, state | {"_blocks.16._bn1.bias": torch.zeros(3)})


def test_b_squeezes_to_a_quarter_of_what_a_block_takes_in():
    for group in backbones.build("efficientnet-b3").groups:
        for block in group:
            assert isinstance(block, InvertedBottleneck)
            first = block.expand[0] if len(list(block.expand.children())) else block.depthwise[0]
            assert block.excite.reduce.out_channels == int(first.in_channels / 4)


@torch.no_grad()
def test_excitation_scales_each_channel_by_what_all_of_them_are_on_average():
    block, x = (
        SqueezeExcitation(6, 2),
        torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(0)),
    )
    hidden = x.mean((2, 3)) @ block.reduce.weight[:, :, 0, 0].T + block.reduce.bias
    hidden = hidden / (1 + torch.exp(-hidden))
    gate = 1 / (1 + torch.exp(-(hidden @ block.expand.weight[:, :, 0, 0].T + block.expand.bias)))
    assert_close(block(x), x * gate[:, :, None, None])


@pytest.mark.parametrize(
    ("name", "last"), [("efficientnet-b0", 0.2 * 15 / 16), ("efficientnet-lite0", 0.0)]
)
def test_b_leaves_out_later_blocks_more_often_and_lite_none(name, last):
    rates = [m.rate for m in backbones.build(name).modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([last * i / 15 for i in range(16)])


def test_b_takes_images_normalised_by_imagenet_and_lite_by_127():
    b, lite = backbones.build("efficientnet-b0"), backbones.build("efficientnet-lite0")
    assert (b.mean, b.std) == ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    assert (lite.mean, lite.std) == ((127.0,) * 3, (128.0,) * 3)


@pytest.mark.parametrize(("name", "channels"), [
    ("efficientnet-b0", (24, 40, 112, 320)),
    ("efficientnet-b1", (24, 40, 112, 320)),
    ("efficientnet-b2", (24, 48, 120, 352)),
    ("efficientnet-b3", (32, 48, 136, 384)),
    pytest.param("efficientnet-b4", (32, 56, 160, 448), marks=pytest.mark.slow),
    pytest.param("efficientnet-b5", (40, 64, 176, 512), marks=pytest.mark.slow),
    ("efficientnet-lite0", (24, 40, 112, 320)),
    ("efficientnet-lite1", (24, 40, 112, 320)),
    ("efficientnet-lite2", (24, 48, 120, 352)),
])  # fmt: skip
@pytest.mark.parametrize("size", [(64, 64), (97, 131)])
def test_stages_have_the_published_widths_and_strides(name, channels, size):
    backbone = backbones.build(name).eval()
    with torch.no_grad():
        stages = backbone(torch.zeros(1, 3, *size))
    assert backbone.stage_channels == channels
    strided = [tuple(-(-n // stride) for n in size) for stride in (4, 8, 16, 32)]
    assert [tuple(s.shape[1:]) for s in stages] == [
        (c, *s) for c, s in zip(channels, strided, strict=True)
    ]


@pytest.mark.parametrize("size", [(64, 96), (65, 97)])
def test_a_dilated_network_agrees_wherever_the_strided_one_has_a_position(size):
    """TensorFlow pads strided positions onto odd cells of even sides, even cells of odd sides."""
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    state = read_state(find_pretrained("efficientnet-lite0"), is_published=True)
    strided, dilated = (backbones.build("efficientnet-lite0", stride).eval() for stride in (32, 16))
    for backbone in (strided, dilated):
        load_official(backbone, state)
    with torch.no_grad():
        *fine, coarse = strided(images)
        *same, dense = dilated(images)
    assert_close(same, fine)
    first = 1 - size[0] % 2
    assert_close(dense[:, :, first::2, first::2], coarse, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lite", [True, False])
@pytest.mark.parametrize(("channels", "kernel"), [(16, 3), (24, 5), (7, 3)])
def test_a_block_padded_in_front_of_its_first_convolution_gives_the_same(channels, kernel, lite):
    block = perturb(
        InvertedBottleneck(channels, Group(kernel, 2, 6, 8, 1), 2, lite=lite, drop_rate=0.0)
    )
    form = block.for_graph(1, channels_last=False)
    assert isinstance(form, PaddedBottleneck)
    for size in [(8, 12), (9, 12), (8, 11), (7, 7), (1, 1), (2, 1)]:
        x = torch.randn(2, channels, *size)
        assert_close(form(x), block(x), atol=1e-5, rtol=1e-5)


def test_only_strided_blocks_of_models_that_take_odd_sizes_are_padded_otherwise():
    strided, plain = (
        InvertedBottleneck(8, Group(3, 1, 6, 8, 1), stride, lite=True, drop_rate=0.0)
        for stride in (2, 1)
    )
    narrow = InvertedBottleneck(8, Group(3, 1, 1, 8, 1), 2, lite=True, drop_rate=0.0)
    assert strided.for_graph(32, channels_last=False) is strided
    assert strided.for_graph(1, channels_last=True) is strided  # there padding is cheap
    assert plain.for_graph(1, channels_last=False) is plain
    assert narrow.for_graph(1, channels_last=False) is narrow
