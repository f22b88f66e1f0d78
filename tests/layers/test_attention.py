import torch
from torch.testing import assert_close

from featherseg.layers.attention import DisentangledNonLocal


def block(channels=6, key_channels=3):
    torch.manual_seed(0)
    net = DisentangledNonLocal(channels, key_channels=key_channels)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return net


@torch.no_grad()
def loops(net, x):
    """Eq. 2-3 of the FRM paper with DNL's gamma and residual, for one picture, position by position."""
    channels, height, width = x.shape
    pooled = torch.stack(
        [x[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].amax((1, 2)) for r in range(height // 2) for c in range(width // 2)]
    )  # (M, C)
    seen = torch.stack([x[:, r, c] for r in range(height) for c in range(width)])  # (N, C)

    def linear(conv, vectors):
        weight, bias = conv.weight[:, :, 0, 0], conv.bias
        return torch.stack([weight @ v + (0 if bias is None else bias) for v in vectors])

    q, k, m, g = (
        linear(c, v) for c, v in ((net.query, seen), (net.key, pooled), (net.unary, pooled), (net.value, pooled))
    )
    q, k = q - q.mean(0), k - k.mean(0)
    unary = m[:, 0].exp()
    out = []
    for i in range(len(seen)):
        similar = (k @ q[i]).exp()
        y = sum((net.gamma * similar[j] / similar.sum() + unary[j] / unary.sum()) * g[j] for j in range(len(pooled)))
        out.append(seen[i] + y)
    return torch.stack(out, 1).view(channels, height, width)


def test_it_is_equations_2_and_3():
    net, x = block(), torch.randn(2, 6, 5, 4)
    expected = torch.stack([loops(net, picture) for picture in x])
    assert_close(net(x), expected, atol=1e-4, rtol=1e-4)


def test_it_ignores_a_constant_added_to_every_query():  # what the whitening in Eq. 3 is for
    net, x = block(), torch.randn(1, 6, 4, 6)
    before = net(x)
    with torch.no_grad():
        net.query.bias.add_(5.0)
    assert_close(net(x), before)


def test_the_softmax_is_in_full_precision_under_autocast():
    net, x = block(), torch.randn(1, 6, 8, 8)
    with torch.no_grad():
        net.query.weight.mul_(300.0)  # products far beyond half precision's range
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.isfinite(net(x)).all()
