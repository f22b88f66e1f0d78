"""Against loops, torchvision's layout, keys and counts, and figures measured elsewhere."""

import pytest
import torch
import torch.nn.functional as F
from support.models import torchvision_resnet as official
from support.models.seeded import seeded
from torch.testing import assert_close

from featherseg.backbones.weights import load_official
from featherseg.core.config import parse
from featherseg.core.errors import ConfigError, WeightsError
from featherseg.costs.cost import by_convention, count_layers, count_parameters
from featherseg.costs.deeplab import deeplabs
from featherseg.exporters.parity import perturb
from featherseg.layers.resize import to_image
from featherseg.models import build, configure
from featherseg.models.deeplabv3 import (
    VARIANTS,
    AtrousPyramid,
    DeepLabV3,
    DeepLabV3Config,
    ImagePooling,
)

FIGURES = {  # 19 classes: M parameters, GMACs at 1024x2048 and at 512x1024, measured on other code
    "deeplabv3-r50": (39.6, 1308.6, 327.2),
    "deeplabv3-r50-os16": (39.6, 387.2, 96.8),
    "deeplabv3-r101": (58.6, 1929.2, 482.3),
    "deeplabv3-r101-os16": (58.6, 542.4, 135.6),
    "deeplabv3-r50-mmseg": (65.7, 2156.3, 539.1),
    "deeplabv3-r101-mmseg": (84.7, 2776.9, 694.2),
}
PUBLISHED = {"deeplabv3-r50": 42_004_074, "deeplabv3-r101": 60_996_202}
"""Parameters of torchvision's networks with 21 classes and auxiliary head, as documented."""


def network(name, classes=5, **options):
    configured = configure(*deeplabs()[name])
    return DeepLabV3(parse(DeepLabV3Config, {**configured.model_dump(), **options}, name), classes)


@pytest.fixture(scope="module")
def model():
    return perturb(network("deeplabv3-lite0"))


