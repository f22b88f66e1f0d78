import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.joined_splits import assert_joined
from support.golden.golden_make import GOLDEN, digest

from featherseg.converters.masks import masks_of
from featherseg.core.errors import DataError, DataNotFound
from featherseg.data import dataset_facts, open_dataset
from featherseg.data.cache.fingerprint import Fingerprint
from featherseg.data.checks.check import check_data
from featherseg.data.checks.fixes import write_mended
from featherseg.data.datasets.class_lists import read_classes
from featherseg.data.datasets.coco_panoptic import CocoPanoptic
from featherseg.data.panoptic.files import PanopticWriter, read_ids
from featherseg.data.panoptic.segments import list_segments
from featherseg.runs.run import RESTRICTED

CATEGORIES = read_classes("coco_panoptic")
STEMS = {"train": ["000000000009", "000000000025"], "val": ["000000000139"]}
IDS = np.array([[0, 70000, 70000, 3], [200, 200, 16777215, 3]])
CATEGORY_OF = {
    0: 0,
    70000: 1,
    200: 1,
    3: 200,
    16777215: 90,
}  # two persons, one of them a crowd, rug and toothbrush


def write_release(root: Path, images: str = "", masks: str = "annotations") -> None:
    """COCO in small: two images in train, one in val."""
    for split, stems in STEMS.items():
        writer = PanopticWriter(root / "annotations" / f"panoptic_{split}2017", [])
        for stem in stems:
            writer.add(
                int(stem),
                f"{stem}.jpg",
                f"{stem}.png",
                list_segments(IDS, CATEGORY_OF, frozenset([200])),
            )
            path = root / images / f"{split}2017/{stem}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            seed = int(stem)
            Image.fromarray(
                np.random.default_rng(seed).integers(0, 256, (2, 4, 3), dtype=np.uint8)
            ).save(path)
        writer.finish()
        if masks != "annotations":
            writer.folder.rename(root / masks / writer.folder.name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def test_an_image_of_two_splits_is_named(root, monkeypatch):
    monkeypatch.setitem(STEMS, "val", STEMS["train"][:1])
    write_release(root)
    for split in ("train+val", "val+train"):
        with pytest.raises(
            DataError, match=r"000000000009 is an image of several splits of .*: give each a name"
        ):
            CocoPanoptic(root, split)
    assert len(CocoPanoptic(root, "val")) == 1


def edit(root: Path, split: str = "val", **changes: object) -> None:
    """Change keys of the first segment that a JSON lists."""
    path = root / f"annotations/panoptic_{split}2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"][0].update(changes)
    path.write_text(json.dumps(content))


def test_the_table_is_coco_s():
    known = json.loads((GOLDEN / "class_tables.json").read_text())["coco-panoptic"]
    rows = [(category, info.name, info.color, info.thing) for category, info in CATEGORIES.items()]
    assert digest(rows).items() <= known.items()


def test_133_categories_80_of_them_things_first():
    classes = CocoPanoptic.facts.classes
    assert [info.thing for info in classes] == [True] * 80 + [False] * 53
    assert len({info.color for info in classes}) == len({info.name for info in classes}) == 133
    assert (max(CATEGORIES), classes[132], classes[0]) == (200, CATEGORIES[200], CATEGORIES[1])


@pytest.mark.data
def test_the_real_image_has_its_people_its_crowd_and_its_ball(shared: Path, tmp_path: Path):
    """Also of a release whose annotations lie beside the images."""
    fixture = shared / "data/fixtures/coco_panoptic"
    sample = CocoPanoptic(fixture, "val")[0]
    assert (sample.key, sample.image.shape) == ("000000142238", (427, 640, 3))
    content = json.loads((fixture / "panoptic_val2017.json").read_text())["annotations"][0][
        "segments_info"
    ]
    pixels = {int(i): int((sample.instances == i).sum()) for i in np.unique(sample.instances)}
    del pixels[0]
    things = [segment for segment in content if CATEGORIES[segment["category_id"]].thing]
    assert pixels == {
        (-1) ** segment["iscrowd"] * segment["id"]: segment["area"] for segment in things
    }
    for category in {segment["category_id"] for segment in content}:
        area = sum(segment["area"] for segment in content if segment["category_id"] == category)
        assert (sample.label == list(CATEGORIES).index(category)).sum() == area
    ids, segments = CocoPanoptic(fixture, "val").panoptic(0)
    np.testing.assert_array_equal(ids, read_ids(fixture / "panoptic_val2017/000000142238.png"))
    assert [s["area"] for s in segments] == [s["area"] for s in content]


