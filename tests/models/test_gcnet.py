"""Held against the authors' network in both forms (tests/golden) and counts measured on it."""

import copy

import onnx
import pytest
import torch
from support.golden.peer import Peer
from support.golden.peer_golden import gmacs, golden
from support.models.seeded import seeded64 as seeded
from support.models.shallow import shallow
from torch.testing import assert_close

from featherseg import models
from featherseg.backbones.weights import copy_strictly, load_official
from featherseg.core.errors import WeightsError
from featherseg.costs.cost import count_parameters
from featherseg.exporters import export
from featherseg.exporters.parity import perturb
from featherseg.inference.optimize import optimize
from featherseg.models.gcnet import VARIANTS, GCBlock, GCNet, GCNetConfig, take_form

DEPLOYED = {  # M parameters without and with the auxiliary head, G at 1024x2048 by macs and ptflops
    "gcnet-s": (9.170, 9.208, 45.106, 45.320),
    "gcnet-m": (34.056, 34.206, 178.360, 178.784),
    "gcnet-l": (44.862, 45.162, 231.590, 232.086),
}


class TestGCNet(Peer):
    model, config, variants, name = GCNet, GCNetConfig, VARIANTS, "gcnet-s"
    reference, misses = "gcnet_s_train", {"names": {"aux_c4": "aux"}}
    counts = {
        "gcnet-s": (20.657, None, 20.695, 102.551, None, None),
        "gcnet-m": (79.902, None, 80.053, 408.141, None, None),
        "gcnet-l": (105.906, None, 106.207, 524.184, None, None),
    }
    aux_keys = ("decode_head.aux_",)
    maps = [(64, 13, 17), (64, 13, 17), (128, 13, 17), (512, 2, 3)]
    test_with_its_auxiliary_heads_it_costs_what_was_measured = None  # not measured


@pytest.mark.seconds
class TestDeployed(TestGCNet):
    reference = "gcnet_s"

    @pytest.mark.seconds
    @pytest.mark.parametrize("name", DEPLOYED)
    def test_it_weighs_and_costs_what_was_measured(self, name):
        with torch.device("meta"):
            ours = self.network(name, 19).eval()
            take_form(ours, folded=True)
        millions = [
            count_parameters(ours) - count_parameters(ours.aux_heads),
            count_parameters(ours),
        ]
        giga = gmacs(ours, (1024, 2048))
        figures = [*(count / 1e6 for count in millions), giga["macs"], giga["ptflops-0.6"]]
        assert tuple(round(figure, 3) for figure in figures) == DEPLOYED[name]


network = TestGCNet.network


@pytest.mark.seconds
def test_folding_its_weights_leaves_the_reference_s_logits():
    reference, ours = golden("gcnet_s_train"), network(classes=19).double().eval()
    load_official(ours, reference.state())
    for block in ours.modules():
        if isinstance(block, GCBlock):
            block.merge_paths()
    again = Refilled(ours)
    assert reference.misses(again, names={"aux_c4": "aux"}) == []


class Refilled(torch.nn.Module):
    """A model that keeps its weights when others are loaded into it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def rename_official(self, state):
        return dict(self.state_dict()), []

    def forward(self, images, aux=False):
        return self.model(images, aux)


@torch.no_grad()
@pytest.mark.parametrize(("channels", "stride"), [((6, 6), 1), ((6, 6), 2), ((4, 6), 1)])
def test_a_block_is_one_convolution_at_every_border(channels, stride):
    block, x = (
        perturb(GCBlock(*channels, stride=stride).double().eval()),
        seeded(2, channels[0], 5, 7),
    )
    expected = block(x)
    assert (len(block.paths) == 4) == (channels == (6, 6) and stride == 1)
    block.merge_paths()
    assert [name for name, _ in block.named_parameters()] == ["fused.weight", "fused.bias"]
    assert_close(block(x), expected, atol=1e-12, rtol=1e-12)
    block.merge_paths()
    assert_close(block(x), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.seconds
@torch.no_grad()
def test_optimize_leaves_one_convolution_a_block_and_the_logits():
    model, images = perturb(models.build("gcnet-s", classes=5).eval()), seeded(1, 3, 65, 99)
    fast, exact = optimize(model), copy.deepcopy(model).double()
    assert all(b.fused is not None for b in fast.modules() if isinstance(b, GCBlock))
    assert all(b.fused is None for b in model.modules() if isinstance(b, GCBlock))
    out, expected = fast(images.float()).logits.double(), exact(images).logits
    assert (out - expected).abs().max() <= 1e-5 * (expected.max() - expected.min())


@pytest.mark.seconds
def test_a_model_takes_the_form_of_the_keys_it_is_given_and_gives_it_back():
    ours = network(classes=19).eval()
    load_official(ours, golden("gcnet_s").state())
    assert ours.backbone.stem[2].fused is not None
    load_official(ours, golden("gcnet_s_train").state())
    assert ours.backbone.stem[2].fused is None
    assert not any(layer.training for layer in ours.modules())
    take_form(ours, folded=True)
    state = ours.state_dict()
    opened = network(classes=19)  # as an imported run is opened again
    copy_strictly(opened, opened.with_own_aux_heads(state))
    assert all(torch.equal(value, state[key]) for key, value in opened.state_dict().items())
    trunk = ours.backbone.state_dict()  # as `--init` reads it
    assert opened.backbone.rename_official(trunk)[0].keys() == opened.backbone.state_dict().keys()


@pytest.mark.seconds
def test_keys_of_both_forms_at_once_are_refused():
    state = golden("gcnet_s").state() | golden("gcnet_s_train").state()
    with pytest.raises(WeightsError, match="unexpected: backbone"):
        load_official(network(classes=19), state)


@pytest.mark.slow
def test_an_exported_file_holds_one_convolution_a_block(tmp_path):
    model = perturb(shallow("gcnet-s", classes=3).eval())
    blocks = [block for block in model.modules() if isinstance(block, GCBlock)]
    nodes = onnx.load(export(model, path=tmp_path / "a.onnx").path).graph.node
    assert all(len(block.paths) >= 3 for block in blocks)  # the model given stays as it is
    for block in blocks:
        block.merge_paths()
    convolutions = sum(isinstance(layer, torch.nn.Conv2d) for layer in model.modules())
    in_training = sum(isinstance(layer, torch.nn.Conv2d) for layer in model.aux_heads.modules())
    assert sum(node.op_type == "Conv" for node in nodes) == convolutions - in_training
