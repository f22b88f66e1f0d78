"""Against counts measured on the authors' network, its forward over the keys, and a loop.

The authors draw the factorisation's bases in every forward, so there are no reference logits.
"""

import pytest
import torch
import torch.nn.functional as F
from support.golden.peer import Peer
from support.golden.peer_golden import gmacs, unfit
from support.models.seeded import seeded
from torch.testing import assert_close

from featherseg.backbones.weights import load_official
from featherseg.core.errors import WeightsError
from featherseg.costs.cost import count_parameters
from featherseg.exporters.parity import perturb
from featherseg.layers.stochastic_depth import StochasticDepth
from featherseg.models.segnext import VARIANTS, MatrixFactorisation, SegNeXt, SegNeXtConfig

# M parameters with 19, 150 classes; GMACs of 19 at 1024x2048 by macs, ptflops-0.6, of 150 at 512
COUNTS = {
    "segnext-t": (4.230, 4.263, 50.129, 48.822, 6.404),
    "segnext-s": (13.899, 13.933, 124.064, 123.207, 15.646),
}
CHANNELS, DEPTHS, EXPANSIONS = (32, 64, 160, 256), (3, 3, 5, 2), (8, 8, 4, 4)  # of segnext-t


class TestSegNeXt(Peer):
    model, config, variants, name = SegNeXt, SegNeXtConfig, VARIANTS, "segnext-t"
    counts = COUNTS
    maps = [(32, 25, 33), (64, 13, 17), (160, 7, 9), (256, 4, 5)]
    slips = [*Peer.slips, ({"channels": 40}, "channels"), ({"rank": 0}, "rank")]
    test_the_reference_s_logits_come_out = None  # there is none
    test_other_weights_are_refused = None  # below, over made-up weights
    test_with_its_auxiliary_heads_it_costs_what_was_measured = None
    test_weights_without_auxiliary_heads_leave_them_as_they_are = None

    def measured(self, name):
        with torch.device("meta"):
            small, large = network(name, 19).eval(), network(name, 150).eval()
        full, square = gmacs(small, (1024, 2048)), gmacs(large, (512, 512))
        found = [count_parameters(model) / 1e6 for model in (small, large)]
        return tuple(
            round(x, 3) for x in (*found, full["macs"], full["ptflops-0.6"], square["macs"])
        )


network = TestSegNeXt.network


@pytest.fixture(scope="module")
def model():
    return perturb(network())


def vectors(key, channels):
    return {f"{key}.weight": (channels,), f"{key}.bias": (channels,)}


def batch_norm(key, channels):
    statistics = {f"{key}.running_mean": (channels,), f"{key}.running_var": (channels,)}
    return vectors(key, channels) | statistics | {f"{key}.num_batches_tracked": ()}


def conv(key, out_channels, in_channels, *kernel):
    return {f"{key}.weight": (out_channels, in_channels, *kernel), f"{key}.bias": (out_channels,)}


def block_shapes(key, c, hidden):
    """{key: shape} of one block of the authors' backbone."""
    gate = f"{key}.attn.spatial_gating_unit"
    shapes = batch_norm(f"{key}.norm1", c) | batch_norm(f"{key}.norm2", c)
    shapes |= conv(f"{key}.attn.proj_1", c, c, 1, 1) | conv(f"{key}.attn.proj_2", c, c, 1, 1)
    shapes |= conv(f"{gate}.conv0", c, 1, 5, 5) | conv(f"{gate}.conv3", c, c, 1, 1)
    for i, k in enumerate((7, 11, 21)):
        shapes |= conv(f"{gate}.conv{i}_1", c, 1, 1, k) | conv(f"{gate}.conv{i}_2", c, 1, k, 1)
    shapes |= conv(f"{key}.mlp.fc1", hidden, c, 1, 1) | conv(
        f"{key}.mlp.dwconv.dwconv", hidden, 1, 3, 3
    )
    shapes |= conv(f"{key}.mlp.fc2", c, hidden, 1, 1)
    return shapes | {f"{key}.layer_scale_1": (c,), f"{key}.layer_scale_2": (c,)}


