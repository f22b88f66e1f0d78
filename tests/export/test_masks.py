"""A graph with normalisation, upsampling and argmax inside gives what prediction gives."""

import onnxruntime
import pytest
import torch
from small_network import FACTS, small_network

from featherseg.exporters.masks import Masks
from featherseg.exporters.onnx import to_onnx
from featherseg.layers.normalise import normalise
from featherseg.layers.resize import to_image

SIZES = [(1, 64, 96), (3, 97, 131), (1, 7, 201), (2, 1, 1), (1, 40, 56)]


def network_of(align_corners: bool):
    network = small_network()
    network.align_corners = align_corners
    return network


def images_of(shape):
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(sum(shape)))


def predicted(network, pixels):
    """Scores (B, K, H, W) the way a Predictor goes."""
    with torch.no_grad():
        out = network(normalise(pixels.permute(0, 3, 1, 2), network.mean, network.std))
        return to_image(out, tuple(pixels.shape[1:3]))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("shape", SIZES)
def test_masks_are_those_of_prediction(align_corners, shape):
    network, pixels = network_of(align_corners), images_of(shape)
    with torch.no_grad():
        masks = Masks(network)(pixels)
    assert masks.dtype == torch.uint8
    assert torch.equal(masks.long(), predicted(network, pixels).argmax(1))


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_file_gives_the_same_masks_at_every_size(align_corners, tmp_path):
    network = network_of(align_corners)
    session = onnxruntime.InferenceSession(to_onnx(network, FACTS, True), providers=["CPUExecutionProvider"])
    (images,), (masks,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", "height", "width", 3])
    assert (masks.name, masks.type) == ("masks", "tensor(uint8)")
    for shape in SIZES:
        pixels = images_of(shape)
        found = torch.from_numpy(session.run(None, {"images": pixels.numpy()})[0])
        scores = predicted(network, pixels)
        assert found.shape == shape
        given = scores.gather(1, found.long()[:, None])[:, 0]
        assert (scores.amax(1) - given).max() <= 1e-5  # another class only where the two are as likely
