"""Parts for programs of one's own: modules, OpenCV's arrays, tensors for a DataLoader."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.models.color_model import ColorModel, answer_of, color_predictor, image
from torch.utils.data import DataLoader

import featherseg
from featherseg.backbones.weights import find_pretrained
from featherseg.core.errors import ConfigError, WeightsError
from featherseg.core.types import ClassInfo, Sample
from featherseg.data.shapes import Shapes
from featherseg.data.views import DataView


class Bare(torch.nn.Module):
    """A module of a user: its logits are the image's channels."""

    classes, mean, std = 3, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, images):
        return images * self.scale


@pytest.mark.parametrize("module", [Bare, ColorModel])
def test_a_module_predicts_with_the_names_of_its_classes(module):
    blue = ClassInfo("blue", (1, 2, 250))
    predictor = featherseg.Predictor(module(), "cpu", classes=["red", "green", blue])
    assert (predictor(image()).mask == answer_of(image())).all()
    assert [info.name for info in predictor.classes] == ["red", "green", "blue"]
    assert predictor.classes[2] == blue
    assert len({info.color for info in predictor.classes}) == 3
    assert repr(predictor) == f"Predictor({module.__name__}, 3 classes, cpu)"


def test_a_module_needs_its_classes_and_nothing_else_takes_them(tmp_path):
    with pytest.raises(ConfigError, match=r"3 classes needs their names, none were given: Pred"):
        featherseg.Predictor(Bare())
    with pytest.raises(ConfigError, match="names, 2 were given"):
        featherseg.Predictor(Bare(), classes=["red", "green"])
    with pytest.raises(ConfigError, match="classes"):
        featherseg.Predictor(color_predictor().runtime, classes=["a", "b", "c"])


def test_arrays_of_opencv_are_blue_green_red(tmp_path):
    runtime, pixels = color_predictor().runtime, image()
    predictor = featherseg.Predictor(runtime, bgr=True)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for x in (pixels[:, :, ::-1], [pixels[:, :, ::-1]], tmp_path / "a.png"):
        found = predictor(x)
        found = found[0] if isinstance(found, list) else found
        assert (found.mask == answer_of(pixels)).all()
        assert (found.image == pixels).all()
    runtime.channels = 4
    with pytest.raises(ConfigError, match="bgr is for images of 3 channels"):
        featherseg.Predictor(runtime, bgr=True)


class SixteenBits(DataView):
    name, classes, channels, licence, keys = "deep", (), 3, "CC0-1.0", ["a", "b"]

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return Sample("a", np.full((4, 6, 3), 65535, np.uint16), np.full((4, 6), 255, np.uint8))


def test_a_dataset_feeds_a_plain_data_loader():
    data = featherseg.open_dataset("shapes", "val", size=3)
    assert repr(data) == "Shapes(shapes, 3 images, 8 classes)"
    images, labels = next(iter(DataLoader(data.torch(), batch_size=3)))
    assert (images.shape, labels.shape) == ((3, 3, 256, 512), (3, 256, 512))
    sample = Shapes("val", 3)[1]
    assert ((images[1] * 255).round().byte().permute(1, 2, 0).numpy() == sample.image).all()
    assert (labels[1].numpy() == sample.label).all()
    torch.nn.functional.cross_entropy(torch.zeros(3, 8, 256, 512), labels, ignore_index=255)
    image, label = SixteenBits().torch()[0]
    assert (image.dtype, image.max().item(), label.dtype) == (torch.float32, 1.0, torch.int64)


def test_build_loads_the_weights_of_the_backbone():
    try:
        find_pretrained("efficientnet-lite0")
    except WeightsError:
        pytest.skip("the weights are not installed")
    plain, loaded, wide = (
        featherseg.build("frm-lite0-light", 3, channels, pretrained=pretrained)
        for channels, pretrained in ((3, False), (3, True), (4, True))
    )
    name = f"{loaded.backbone.first_convolution}.weight"
    first = loaded.backbone.get_parameter(name)
    assert not torch.equal(first, plain.backbone.get_parameter(name))
    again = featherseg.build("frm-lite0-light", 3, pretrained=True)
    assert torch.equal(first, again.backbone.get_parameter(name))
    averaged = wide.backbone.get_parameter(name)
    assert averaged.shape[1] == 4
    assert torch.allclose(averaged.sum(1), first.sum(1), atol=1e-5)


def test_build_says_which_weights_are_missing():
    with pytest.raises(WeightsError, match="featherseg weights"):
        featherseg.build("frm-van-s", 3, pretrained=True)