def backbone_shapes():
    shapes = conv("patch_embed1.proj.0", 16, 3, 3, 3) | batch_norm("patch_embed1.proj.1", 16)
    shapes |= conv("patch_embed1.proj.3", 32, 16, 3, 3) | batch_norm("patch_embed1.proj.4", 32)
    for stage, (c, depth, expansion) in enumerate(
        zip(CHANNELS, DEPTHS, EXPANSIONS, strict=True), 1
    ):
        if stage > 1:
            shapes |= conv(f"patch_embed{stage}.proj", c, CHANNELS[stage - 2], 3, 3)
            shapes |= batch_norm(f"patch_embed{stage}.norm", c)
        for number in range(depth):
            shapes |= block_shapes(f"block{stage}.{number}", c, expansion * c)
        shapes |= vectors(f"norm{stage}", c)
    return shapes


def head_shapes(classes):
    shapes = conv("decode_head.conv_seg", classes, 256, 1, 1)
    shapes |= conv("decode_head.hamburger.ham_in.conv", 256, 256, 1, 1)
    for key, inputs in (("squeeze", 64 + 160 + 256), ("hamburger.ham_out", 256), ("align", 256)):
        shapes |= {f"decode_head.{key}.conv.weight": (256, inputs, 1, 1)} | vectors(
            f"decode_head.{key}.gn", 256
        )
    return shapes


@pytest.fixture(scope="module")
def state():
    """The authors' weights for five classes, made up."""
    shapes = {f"backbone.{key}": shape for key, shape in backbone_shapes().items()} | head_shapes(5)
    generator, made_up = torch.Generator().manual_seed(0), {}
    for key, shape in shapes.items():
        spread = torch.Size(shape[1:]).numel() ** -0.5 if len(shape) > 1 else 0.1
        centre = (
            1.0
            if key.endswith("running_var") or (key.endswith("weight") and len(shape) == 1)
            else 0.0
        )
        value = torch.randn(shape, generator=generator, dtype=torch.float64) * spread + centre
        made_up[key] = value.abs() if key.endswith("running_var") else value
    return made_up


