import torch
from torch.testing import assert_close

from featherseg.layers.scale import LayerScale


def test_every_channel_has_a_factor_of_its_own():
    scale = LayerScale(3, 0.5)
    x = torch.randn(2, 3, 4, 5)
    assert_close(scale(x), 0.5 * x)
    with torch.no_grad():
        scale.weight.copy_(torch.tensor([1.0, 0.0, -2.0]))
    y = scale(x)
    assert_close(y[:, 0], x[:, 0])
    assert not y[:, 1].any()
    assert_close(y[:, 2], -2 * x[:, 2])


def test_the_memory_format_stays():
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert LayerScale(3, 0.5)(x).is_contiguous(memory_format=torch.channels_last)
