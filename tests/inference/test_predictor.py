"""The Predictor: one answer for any input form, lists, iterators, results that draw and save."""

import io
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from support.models.file_metadata import ChannelsFile

from featherseg import FeathersegError, Predictor
from featherseg.core.errors import ConfigError, DataError
from featherseg.data.images.decoding import image_size, read_mask
from featherseg.inference.masks import predict_mask
from featherseg.inference.settings import InferenceSettings
from featherseg.inference.tiling import process_bytes


@pytest.fixture
def predictor(make_runtime):
    return Predictor(make_runtime())


@pytest.mark.seconds
def test_every_form_of_an_image_gives_the_same_mask(frm_runtime, image, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    predictor = Predictor(frm_runtime)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    expected = predict_mask(frm_runtime, image)
    for form in (path, str(path), Image.open(path), image, tensor, tensor / 255):
        assert (predictor(form).mask == expected).all()
    for result in [*predictor([image, path]), *predictor(iter([tensor]))]:
        assert (result.mask == expected).all()
    assert expected.shape == (70, 93)
    assert expected.dtype == np.uint8


def test_a_list_gives_a_list_and_an_iterator_is_read_as_it_is_used(predictor, image):
    seen = []

    def images():
        for number in range(4):
            seen.append(number)
            yield image

    assert isinstance(predictor([image, image]), list)
    assert predictor([]) == []
    results = predictor(images())
    assert isinstance(results, Iterator)
    assert seen == []
    next(results)
    assert len(seen) <= 2


def test_open_files_are_read_as_images(predictor, image, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    expected = predictor(path).mask
    with open(path, "rb") as file, io.BytesIO(path.read_bytes()) as memory:
        memory.seek(0, io.SEEK_END)  # as it stands after something was written into it
        for form, name in ((file, "a"), (memory, "image")):
            assert (predictor(form).mask == expected).all()
            assert predictor(form).name == name
            assert (predictor([form])[0].mask == expected).all()
    with open(path, encoding="latin-1") as text, open(tmp_path / "b", "wb") as written:
        for form, match in (
            (memory, "image cannot be read: I/O operation on closed file"),
            (text, r"a\.png is a file of str, not of bytes\. Open it with open\(path, 'rb'\)"),
            (written, "b cannot be read"),
            (io.BytesIO(b"none"), "image cannot be read: it is not an image"),
        ):
            with pytest.raises(DataError, match=match):
                predictor(form)


@pytest.mark.seconds
def test_open_files_are_bounded_as_paths_are(predictor, image, monkeypatch):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    monkeypatch.setattr("featherseg.inference.inputs.MOST_BYTES", 1000)
    with pytest.raises(DataError, match="image has more than 1,000 bytes, the limit"):
        predictor(file)
    monkeypatch.undo()
    with pytest.raises(DataError, match="image is too large"):
        predictor(io.BytesIO(write_bomb()))


def write_bomb():
    """The header of a PNG of 20,000 x 20,000 pixels."""
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    return bomb.getvalue()


@pytest.mark.parametrize(
    "form", [np.asarray, lambda frame: torch.from_numpy(frame).permute(2, 0, 1)]
)
def test_an_iterator_may_fill_one_array_anew_for_each_frame(make_runtime, image, form):
    frames = [image, image[::-1], image[:, ::-1]]
    expected = [Predictor(make_runtime())(frame.copy()) for frame in frames]

    def camera():
        buffer = np.empty_like(image)
        for frame in frames:
            buffer[:] = frame
            yield form(buffer)

    for found, one, frame in zip(
        Predictor(make_runtime(), batch=2)(camera()), expected, frames, strict=True
    ):
        np.testing.assert_array_equal(found.mask, one.mask)
        np.testing.assert_array_equal(found.image, frame)


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_batches_keep_the_order_and_mix_no_sizes(make_runtime, image, batch):
    images = [
        image,
        image[::-1],
        image[:50],
        image[:50, ::-1],
        image,
        image[:, ::-1],
        image.astype(np.uint16) * 257,
    ]
    seen = []
    runtime = make_runtime()
    runtime.peak_bytes_per_pixel = 100.0
    forward = runtime.model.forward
    runtime.model.forward = lambda images: seen.append(len(images)) or forward(images)
    results = Predictor(runtime, batch=batch)(images)
    assert max(seen) == min(batch, 2)
    assert sum(seen) == len(images)
    for image, result in zip(images, results, strict=True):
        assert result.mask.shape == image.shape[:2]
        assert (
            result.mask == predict_mask(make_runtime(), np.ascontiguousarray(image))
        ).mean() > 0.999


def test_shares_and_probabilities_fit_the_mask(predictor, image):
    result = predictor(image)
    assert sum(result.shares.values()) == pytest.approx(1)
    assert result.shares["sky"] == (result.mask == 1).mean()
    probabilities = result.probabilities()
    assert probabilities.shape == (3, 70, 93)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
    assert (probabilities.argmax(0) == result.mask).mean() > 0.999


def test_save_writes_three_images_into_a_folder_or_the_mask_into_a_file(predictor, image, tmp_path):
    result = predictor(image)
    files = result.save(tmp_path / "new" / "folder", "street")
    assert [file.name for file in files] == [
        "street_mask.png",
        "street_color.png",
        "street_overlay.png",
    ]
    assert result.save(str(tmp_path / "only.png")) == [tmp_path / "only.png"]
    for file in (files[0], tmp_path / "only.png"):
        assert (read_mask(file) == result.mask).all()
    assert image_size(files[1]) == (70, 93)
    assert image_size(files[2])[0] > 70  # with its legend
    assert result.overlay().size == (93, 70)
    look = {"palette": "bright", "alpha": 0.9, "contour": False}
    bright = result.save(tmp_path / "bright", "street", **look)
    for file, other in zip(bright, files, strict=True):
        assert file.read_bytes() != other.read_bytes()
    assert (read_mask(bright[0]) == result.mask).all()
    with Image.open(bright[2]) as drawn:
        assert np.array_equal(np.array(drawn), np.array(result.overlay(legend=True, **look)))
    assert (
        result.save(tmp_path / "all.png", "street")[0] == tmp_path / "all.png" / "street_mask.png"
    )


def test_save_writes_into_no_folder_that_is_called_like_a_bucket(
    predictor, image, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for to in ("s3://bucket/out", "gs://bucket/mask.png"):
        with pytest.raises(ConfigError, match="-o s3://BUCKET/FOLDER"):
            predictor(image).save(to)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("memory_gb", [float("inf"), float("nan"), 1e300, 0.0, -4.0])
def test_a_limit_that_is_no_size_is_refused(make_runtime, memory_gb):
    with pytest.raises(ConfigError, match=r"memory_gb = .*expected a number above 0"):
        Predictor(make_runtime(), memory_gb=memory_gb)


def test_an_image_that_does_not_fit_is_cut_into_tiles_and_says_so(make_runtime):
    runtime = make_runtime(stride=1, kernel=1)
    runtime.peak_bytes_per_pixel = 2000.0
    image = np.random.default_rng(2).integers(0, 256, (400, 700, 3)).astype(np.uint8)
    assert Predictor(runtime)(image).how == "whole"
    result = Predictor(runtime, memory_gb=process_bytes() / 1e9 + 0.2)(image)
    assert "tiles of" in result.how
    assert (result.mask == predict_mask(runtime, image)).mean() > 0.999


@pytest.mark.seconds
def test_tiles_of_frm_agree_with_the_whole_image_almost_everywhere(frm_runtime):
    image = np.full((200, 300, 3), 90, dtype=np.uint8)
    tiled = Predictor(frm_runtime, inference=InferenceSettings(window=(128, 160)))(image)
    assert tiled.how == "6 tiles of 128x160"
    assert (tiled.mask == Predictor(frm_runtime)(image).mask).mean() > 0.9


def test_max_side_shrinks_for_the_model_and_keeps_the_size_of_the_mask(make_runtime, image):
    runtime = make_runtime()
    runtime.peak_bytes_per_pixel = 100.0
    seen = []
    forward = runtime.model.forward
    runtime.model.forward = lambda images: seen.append(tuple(images.shape[2:])) or forward(images)
    assert Predictor(runtime, max_side=48)(image).mask.shape == (70, 93)
    Predictor(runtime, max_side=93)(image)
    assert seen == [(36, 48), (70, 93)]


def test_a_run_s_test_size_is_the_default_and_max_side_holds_on_top_of_it(make_runtime, image):
    runtime = make_runtime()
    runtime.peak_bytes_per_pixel, runtime.test_resize = 100.0, (140, 200)
    seen = []
    forward = runtime.model.forward
    runtime.model.forward = lambda images: seen.append(tuple(images.shape[2:])) or forward(images)
    result = Predictor(runtime)(image)
    assert (result.mask.shape, result.how) == ((70, 93), "whole, fitted to 140x200")
    Predictor(runtime, max_side=93)(image)
    Predictor(runtime, max_side=300)(image)
    Predictor(runtime, inference=InferenceSettings())(image)
    assert seen == [(140, 186), (70, 93), (140, 186), (70, 93)]


def test_wrong_settings_are_refused_by_their_values(make_runtime, image):
    for options, named in (({"batch": 0}, "batch = 0"), ({"max_side": 3}, "max_side = 3")):
        with pytest.raises(FeathersegError, match=named):
            Predictor(make_runtime(), **options)
    with pytest.raises(FeathersegError, match=r"alpha = 1\.5"):
        Predictor(make_runtime())(image).overlay(1.5)


def test_an_image_of_other_channels_is_refused(make_runtime, image):
    with pytest.raises(DataError, match="takes 2 channels"):
        Predictor(make_runtime(channels=2))(image)


def test_a_device_beside_a_runtime_is_refused(make_runtime):
    with pytest.raises(ConfigError, match="device = 'cuda' would have no effect"):
        Predictor(make_runtime(), device="cuda")


def test_scales_come_on_top_of_the_longest_side():
    runtime = ChannelsFile()
    Predictor(runtime, inference=InferenceSettings(scales=(1, 2)), max_side=64)(
        np.zeros((96, 128, 3), np.uint8)
    )
    assert runtime.seen == [(48, 64), (96, 128)]


@pytest.mark.parametrize("panoptic", [None, {}], ids=["classes", "objects"])
def test_a_file_of_one_size_needs_memory_for_all_of_it_and_no_more(panoptic):
    runtime = ChannelsFile(fixed_size=(1000, 1200), peak_bytes_per_pixel=1000.0, panoptic=panoptic)
    own = process_bytes() / 1e9
    needed = r"too little for an image of 1000x1200 .* at least (\d+\.\d) GB .*, "
    needed += "or export the model for smaller images"
    with pytest.raises(ConfigError, match=needed) as found:
        Predictor(runtime, memory_gb=own + 0.6).plan((1000, 1200))
    gigabytes = float(re.search(needed, str(found.value))[1])
    assert Predictor(runtime, memory_gb=gigabytes).plan((1000, 1200)).how == "whole"
    assert gigabytes < own + 1.7  # 1.2 megapixels at 1050 bytes, and what is held meanwhile
    with pytest.raises(DataError, match=r"takes images of 1000x1200 .* only, not of 1000x1100"):
        Predictor(runtime, memory_gb=own + 0.6).plan((1000, 1100))
