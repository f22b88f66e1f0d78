import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.joined_splits import assert_joined

from featherseg.core.errors import DataError, DataNotFound
from featherseg.data import dataset_facts, open_dataset
from featherseg.data.checks.check import check_data
from featherseg.data.datasets.cityscapes_convert import convert_cityscapes, panoptic_of_instances
from featherseg.data.datasets.cityscapes_labels import CITYSCAPES_CLASSES, FROM_LABEL_IDS, LABEL_IDS
from featherseg.data.datasets.cityscapes_panoptic import CityscapesPanoptic
from featherseg.data.panoptic.files import read_ids, write_ids

KEYS = {
    "train": ["aachen/aachen_000000_000019", "ulm/ulm_000000_000019"],
    "val": ["bonn/bonn_000000_000019"],
}
LABELS = (0, 4, 7, 9, 11, 23, 24, 26, 29, 33)  # void, classes that are not scored, stuff, things


def instance_ids(rng: np.random.Generator) -> np.ndarray:
    """Return (24, 32) uint16 patches: plain label ids, and numbered things, some not scored."""
    ids = rng.choice(LABELS, (6, 8)).astype(np.uint16)
    numbered = np.isin(ids, (24, 26, 29, 33)) & (rng.random(ids.shape) < 0.7)
    ids[numbered] = ids[numbered] * 1000 + rng.integers(0, 3, numbered.sum())
    return ids.repeat(4, 0).repeat(4, 1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The release in small."""
    root = tmp_path / "release"
    for split, keys in KEYS.items():
        for number, key in enumerate(keys):
            rng = np.random.default_rng([number, len(split)])
            for path, pixels in (
                (
                    f"leftImg8bit/{split}/{key}_leftImg8bit.png",
                    rng.integers(0, 256, (24, 32, 3), dtype=np.uint8),
                ),
                (f"gtFine/{split}/{key}_gtFine_instanceIds.png", instance_ids(rng)),
            ):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / path)
    return root


def instances_of(root: Path, split: str, key: str) -> np.ndarray:
    return np.array(Image.open(root / f"gtFine/{split}/{key}_gtFine_instanceIds.png"))


# The conversion


@pytest.mark.parametrize("train_ids", [False, True], ids=["label ids", "train ids"])
def test_the_conversion_is_that_of_cityscapesscripts(root, tmp_path, capsys, train_ids):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic
    (tmp_path / "theirs").mkdir()
    convert2panoptic(
        str(root / "gtFine"),
        str(tmp_path / "theirs"),
        useTrainId=train_ids,
        setNames=["train", "val"],
    )
    capsys.readouterr()
    steps = []
    converted = convert_cityscapes(
        root,
        tmp_path / "ours",
        train_ids=train_ids,
        progress=lambda doing, done, total: steps.append((done, total)),
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert sorted(
        p.relative_to(tmp_path / "ours") for p in (tmp_path / "ours").rglob("*")
    ) == sorted(p.relative_to(tmp_path / "theirs") for p in (tmp_path / "theirs").rglob("*"))
    crowds = 0
    for split in converted:
        ours, theirs = (
            json.loads((tmp_path / who / split.json.name).read_text()) for who in ("ours", "theirs")
        )
        assert ours["annotations"] == theirs["annotations"]
        keys = ("id", "name", "color", "isthing")
        by_id = sorted(theirs["categories"], key=lambda category: category["id"])
        assert ours["categories"] == [{key: category[key] for key in keys} for category in by_id]
        for annotation in ours["annotations"]:
            crowds += sum(segment["iscrowd"] for segment in annotation["segments_info"])
            png = Path(split.json.stem) / annotation["file_name"]
            np.testing.assert_array_equal(
                read_ids(tmp_path / "ours" / png), read_ids(tmp_path / "theirs" / png)
            )
    assert crowds


@pytest.mark.data
def test_the_real_mask_converts_as_cityscapesscripts_converts_it(
    shared: Path, tmp_path: Path, capsys
):
    root = shared / "data/fixtures/cityscapes"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic
    (tmp_path / "theirs").mkdir()
    convert2panoptic(str(root / "gtFine"), str(tmp_path / "theirs"), setNames=["val"])
    capsys.readouterr()
    (val,) = convert_cityscapes(root, tmp_path / "ours")
    ours, theirs = (
        json.loads((tmp_path / who / val.json.name).read_text()) for who in ("ours", "theirs")
    )
    assert ours["annotations"] == theirs["annotations"]
    png = f"{val.json.stem}/{ours['annotations'][0]['file_name']}"
    np.testing.assert_array_equal(
        read_ids(tmp_path / "ours" / png), read_ids(tmp_path / "theirs" / png)
    )


def test_an_interrupted_conversion_goes_on_and_a_newer_mask_is_converted_again(root, tmp_path):
    out = tmp_path / "out"

    def stop(doing: str, done: int, total: int | None) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_cityscapes(root, out, progress=stop)
    assert not list(out.glob("*.json"))
    assert [(c.images, c.kept) for c in convert_cityscapes(root, out)] == [(2, 2), (1, 0)]
    whole = {path.name: path.read_bytes() for path in out.rglob("*.*")}
    png = out / "cityscapes_panoptic_val/bonn_000000_000019_gtFine_panoptic.png"
    png.write_bytes(b"old")
    os.utime(png, (0, 0))
    assert [(c.images, c.kept) for c in convert_cityscapes(root, out)] == [(2, 2), (1, 0)]
    assert {path.name: path.read_bytes() for path in out.rglob("*.*")} == whole


def test_what_is_no_mask_of_instances_is_refused(root, tmp_path):
    with pytest.raises(
        DataError, match=r"a\.png has the value 34: expected label ids 0 to 33, or 1000 times"
    ):
        panoptic_of_instances(np.array([[7, 34]]), LABEL_IDS, "a.png")
    with pytest.raises(DataError, match=r"a\.png has the value 65535"):
        panoptic_of_instances(np.array([[7, 65535]], np.uint16), LABEL_IDS, "a.png")
    with pytest.raises(DataError, match=r"a\.png has colours"):
        panoptic_of_instances(np.zeros((2, 2, 3), np.uint8), LABEL_IDS, "a.png")
    with pytest.raises(
        DataNotFound, match=r"has no instance masks\. Expected gtFine/.*instanceIds\.png"
    ):
        convert_cityscapes(root / "gtFine")
    with pytest.raises(DataNotFound, match="nowhere is not a folder"):
        convert_cityscapes(root / "nowhere")
    path = root / "gtFine/val/bonn/bonn_000000_000019_gtFine_instanceIds.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read"):
        convert_cityscapes(root, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("*.json")] == [
        "cityscapes_panoptic_train.json"
    ]


# The dataset


@pytest.mark.parametrize("train_ids", [False, True], ids=["label ids", "train ids"])
def test_samples_have_the_classes_of_cityscapes_and_its_objects(root, train_ids):
    convert_cityscapes(root, train_ids=train_ids)
    data = open_dataset("cityscapes-panoptic", "train", root)
    assert data.keys == KEYS["train"]
    for index, key in enumerate(data.keys):
        raw, sample = instances_of(root, "train", key), data[index]
        label_ids = np.where(raw < 1000, raw, raw // 1000).astype(np.uint8)
        np.testing.assert_array_equal(sample.label, FROM_LABEL_IDS(label_ids, key))
        np.testing.assert_array_equal(data.label(index), sample.label)
        thing = np.isin(
            label_ids,
            [i for i, info in zip(LABEL_IDS, CITYSCAPES_CLASSES, strict=True) if info.thing],
        )
        expected = np.where(thing, np.where(raw < 1000, -raw.astype(int), raw), 0)
        np.testing.assert_array_equal(sample.instances, expected)
        assert (expected < 0).any()
        assert (expected > 0).any()
    ids = tuple(category["id"] for category in data.categories)
    assert ids == (tuple(range(19)) if train_ids else LABEL_IDS)
    assert (data.classes, data.licence) == (
        dataset_facts("cityscapes").classes,
        dataset_facts("cityscapes-panoptic").licence,
    )
    assert {
        name: split.images for name, split in check_data("cityscapes-panoptic", root).splits.items()
    } == {
        "train": 2,
        "val": 1,
    }


def test_a_file_as_deeplab2_s_tests_have_it_is_read(tmp_path: Path):
    """Train ids, no categories in its JSON, an instance with the number 0, and a crowd of cars."""
    ids = (
        np.array([0, 26000, 26, 26001, 21, 23, 11, 7])
        .repeat([3, 4, 5, 6, 7, 8, 9, 14])
        .reshape(7, 8)
    )
    categories = {26000: 13, 26: 13, 26001: 13, 21: 8, 23: 10, 11: 2, 7: 0}
    segments = [
        {
            "area": int((ids == i).sum()),
            "category_id": categories[i],
            "id": i,
            "iscrowd": int(i == 26),
        }
        for i in categories
    ]
    folder, name = tmp_path / "gtFine/cityscapes_panoptic_val_trainId", "dummy_000000_000000"
    folder.mkdir(parents=True)
    write_ids(folder / f"{name}_gtFine_panoptic.png", ids)
    annotation = {
        "file_name": f"{name}_gtFine_panoptic.png",
        "image_id": name,
        "segments_info": segments,
    }
    folder.with_name(f"{folder.name}.json").write_text(json.dumps({"annotations": [annotation]}))
    (tmp_path / "leftImg8bit/val/dummy").mkdir(parents=True)
    Image.new("RGB", (8, 7)).save(tmp_path / f"leftImg8bit/val/dummy/{name}_leftImg8bit.png")
    sample = CityscapesPanoptic(tmp_path, "val")[0]
    assert (sample.key, sample.image.shape) == ("dummy/dummy_000000_000000", (7, 8, 3))
    for segment in segments:
        of_segment = sample.instances == (-1) ** segment["iscrowd"] * segment["id"]
        if segment["category_id"] != 13:
            of_segment = sample.label == segment["category_id"]
        assert of_segment.sum() == segment["area"]
        assert (sample.label[of_segment] == segment["category_id"]).all()
    assert set(np.unique(sample.label)) == {0, 2, 8, 10, 13, 255}


def test_label_ids_in_a_file_that_is_named_as_train_ids_are_refused(root):
    """The two overlap: road is 7 by one, and 7 is traffic sign by the other."""
    convert_cityscapes(root)
    folder = root / "gtFine"
    for path in list(folder.glob("cityscapes_panoptic_*")):
        path.rename(
            path.with_name(
                path.name.replace("val", "val_trainId").replace("train.", "train_trainId.")
            )
        )
    with pytest.raises(
        DataError,
        match="says that category 7 is 'road', but according to the file name it is 'traffic sign'",
    ):
        CityscapesPanoptic(root, "val")
    path = folder / "cityscapes_panoptic_val_trainId.json"
    content = json.loads(path.read_text())
    del content["categories"]
    path.write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"has a segment of category (2|3)\d\. Expected the ids \[0, 1, .*file name"
    ):
        CityscapesPanoptic(root, "val")


def test_what_is_missing_is_named(root):
    with pytest.raises(
        DataNotFound,
        match=r"without panoptic masks\. Expected .*featherseg convert ROOT --from city",
    ):
        CityscapesPanoptic(root, "val")
    with pytest.raises(DataNotFound, match="has no gtFine"):
        CityscapesPanoptic(root.parent, "val")
    convert_cityscapes(root)
    (root / "leftImg8bit/val/bonn/bonn_000000_000019_leftImg8bit.png").unlink()
    with pytest.raises(DataNotFound, match="1 of 1 samples have no image: bonn/bonn_000000_000019"):
        CityscapesPanoptic(root, "val")


def test_train_and_val_may_be_trained_on_as_one(root):
    convert_cityscapes(root)
    assert_joined("cityscapes-panoptic", root, "train", "val")
