"""torchvision's ResNets by published key names: shapes, made-up weights, a forward pass."""

import zlib

import torch
import torch.nn.functional as F

DEPTHS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
PARAMETERS = {18: 11_689_512, 50: 25_557_032, 101: 44_549_160}
"""With the head of 1000 classes, as torchvision's documentation lists them."""


def blocks(depth):
    """(name, channels in, width, channels out, stride) of every block."""
    channels, out = 64, 1 if depth == 18 else 4
    for stage, repeats in enumerate(DEPTHS[depth]):
        width = 64 * 2**stage
        for i in range(repeats):
            yield (
                f"layer{stage + 1}.{i}",
                channels,
                width,
                width * out,
                2 if stage and i == 0 else 1,
            )
            channels = width * out


def shapes(depth):
    """{key: shape} without the head."""
    convs = {"conv1": (64, 3, 7, 7)}
    for name, before, width, after, stride in blocks(depth):
        if depth == 18:
            own = [(width, before, 3, 3), (width, width, 3, 3)]
        else:
            own = [(width, before, 1, 1), (width, width, 3, 3), (after, width, 1, 1)]
        convs |= {f"{name}.conv{i + 1}": shape for i, shape in enumerate(own)}
        if stride != 1 or before != after:
            convs[f"{name}.downsample.0"] = (after, before, 1, 1)
    keys = {}
    for name, shape in convs.items():
        keys |= conv_norm(
            name, shape, name.replace("conv", "bn").replace("downsample.0", "downsample.1")
        )
    return keys


def conv_norm(conv, shape, norm):
    """{key: shape} of a convolution without bias and its batch norm."""
    entries = ("weight", "bias", "running_mean", "running_var")
    keys = {f"{conv}.weight": shape, **{f"{norm}.{entry}": shape[:1] for entry in entries}}
    return {**keys, f"{norm}.num_batches_tracked": ()}


def made_up(shapes):
    """A state of float64 tensors, each drawn by its key; norms keep the maps near unit variance."""
    state = {}
    for key, shape in shapes.items():
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        if len(shape) == 4:
            value /= (shape[1] * shape[2] * shape[3] / 2) ** 0.5
        elif key.endswith("running_var"):
            value = 1 + value.abs() / 4
        elif key.endswith("weight"):
            value = 0.7 + value.abs() / 4
        state[key] = value / 10 if key.endswith(("bias", "running_mean")) else value
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
    return state


def normed(state, x, conv, norm, **geometry):
    """Convolution and batch norm by their keys."""
    x = F.conv2d(x, state[f"{conv}.weight"], **geometry)
    entries = (
        state[f"{norm}.{name}"][:, None, None]
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    mean, variance, weight, bias = entries
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def forward(state, images, depth, output_stride=32):
    """Return the four stages; a dilated stage doubles the dilation after its first block."""
    x = normed(state, images, "conv1", "bn1", stride=2, padding=3).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    stages, reached, dilation = {}, 4, 1
    for name, _, _, _, stride in blocks(depth):
        if stride == 2 and reached == output_stride:
            stride, dilation, own = 1, 2 * dilation, dilation
        else:
            reached, own = reached * stride, dilation
        y = x
        if depth == 18:
            y = normed(
                state, y, f"{name}.conv1", f"{name}.bn1", stride=stride, padding=own, dilation=own
            ).relu()
            y = normed(
                state, y, f"{name}.conv2", f"{name}.bn2", padding=dilation, dilation=dilation
            )
        else:
            y = normed(state, y, f"{name}.conv1", f"{name}.bn1").relu()
            y = normed(
                state, y, f"{name}.conv2", f"{name}.bn2", stride=stride, padding=own, dilation=own
            ).relu()
            y = normed(state, y, f"{name}.conv3", f"{name}.bn3")
        if f"{name}.downsample.0.weight" in state:
            x = normed(state, x, f"{name}.downsample.0", f"{name}.downsample.1", stride=stride)
        x = (x + y).relu()
        stages[name[:6]] = x  # in the end the last block of each
    return list(stages.values())
