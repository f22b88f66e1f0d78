"""A user's own objects: COCO instances to a panoptic model, its quality, and back to COCO."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from featherseg import cli
from featherseg.data import open_dataset

SHORT = (
    "model.pretrained=false",
    "data.workers=0",
    "train.epochs=1",
    "train.batch_size=2",
    "train.precision=fp32",
)
SHORT += ("augment.crop=[64, 128]", "panoptic.threshold=0.0")


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(cli.build_app(), [str(argument) for argument in arguments])
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return done.stdout


def counts_of(inside: np.ndarray) -> list[int]:
    """COCO's uncompressed counts, by hand."""
    flat = inside.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return [0] * int(flat[0]) + np.diff([0, *edges.tolist(), flat.size]).tolist()


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    """Street scenes as COCO instances: an annotation per object and stuff region, none of sky."""
    folder = tmp_path / "street"
    for split in ("train", "val"):
        data = open_dataset("shapes", split, size=4)
        names = [info.name for info in data.classes]
        content: dict[str, list] = {
            "images": [],
            "annotations": [],
            "categories": [
                {"id": 10 * i + 1, "name": name} for i, name in enumerate(names) if name != "sky"
            ],
        }
        for number in range(len(data)):
            sample = data[number]
            image, label, objects = (
                sample.image[::4, ::4],
                sample.label[::4, ::4],
                sample.instances[::4, ::4],
            )
            path = folder / split / f"{number:012d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, quality=95)
            height, width = label.shape
            content["images"].append(
                {"id": number, "file_name": path.name, "height": height, "width": width}
            )
            for class_id, object_id in {
                *zip(label.ravel().tolist(), objects.ravel().tolist(), strict=True)
            }:
                if class_id == 255 or names[class_id] == "sky":
                    continue
                inside = (label == class_id) & (objects == object_id)
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": number,
                        "category_id": 10 * class_id + 1,
                        "iscrowd": 0,
                        "segmentation": {"size": [height, width], "counts": counts_of(inside)},
                    }
                )
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.slow  # quick: tests/converters/ and tests/training/test_panoptic.py
def test_coco_instances_become_a_panoptic_model_and_its_objects_coco(instances, tmp_path):
    dataset, run = tmp_path / "ds", tmp_path / "run"
    said = invoke("convert", instances, "--out", dataset)
    assert "8 images (train 4, val 4)" in said
    assert "clean" in invoke("check", dataset / "dataset.toml")
    sample = open_dataset(str(dataset / "dataset.toml"), "val")[0]
    own = open_dataset("shapes", "val", size=4)[0]
    assert ((sample.instances > 0) >= (own.instances[::4, ::4] > 0)).all()

    sets = [part for setting in SHORT for part in ("--set", setting)]
    invoke("train", "rsp-lite0-panoptic", "--data", dataset / "dataset.toml", "--out", run, *sets)
    scores = json.loads(invoke("evaluate", run, "--split", "val", "--json"))
    assert 0 <= scores["panoptic"]["pq"] <= 1
    assert scores["panoptic"]["things"] is not None

    invoke("predict", run, dataset / "images/val", "-o", tmp_path / "predictions", "--masks")
    invoke("convert", tmp_path / "predictions", "--to", "coco", "--images", dataset / "images/val",
           "--out", tmp_path / "coco")  # fmt: skip
    content = json.loads((tmp_path / "coco/annotations/instances_default.json").read_text())
    assert len(content["images"]) == 4
    assert {row["name"] for row in content["categories"]} == set(_names(instances))
    assert content["annotations"]
    invoke("convert", tmp_path / "coco", "--out", tmp_path / "again")
    again = open_dataset(str(tmp_path / "again/dataset.toml"), "val").keys
    assert again


def _names(instances: Path) -> list[str]:
    return [
        row["name"]
        for row in json.loads((instances / "annotations/instances_val.json").read_text())[
            "categories"
        ]
    ]
