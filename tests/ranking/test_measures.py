import numpy as np
import pytest
import torch
from color_model import CLASSES as COLOR_CLASSES
from color_model import ColorModel
from scipy.stats import entropy

from featherseg import models
from featherseg.core.types import ClassInfo
from featherseg.inference.masks import probabilities
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.inference.settings import InferenceSettings
from featherseg.layers.normalise import normalise
from featherseg.ranking.measures import Measures, measure

CLASSES = tuple(ClassInfo(name, (i, i, i)) for i, name in enumerate("abcde"))
IMAGE = np.random.default_rng(0).integers(0, 255, (70, 100, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def runtime():
    torch.manual_seed(0)
    return TorchRuntime(models.build("efficientvit-seg-b0", 5).eval(), CLASSES, device="cpu")


@pytest.mark.parametrize("settings", [InferenceSettings(), InferenceSettings(window=(64, 64))], ids=str)
def test_entropy_is_scipy_s_of_the_probabilities(runtime, settings):
    found, chances = measure(runtime, IMAGE, settings), probabilities(runtime, IMAGE, settings).numpy()
    assert (found.prediction == chances.argmax(axis=0)).all()
    np.testing.assert_allclose(found.entropy, entropy(chances, base=5, axis=0), atol=1e-5)


def test_the_feature_is_the_mean_of_the_backbone_s_last_map(runtime):
    pixels = normalise(torch.from_numpy(IMAGE).permute(2, 0, 1)[None], runtime.mean, runtime.std)
    with torch.inference_mode():
        last = runtime.model.backbone(pixels)[-1]
    np.testing.assert_allclose(measure(runtime, IMAGE, InferenceSettings()).feature, last.mean((0, 2, 3)), rtol=1e-4)


def test_of_windows_the_feature_is_the_mean_of_theirs(runtime):
    image = IMAGE[:64, :96]  # two windows beside each other, 64 pixels each
    windows = [measure(runtime, image[:, x : x + 64], InferenceSettings()).feature for x in (0, 32)]
    found = measure(runtime, image, InferenceSettings(window=(64, 64)))
    np.testing.assert_allclose(found.feature, np.mean(windows, axis=0), rtol=1e-4)


def test_a_model_that_names_no_backbone_has_no_features():
    colors = TorchRuntime(ColorModel().eval(), COLOR_CLASSES, device="cpu")
    found = measure(colors, IMAGE, InferenceSettings())
    assert found.feature.shape == (0,)
    assert found.entropy.shape == found.prediction.shape == (70, 100)


def test_a_small_region_counts_as_much_as_a_large_one():
    prediction, certain = np.zeros((20, 30), np.uint8), np.full((20, 30), 0.1, np.float32)
    prediction[5:10, 5:10] = 1
    doubtful = certain.copy()
    doubtful[5:10, 5:10] = 0.9
    assert Measures(prediction, doubtful, np.zeros(0)).uncertainty == pytest.approx((0.1 + 0.9) / 2)
    assert Measures(prediction, certain, np.zeros(0)).uncertainty == pytest.approx(0.1)


def test_an_image_without_a_region_is_as_uncertain_as_its_pixels():
    checkered = np.indices((6, 6)).sum(axis=0).astype(np.uint8) % 2  # every region has one pixel
    assert Measures(checkered, np.full((6, 6), 0.3), np.zeros(0)).uncertainty == pytest.approx(0.3)
