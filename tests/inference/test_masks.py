"""With any settings the scores are those of `to_image` on the full image, averaged as set."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from featherseg import FeathersegError
from featherseg.core.config import with_given
from featherseg.core.errors import ConfigError
from featherseg.core.types import SegOutput
from featherseg.inference import masks
from featherseg.inference import test_time_augmentation as tta
from featherseg.inference.masks import predict_mask, predict_masks
from featherseg.inference.settings import InferenceSettings
from featherseg.inference.sliding_window import windows
from featherseg.inference.test_time_augmentation import resize_rows
from featherseg.kernels import library
from featherseg.layers.normalise import normalise
from featherseg.layers.resize import resize, to_image


def probabilities(*given) -> torch.Tensor:
    """(K, H, W)."""
    return torch.from_numpy(masks.probabilities(*given))


def whole_logits(runtime, image) -> torch.Tensor:
    """(K, H, W), by the shortest way: the model, then `to_image`."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    out = runtime(normalise(pixels, runtime.mean, runtime.std))
    return to_image(out, image.shape[:2])[0]


@pytest.mark.parametrize(
    "options", [{"stride": 1, "kernel": 1}, {"stride": 4}, {"stride": 8, "divisor": 16}]
)
@pytest.mark.parametrize("block", [1, 20_000, 10**9])
def test_whole_is_the_model_brought_to_the_image(make_runtime, image, options, block, monkeypatch):
    monkeypatch.setattr(tta, "BLOCK_BYTES", block)
    runtime = make_runtime(**options)
    expected = whole_logits(runtime, image)
    assert_close(probabilities(runtime, image), expected.softmax(0), atol=1e-5, rtol=0)
    assert (
        predict_mask(runtime, image) == expected.argmax(0).numpy()
    ).mean() > 0.999  # ties within rounding


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(37, 50), (9, 12), (5, 7), (1, 1)])
def test_rows_of_a_resized_map_are_cut_without_the_others(size, align_corners):
    x = torch.randn(2, 3, 9, 12, generator=torch.Generator().manual_seed(1))
    expected = resize(x, size, align_corners=align_corners)
    for start, stop in ((0, 1), (size[0] // 3, size[0]), (0, size[0])):
        assert_close(
            resize_rows(x, size, start, stop, align_corners=align_corners),
            expected[:, :, start:stop],
            atol=2e-5,
            rtol=0,
        )
        of_array = resize_rows(x.numpy(), size, start, stop, align_corners=align_corners)
        assert_close(torch.from_numpy(of_array), expected[:, :, start:stop], atol=2e-5, rtol=0)


def test_windows_cover_every_pixel_and_share_the_overlap():
    for length, window, overlap in (
        (100, 32, 0.25),
        (33, 32, 0.5),
        (500, 64, 0.0),
        (64, 64, 0.25),
        (40, 64, 0.25),
    ):
        found = windows((length, 50), (window, 64), overlap)
        covered = np.zeros(length, dtype=int)
        for w in found:
            covered[w.top : w.top + w.height] += 1
            assert 0 <= w.top <= length - w.height
            assert (w.left, w.width) == (0, 50)
        assert covered.min() >= 1
        for first, second in pairwise(found):
            assert first.top + first.height - second.top >= int(window * overlap)


def test_one_window_as_large_as_the_image_is_the_whole_image(make_runtime, image):
    runtime = make_runtime()
    for window in ((70, 93), (200, 200)):
        assert_close(
            probabilities(runtime, image, InferenceSettings(window=window)),
            probabilities(runtime, image),
            atol=0,
            rtol=0,
        )


def test_windows_do_not_matter_to_a_model_that_sees_single_pixels(make_runtime, image):
    runtime = make_runtime(stride=1, kernel=1)
    tiled = probabilities(runtime, image, InferenceSettings(window=(32, 40)))
    assert_close(tiled, probabilities(runtime, image), atol=1e-6, rtol=0)


def test_a_pixel_is_blended_by_its_place_in_each_window(image):
    """Two windows with different answers: the blend changes from one to the other smoothly."""

    class ByOrder:
        classes, mean, std, device = ("a", "b"), (0.0,) * 3, (1.0,) * 3, torch.device("cpu")
        image_range, calls = 65536, 0

        def __call__(self, images):
            logits = torch.zeros(1, 2, *images.shape[2:])
            logits[:, self.calls] = 50.0
            self.calls += 1
            return SegOutput(logits, tuple(images.shape[2:]), tuple(images.shape[2:]), False)

    found = probabilities(
        ByOrder(), image[:, :60], InferenceSettings(window=(70, 40), overlap=0.5)
    )  # columns 0-40 and 20-60
    line = found[1, 0]
    assert_close(line[:20], torch.zeros(20))
    assert_close(line[40:], torch.ones(20))
    assert (line.diff() >= -1e-6).all()
    assert line.diff().max() < 0.06
    assert_close(found.sum(0), torch.ones(70, 60))


def test_flip_is_the_mean_of_the_image_and_its_mirror(make_runtime, image):
    runtime = make_runtime(
        stride=8, divisor=16
    )  # pads on the right: the mirror is padded on the other side
    straight = whole_logits(runtime, image).softmax(0)
    mirrored = whole_logits(runtime, np.ascontiguousarray(image[:, ::-1])).softmax(0).flip(2)
    assert_close(
        probabilities(runtime, image, InferenceSettings(flip=True)),
        (straight + mirrored) / 2,
        atol=1e-5,
        rtol=0,
    )


def test_flip_makes_the_mask_of_a_symmetric_image_symmetric(make_runtime, image):
    both = np.concatenate([image, image[:, ::-1]], axis=1)
    found = probabilities(make_runtime(), both, InferenceSettings(flip=True))
    assert_close(found, found.flip(2), atol=1e-5, rtol=0)


def test_scales_are_averaged_at_full_resolution(make_runtime, image):
    runtime = make_runtime(stride=4, divisor=8)
    pixels = normalise(torch.from_numpy(image).permute(2, 0, 1)[None], runtime.mean, runtime.std)
    expected = torch.zeros(3, 70, 93)
    for scale in (0.5, 1.0, 1.5):
        size = (round(70 * scale), round(93 * scale))
        scaled = torch.nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)
        expected += to_image(runtime(scaled), (70, 93))[0].softmax(0) / 3
    assert_close(
        probabilities(runtime, image, InferenceSettings(scales=(0.5, 1.0, 1.5))),
        expected,
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize(
    ("fit", "seen"),
    [((35, 200), (35, 46)), ((64, 80), (60, 80)), ((140, 140), (105, 140)), ((70, 93), (70, 93))],
)
def test_a_fitted_image_is_resized_for_the_model_and_scored_at_its_own_size(
    make_runtime, image, fit, seen
):
    runtime = make_runtime(stride=4, divisor=8)
    pixels = normalise(torch.from_numpy(image).permute(2, 0, 1)[None], runtime.mean, runtime.std)
    if seen != (70, 93):
        pixels = torch.nn.functional.interpolate(pixels, size=seen, mode="bilinear", antialias=True)
    expected = to_image(runtime(pixels), (70, 93))[0].softmax(0)
    assert_close(
        probabilities(runtime, image, InferenceSettings(resize=fit)), expected, atol=1e-5, rtol=0
    )


def test_scales_and_windows_come_on_top_of_the_fit(make_runtime, image):
    runtime = make_runtime()
    seen = []
    forward = runtime.model.forward
    runtime.model.forward = lambda images: seen.append(tuple(images.shape[2:])) or forward(images)
    found = probabilities(
        runtime, image, InferenceSettings(resize=(35, 100), scales=(1.0, 2.0), flip=True)
    )
    assert seen == [(35, 46), (35, 46), (70, 93), (70, 93)]
    assert found.shape == (3, 70, 93)
    seen.clear()
    predict_mask(
        runtime, image, InferenceSettings(resize=(35, 100), window=(70, 60))
    )  # in pixels of the image itself
    assert seen == [(35, 30), (35, 30)]


def test_by_default_an_image_is_predicted_as_in_validation(make_runtime, image):
    runtime = make_runtime()
    runtime.test_resize = (35, 200)
    fitted = InferenceSettings(resize=(35, 200))
    assert (predict_mask(runtime, image) == predict_mask(runtime, image, fitted)).all()
    assert torch.equal(probabilities(runtime, image), probabilities(runtime, image, fitted))
    assert not torch.equal(
        probabilities(runtime, image), probabilities(runtime, image, InferenceSettings())
    )


def test_images_in_a_batch_are_predicted_as_alone(make_runtime, image):
    runtime = make_runtime()
    batch = np.stack([image, image[::-1], image[:, ::-1]])
    for inference in (InferenceSettings(), InferenceSettings(window=(32, 48), flip=True)):
        together = predict_masks(runtime, batch, inference)
        alone = np.stack([predict_mask(runtime, one, inference) for one in batch])
        assert (together == alone).mean() > 0.999


def test_sixteen_bits_and_read_only_arrays_are_taken(make_runtime, image):
    runtime = make_runtime()
    deep = image.astype(np.uint16) * 257
    deep.setflags(write=False)
    assert (predict_mask(runtime, deep) == predict_mask(runtime, image)).mean() > 0.999


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"scales": ()}, r"\[\]"),
        ({"scales": (0.5, 50.0)}, "50.0"),
        ({"window": (8, 512)}, "8x512"),
        ({"overlap": 0.95}, "0.95"),
        ({"resize": (200, 50)}, "200x50"),
    ],
)
def test_settings_out_of_range_are_refused_by_their_value(values, named):
    with pytest.raises(FeathersegError, match=named):
        InferenceSettings(**values)


