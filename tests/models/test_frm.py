import pytest
import torch
from torch import nn
from torch.testing import assert_close

from featherseg import models
from featherseg.core.errors import ConfigError
from featherseg.models import frm
from featherseg.models.frm import AlignedPyramid, ConvFeedForward, FRMConfig, build_context, gather

VAN_S = (64, 128, 320, 512)  # the stages of the paper's backbone


def test_the_module_weighs_what_the_papers_figures_force():
    # FRM on VAN-S: 16.48 M in the paper; 1,970,306 of them are the module (docs/papers/frm.md)
    module = build_context(FRMConfig(backbone="van-b1"), sum(VAN_S))
    assert sum(p.numel() for p in module.parameters()) == 1_970_306


def test_the_decoder_and_classifier_weigh_what_the_papers_figures_force():
    decoder = [AlignedPyramid(VAN_S, 128), frm.ConvNormAct(4 * 128, 128, 3), nn.Conv2d(128, 19, 1)]
    assert sum(p.numel() for part in decoder for p in part.parameters()) == 1_158_419


@pytest.mark.parametrize("height", [1, 3, 8, 13, 64])
def test_pooling_averages_what_lies_inside_the_cell(height):
    x = torch.randn(1, 1, height, 5, dtype=torch.float64)
    pooled = frm._pool(x, 4)
    assert pooled.shape[2] == -(-height // 4)
    for row in range(pooled.shape[2]):
        assert_close(pooled[0, 0, row, 1], x[0, 0, 4 * row : 4 * row + 4, 4:].mean())


def test_the_stages_are_pooled_to_the_size_of_the_last_at_every_height():
    with torch.device("meta"):
        for height in range(1, 700):
            sizes = [-(-height // stride) for stride in (4, 8, 16, 32)]
            pooled = [
                frm._pool(torch.empty(1, 1, s, 8), 2 ** (3 - i)).shape[2]
                for i, s in enumerate(sizes[:3])
            ]
            assert pooled == [sizes[3]] * 3


def test_the_feed_forward_is_three_convolutions():
    torch.manual_seed(0)
    model, x = ConvFeedForward(6, hidden=4), torch.randn(1, 6, 5, 5)
    hidden = nn.functional.conv2d(
        model.squeeze(x), model.depthwise.weight, model.depthwise.bias, padding=1, groups=4
    )
    assert_close(model(x), model.restore(hidden.relu()))


def test_the_refinement_adds_what_the_feed_forward_says_to_what_it_saw():
    module, x = build_context(FRMConfig(backbone="van-b1"), 8).eval(), torch.randn(1, 8, 3, 4)
    seen = module.attention(x)
    assert_close(module(x), module.reduce(seen + module.feed_forward(seen)))


@pytest.mark.parametrize("name", ["frm-lite0", pytest.param("frm-van-t", marks=pytest.mark.slow)])
@pytest.mark.parametrize("context", ["frm", "ppm", "dappm", "none"])
@pytest.mark.parametrize("stages", ["all", "last"])
def test_every_context_stands_on_all_stages_or_on_the_last(name, context, stages):
    options = {"context": context, "stages": stages}
    with torch.device("meta"):
        model = models.build(name, 3, options=options)
        assert model(torch.zeros(2, 3, 97, 131)).logits.shape == (2, 3, 25, 33)
    channels = model.backbone.stage_channels
    seen = next(m for m in model.context.modules() if isinstance(m, nn.Conv2d)).in_channels
    assert seen == (sum(channels) if stages == "all" else channels[-1])


def test_the_light_decoder_fuses_at_an_eighth_and_adds_the_finest_stage_last():
    torch.manual_seed(0)
    model = models.build("frm-lite0-light", 3).eval()
    stages = [
        torch.randn(1, c, 64 // 2**i, 96 // 2**i)
        for i, c in enumerate(model.backbone.stage_channels)
    ]
    context = model.context(gather(stages))
    assert context.shape[2:] == stages[-1].shape[2:]
    light = model.decoder
    fused = light.fuse(light.pyramid(stages[1:], context))
    assert fused.shape[2:] == (32, 48)
    grown = nn.functional.interpolate(fused, (64, 96), mode="bilinear")
    assert_close(
        model.decode(stages).logits,
        model.classifier(light.refine(light.lateral(stages[0]) + grown)),
    )


def test_a_scaled_backbone_sees_means_of_four_pixels_and_the_detail_branch_all():
    torch.manual_seed(0)
    model, images = models.build("frm-lite0-half-light-w32", 3).eval(), torch.randn(1, 3, 129, 254)
    detail, *stages = model.encode(images)
    sizes = [
        (32, 33, 64),
        (24, 17, 32),
        (40, 9, 16),
        (112, 5, 8),
        (320, 3, 4),
    ]  # 1/4 to 1/64, rounded up
    assert [tuple(x.shape[1:]) for x in (detail, *stages)] == sizes
    halved = nn.functional.avg_pool2d(images[:, :, :128], 2)
    assert_close(model.encode(images[:, :, :128])[1:], model.backbone(halved))
    assert_close(detail, model.detail[1](model.detail[0](images)))


def test_the_detail_is_added_to_what_the_light_decoder_makes_of_the_stages():
    torch.manual_seed(0)
    model = models.build("frm-lite0-half-light-w32", 3).eval()
    detail, *stages = model.encode(torch.randn(1, 3, 128, 192))
    light, decoder = model.decoder.light, model.decoder
    grown = nn.functional.interpolate(
        light(stages, model.context(gather(stages))), (32, 48), mode="bilinear"
    )
    logits = model.classifier(decoder.refine(decoder.lateral(detail) + grown))
    assert_close(model.decode([detail, *stages]).logits, logits)


@pytest.mark.parametrize(("scale", "rows"), [(0.5, 32), (0.75, 22)])
def test_a_scaled_backbone_takes_any_number_of_channels_and_at_least_64_pixels(scale, rows):
    model = models.build(
        "frm-lite0-half-light-w32", 3, channels=5, options={"backbone_scale": scale}
    ).eval()
    assert model(torch.zeros(1, 5, 70, 200)).logits.shape == (
        1,
        3,
        rows,
        50,
    )  # 70 is padded to 64 / scale
    assert min(model.encode(torch.zeros(1, 5, model.minimum_size, 200))[1].shape[2:]) in (
        16,
        17,
    )  # 64 or 65 at 1/4


def test_a_scaled_backbone_without_the_light_decoder_is_refused():
    with pytest.raises(
        ConfigError, match=r"backbone_scale = 0\.5 with decoder = 'aligned': expected 'light'"
    ):
        models.build("frm-lite0", 3, options={"backbone_scale": 0.5})


@pytest.mark.parametrize(
    ("halved", "strides", "group"), [(8, (4, 16, 32, 64), 2), (16, (4, 8, 32, 64), 3)]
)
def test_stages_that_are_halved_see_means_of_four_pixels_of_the_finer_map(halved, strides, group):
    torch.manual_seed(0)
    model = models.build("frm-lite0-light", 3, options={"halved_from": halved}).eval()
    plain = models.build("frm-lite0-light", 3).eval()
    plain.load_state_dict(model.state_dict())
    stages, whole = model.encode(images := torch.randn(1, 3, 129, 254)), plain.encode(images)
    assert [tuple(x.shape[2:]) for x in stages] == [(-(-129 // s), -(-254 // s)) for s in strides]
    assert_close(
        stages[: group - 1], whole[: group - 1]
    )  # the groups before it end one stage, or two
    cells = (
        nn.functional.pad(whole[group - 2], (0, 0, 0, 1), value=torch.nan)
        .unflatten(3, (-1, 2))
        .unflatten(2, (-1, 2))
    )
    x = cells.nanmean((3, 5))
    for block in model.backbone.groups[group:]:
        x = block(x)
    assert_close(stages[-1], x)
    assert gather(stages, strides).shape == (1, sum(model.backbone.stage_channels), 3, 4)
    assert model(images).logits.shape == (1, 3, 33, 64)


def test_a_backbone_whose_stages_cannot_be_halved_says_so():
    with pytest.raises(
        ConfigError, match=r"halved_from = 8: expected an EfficientNet or MobileNetV2, not VAN"
    ):
        models.build("frm-van-t", 3, options={"halved_from": 8})


def test_the_stages_are_concatenated_fine_to_coarse():  # Eq. 1
    stages = [torch.full((1, 1, 32 // 2**i, 64 // 2**i), float(i)) for i in range(4)]
    assert gather(stages).shape == (1, 4, 4, 8)
    assert gather(stages)[0, :, 1, 1].tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"contxt": "ppm"}, "unknown key 'model.contxt' for frm-lite0. Did you mean 'context'"),
        ({"pretraind": True}, "Did you mean 'pretrained'"),
        ({"context": "pmm"}, "context"),
        ({"kv_pool": 3}, "kv_pool"),
    ],
)
def test_a_slip_in_the_switches_is_answered_with_a_sentence(options, said):
    with pytest.raises(ConfigError, match=said):
        models.build("frm-lite0", 3, options=options)


def test_models_that_are_in_no_table_of_the_paper_are_marked_as_ours():
    papers = {name for name, row in frm.VARIANTS.items() if not row.paper.endswith("(ours)")}
    assert papers == {"frm-van-s", "frm-van-s-ppm", "frm-van-s-dappm"}
