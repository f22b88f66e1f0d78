"""A graph for one size: the model's own values, in operations that other runtimes have."""

from dataclasses import replace

import pytest
import torch
from support.models.small_model import small_model
from torch import nn
from torch.testing import assert_close

from featherseg.core.errors import ExportError
from featherseg.core.types import ClassInfo, SegOutput
from featherseg.exporters.fixed_graph import REWRITES, fixed_graph
from featherseg.exporters.job import DEFAULT_SIZE, Facts, metadata
from featherseg.layers.model import SegmentationModel
from featherseg.layers.pooling import RegionMean
from featherseg.layers.precision import autocast_off

SIZE = (24, 40)


class EveryRewrite(SegmentationModel):
    """What runtimes have no operation for, each at a place where its values matter."""

    classes = 4
    mean, std = (1.0, 2.0, 3.0, 4.0), (1.0,) * 4

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.pool = nn.BatchNorm2d(4), RegionMean(3)

    def forward(self, images, aux=False):
        x = self.norm(images)[:, :, ::2, ::4]  # (B, 4, h, w)
        x = x + x[:, :, -1:] - 2 * x[:, :, :1]  # these slices have no stride
        with autocast_off(x.device):
            scores = x.flatten(2).mT @ x.flatten(2)  # (B, h * w, h * w)
            near = torch.arange(scores.shape[1])[:, None] - torch.arange(scores.shape[1])
            weight = scores.masked_fill(near.abs() > 5, -torch.inf).softmax(-1)
        x = (x.flatten(2) @ weight).view_as(x) + self.pool(x).sum((2, 3), keepdim=True)
        return SegOutput(x, tuple(images.shape[2:]), tuple(images.shape[2:]), False)


def operations(graph):
    return {node.target for node in graph.graph.nodes if node.op == "call_function"}


def noise(channels, size):
    return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.seconds
def test_every_rewrite_gives_the_models_values():
    torch.manual_seed(0)
    model = EveryRewrite().eval()
    with torch.no_grad():
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
        graph, images = fixed_graph(model, SIZE), noise(4, SIZE)
        assert_close(graph(images)[0], model(images).logits, atol=1e-5, rtol=1e-5)
    left = operations(graph) & set(REWRITES)
    assert left <= {
        torch.ops.aten.slice.Tensor,
        torch.ops.aten.pad.default,
    }  # those that change something stay
    assert torch.ops.aten.arange.start_step not in operations(graph)


class DependsOnTheImage(EveryRewrite):
    """Of the same kinds, but a mask from the image and a slice that begins later."""

    def forward(self, images, aux=False):
        x = images[:, :, 1::2]
        x = x.masked_fill(x > 0, -1.0)
        return SegOutput(x, tuple(images.shape[2:]), tuple(images.shape[2:]), False)


@pytest.mark.seconds
def test_masks_and_slices_that_no_rewrite_fits_stay():
    model, images = DependsOnTheImage().eval(), noise(4, SIZE)
    with torch.no_grad():
        assert_close(fixed_graph(model, SIZE)(images)[0], model(images).logits)


@pytest.mark.seconds
def test_a_model_that_pads_is_the_same_at_a_size_that_it_pads():
    model, images = small_model(), noise(3, (33, 70))
    with torch.no_grad():
        assert_close(
            fixed_graph(model, (33, 70))(images)[0], model(images).logits, atol=1e-5, rtol=1e-5
        )


@pytest.mark.seconds
def test_the_model_is_left_as_it_was():
    model = small_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fixed_graph(model, SIZE)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_size_is_that_of_the_training():
    facts = Facts("a", (ClassInfo("b", (0, 0, 0)),), "MIT")
    assert facts.fixed_size == DEFAULT_SIZE
    assert Facts("a", facts.classes, "MIT", image_size=(90, 131)).fixed_size == (90, 131)


def test_a_file_of_one_size_takes_what_the_model_sees_of_an_image():
    facts = Facts(
        "a", (ClassInfo("b", (0, 0, 0)),), "MIT", image_size=(360, 480), test_resize=(180, 240)
    )
    assert facts.fixed_size == (180, 240)
    assert replace(facts, image_size=(480, 1280)).fixed_size == (90, 240)
    assert replace(facts, used_size=(480, 1280)).fixed_size == (
        90,
        240,
    )  # image_size stays what it was trained on
    assert replace(facts, test_resize=(720, 960)).fixed_size == (720, 960)
    told = metadata(small_model(), facts)
    assert "make the image fit 180 (short side) x 240 (long side) pixels" in told["preprocessing"]
    assert "bring the result back to its own size" in told["postprocessing"]


def test_a_model_that_cannot_be_a_graph_is_refused_with_a_sentence():
    class Branching(EveryRewrite):
        def forward(self, images, aux=False):
            return super().forward(images * 2 if images.sum() > 0 else images)

    with pytest.raises(ExportError, match="cannot write this model as a graph"):
        fixed_graph(Branching().eval(), SIZE)