def test_a_mapping_changes_what_it_names_and_a_slip_gets_a_sentence():
    own = InferenceSettings(resize=(512, 2048))
    assert with_given(own, None, "inference") is own
    found = with_given(own, {"flip": True, "scales": [0.75, 1]}, "inference")
    assert found == replace(own, flip=True, scales=(0.75, 1.0))
    assert with_given(own, {"resize": None, "window": (64, 96)}, "inference") == InferenceSettings(
        window=(64, 96)
    )
    for given, said in (
        ({"flp": True}, "inference: unknown key 'flp'. Did you mean 'flip'?"),
        ({"flip": "no"}, "inference: flip = 'no': input should be a valid boolean."),
        ({"scales": 1}, "inference: scales = 1: input should be a valid "),
        ({"window": 64}, "inference: window = 64: input should be a valid "),
        ({"window": (8, 64)}, "window = 8x64: expected at least 32x32"),
        (
            "flip",
            "inference = 'flip': "
            "expected a mapping with some of the keys window, overlap, scales, ",
        ),
    ):
        with pytest.raises(ConfigError) as raised:
            with_given(own, given, "inference")
        assert str(raised.value).startswith(said)


def test_settings_say_what_they_are():
    assert str(InferenceSettings()) == "whole"
    assert str(InferenceSettings(resize=(512, 2048))) == "whole, fitted to 512x2048"
    assert (
        str(InferenceSettings(window=(512, 640), flip=True, scales=(0.75, 1.0)))
        == "windows of 512x640, flip, scales 0.75 1.0"
    )


@pytest.mark.parametrize("own", [True, False])
def test_kernels_beside_a_file_s_threads_sleep_and_others_are_torch_s(make_runtime, image, own):
    runtime, seen = make_runtime(), []
    runtime.own_threads, runtime.threads = own, 3
    runtime.model.register_forward_hook(
        lambda *_: seen.append((library.thread_count(), torch.get_num_threads()))
    )
    before = torch.get_num_threads()
    predict_mask(runtime, image)
    assert seen == [(3, before if own else 3)]
