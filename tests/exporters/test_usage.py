"""The lines that show how an .onnx file is used give the mask that `predict` gives."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from support.models.small_run import small_info
from support.models.three_layer_run import three_layer_run

import featherseg
from featherseg import models
from featherseg.data.shapes import Shapes
from featherseg.exporters import ExportSettings, export
from featherseg.exporters.onnx import usage_lines
from featherseg.inference.runtimes import open_file
from featherseg.inference.runtimes.file_metadata import read_facts
from featherseg.recipe.panoptic import PanopticTable
from featherseg.runs.run import open_run, save_weights, write_info

pytestmark = pytest.mark.usefixtures("quick_export")

FORMATS = Path(__file__).parents[2] / "docs" / "formats.md"


def documented() -> str:
    (block,) = re.findall(r"^```python\n(.*?)^```", FORMATS.read_text(), re.DOTALL | re.MULTILINE)
    return block


def mask_by(lines: str) -> np.ndarray:
    """The mask.png that the lines write into the working folder, run with nothing else."""
    exec(lines, {})
    return np.array(Image.open("mask.png"))


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """photo.jpg in the working folder: a rotated camera image of a size that needs padding."""
    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(Shapes("test")[7].image[:201, :333]).save("photo.jpg", quality=95, exif=exif)
    return tmp_path / "photo.jpg"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return three_layer_run(tmp_path_factory.mktemp("runs") / "yard")


@pytest.fixture(scope="module")
def yard(run):
    return export(run, "onnx", run.path.with_name("yard.onnx")).path


def test_the_documented_lines_give_predict_s_mask(photo, run, yard):
    shutil.copyfile(yard, "yard.onnx")
    assert documented() == usage_lines(Path("yard.onnx"), open_file("yard.onnx").facts)
    expected = featherseg.Predictor(run)(photo).mask
    assert expected.shape == (333, 201)
    assert len(np.unique(expected)) > 2
    assert (mask_by(documented()) == expected).mean() > 0.9999  # ties of two classes


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("masks", "same"), [(False, 0.9999), (True, 0.99)]
)  # masks: off by the rounding to uint8
def test_grey_of_16_bits_is_seen_as_predict_sees_it(photo, run, masks, same):
    path = export(run, "onnx", "grey.onnx", settings=ExportSettings(masks=masks)).path
    deep = Shapes("test")[7].image[..., 0] * np.uint16(256) + np.uint16(100)
    Image.fromarray(deep).save(photo, "PNG")
    expected = featherseg.Predictor(run)(photo).mask
    assert len(np.unique(expected)) > 1
    assert (mask_by(usage_lines(path, open_file(path).facts)) == expected).mean() > same


@pytest.mark.seconds
def test_the_lines_of_a_file_of_masks_are_shorter_and_as_right(photo, run):
    report = export(run, "onnx", "it's masks.onnx", settings=ExportSettings(masks=True))
    lines = usage_lines(report.path, open_file(report.path).facts)
    assert (mask_by(lines) == featherseg.Predictor(run)(photo).mask).mean() > 0.9999
    assert lines.count("\n") < documented().count("\n")


@pytest.mark.slow
def test_a_model_whose_corners_are_aligned_gets_lines_of_its_own(photo):
    folder = photo.parent / "run"
    folder.mkdir()
    write_info(folder, small_info(Shapes.classes, model="pidnet-s"))
    torch.manual_seed(0)
    save_weights(folder, models.build("pidnet-s", 8).state_dict())
    report = export(open_run(folder))
    lines = usage_lines(report.path, open_file(report.path).facts)
    expected = featherseg.Predictor(str(folder))(photo).mask
    assert len(np.unique(expected)) > 2
    assert (mask_by(lines) == expected).mean() > 0.9999
    assert (
        mask_by(re.sub(r", box\)", ")", lines)) == expected
    ).mean() < 0.9999  # the corners count


def test_what_the_lines_leave_out_is_said(yard):
    facts = open_file(yard).facts
    more = facts.model_copy(update={"test_resize": (512, 2048), "panoptic": PanopticTable()})
    assert "make the image fit 512 (short side) x 2048 (long side) pixels" in str(
        usage_lines(yard, more)
    )
    assert "classes alone" in str(usage_lines(yard, more))
    assert usage_lines(yard, facts.model_copy(update={"channels": 4})) is None


def test_the_lines_scale_grey_of_16_bits_by_the_range_of_the_run(yard):
    facts = open_file(yard).facts
    lines = str(usage_lines(yard, facts.model_copy(update={"image_range": 4096})))
    assert "np.float32(photo) / 16]" in lines
    assert "grey images alone" in lines
    assert "np.float32(photo) / 257]" in str(usage_lines(yard, facts))


def test_the_file_tells_order_scale_and_how_logits_become_a_mask_and_older_files_load(yard):
    texts = onnxruntime.InferenceSession(str(yard)).get_modelmeta().custom_metadata_map
    told = {key: json.loads(text) for key, text in texts.items()}
    assert (told["channel_order"], told["value_range"]) == ("RGB", [0, 255])
    assert "RGB" in told["preprocessing"]
    assert "do not divide by 255" in told["preprocessing"]
    assert "largest value" in told["postprocessing"]
    new = ("channel_order", "value_range", "image_range", "preprocessing", "postprocessing")
    older = {key: text for key, text in texts.items() if key not in new}
    assert read_facts(older, yard) == open_file(yard).facts
