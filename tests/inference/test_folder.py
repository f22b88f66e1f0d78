"""`featherseg.predict(..., out=FOLDER)` writes the files of `featherseg predict`."""

import os

import numpy as np
import pytest
from PIL import Image
from support.models.file_metadata import ChannelsFile
from support.models.pixel_model import mask_of, pixel_runtime

import featherseg
from featherseg import Predictor
from featherseg.core.errors import ConfigError, DataError, FeathersegError, UnknownName
from featherseg.data.images.decoding import read_mask
from featherseg.inference.output import Output, OutputSettings


@pytest.fixture
def photos(tmp_path):
    """Two images, two of one name, and one that cannot be read."""
    for name in ("a.png", "a.bmp", "b.png"):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "c.png").write_bytes(b"no image")
    return tmp_path / "photos"


def test_a_folder_is_written_and_what_cannot_be_read_is_told(photos, tmp_path):
    seen, out = [], tmp_path / "out"
    found = featherseg.predict(
        pixel_runtime(), photos, out=out, progress=lambda *told: seen.append(told)
    )
    assert found.names == ("a", "a-2", "b")
    assert "c.png" in found.left_out[0]
    assert found.as_dict()["folder"] == str(out)
    assert "c.png" in found._repr_html_()
    files = [f"{n}_{k}.png" for n in found.names for k in ("mask", "color", "overlay")]
    assert sorted(os.listdir(out)) == sorted([*files, "predictions.jsonl"])
    assert (read_mask(out / "b_mask.png") == mask_of(np.array(Image.open(photos / "b.png")))).all()
    assert seen == [("predicting", done, 4) for done in (1, 2, 3, 4)]


def test_images_that_a_file_of_one_size_does_not_take_are_left_out(tmp_path):
    """Rotated images, and large ones, for which the memory is checked first."""
    for name, size in (("a", (40, 48)), ("b", (48, 40)), ("c", (40, 48)), ("d", (1000, 1100))):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / f"{name}.png")
    found = featherseg.predict(ChannelsFile(fixed_size=(40, 48)), tmp_path, out=tmp_path / "out")
    assert found.names == ("a", "c")
    for text, name, size in zip(found.left_out, "bd", ("48x40", "1000x1100"), strict=True):
        assert text.startswith(f"{tmp_path / name}.png: file.xml takes images of 40x48")
        assert f"not of {size}" in text
    with pytest.raises(DataError, match="takes images of 40x48"):
        featherseg.predict(ChannelsFile(fixed_size=(40, 48)), tmp_path / "b.png")


def test_masks_alone_are_replaced_only_where_that_is_asked(photos, tmp_path):
    images, out = [photos / "b.png", str(photos / "a.png")], tmp_path / "out"
    featherseg.predict(pixel_runtime(), images, out=out, settings=OutputSettings(masks=True))
    assert sorted(os.listdir(out)) == ["a_mask.png", "b_mask.png", "predictions.jsonl"]
    (out / "predictions.jsonl").unlink()  # whose files they are is not known
    with pytest.raises(ConfigError, match=r"b_mask\.png exists, 2 files"):
        featherseg.predict(pixel_runtime(), images, out=out, settings=OutputSettings(masks=True))
    settings = OutputSettings(masks=True, overwrite=True)
    assert featherseg.predict(pixel_runtime(), images, out=out, settings=settings).names == (
        "b",
        "a",
    )


