"""Masks of GeoTIFFs through `predict`, the Predictor, and what reads masks again."""

import io
import os

import numpy as np
import pytest
from PIL import Image
from support.models.pixel_model import mask_of, pixel_runtime
from support.processes.without_cluster import in_this_process

import featherseg
from featherseg import Predictor
from featherseg.converters.masks import open_masks
from featherseg.core.errors import ConfigError
from featherseg.data.images.decoding import read_mask
from featherseg.evaluation.scoring import prediction_files
from featherseg.inference.cluster import Job, predict_folder
from featherseg.inference.output import OutputSettings
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.runtimes.digest import model_digest
from featherseg.inference.settings import InferenceSettings
from featherseg.runs.run import STARTER

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore")  # rasterio warns of images without a place
UTM = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 4e5, 0, -0.5, 5.5e6)}
MASKS = OutputSettings(masks=True)


def write(path, seed=0, **place):
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 44, 3), np.uint8)
    profile = {"driver": "GTiff", "height": 30, "width": 44, "count": 3, "dtype": "uint8", **place}
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.moveaxis(pixels, 2, 0))
    return pixels


@pytest.fixture
def photos(tmp_path):
    """A GeoTIFF, a TIFF without a place, and a PNG."""
    folder = tmp_path / "photos"
    folder.mkdir()
    write(folder / "a.tif", 0, **UTM)
    write(folder / "b.tif", 1)
    Image.fromarray(write(tmp_path / "c.tif", 2)).save(folder / "c.png")
    return folder


def assert_placed(mask, image):
    with rasterio.open(mask) as found, rasterio.open(image) as expected:
        assert (found.crs, found.transform, found.bounds) == (
            expected.crs,
            expected.transform,
            expected.bounds,
        )


def test_a_folder_gets_geotiffs_for_geotiffs_and_goes_on_with_them(photos, tmp_path):
    out = tmp_path / "out"
    found = featherseg.predict(pixel_runtime(), photos, out=out, settings=MASKS)
    assert sorted(os.listdir(out)) == [
        "a_mask.tif",
        "b_mask.png",
        "c_mask.png",
        "predictions.jsonl",
    ]
    assert found.notes == ("1 image with a place on the map: the mask is a GeoTIFF, NAME_mask.tif",)
    assert_placed(out / "a_mask.tif", photos / "a.tif")
    assert (read_mask(out / "a_mask.tif") == mask_of(np.array(Image.open(photos / "a.tif")))).all()
    assert featherseg.predict(pixel_runtime(), photos, out=out, settings=MASKS).resumed == 3
    write(photos / "a.tif", 3)
    write(photos / "b.tif", 4, **UTM)
    assert featherseg.predict(pixel_runtime(), photos, out=out, settings=MASKS).resumed == 1
    assert sorted(os.listdir(out)) == [
        "a_mask.png",
        "b_mask.tif",
        "c_mask.png",
        "predictions.jsonl",
    ]
    assert featherseg.predict(pixel_runtime(), photos, out=out, settings=MASKS).resumed == 3
    (out / "predictions.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"a_mask\.png exists, 3 files in all"):
        featherseg.predict(pixel_runtime(), photos, out=out, settings=MASKS)
    with pytest.raises(ConfigError, match=r"b_mask\.tif exists, 1 file in all"):
        featherseg.predict(pixel_runtime(), photos / "b.tif", out=out, settings=MASKS)


def test_a_prediction_is_saved_at_the_place_of_its_file(photos, tmp_path):
    predictor = Predictor(pixel_runtime())
    for form in (photos / "a.tif", io.BytesIO((photos / "a.tif").read_bytes())):
        found = predictor(form)
        files = found.save(tmp_path / "out", "x")
        assert [file.name for file in files] == ["x_mask.tif", "x_color.png", "x_overlay.png"]
        assert_placed(files[0], photos / "a.tif")
        assert_placed(found.save(tmp_path / "alone.tif")[0], photos / "a.tif")
        assert (read_mask(found.save(tmp_path / "alone.png")[0]) == found.mask).all()
    with pytest.raises(
        ConfigError, match=r"no place on the map, so its mask is a PNG. Name a \.png"
    ):
        predictor(photos / "b.tif").save(tmp_path / "b.tif")


def test_a_geotiff_that_is_turned_and_a_world_file_are_told(photos, tmp_path):
    with Image.open(photos / "a.tif") as image:
        pixels, tags = np.array(image), {tag: image.tag_v2[tag] for tag in (33550, 33922, 34735)}
    Image.fromarray(pixels).save(photos / "a.tif", tiffinfo=tags | {274: 6})
    (photos / "b.tfw").touch()
    found = featherseg.predict(pixel_runtime(), photos, out=tmp_path / "out", settings=MASKS)
    assert [note.partition(",")[0] for note in found.notes] == [
        "1 image turned by the orientation tag of a GeoTIFF",
        "1 image with a world file beside",
    ]
    assert sorted(os.listdir(tmp_path / "out"))[:3] == ["a_mask.png", "b_mask.png", "c_mask.png"]


def test_an_image_is_never_replaced_by_a_geotiff_of_its_own(photos, tmp_path):
    os.rename(photos / "c.png", photos / "a_mask.tif")
    with pytest.raises(ConfigError, match=r"a_mask\.tif is one of the images itself"):
        featherseg.predict(
            pixel_runtime(), [photos / "a.tif", photos / "a_mask.tif"], out=photos, settings=MASKS
        )


def test_they_are_found_by_evaluate(photos, tmp_path):
    out = tmp_path / "out"
    featherseg.predict(pixel_runtime(), photos, out=out)
    keys = ["a", "b", "c"]
    assert [f.name for f in prediction_files(out, keys, keys)] == [
        "a_mask.tif",
        "b_mask.png",
        "c_mask.png",
    ]


@pytest.mark.seconds
def test_a_cluster_writes_them_too_and_does_the_rest(photos, tmp_path):
    digest = model_digest(open_runtime(STARTER, "cpu"))
    job = Job(
        STARTER, str(photos), str(tmp_path / "out"), "cpu", InferenceSettings(), 4.0, None, digest
    )
    assert predict_folder(job, in_this_process, 2, lambda *counts: None) == (3, 0)
    (tmp_path / "out" / "b_mask.png").unlink()
    before = (tmp_path / "out" / "a_mask.tif").stat().st_mtime_ns
    (tmp_path / "out" / "predictions.jsonl").unlink()
    assert predict_folder(job, in_this_process, 2, lambda *counts: None) == (3, 0)
    assert (tmp_path / "out" / "a_mask.tif").stat().st_mtime_ns == before
    assert_placed(tmp_path / "out" / "a_mask.tif", photos / "a.tif")
    alone = featherseg.predict(
        STARTER, photos, out=tmp_path / "alone", settings=MASKS, device="cpu"
    )
    for name in ("a_mask.tif", "b_mask.png", "c_mask.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert len(alone.names) == 3


def test_convert_reads_them_with_the_names_of_their_classes(photos, tmp_path):
    featherseg.predict(STARTER, photos / "a.tif", out=tmp_path / "out", device="cpu")
    masks = open_masks(tmp_path / "out", photos)
    classes = open_runtime(STARTER, "cpu").classes
    assert [(info.name, info.color) for info in masks.classes] == [
        (info.name, info.color) for info in classes
    ]
    (image,) = masks.images
    assert (image.image, image.mask.shape) == (photos / "a.tif", (30, 44))
    assert (image.mask == read_mask(tmp_path / "out" / "a_mask.tif")).all()