@pytest.mark.parametrize("name", FIGURES)
def test_it_weighs_and_costs_what_was_measured(name):
    with torch.device("meta"):
        ours = network(name, 19).eval()
        found = [count_parameters(ours) / 1e6]
        for size in ((1024, 2048), (512, 1024)):
            layers, _ = count_layers(ours, torch.empty(1, 3, *size))
            found.append(by_convention(layers)["macs"] / 1e9)
    assert tuple(round(figure, 1) for figure in found) == FIGURES[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_weighs_what_torchvision_s_weighs_less_the_auxiliary_head(name):
    auxiliary = 9 * 1024 * 256 + 2 * 256 + 256 * 21 + 21
    with torch.device("meta"):
        assert count_parameters(network(name, 21)) == PUBLISHED[name] - auxiliary


def head_shapes(classes):
    """{key: shape} of torchvision's DeepLabHead and of its auxiliary head."""
    keys = {}
    for i, size in enumerate((1, 3, 3, 3)):
        name = f"classifier.0.convs.{i}"
        keys |= official.conv_norm(f"{name}.0", (256, 2048, size, size), f"{name}.1")
    keys |= official.conv_norm(
        "classifier.0.convs.4.1", (256, 2048, 1, 1), "classifier.0.convs.4.2"
    )
    keys |= official.conv_norm(
        "classifier.0.project.0", (256, 5 * 256, 1, 1), "classifier.0.project.1"
    )
    keys |= official.conv_norm("classifier.1", (256, 256, 3, 3), "classifier.2")
    keys |= {"classifier.4.weight": (classes, 256, 1, 1), "classifier.4.bias": (classes,)}
    keys |= official.conv_norm("aux_classifier.0", (256, 1024, 3, 3), "aux_classifier.1")
    return {
        **keys,
        "aux_classifier.4.weight": (classes, 256, 1, 1),
        "aux_classifier.4.bias": (classes,),
    }


def official_forward(state, stages, rates):
    """torchvision's head over its keys: the last stage (B, 2048, h, w) -> logits."""
    x, branches = stages[-1], []
    for i, rate in enumerate((0, *rates)):
        name = f"classifier.0.convs.{i}"
        dilated = {"padding": rate, "dilation": rate} if rate else {}
        branches.append(official.normed(state, x, f"{name}.0", f"{name}.1", **dilated).relu())
    pooled = F.adaptive_avg_pool2d(x, 1)
    pooled = official.normed(
        state, pooled, "classifier.0.convs.4.1", "classifier.0.convs.4.2"
    ).relu()
    branches.append(F.interpolate(pooled, size=x.shape[2:], mode="bilinear", align_corners=False))
    x = official.normed(
        state, torch.cat(branches, 1), "classifier.0.project.0", "classifier.0.project.1"
    ).relu()
    x = official.normed(state, x, "classifier.1", "classifier.2", padding=1).relu()
    return F.conv2d(x, state["classifier.4.weight"], state["classifier.4.bias"])


@pytest.mark.slow
@torch.no_grad()
def test_torchvision_s_weights_give_the_logits_computed_over_their_keys():
    backbone, head = official.shapes(50), official.made_up(head_shapes(3))
    inner = official.made_up(backbone)
    state = {**{f"backbone.{key}": value for key, value in inner.items()}, **head}
    images, wide = (
        seeded(1, 3, 33, 48).double(),
        [seeded(1, 2048, 2, 40).double()],
    )  # wide: every dilation finds cells
    for name, output_stride, rates in (
        ("deeplabv3-r50", 8, (12, 24, 36)),
        ("deeplabv3-r50-os16", 16, (6, 12, 18)),
    ):
        ours = network(name, 3).double().eval()
        assert load_official(ours, state) == [
            key for key in head if key.startswith("aux_classifier.")
        ]
        expected = official_forward(head, official.forward(inner, images, 50, output_stride), rates)
        assert_close(ours(images).logits, expected, atol=1e-9, rtol=1e-9)
        assert_close(
            ours.decode(wide).logits, official_forward(head, wide, rates), atol=1e-9, rtol=1e-9
        )


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.pop("classifier.0.convs.2.0.weight"), r"missing: aspp\.branches\.2\.0\.weight"),
    (lambda s: s.update({"classifier.9.weight": torch.zeros(1)}),
     r"unexpected: classifier\.9\.weight"),
    (lambda s: s.update({"classifier.4.bias": torch.zeros(7)}),
     r"shape of classifier\.bias: found \(7,\)"),
])  # fmt: skip
def test_a_key_that_does_not_fit_is_refused(change, message):
    shapes = {f"backbone.{key}": shape for key, shape in official.shapes(50).items()} | head_shapes(
        3
    )
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
        ours = network("deeplabv3-r50", 3)
    change(state)
    with pytest.raises(WeightsError, match=message):
        load_official(ours, state)


