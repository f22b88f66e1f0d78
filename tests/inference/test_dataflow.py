"""Which layers hand their result to one other alone."""

import torch
import torch.nn.functional as F
from torch import nn

from featherseg.core.types import SegOutput
from featherseg.inference.dataflow import links

KINDS = (nn.Conv2d, nn.BatchNorm2d)


class Small(nn.Module):
    """1x1 convolutions and norms of one channel, connected by `wire(self, x)`."""

    mean = (0.0,)

    def __init__(self, wire):
        super().__init__()
        self.wire = wire
        self.conv, self.other = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
        self.norm, self.unused = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
        self.eval()

    def forward(self, images):
        return SegOutput(
            self.wire(self, images), tuple(images.shape[2:]), tuple(images.shape[2:]), False
        )


def found(wire):
    return links(Small(wire), KINDS)


def test_a_chain_is_found_in_its_order():
    assert found(lambda n, x: n.other(n.norm(n.conv(x)))) == [("conv", "norm"), ("norm", "other")]


def test_a_result_that_is_read_twice_belongs_to_nobody():
    def wire(n, x):
        y = n.conv(x)
        return n.norm(y) + y

    assert found(wire) == []
    assert found(lambda n, x: (y := n.conv(x)).mT.mT + n.norm(y)) == []
    assert found(lambda n, x: torch.cat([n.norm(y := n.conv(x)), y], dim=1)) == []
    assert found(lambda n, x: n.norm(n.conv(x))[:, :1] + n.other(x)) == [("conv", "norm")]


def test_a_result_that_is_changed_on_its_way_is_no_link():
    assert found(lambda n, x: n.norm(n.conv(x).relu())) == []
    assert found(lambda n, x: n.norm(F.pad(n.conv(x), (1, 1, 1, 1)))) == []


def test_a_result_that_leaves_the_model_is_no_link():
    class Features(Small):
        def forward(self, images):
            y = self.conv(images)
            return SegOutput(self.norm(y), (1, 1), (1, 1), False, features=y)

    assert links(Features(None), KINDS) == []


def test_a_layer_that_runs_twice_is_no_part_of_a_link():
    assert found(lambda n, x: n.norm(n.conv(x)) + n.norm(n.other(x))) == []
    assert found(lambda n, x: n.norm(n.conv(n.conv(x)))) == []


def test_asking_for_the_size_of_a_result_is_not_reading_it():
    def wire(n, x):
        y = n.conv(x)
        return n.norm(y).reshape(y.shape[0], y.size(1), -1, len(y))

    assert found(wire) == [("conv", "norm")]