@pytest.mark.parametrize(
    ("images", "masks"), [("", "annotations"), ("images", "annotations"), ("", "")]
)
def test_usual_layouts_are_read(tmp_path, images, masks):
    write_release(tmp_path, images, masks)
    data = open_dataset("coco-panoptic", "train", tmp_path)
    assert data.keys == STEMS["train"]
    sample = data[1]
    assert sample.image.shape == (2, 4, 3)
    assert sample.label.tolist() == [[255, 0, 0, 132], [0, 0, 79, 132]]
    assert sample.instances.tolist() == [[0, 70000, 70000, 0], [-200, -200, 16777215, 0]]
    np.testing.assert_array_equal(data.label(1), sample.label)
    assert data.classes == dataset_facts("coco-panoptic").classes
    assert any(word in data.licence for word in RESTRICTED)


def test_the_segmentation_is_what_the_evaluation_takes(root):
    data = CocoPanoptic(root, "val")
    ids, segments = data.panoptic(0)
    np.testing.assert_array_equal(ids, IDS)
    assert {"id": 200, "category_id": 1, "area": 2, "iscrowd": 1} in segments
    assert data.categories[:1] == [
        {"id": 1, "name": "person", "isthing": 1, "color": [220, 20, 60]}
    ]
    assert [category["id"] for category in data.categories] == list(CATEGORIES)


def test_png_and_json_that_disagree_are_refused(root):
    edit(root, id=4)
    for read in (CocoPanoptic(root, "val").label, CocoPanoptic(root, "val").panoptic):
        with pytest.raises(
            DataError,
            match=r"000000000139\.png draws the segment id 3, which its annotation does not",
        ):
            read(0)
    report = check_data("coco-panoptic", root)
    assert [fault.kind for fault in report.faults] == ["values"]
    assert (
        "holds value 3 (2 pixels), which is not in the 4 segments that its annotation lists"
        in report.faults[0].text
    )


def test_check_finds_what_ends_a_training(root):
    path = root / "annotations/panoptic_val2017.json"
    content = json.loads(path.read_text())
    first = content["annotations"][0]["segments_info"][0]
    content["annotations"][0]["segments_info"].append(first | {"id": 77})
    path.write_text(json.dumps(content))
    (fault,) = check_data("coco-panoptic", root).faults
    assert (fault.kind, fault.split) == ("unreadable", "val")
    assert "lists the segment id 77, which no pixel has" in fault.text


def test_a_category_that_coco_has_not_is_refused(root):
    edit(root, category_id=12)
    with pytest.raises(
        DataError, match=r"panoptic_val2017\.json: 000000000139\.png has a segment of category 12"
    ):
        CocoPanoptic(root, "val")


def test_an_image_of_another_size_is_refused(root):
    Image.new("RGB", (5, 5)).save(root / "val2017/000000000139.jpg")
    with pytest.raises(DataError, match=r"000000000139\.png is 2x4, but its image .* is 5x5"):
        CocoPanoptic(root, "val")[0]


def test_check_counts_the_splits_and_its_copy_has_the_labels(root):
    report = check_data("coco-panoptic", root)
    assert report.clean
    assert {name: split.images for name, split in report.splits.items()} == {"train": 2, "val": 1}
    out = root / "mended"
    write_mended(report, out)
    np.testing.assert_array_equal(
        open_dataset(str(out / "dataset.toml"), "val").label(0), CocoPanoptic(root, "val").label(0)
    )


def test_what_is_missing_is_named(root, tmp_path_factory):
    (root / "val2017/000000000139.jpg").unlink()
    with pytest.raises(DataNotFound, match="1 of 1 samples have no image: 000000000139"):
        CocoPanoptic(root, "val")
    (root / "annotations/panoptic_train2017/000000000025.png").unlink()
    with pytest.raises(DataNotFound, match="1 of 2 samples have no mask: 000000000025"):
        CocoPanoptic(root, "train")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(
        DataNotFound, match=r"no folder annotations\. Expected .*panoptic_annotations_trainval2017"
    ):
        CocoPanoptic(empty, "train")
    (empty / "annotations").mkdir()
    (empty / "annotations/instances_val2017.json").write_text("{}")
    with pytest.raises(DataNotFound, match="only annotations of other COCO tasks"):
        CocoPanoptic(empty, "val")


def test_an_annotation_that_changed_is_known_to_a_run_that_goes_on(root):
    def read():
        return {split: open_dataset("coco-panoptic", split, root) for split in STEMS}

    known = Fingerprint.of(read())
    assert known.differences(read()) == []
    edit(root, category_id=184)  # the mask's file stays as it is
    assert known.differences(read()) == ["the annotations of 1 mask of val changed: 000000000139"]


def test_its_masks_go_to_a_tool_with_crowds_that_are_no_objects(root):
    data = CocoPanoptic(root, "val")
    (image,) = masks_of(data, [0]).images
    np.testing.assert_array_equal(image.mask, data.label(0))
    np.testing.assert_array_equal(image.objects > 0, data[0].instances > 0)
    assert (data[0].instances < 0).any()
    assert image.objects.min() == 0
    assert image.name == "000000000139.jpg"


def test_train_and_val_may_be_trained_on_as_one(root):
    assert_joined("coco-panoptic", root, "train", "val")