def tap_by_tap(x, weight, rate):
    """A dilated convolution of (C, h, w), position by position; outside the map there are zeros."""
    size, (_, height, width) = weight.shape[2], x.shape
    out = torch.zeros(len(weight), height, width, dtype=x.dtype)
    for r in range(height):
        for c in range(width):
            for i in range(size):
                for j in range(size):
                    y, z = r + (i - size // 2) * rate, c + (j - size // 2) * rate
                    if 0 <= y < height and 0 <= z < width:
                        out[:, r, c] += weight[:, :, i, j] @ x[:, y, z]
    return out


def norm_act(x, norm):
    """Batch norm by its statistics and ReLU, channel by channel."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    channels = [(x[c] - norm.running_mean[c]) * scale[c] + norm.bias[c] for c in range(len(x))]
    return torch.stack(channels).clamp(min=0)


@torch.no_grad()
@pytest.mark.parametrize("project_kernel", [1, 3])
def test_the_atrous_pyramid_is_its_loops(project_kernel):
    block = perturb(
        AtrousPyramid(3, 2, (2, 3, 9), project_kernel=project_kernel).double()
    )  # 9: only its centre inside
    x = seeded(3, 7, 5).double()
    parts = []
    for branch, rate in zip(block.branches, (1, 2, 3, 9), strict=False):
        parts.append(norm_act(tap_by_tap(x, branch[0].weight, rate), branch[1]))
    _, conv, norm, _ = block.branches[4]
    mean = torch.stack([x[c].sum() / 35 for c in range(3)])
    parts.append(norm_act((conv.weight[:, :, 0, 0] @ mean)[:, None, None], norm).expand(2, 7, 5))
    project, norm, _ = block.project
    expected = norm_act(tap_by_tap(torch.cat(parts), project.weight, 1), norm)
    assert_close(block(x[None])[0], expected, atol=1e-12, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("size", [(33, 65), (64, 64), (97, 131), (1, 1), (7, 201)])
def test_any_size_is_taken_and_only_short_sides_are_padded(model, size):
    images = seeded(1, 3, *size)
    out, padded_size = model(images), tuple(max(side, 32) for side in size)
    assert (out.image_size, out.padded_size) == (size, padded_size)
    assert out.logits.shape == (1, 5, *(-(-side // 16) for side in padded_size))
    whole = torch.zeros(1, 3, *padded_size)
    whole[:, :, : size[0], : size[1]] = images
    assert_close(out.logits, model(whole).logits)
    assert to_image(out, size).shape == (1, 5, *size)


def test_one_image_can_be_trained_on():
    """The mean over the map is one value a channel, of which a batch norm finds no variance."""
    ours = network("deeplabv3-lite0", 3, channels=8).train()
    before = {key: value.clone() for key, value in ours.aspp.branches[4].state_dict().items()}
    for shape in ((1, 3, 64, 64), (1, 3, 9, 20)):
        to_image(ours(seeded(*shape)), shape[2:]).square().mean().backward()
    for key, value in ours.aspp.branches[4].state_dict().items():
        assert torch.equal(value, before[key])
    assert [name for name, p in ours.named_parameters() if p.grad is None] == []


def test_of_several_images_the_pooled_norm_learns_its_statistics():
    pooling, x = ImagePooling(3, 2).train(), seeded(4, 3, 5, 6)
    values = pooling[1](x.mean((2, 3), keepdim=True))
    expected = (values - values.mean(0)) / (values.var(0, unbiased=False) + 1e-5).sqrt()
    assert_close(pooling(x), expected.clamp(min=0).expand(4, 2, 5, 6))
    assert not torch.equal(pooling[2].running_mean, torch.zeros(2))


@pytest.mark.parametrize(
    ("options", "stride"), [({"output_stride": 8}, 8), ({"project_kernel": 3}, 16)]
)
def test_every_switch_builds_a_network_that_learns(options, stride):
    ours = perturb(network("deeplabv3-lite0", 4, channels=8, **options)).train()
    out = ours(seeded(2, 3, 64, 96))
    assert out.logits.shape == (2, 4, 64 // stride, 96 // stride)
    out.logits.square().mean().backward()
    assert [
        name for name, p in ours.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ] == []


@pytest.mark.parametrize(("options", "said"), [
    ({"output_stride": 4}, "output_stride"), ({"rates": (1, 2)}, "rates"),
    ({"backbone": "van-b0"}, "no dilated"),
])  # fmt: skip
def test_a_slip_in_the_switches_is_answered_with_a_sentence(options, said):
    with pytest.raises(ConfigError, match=said):
        network("deeplabv3-lite0", **options)


@torch.no_grad()
@pytest.mark.slow
def test_the_panoptic_model_has_the_same_logits_and_objects_at_a_quarter():
    ours, semantic = (perturb(build(f"deeplabv3-r50{task}", 5)) for task in ("-panoptic", ""))
    images = seeded(1, 3, 70, 131)
    out = ours(images)
    assert_close(out.logits, semantic(images).logits)
    assert out.logits.shape == (1, 5, 9, 17)
    assert (out.centers.shape, out.offsets.shape) == ((1, 1, 18, 33), (1, 2, 18, 33))


def test_the_catalogue_s_rows_are_counted_beside_mmsegmentation_s():
    semantic = [name for name, row in VARIANTS.items() if not row.panoptic]
    assert list(deeplabs()) == [*semantic, "deeplabv3-r50-mmseg", "deeplabv3-r101-mmseg"]
