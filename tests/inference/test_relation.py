"""The fused relation agrees with the plain one, and is the plain one without a kernel."""

import copy

import pytest
import torch
from support.models.seeded import seeded
from torch.testing import assert_close

from featherseg.exporters.parity import perturb
from featherseg.exporters.quiet import quiet
from featherseg.kernels import pixel_to_region
from featherseg.models.rsp import FusedPixelToRegion, PixelToRegion


def pair(channels=16, **options):
    """A plain relation and the fused one that is made from it."""
    plain = perturb(PixelToRegion(channels, **{"heads": 2, **options})).eval()
    return plain, FusedPixelToRegion(copy.deepcopy(plain).requires_grad_(False))


def maps(dtype=torch.float32):
    """low, high."""
    return seeded(2, 16, 12, 20).to(dtype), seeded(2, 16, 6, 10).flip(1).to(dtype)


@torch.no_grad()
@pytest.mark.parametrize("window", [1, 3, 5, 9])
@pytest.mark.parametrize("prior", [True, "learned", False])
@pytest.mark.parametrize("composability", ["dot", "difference"])
def test_the_fused_relation_is_the_plain_one(window, prior, composability):
    plain, fused = pair(window=window, prior=prior, composability=composability)
    expected = copy.deepcopy(plain).double()(*maps(torch.float64))
    assert_close(
        fused(*maps()).double(),
        expected,
        atol=2e-6 * float(expected.max() - expected.min()),
        rtol=0,
    )


@pytest.fixture
def calls(monkeypatch):
    """How often the kernel ran."""
    found = []

    def counted(*arguments):
        found.append(arguments)
        return pixel_to_region(*arguments)

    monkeypatch.setattr("featherseg.models.rsp.pixel_to_region", counted)
    return found


def test_gradients_take_the_plain_way(calls):
    plain, fused = pair()
    low, high = (x.requires_grad_() for x in maps())
    gradients = [
        torch.autograd.grad(layer(low, high).square().sum(), (low, high))
        for layer in (plain, fused)
    ]
    assert_close(*gradients)
    assert not calls
    fused(*maps())  # nothing to learn, nothing to trace
    assert len(calls) == 1


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)  # traces are old
def test_float64_traces_and_exports_take_the_plain_way(calls):
    plain, fused = pair()
    double = copy.deepcopy(fused).double()
    assert torch.equal(
        double(*maps(torch.float64)), copy.deepcopy(plain).double()(*maps(torch.float64))
    )
    exported = torch.export.export(fused, maps()).module()
    with quiet(
        "torch cannot trace this"
    ):  # torch 2.14 calls it deprecated; ncnn's exporter reads nothing else
        traced = torch.jit.trace(fused, maps(), check_trace=False)
    assert not calls
    for graph in (exported, traced):
        assert_close(graph(*maps()), fused(*maps()), atol=1e-5, rtol=0)


@torch.no_grad()
def test_maps_in_bf16_are_gathered_in_float32(calls):
    _, fused = pair()
    out = fused.to(torch.bfloat16)(*maps(torch.bfloat16))
    assert out.dtype == torch.bfloat16
    assert {x.dtype for x in calls[0][:4]} == {torch.float32}


def test_it_has_the_weights_of_the_layer_that_it_is_made_from():
    plain, fused = pair()
    assert list(fused.state_dict()) == list(plain.state_dict())
    assert all(
        torch.equal(fused.state_dict()[key], value) for key, value in plain.state_dict().items()
    )
    assert not fused.training
