"""The three jobs that the tool is made for, in short form on the command line; see README.

An engineer brings a model for a few classes of her own to a machine without PyTorch. A student
trains variants of a model and compares them fairly. A data lead looks at the errors in a report and
at images in a browser.
"""

import json
import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from support.data.small_video import read_video, write_video
from support.servers.running_service import running
from typer.testing import CliRunner

from featherseg.cli import build_app
from featherseg.data import open_dataset
from featherseg.runs.run import load_run
from featherseg.serving.models import open_models

TOML = """
name = "yard"
images = "images"
masks = "masks"
[splits]
train = "train"
val = "val"
[classes]
ground = "#808080"
wall = "#0000c0"
thing = "#c00000"
[map]
0 = "ground"
1 = "wall"
2 = "thing"
255 = "ignore"
"""
SHORT = (
    "model.pretrained=false",
    "data.workers=0",
    "augment.crop=[64, 96]",
    "train.epochs=1",
    "train.batch_size=2",
    "train.precision=fp32",
)
STRAY, UNPAIRED = 78, "extra"
"""A value of three masks that is in no map, and the name of two images without one."""


@pytest.fixture(scope="module")
def yard(tmp_path_factory) -> Path:
    """Raw camera frames: ten with masks, three of these with stray values, two without masks."""
    root = tmp_path_factory.mktemp("yard")
    for split, count in (("train", 7), ("val", 3)):
        scenes = open_dataset("shapes", split, size=count)
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True)
        for index in range(count):
            scene = scenes[index]
            mask = np.where(scene.label[::2, ::2] == 255, 255, scene.label[::2, ::2] % 3).astype(
                np.uint8
            )
            if split == "train" and index < 3:
                mask[: 2 + index, :5] = STRAY
            Image.fromarray(scene.image[::2, ::2]).save(
                root / "images" / split / f"{index}.jpg", quality=95
            )
            Image.fromarray(mask).save(root / "masks" / split / f"{index}.png")
    for number in range(2):
        Image.fromarray(scene.image[::2, ::2]).save(
            root / "images" / "train" / f"{UNPAIRED}{number}.jpg"
        )
    (root / "dataset.toml").write_text(TOML)
    return root


@pytest.fixture(scope="module")
def mended(yard, tmp_path_factory) -> Path:
    """The same, mended by `check --fix`; its dataset.toml."""
    out = tmp_path_factory.mktemp("mended") / "yard"
    found = call("check", yard, "--fix", out, code=1).output
    for named in (
        str(STRAY),
        f"{UNPAIRED}0.jpg",
        f"{UNPAIRED}1.jpg",
        *(f"{number}.png" for number in range(3)),
    ):
        assert named in found
    call("check", out / "dataset.toml")
    return out / "dataset.toml"


@pytest.fixture(scope="module")
def run(mended, tmp_path_factory) -> Path:
    """frm-lite0 after an epoch, with the weights of the classes worked out."""
    return train(mended, tmp_path_factory.mktemp("runs") / "yard", "loss.class_weights=auto")