class Official:
    """The authors' network over their keys, from the paper's equations; the bases are given."""

    def __init__(self, state, bases):
        self.state, self.bases = state, bases

    def conv(self, x, key, **options):
        weight = self.state[f"{key}.weight"]
        groups = weight.shape[0] if weight.shape[1] == 1 else 1
        return F.conv2d(x, weight, self.state.get(f"{key}.bias"), groups=groups, **options)

    def norm(self, x, key):
        mean, variance = self.state[f"{key}.running_mean"], self.state[f"{key}.running_var"]
        return F.batch_norm(
            x, mean, variance, self.state[f"{key}.weight"], self.state[f"{key}.bias"]
        )

    def block(self, x, key):
        gate, y = f"{key}.attn.spatial_gating_unit", self.norm(x, f"{key}.norm1")
        u = F.gelu(self.conv(y, f"{key}.attn.proj_1"))
        near = self.conv(u, f"{gate}.conv0", padding=2)
        attention = near
        for i, k in enumerate((7, 11, 21)):
            strip = self.conv(near, f"{gate}.conv{i}_1", padding=(0, k // 2))
            attention = attention + self.conv(strip, f"{gate}.conv{i}_2", padding=(k // 2, 0))
        attended = y + self.conv(self.conv(attention, f"{gate}.conv3") * u, f"{key}.attn.proj_2")
        x = x + self.state[f"{key}.layer_scale_1"].view(-1, 1, 1) * attended
        y = self.conv(self.norm(x, f"{key}.norm2"), f"{key}.mlp.fc1")
        y = self.conv(F.gelu(self.conv(y, f"{key}.mlp.dwconv.dwconv", padding=1)), f"{key}.mlp.fc2")
        return x + self.state[f"{key}.layer_scale_2"].view(-1, 1, 1) * y

    def backbone(self, x):
        stages = []
        for stage in (1, 2, 3, 4):
            embed = f"backbone.patch_embed{stage}"
            if stage == 1:
                x = F.gelu(
                    self.norm(
                        self.conv(x, f"{embed}.proj.0", stride=2, padding=1), f"{embed}.proj.1"
                    )
                )
                x = self.norm(
                    self.conv(x, f"{embed}.proj.3", stride=2, padding=1), f"{embed}.proj.4"
                )
            else:
                x = self.norm(self.conv(x, f"{embed}.proj", stride=2, padding=1), f"{embed}.norm")
            for number in range(DEPTHS[stage - 1]):
                x = self.block(x, f"backbone.block{stage}.{number}")
            weight, bias = (
                self.state[f"backbone.norm{stage}.weight"],
                self.state[f"backbone.norm{stage}.bias"],
            )
            x = F.layer_norm(x.movedim(1, 3), weight.shape, weight, bias).movedim(3, 1)
            stages.append(x)
        return stages

    def projected(self, x, key):
        weight, bias = (
            self.state[f"decode_head.{key}.gn.weight"],
            self.state[f"decode_head.{key}.gn.bias"],
        )
        return F.group_norm(self.conv(x, f"decode_head.{key}.conv"), 32, weight, bias)

    def logits(self, images):
        stages = self.backbone(images)[1:]
        size = stages[0].shape[2:]
        lifted = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in stages]
        x = self.projected(torch.cat(lifted, 1), "squeeze").relu()
        ham = torch.stack([
            factorised(image, self.bases, 7)
            for image in self.conv(x, "decode_head.hamburger.ham_in.conv").relu()
        ])  # fmt: skip
        x = (x + self.projected(ham, "hamburger.ham_out")).relu()
        return self.conv(self.projected(x, "align").relu(), "decode_head.conv_seg")


def factorised(x, bases, steps):
    """NMF of (D, h, w) from bases (D, R): Lee and Seung's updates, then coefficients once more."""
    target = x.flatten(1)  # (D, N)
    coefficients = (bases.T @ target).softmax(0)  # (R, N)
    for step in range(steps + 1):
        coefficients = coefficients * (bases.T @ target) / (bases.T @ bases @ coefficients + 1e-6)
        if step < steps:
            bases = (
                bases * (target @ coefficients.T) / (bases @ coefficients @ coefficients.T + 1e-6)
            )
    return (bases @ coefficients).view_as(x)


@pytest.mark.seconds
@torch.no_grad()
def test_the_authors_weights_give_the_logits_computed_over_their_keys(state):
    ours, images = network().double().eval(), seeded(2, 3, 65, 96).double()
    assert load_official(ours, state) == []
    expected = Official(state, ours.hamburger.factorise.bases).logits(images)
    assert_close(ours(images).logits, expected, atol=1e-9, rtol=1e-9)


def test_other_weights_are_refused(state):
    ours = network()
    for message, unfitting in unfit(state).items():
        with pytest.raises(WeightsError, match=message):
            load_official(ours, unfitting)


def test_an_imagenet_network_s_weights_fit_the_backbone_but_for_its_head(state):
    inner = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    head = {"head.weight": torch.zeros(7, 256), "head.bias": torch.zeros(7)}
    assert load_official(network().backbone, {**inner, **head}) == list(head)


@torch.no_grad()
@pytest.mark.parametrize(("training", "steps"), [(True, 6), (False, 7)])
def test_a_map_is_factorised_by_so_many_updates(training, steps):
    block = MatrixFactorisation(6, 2).double().train(training)
    x = seeded(3, 6, 4, 5).double().abs()
    assert_close(block(x), torch.stack([factorised(image, block.bases, steps) for image in x]))


@torch.no_grad()
def test_a_map_that_is_one_product_is_rebuilt_from_one_factor():
    maps = (seeded(1, 8, 1).abs() @ seeded(2, 1, 60)[1:].abs()).view(1, 8, 6, 10)
    assert_close(MatrixFactorisation(8, 1).eval()(maps), maps, atol=1e-5, rtol=1e-4)


@pytest.mark.seconds
@torch.no_grad()
def test_the_bases_are_the_same_in_every_network_and_in_no_file_of_weights():
    torch.manual_seed(1)
    one = network()
    torch.manual_seed(2)
    other, images = network(), seeded(1, 3, 64, 64)
    bases = one.hamburger.factorise.bases
    assert [key for key in one.state_dict() if "bases" in key] == []
    assert_close(bases.norm(dim=0), torch.ones(16))
    assert bases.min() > 0
    other.load_state_dict(one.state_dict())
    first = one.eval()(images).logits
    assert torch.equal(first, one(images).logits)
    assert torch.equal(first, other.eval()(images).logits)
    assert (
        round(float(bases[0, 0] / bases[1, 0]), 4) == 0.9282
    )  # the 1st and the 17th number of Python's Random(0)


def test_stochastic_depth_grows_from_none_to_a_tenth():
    with torch.device("meta"):
        rates = [m.rate for m in network().modules() if isinstance(m, StochasticDepth)]
    assert_close(torch.tensor(rates), torch.linspace(0, 0.1, 13))
