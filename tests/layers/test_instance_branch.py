"""The instance branch: the specification's cost, its description, any size."""

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from featherseg.costs.cost import by_convention, count_layers, count_parameters
from featherseg.exporters.onnx import OPSET
from featherseg.exporters.parity import perturb
from featherseg.layers.instance_branch import InstanceBranch

CHANNELS = (8, 12, 6, 10)


def pyramid(height, width, channels=CHANNELS, batch=1, **options):
    """Four maps as an image of 4 height x 4 width gives them, sizes rounded up."""
    sizes = [(-(-height // 2**i), -(-width // 2**i)) for i in range(4)]
    return [
        torch.randn(batch, c, *size, **options) for c, size in zip(channels, sizes, strict=True)
    ]


def test_it_has_the_parameters_and_operations_of_the_specification():
    branch = InstanceBranch([128] * 4)
    assert count_parameters(branch) == 75_363
    counts, _ = count_layers(branch.to("meta").eval(), pyramid(256, 512, [128] * 4, device="meta"))
    with_branch, without = 46_407_644_928, 42_052_908_800  # rsp-lite0-w128 at 1024x2048, 19 classes
    assert by_convention(counts)["macs"] == with_branch - without


def written_out(state, pyramid):
    """The branch in evaluation, operation by operation."""

    def norm_relu(x, name):
        moments = (state[f"{name}.running_mean"], state[f"{name}.running_var"])
        return F.relu(F.batch_norm(x, *moments, state[f"{name}.weight"], state[f"{name}.bias"]))

    def separable(x, name):
        kernel = state[f"{name}.depthwise.weight"]  # (C, 1, 5, 5)
        x = F.conv2d(x, kernel, padding=2, groups=len(kernel))
        return norm_relu(F.conv2d(x, state[f"{name}.pointwise.weight"]), f"{name}.norm")

    top = None
    for i in (3, 2, 1, 0):
        level = norm_relu(F.conv2d(pyramid[i], state[f"lateral.{i}.0.weight"]), f"lateral.{i}.1")
        if top is None:
            top = level
        else:
            lifted = F.interpolate(top, level.shape[2:], mode="bilinear", align_corners=False)
            top = separable(torch.cat([level, lifted], 1), f"fuse.{i}")
    assert top is not None
    return [
        F.conv2d(separable(top, f"{head}.0"), state[f"{head}.1.weight"], state[f"{head}.1.bias"])
        for head in ("center", "offset")
    ]


@pytest.mark.parametrize("size", [(16, 24), (13, 7), (1, 1)])
def test_it_goes_top_down_by_concatenation_and_separable_convolutions(size):
    torch.manual_seed(0)
    branch = perturb(InstanceBranch(CHANNELS)).double()
    maps = pyramid(*size, batch=2, dtype=torch.float64)
    with torch.no_grad():
        centers, offsets = branch(maps)
        expected = written_out(branch.state_dict(), maps)
    assert centers.shape == (2, 1, *size)
    assert offsets.shape == (2, 2, *size)
    assert_close([centers, offsets], expected)


def test_every_level_and_every_parameter_takes_part():
    torch.manual_seed(0)
    branch, maps = InstanceBranch(CHANNELS), pyramid(16, 24, batch=2)
    for level in maps:
        level.requires_grad_()
    centers, offsets = branch(maps)
    (centers.square().mean() + offsets.square().mean()).backward()
    assert all(level.grad.abs().sum() > 0 for level in maps)
    assert [
        name
        for name, p in branch.named_parameters()
        if p.grad is None or not p.grad.abs().sum() > 0
    ] == []


def test_a_centre_may_be_below_0_and_above_1():  # no sigmoid
    torch.manual_seed(0)
    branch = perturb(InstanceBranch(CHANNELS))
    centers, _ = branch([100 * level for level in pyramid(16, 24)])
    assert centers.min() < 0
    assert centers.max() > 1


class Four(torch.nn.Module):
    """The branch with its levels as arguments of their own."""

    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, a, b, c, d):
        return self.branch([a, b, c, d])


@pytest.mark.slow  # of quick tests, those of an exported rsp-lite0-panoptic
@pytest.mark.filterwarnings("ignore")  # the exporter warns of its own insides
def test_it_exports_with_any_height_and_width(tmp_path):
    torch.manual_seed(0)
    layer, dynamic = Four(perturb(InstanceBranch(CHANNELS))).eval(), torch.export.Dim.DYNAMIC
    torch.onnx.export(
        layer,
        tuple(pyramid(22, 30, batch=2)),
        tmp_path / "branch.onnx",
        input_names=list("abcd"),
        dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},) * 4,
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(
        tmp_path / "branch.onnx", providers=["CPUExecutionProvider"]
    )
    for size in ((16, 16), (33, 17), (25, 64)):
        maps = pyramid(*size)
        with torch.no_grad():
            expected = layer(*maps)
        found = session.run(
            None, {name: level.numpy() for name, level in zip("abcd", maps, strict=True)}
        )
        for ours, theirs in zip(found, expected, strict=True):
            assert np.abs(ours - theirs.numpy()).max() <= 1e-5 * (theirs.max() - theirs.min())
