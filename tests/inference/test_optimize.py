"""The optimised model agrees with the plain one at every size, for every catalogue model."""

import copy

import pytest
import torch
from support.processes.instructions import needs_bf16
from torch import nn

import featherseg
from featherseg import FeathersegError, models
from featherseg.exporters.parity import perturb
from featherseg.inference import bf16
from featherseg.inference.optimize import optimize
from featherseg.layers.dilated_depthwise import PhaseSplitConv2d
from featherseg.layers.folding import ScaledShortcut
from featherseg.layers.pointwise import PointwiseConv2d
from featherseg.layers.scale import LayerScale
from featherseg.models import MODELS
from featherseg.models.pfnet import PFNet
from featherseg.models.rsp import FusedPixelToRegion, PixelToRegion

QUICK = ("frm-van-t", "cgrseg-t", "rsp-lite0-panoptic")  # the others in slow tests
SHAPES = ((2, 3, 65, 99), (1, 3, 128, 72))


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in MODELS],
)
def model(request):
    return perturb(models.build(request.param, classes=5))


def run(model, shape):
    images = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    if next(model.parameters()).dtype == torch.float64:
        images = images.double()
    with torch.no_grad():
        out = model(images)
    return out, [x for x in (out.logits, out.centers, out.offsets) if x is not None]


def error(found, expected):
    """The largest, as a share of the range of `expected`."""
    return ((found - expected).abs().max() / (expected.max() - expected.min())).item()


@pytest.mark.seconds
def test_its_logits_are_those_of_the_model_within_rounding(model):
    fast, exact = optimize(model), copy.deepcopy(model).double()
    for shape in SHAPES:
        (plain, expected), (out, found) = run(exact, shape), run(fast, shape)
        assert out[1:4] == plain[1:4]  # sizes and align_corners
        # In float32 a deep model shows its own rounding: pidnet-l 1.4e-5
        for unchanged, folded, true in zip(run(model, shape)[1], found, expected, strict=True):
            assert error(folded, true) < max(1e-5, 2 * error(unchanged, true))


@pytest.mark.seconds
@needs_bf16
def test_in_bf16_its_logits_are_float32_and_near(model):
    fast = optimize(model, "bf16")
    narrow = sum(p.numel() for p in fast.parameters() if p.dtype == torch.bfloat16)
    assert narrow > 0.95 * sum(p.numel() for p in fast.parameters())
    limit = 0.3 if isinstance(model, PFNet) else 0.1  # which picks other points of rounded maps
    for shape in SHAPES:
        for found, expected in zip(run(fast, shape)[1], run(model, shape)[1], strict=True):
            assert found.dtype == torch.float32
            assert 1e-5 < error(found, expected) < limit


@pytest.mark.seconds
@pytest.mark.parametrize("name", ["frm-van-t", "cgrseg-t", "rsp-lite0", "segnext-t"])
def test_no_batch_norm_and_no_layer_scale_is_left_where_all_stand_beside_convolutions(name):
    layers = list(optimize(models.build(name, classes=2)).modules())
    assert not [layer for layer in layers if isinstance(layer, nn.BatchNorm2d | LayerScale)]


@pytest.mark.seconds
def test_the_model_given_is_left_as_it_is_and_the_copy_is_ready_to_run():
    model = models.build("frm-van-t", classes=2).train()
    before, layers = copy.deepcopy(model.state_dict()), [type(layer) for layer in model.modules()]
    fast = featherseg.optimize(model)
    assert model.training
    assert not fast.training
    assert not [layer for layer in fast.modules() if layer.training]
    assert [type(layer) for layer in model.modules()] == layers
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert not [p for p in fast.parameters() if p.requires_grad]
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in fast.parameters()}
    assert not shared


@pytest.mark.seconds
def test_van_takes_every_fast_path_of_a_cpu():
    layers = list(optimize(models.build("frm-van-t", classes=2)).backbone.modules())
    convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert not [
        c
        for c in convs
        if type(c) is nn.Conv2d and (c.kernel_size == (1, 1) or c.dilation != (1, 1))
    ]
    assert sum(isinstance(c, PhaseSplitConv2d) for c in convs) == sum(
        (3, 3, 5, 2)
    )  # VAN-B0's blocks
    assert sum(isinstance(layer, ScaledShortcut) for layer in layers) == sum((3, 3, 5, 2))
    assert [c for c in convs if isinstance(c, PointwiseConv2d)]


@pytest.mark.seconds
def test_rsp_relates_in_a_kernel_at_every_level():
    layers = list(optimize(models.build("rsp-lite0", classes=2)).modules())
    relations = [layer for layer in layers if isinstance(layer, PixelToRegion)]
    assert [type(layer) for layer in relations] == 3 * [FusedPixelToRegion]
    assert all(type(layer.query) is PointwiseConv2d for layer in relations)


@pytest.mark.seconds
@pytest.mark.parametrize("name", ["frm-van-t", "rsp-lite0"])
def test_optimising_twice_changes_nothing(name):
    once = optimize(perturb(models.build(name, classes=2)))
    assert torch.equal(run(optimize(once), SHAPES[0])[0].logits, run(once, SHAPES[0])[0].logits)


@pytest.mark.seconds
@needs_bf16
def test_in_bf16_scores_stay_in_float32():
    fast = optimize(models.build("cgrseg-t", classes=2), "bf16")
    mixing = {
        n: p.dtype for n, p in fast.named_parameters() if "talking" in n and n.endswith("weight")
    }
    assert set(mixing.values()) == {torch.float32}


def test_an_unknown_precision_is_refused_by_name():
    with pytest.raises(FeathersegError, match=r"'int4'.*fp32, bf16"):
        optimize(models.build("frm-lite0", classes=2), "int4")


def test_bf16_is_refused_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr(bf16, "computes_bf16", lambda device: False)
    with pytest.raises(
        FeathersegError, match=r"this cpu does not compute in it.*Use precision 'fp32'"
    ):
        optimize(models.build("frm-lite0", classes=2), "bf16")
