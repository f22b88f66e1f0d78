"""Model confidence: probabilities agree with the mask at every pixel, as arrays and as files."""

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image
from support.models.file_metadata import ChannelsFile
from support.models.pixel_model import CLASSES, pixel_runtime

import featherseg
from featherseg import Predictor, models
from featherseg.core.errors import ConfigError
from featherseg.core.types import ClassInfo
from featherseg.inference.output import OutputSettings
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.inference.settings import InferenceSettings
from featherseg.inference.soft_output import (
    agreeing,
    confidence_png,
    probabilities_npz,
    soft_output,
)

WAYS = {
    "whole": InferenceSettings(),
    "tiles": InferenceSettings(window=(40, 48)),
    "flip and scales": InferenceSettings(flip=True, scales=(0.75, 1.25)),
    "resized": InferenceSettings(resize=(50, 80)),
}


def softly(runtime, kind, **more):
    predictor = Predictor(runtime, **more)
    predictor.soft = kind
    return predictor


@pytest.mark.seconds
@pytest.mark.parametrize("way", WAYS)
def test_probabilities_sum_to_1_and_the_mask_is_their_highest(
    make_runtime, frm_runtime, image, way
):
    for runtime in (make_runtime(), make_runtime(stride=8, divisor=32), frm_runtime):
        expected = Predictor(runtime, inference=WAYS[way])(image)
        exact = expected.probabilities()  # (K, H, W)
        assert exact.dtype == np.float32
        np.testing.assert_allclose(exact.sum(axis=0), 1, atol=2e-6)
        np.testing.assert_array_equal(exact.argmax(axis=0), expected.mask)
        found = softly(runtime, "probabilities", inference=WAYS[way])(image)
        np.testing.assert_array_equal(found.mask, expected.mask)
        assert (found.soft.dtype, found.soft.shape) == (np.float16, exact.shape)
        np.testing.assert_allclose(found.soft, exact, atol=1e-3)
        np.testing.assert_array_equal(found.soft.argmax(axis=0), expected.mask)  # in float16 too
        sure = softly(runtime, "confidence", inference=WAYS[way])(image)
        np.testing.assert_array_equal(sure.mask, expected.mask)
        chosen = np.take_along_axis(exact, expected.mask[None].astype(int), axis=0)[0]
        np.testing.assert_array_equal(sure.soft, np.round(255 * chosen).astype(np.uint8))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_classes_that_rounding_makes_equal_or_swaps_follow_the_mask(dtype, kind):
    rows = [[0.25, 0.25, 0.5 - 2**-12], [0.2, 0.4, 0.4], [0.5, 0.3, 0.2]]
    close = np.array(rows, dtype).T[None, :, None]
    mask = np.array([[[2, 2, 0]]], np.uint8)  # (1, 1, 3)
    for given, chosen in (
        (close, mask),
        (np.full((1, 4, 2, 2), 0.25, dtype), np.full((1, 2, 2), 3, np.uint8)),
    ):
        found = np.asarray(agreeing(kind(given), chosen))
        assert (found.argmax(axis=1) == chosen).all()
        assert np.abs(found - given).max() <= 2**-11
    found = agreeing(kind(close), mask)
    assert (np.asarray(found)[..., 2] == close[..., 2]).all()  # where they agree nothing changes


def test_a_batch_gives_what_single_images_give(image):
    images = [image, image[::-1].copy(), image[:, ::-1].copy()]
    for kind in ("probabilities", "confidence"):
        single = [softly(pixel_runtime(), kind)(x) for x in images]
        for one, other in zip(single, softly(pixel_runtime(), kind, batch=2)(images), strict=True):
            np.testing.assert_array_equal(one.soft, other.soft)


def test_files_hold_the_arrays_and_are_the_same_bytes_each_time(image, tmp_path):
    found = softly(pixel_runtime(), "probabilities")(image)
    content = probabilities_npz(found.soft, CLASSES)
    assert content == probabilities_npz(found.soft, CLASSES)
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["probabilities"], found.soft)
        assert arrays["classes"].tolist() == [info.name for info in CLASSES]
    sure = soft_output(found.probabilities()[None], found.mask[None], "confidence")
    with Image.open(io.BytesIO(confidence_png(sure[0]))) as png:
        assert png.mode == "L"
        np.testing.assert_array_equal(np.array(png), sure[0])


@pytest.mark.parametrize(
    ("kind", "name"), [("npz", "a_probabilities.npz"), ("png", "a_confidence.png")]
)
def test_a_folder_holds_them_beside_the_masks_and_goes_on_with_them(image, tmp_path, kind, name):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    Image.fromarray(image).save(photos / "a.png")
    settings = OutputSettings(masks=True, probabilities=kind)
    featherseg.predict(pixel_runtime(), photos, out=out, settings=settings)
    assert sorted(os.listdir(out)) == sorted(["a_mask.png", name, "predictions.jsonl"])
    expected = softly(pixel_runtime(), {"npz": "probabilities", "png": "confidence"}[kind])(
        image
    ).soft
    if kind == "npz":
        np.testing.assert_array_equal(np.load(out / name)["probabilities"], expected)
    else:
        np.testing.assert_array_equal(np.array(Image.open(out / name)), expected)
    (out / name).unlink()
    assert featherseg.predict(pixel_runtime(), photos, out=out, settings=settings).resumed == 0
    assert featherseg.predict(pixel_runtime(), photos, out=out, settings=settings).resumed == 1
    with pytest.raises(ConfigError, match=f'probabilities was "{kind}", now null'):
        featherseg.predict(pixel_runtime(), photos, out=out, settings=OutputSettings(masks=True))


@pytest.mark.seconds
def test_what_has_no_probabilities_or_no_room_is_refused_in_a_sentence(image, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((1500, 1500, 3), np.uint8)).save(path)
    classes = (ClassInfo("road", (1, 2, 3)), ClassInfo("car", (4, 5, 6), True))
    panoptic = TorchRuntime(models.build("rsp-lite0-panoptic", 2).eval(), classes, device="cpu")
    soft = OutputSettings(probabilities="npz")
    with pytest.raises(
        ConfigError, match="is a panoptic model, whose objects have no probabilities"
    ):
        featherseg.predict(panoptic, path, out=tmp_path / "out", settings=soft)
    many = {
        "classes": [str(n) for n in range(100)],
        "colors": [(n, n, n) for n in range(100)],
        "things": [False] * 100,
    }
    with pytest.raises(
        ConfigError, match=r"100 classes for an image of 1500x1500 .* need a memory of [12]\.\d GB"
    ):
        featherseg.predict(
            Predictor(ChannelsFile(**many), memory_gb=1.0),
            path,
            out=tmp_path / "out",
            settings=soft,
        )
    assert not (tmp_path / "out").exists()
    for settings, match in (
        ({"probabilities": "tiff"}, "expected npz or png"),
        ({"probabilities": "npz", "submission": "cityscapes"}, "a submission holds masks alone"),
    ):
        with pytest.raises(ConfigError, match=match):
            OutputSettings(**settings)
