"""A graph with normalisation, upsampling and argmax inside gives what prediction gives."""

import onnxruntime
import pytest
import torch
from support.models.shared_exports import small_graph
from support.models.small_model import FACTS, small_model

from featherseg.exporters.masks import Masks
from featherseg.exporters.onnx import to_onnx
from featherseg.layers.normalise import normalise
from featherseg.layers.resize import to_image

SIZES = [(1, 64, 96), (3, 97, 131), (1, 7, 201), (2, 1, 1), (1, 40, 56)]


def model_of(align_corners: bool):
    model = small_model()
    model.align_corners = align_corners
    return model


def images_of(shape):
    return torch.randint(
        0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(sum(shape))
    )


def predicted(model, pixels):
    """Scores (B, K, H, W) the way a Predictor goes."""
    with torch.no_grad():
        out = model(normalise(pixels.permute(0, 3, 1, 2), model.mean, model.std))
        return to_image(out, tuple(pixels.shape[1:3]))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("shape", SIZES)
def test_masks_are_those_of_prediction(align_corners, shape):
    model, pixels = model_of(align_corners), images_of(shape)
    with torch.no_grad():
        masks = Masks(model)(pixels)
    assert masks.dtype == torch.uint8
    assert torch.equal(masks.long(), predicted(model, pixels).argmax(1))


@pytest.mark.seconds
@pytest.mark.parametrize("align_corners", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_file_gives_the_same_masks_at_every_size(align_corners, tmp_path_factory):
    model = model_of(align_corners)
    content = (
        to_onnx(model, FACTS, True) if align_corners else small_graph(tmp_path_factory, masks=True)
    )
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (images,), (masks,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == (
        "images",
        "tensor(uint8)",
        ["batch", "height", "width", 3],
    )
    assert (masks.name, masks.type) == ("masks", "tensor(uint8)")
    for shape in SIZES:
        pixels = images_of(shape)
        found = torch.from_numpy(session.run(None, {"images": pixels.numpy()})[0])
        scores = predicted(model, pixels)
        assert found.shape == shape
        given = scores.gather(1, found.long()[:, None])[:, 0]
        assert (
            scores.amax(1) - given
        ).max() <= 1e-5  # another class only where the two are as likely
