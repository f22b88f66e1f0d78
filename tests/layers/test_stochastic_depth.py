import torch
from torch.testing import assert_close

from featherseg.layers.stochastic_depth import StochasticDepth


def test_whole_images_are_dropped_and_the_rest_made_up_for_it():
    torch.manual_seed(0)
    x = torch.randn(4000, 1, 2, 2)
    y = StochasticDepth(0.25).train()(x)
    dropped = (y == 0).flatten(1).all(1)
    assert_close(y[~dropped], x[~dropped] / 0.75)
    assert abs(float(dropped.float().mean()) - 0.25) < 0.03


def test_nothing_is_dropped_in_evaluation_or_at_rate_0():
    x = torch.randn(64, 3, 2, 2)
    assert torch.equal(StochasticDepth(0.9).eval()(x), x)
    assert torch.equal(StochasticDepth(0.0).train()(x), x)