def test_overlays_in_other_colours_are_no_continuation(photos, tmp_path):
    image, out = photos / "b.png", tmp_path / "out"
    featherseg.predict(pixel_runtime(), image, out=out, settings={"alpha": 0.9})
    with pytest.raises(ConfigError, match=r"alpha was 0\.9, now 0\.5"):
        featherseg.predict(pixel_runtime(), image, out=out)
    with Image.open(out / "b_overlay.png") as drawn:
        (wanted,) = [Predictor(pixel_runtime())(image).overlay(0.9, legend=True)]
        assert np.array_equal(np.array(drawn), np.array(wanted))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masks": True, "contour": False}, "contour would have no effect"),
        ({"submission": "cityscapes", "palette": "bright"}, "palette would have no effect"),
        ({"palette": "red"}, "expected bright"),
        ({"alpha": 2}, "alpha = 2"),
    ],
)
def test_colours_that_nothing_shows_or_that_are_none_are_refused(
    photos, tmp_path, settings, message
):
    with pytest.raises(ConfigError, match=message):
        featherseg.predict(pixel_runtime(), photos, out=tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()


def test_an_image_that_has_changed_since_is_predicted_anew(photos, tmp_path):
    out, settings = tmp_path / "out", OutputSettings(masks=True)
    featherseg.predict(pixel_runtime(), photos, out=out, settings=settings)
    pixels = np.full((40, 48, 3), 200, np.uint8)
    Image.fromarray(pixels).save(photos / "b.png")
    found = featherseg.predict(pixel_runtime(), photos, out=out, settings=settings)
    assert (found.names, found.resumed) == (("a", "a-2", "b"), 2)
    assert (read_mask(out / "b_mask.png") == mask_of(pixels)).all()
    stat = os.stat(photos / "a.png")
    os.utime(photos / "a.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))  # its size is the same
    assert featherseg.predict(pixel_runtime(), photos, out=out, settings=settings).resumed == 2
    (out / "b_mask.png").unlink()
    assert featherseg.predict(pixel_runtime(), photos, out=out, settings=settings).resumed == 2
    assert featherseg.predict(pixel_runtime(), photos, out=out, settings=settings).resumed == 3


def test_images_that_go_through_the_model_together_do_so_again(tmp_path):
    """Other groups may change a pixel's class, because a batch's arithmetic depends on its size."""
    photos, out, runtime = tmp_path / "photos", tmp_path / "out", pixel_runtime()
    photos.mkdir()
    for number in range(5):
        Image.fromarray(np.full((20, 24, 3), number, np.uint8)).save(photos / f"{number}.png")
    predictor, sizes = Predictor(runtime, batch=2), []
    predictor(list(photos.iterdir()))  # measures memory first
    runtime.model.register_forward_hook(lambda model, given, out: sizes.append(len(given[0])))

    def stop(doing, done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        featherseg.predict(predictor, photos, out=out, progress=stop)
    assert featherseg.predict(predictor, photos, out=out).resumed == 2
    assert sizes == [2, 2, 2, 1]


def test_files_of_others_are_never_replaced_by_going_on(photos, tmp_path):
    out, images, settings = tmp_path / "out", [photos / "b.png"], OutputSettings(masks=True)
    featherseg.predict(pixel_runtime(), images, out=out, settings=settings)
    other = tmp_path / "other" / "b.png"
    other.parent.mkdir()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(other)
    with pytest.raises(
        ConfigError, match=r"b_mask\.png exists, 1 file in all"
    ):  # of another image called so
        featherseg.predict(pixel_runtime(), other, out=out, settings=settings)
    (out / "a_mask.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"a_mask\.png exists, and this command did not write it"):
        featherseg.predict(pixel_runtime(), [photos / "a.png", *images], out=out, settings=settings)
    assert (out / "a_mask.png").read_bytes() == b"mine"
    written = featherseg.predict(
        pixel_runtime(), photos / "a.png", out=tmp_path / "two", settings=settings
    )
    (out / "a_mask.png").write_bytes(
        (tmp_path / "two" / "a_mask.png").read_bytes()
    )  # as a killed command leaves it
    assert (
        featherseg.predict(pixel_runtime(), photos / "a.png", out=out, settings=settings).names
        == written.names
    )


def test_a_record_that_is_not_ours_is_not_written_to(photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    record = out / "predictions.jsonl"
    record.write_text(
        '{"name": "b", "image": "b.png", "status": "done", "sha256": "0", "reason": null}\n'
    )
    before = record.read_bytes()
    with pytest.raises(ConfigError, match="of another kind, such as --cluster writes"):
        featherseg.predict(pixel_runtime(), photos / "b.png", out=out)
    assert record.read_bytes() == before
    record.unlink()
    record.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FeathersegError, match="is a symbolic link"):
        featherseg.predict(pixel_runtime(), photos / "b.png", out=out)
    assert os.listdir(out) == ["predictions.jsonl"]


def test_what_cannot_be_written_is_refused_before_the_model_works(photos, tmp_path):
    out = tmp_path / "out"
    for error, match, images, settings in (
        (ConfigError, "images are paths", np.zeros((40, 48, 3), np.uint8), {}),
        (
            ConfigError,
            "a submission holds masks alone",
            photos,
            {"masks": True, "submission": "cityscapes"},
        ),
        (UnknownName, "Did you mean 'cityscapes'", photos, {"submission": "cityscape"}),
        (ConfigError, "two images have the same name", photos, {"submission": "cityscapes"}),
        (
            ConfigError,
            "needs the 19 of that benchmark",
            photos / "b.png",
            {"submission": "cityscapes"},
        ),
        (DataError, "c.png cannot be read", photos / "c.png", {}),
    ):
        with pytest.raises(error, match=match):
            featherseg.predict(
                pixel_runtime(), images, out=out, settings=OutputSettings(**settings)
            )
    assert not out.exists()
    with pytest.raises(ConfigError, match=r"out\.png names an image: expected a folder"):
        featherseg.predict(pixel_runtime(), photos, out=tmp_path / "out.png")


def test_an_error_of_writing_in_the_background_is_raised(photos, tmp_path, monkeypatch):
    def fail(*given, **more):
        raise ZeroDivisionError

    monkeypatch.setattr(Output, "save", fail)
    for images in (photos / "b.png", photos):  # the error of the last image, and of one before
        with pytest.raises(ZeroDivisionError):
            featherseg.predict(pixel_runtime(), images, out=tmp_path / "out")
