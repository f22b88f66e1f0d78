"""The commands of README and the quick starts, run as written one after another on little data."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.annotation_sources import labelme, polygon
from support.data.small_video import write_video

from featherseg.data import open_dataset
from featherseg.runs.run import SHIPPED, STARTER

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs" / "start").glob("*.md"))]
ELSEWHERE = (
    "CITYSCAPES",
    "ROOT",
    "ADEChallengeData2016",
    "PIDNet_S",
    "runs/a",
    "runs/frm",
    "van-b1",
    "frm-van-s",
    "hf://",
)
ELSEWHERE += ("train.loggers=mlflow", "latency.json")
"""Names for servers and data that may not be shipped: commands with them are parsed by
tests/test_docs.py, not run."""

IMAGES, MINUTES = 24, "4"
SHORT = (
    "model.pretrained=false",
    "data.workers=0",
    "train.epochs=1",
    "train.batch_size=2",
    "train.precision=fp32",
)
CROPS = {
    "frm-lite0-light": "[64, 96]",
    "frm-lite0-half-light": "[64, 96]",
    "efficientvit-seg-b0": "[64, 96]",
    "cgrseg-lite0": "[64, 96]",
    "rsp-lite0-panoptic_shapes": "[64, 128]",
}


def commands(path: Path) -> list[list[str]]:
    """Return the featherseg commands of a document's sh blocks as words, but those ELSEWHERE."""
    text = "\n".join(re.findall(r"^```sh\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE))
    lines = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    return [
        line[1:]
        for line in lines
        if line[:1] == ["featherseg"] and not any(word.startswith(ELSEWHERE) for word in line)
    ]


def shortened(line: list[str]) -> list[str]:
    """Return the command with less work: one epoch, a short audit, any loss by int8."""
    trains = line[0] == "train" and "--resume" not in line
    if trains and "--minutes" in line:  # the length is one epoch
        place = line.index("--minutes")
        line = [*line[:place], *line[place + 2 :]]
    if trains or line[0] == "sweep":
        name = line[1]
        line = [
            *line,
            *(
                part
                for setting in (*SHORT, f"augment.crop={CROPS[name]}")
                for part in ("--set", setting)
            ),
        ]
        if "shapes" in name:
            line += ["--set", "data.train_size=4", "--set", "data.val_size=2"]
    if line[0] == "fit":
        less = {
            "--hours": "0.05",
            "--max-ms": "5000",
            "--max-mib": "5000",
            "--image-size": "64x128",
        }
        line = [less.get(before, word) for before, word in zip(["", *line], line, strict=False)]
    if line[0] == "audit":
        line = [
            MINUTES if before == "--minutes" else word
            for before, word in zip(["", *line], line, strict=False)
        ]
    for option in ("--max-drop", "--port"):  # given below, and by `run`
        if option in line:
            place = line.index(option)
            line = [*line[:place], *line[place + 2 :]]
    return (
        [*line, "--max-drop", "100"] if line[0] == "export" and "int8" in " ".join(line) else line
    )


def accept_all(page: Path, decisions: Path) -> None:
    """Write what the page saves after key `a` on every image; see tests/auditing/test_page.py."""
    rows = [
        json.loads(unescape(text))
        for text in re.findall(r'data-region="([^"]*)"', page.read_text())
    ]
    decisions.write_text(
        json.dumps({"format": 1, "decisions": [{"decision": "accept", **row} for row in rows]})
    )


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The documents' working folder: yard/ with images and masks, labelme files, photos, a clip."""
    monkeypatch.chdir(tmp_path)
    (toml,) = re.findall(
        r"^```toml\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    scenes = open_dataset("shapes", "train", size=IMAGES)
    for folder in ("yard/images", "yard/masks", "annotated"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "yard/dataset.toml").write_text(toml)
    for index in range(IMAGES):
        scene = scenes[index]
        for folder in ("yard/images", "annotated"):
            Image.fromarray(scene.image[::4, ::4]).save(tmp_path / folder / f"{index}.jpg")
        mask = np.where(scene.label[::4, ::4] == 255, 255, scene.label[::4, ::4] % 3).astype(
            np.uint8
        )
        Image.fromarray(mask).save(tmp_path / f"yard/masks/{index}.png")
        shapes = [
            polygon("road", 0, 40, 127, 40, 127, 63, 0, 63),
            polygon("car", 20 + index, 30, 60, 30, 60, 50),
        ]
        labelme(
            tmp_path / "annotated",
            shapes,
            f"{index}.jpg",
            imageHeight=mask.shape[0],
            imageWidth=mask.shape[1],
        )
        (tmp_path / "annotated/a.json").rename(tmp_path / f"annotated/{index}.json")
    shutil.copytree(ROOT / "examples/photos", tmp_path / "examples/photos")
    (tmp_path / "photos").mkdir()
    Image.fromarray(scene.image).save(tmp_path / "photos" / "street.jpg")
    Image.fromarray(scene.image).save(tmp_path / "photo.jpg")
    write_video(tmp_path / "clip.mp4", np.stack([scene.image[::2, ::2]] * 3))
    return tmp_path


def run(line: list[str]) -> None:
    """As a user does; a service is stopped as soon as it says its address."""
    command = [sys.executable, "-m", "featherseg", *line]
    if line[0] != "serve":
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stdout[-2000:], done.stderr[-2000:])
        return
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        assert any(row.startswith("http://") for row in iter(process.stdout.readline, ""))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.slow
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_the_commands_of_a_document_run_in_its_order(path, place):
    lines = commands(path)
    assert lines or path.stem in (
        "sharing",
        "container",
    )  # run by tests/test_hub.py; Docker is not at hand
    if not any(line[0] in ("train", "fit") for line in lines):  # they say nothing of its training
        shutil.copytree(SHIPPED / STARTER, place / "runs/yard")
    for line in lines:
        if "--decisions" in line:
            accept_all(place / "audit.html", place / line[line.index("--decisions") + 1])
        run(shortened(line))