def call(*words: object, code: int = 0):
    result = CliRunner().invoke(build_app(), [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def train(data: Path, out: Path, *settings: str) -> Path:
    words = [part for setting in (*SHORT, *settings) for part in ("--set", setting)]
    call("train", "frm-lite0", "--data", data, *words, "--no-report", "--out", out)
    return out


def mask_in(path: Path) -> np.ndarray:
    with Image.open(path) as mask:
        return np.array(mask)


def test_the_mended_set_keeps_every_right_pixel_and_ignores_the_stray_ones(yard, mended):
    data = open_dataset(str(mended), "train")
    assert len(data) == 7
    for key in range(3):
        raw = mask_in(yard / "masks" / "train" / f"{key}.png")
        label = data.label([Path(name).name for name in data.keys].index(str(key)))
        np.testing.assert_array_equal(label, np.where(raw == STRAY, 255, raw))


def exported(run: Path, forms: str, out: Path, *words: object) -> list[dict]:
    return json.loads(call("export", run, "--format", forms, "-o", out, "--json", *words).stdout)


# The exporter alone takes most of a minute on one core; tests/e2e/test_job.py exports one file.
@pytest.mark.slow
def test_an_engineer_brings_her_model_to_a_box_without_pytorch(run, yard, tmp_path):
    """The weights use her classes' rarity; the files are checked at several sizes and agree."""
    weights = json.loads((run / "resolved.json").read_text())["class_weights"]
    assert len(weights) == 3
    assert len(set(weights)) > 1
    reports = exported(run, "onnx,openvino", tmp_path / "box")
    sizes = {
        (row["height"], row["width"]) for report in reports for row in report["parity"]["rows"]
    }
    assert all(report["parity"]["ok"] for report in reports)
    assert len(sizes) >= 3
    assert any(height % 2 or width % 2 for height, width in sizes)
    call("predict", run, yard / "images" / "val", "-o", tmp_path / "own")
    for file in (tmp_path / "box" / "model.onnx", tmp_path / "box" / "model.xml"):
        out = tmp_path / file.suffix
        call("predict", file, yard / "images" / "val", "-o", out)
        for own in (tmp_path / "own").glob("*_mask.png"):
            assert (mask_in(own) == mask_in(out / own.name)).mean() > 0.999


@pytest.mark.slow
def test_an_engineer_segments_a_clip_of_her_camera(run, yard, tmp_path):
    frames = np.stack(
        [np.array(Image.open(yard / "images" / "val" / f"{i % 3}.jpg")) for i in range(7)]
    )
    clip = write_video(tmp_path / "clip.mp4", frames)
    call("predict", run, clip, "-o", tmp_path / "clip_seg.mp4")
    drawn, times = read_video(tmp_path / "clip_seg.mp4")
    assert [image.shape for image in drawn] == [frames.shape[1:]] * 7
    assert len(set(times)) == 7


@pytest.mark.slow
def test_an_engineer_s_int8_file_loses_no_more_than_she_allows(run, tmp_path):
    reports = exported(run, "onnx,openvino,onnx-int8", tmp_path / "box", "--max-drop", 0.5)
    (parity,) = [report["parity"] for report in reports if report["format"] == "onnx-int8"]
    assert 100 * (parity["model_miou"] - parity["file_miou"]) <= 0.5


@pytest.mark.slow  # its steps are quick tests of tests/cli/test_evaluate.py and test_compare.py
def test_a_student_ablates_a_module_and_compares_the_runs(run, mended, tmp_path):
    without = train(mended, tmp_path / "without", "model.context=none", "train.seed=1")
    words = ("--split", "val", "--tta", "flip", "--scales", "0.75,1.0,1.25", "--json")
    once, again = (json.loads(call("evaluate", without, *words).stdout) for _ in range(2))
    assert once["confusion"] == again["confusion"]
    plain = json.loads(call("evaluate", without, "--split", "val", "--json").stdout)
    assert np.sum(once["confusion"]) == np.sum(plain["confusion"])

    page = tmp_path / "compare.html"
    found = json.loads(call("compare", run, without, "--no-costs", "-o", page, "--json").stdout)
    assert "yard" in json.dumps(found)
    text = page.read_text()
    assert "without" in text
    assert not re.search(r"(src|href)=.?https?:|<script", text)
    whole, ablated = (
        sum(p.numel() for p in load_run(folder).model.parameters()) for folder in (run, without)
    )
    assert ablated < whole


@pytest.mark.seconds
def test_a_data_lead_reads_the_report_and_asks_the_service(run, yard, tmp_path):
    """What the browser downloads is what `predict` writes, byte for byte."""
    call("evaluate", run, "--split", "val")
    call("report", run)
    page = (run / "report.html").read_text()
    assert "worst" in page.lower()
    assert "thing" in page
    assert not re.search(r"(src|href)=.?https?:|url\(.?https?:|<script", page)

    images = sorted((yard / "images" / "val").iterdir())
    call("predict", run, *images, "-o", tmp_path / "masks")
    with (
        running(*open_models([run], "cpu")) as (address, _),
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        assert "<html" in client.get("/").text
        names = [row["name"] for row in client.get("/v1/models").json()["models"][0]["classes"]]
        assert names == ["ground", "wall", "thing"]
        for image in images:
            mask = client.post("/v1/segment", files={"image": (image.name, image.read_bytes())})
            assert mask.content == (tmp_path / "masks" / f"{image.stem}_mask.png").read_bytes()
        refused = client.post("/v1/segment", files={"image": ("street.png", b"no image")})
        assert refused.status_code in (400, 415)
