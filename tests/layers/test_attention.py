import pytest
import torch
from torch.testing import assert_close

from featherseg.layers.attention import DisentangledNonLocal

LETTER = {"kv_pool": 1, "gamma": False, "residual": False}  # Eq. 2-3 as they are printed
SWITCHES = [LETTER, {}, {"kv_pool": 1}, {"gamma": False}, {"residual": False}, {"scale": True}]


def block(channels=6, key_channels=3, **switches):
    torch.manual_seed(0)
    layer = DisentangledNonLocal(channels, key_channels=key_channels, **switches).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


def image_map(*size):
    torch.manual_seed(1)
    return torch.randn(*size, dtype=torch.float64)


@torch.no_grad()
def loops(layer, x, *, kv_pool=2, gamma=True, residual=True, scale=False):
    """Loop over positions of the FRM paper's Eq. 2-3 for (C, h, w), with DNL's options."""
    channels, height, width = x.shape
    p = kv_pool
    pooled = torch.stack(
        [
            x[:, p * r : p * r + p, p * c : p * c + p].amax((1, 2))
            for r in range(height // p)
            for c in range(width // p)
        ]
    )  # (M, C)
    seen = torch.stack([x[:, r, c] for r in range(height) for c in range(width)])  # (N, C)

    def linear(conv, vectors):
        weight, bias = conv.weight[:, :, 0, 0], conv.bias
        return torch.stack([weight @ v + (0 if bias is None else bias) for v in vectors])

    q, k, m, g = (
        linear(c, v)
        for c, v in (
            (layer.query, seen),
            (layer.key, pooled),
            (layer.unary, pooled),
            (layer.value, pooled),
        )
    )
    q, k = q - q.mean(0), k - k.mean(0)
    unary = m[:, 0].exp()
    factor = layer.gamma if gamma else 1.0
    out = []
    for i in range(len(seen)):
        similar = (k @ q[i] / (q.shape[1] ** 0.5 if scale else 1.0)).exp()
        y = sum(
            (factor * similar[j] / similar.sum() + unary[j] / unary.sum()) * g[j]
            for j in range(len(pooled))
        )
        out.append(seen[i] + y if residual else y)
    return torch.stack(out, 1).view(channels, height, width)


@pytest.mark.parametrize("switches", SWITCHES)
def test_it_is_equations_2_and_3_with_every_switch(switches):
    layer, x = block(**switches), image_map(2, 6, 5, 4)
    expected = torch.stack([loops(layer, image, **switches) for image in x])
    assert_close(layer(x), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1)])
def test_a_map_with_a_side_of_one_is_not_pooled(size):
    layer, x = block(), image_map(1, 6, *size)
    assert_close(layer(x)[0], loops(layer, x[0], kv_pool=1), atol=1e-9, rtol=0)


def test_it_ignores_a_constant_added_to_every_query():  # what the whitening in Eq. 3 is for
    layer, x = block(), image_map(1, 6, 4, 6)
    before = layer(x)
    with torch.no_grad():
        layer.query.bias.add_(5.0)
    assert_close(layer(x), before)


def test_the_softmax_is_in_full_precision_under_autocast():
    layer, x = block().float(), image_map(1, 6, 8, 8).float()
    with torch.no_grad():
        layer.query.weight.mul_(300.0)  # products far beyond half precision's range
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.isfinite(layer(x)).all()
