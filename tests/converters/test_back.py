"""From masks to the files of annotation tools, and from those to masks again."""

import json
import re
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage
from support.data.annotation_sources import SIZE, coco, picture, square

import featherseg
from featherseg.converters import write_samples
from featherseg.core.errors import (
    ConfigError,
    DataError,
    DataNotFound,
    FeathersegError,
    UnknownName,
)
from featherseg.core.types import ClassInfo
from featherseg.data import open_dataset
from featherseg.data.panoptic.files import PanopticWriter
from featherseg.inference.drawing import save_index_png

FORMATS = ("coco", "yolo", "labelme", "cvat")
HEAD = """name = "blobs"
images = "images"
masks = "masks"
classes = ["background", "cat", "dog", "tree"]
[splits]
train = "train"
val = "val"
[map]
0 = "background"
1 = "cat"
2 = "dog"
3 = "tree"
255 = "ignore"
"""
THINGS = """[things]
classes = ["cat", "dog"]
instances = "instances"
"""


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    """Write three images a split: smooth, single and ignored pixels; split objects, a crowd."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(3):
            size = rng.integers(40, 80, 2)
            mask = (
                ndimage.gaussian_filter(rng.normal(size=(4, *size)), (0, 3, 3))
                .argmax(0)
                .astype(np.uint8)
            )
            if number == 1:
                mask[rng.random(size) < 0.05] = rng.integers(0, 4)
            if number == 2:
                mask[10:14, 10:30] = 255
            objects = np.zeros(size, np.uint16)
            pieces, _ = ndimage.label(mask == 1)
            objects[mask == 1] = (
                pieces[mask == 1] - 1
            ) // 2  # two pieces an object, the first two a crowd
            pieces, _ = ndimage.label(mask == 2)
            objects[mask == 2] = pieces[mask == 2] + 500
            photo = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
            for kind, pixels in (("images", photo), ("masks", mask), ("instances", objects)):
                path = tmp_path / "blobs" / kind / split / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    (tmp_path / "blobs/dataset.toml").write_text(HEAD + THINGS)
    return tmp_path / "blobs"


def named(data, index: int) -> np.ndarray:
    """The names of the classes of a sample (H, W)."""
    names = np.full(256, "?", dtype=object)
    names[: len(data.classes)] = [info.name for info in data.classes]
    names[255] = "ignore"
    return names[data.label(index)]


@pytest.mark.parametrize("things", [True, False])
@pytest.mark.parametrize("form", FORMATS)
def test_masks_come_back_to_the_pixel(form, things, blobs, tmp_path):
    (blobs / "dataset.toml").write_text(HEAD + THINGS * things)
    there = featherseg.convert(blobs, tmp_path / "there", to_format=form)
    assert there.images == {"train": 3, "val": 3}
    featherseg.convert(tmp_path / "there", tmp_path / "back")
    for split in ("train", "val"):
        data, back = (
            open_dataset(str(folder / "dataset.toml"), split)
            for folder in (blobs, tmp_path / "back")
        )
        assert data.keys == back.keys
        for index in range(3):
            assert (named(data, index) == named(back, index)).all()
            assert (data[index].image == back[index].image).all()
            if things and form != "yolo":  # which has a line for every piece
                ours, theirs = data[index].instances, back[index].instances
                on = ours > 0
                pairs = set(zip(ours[on].tolist(), theirs[on].tolist(), strict=True))
                assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_what_is_written_for_coco_is_coco(blobs, tmp_path):
    """Read by hand: polygons by Pillow at middles of pixels, run lengths down the columns."""
    featherseg.convert(blobs, tmp_path / "out", to_format="coco")
    content = json.loads((tmp_path / "out/annotations/instances_val.json").read_text())
    names = {row["id"]: row["name"] for row in content["categories"]}
    assert set(names.values()) == {"cat", "dog", "tree", "ignore"}
    data = open_dataset(str(blobs / "dataset.toml"), "val")
    kinds = set()
    for row in content["images"]:
        assert (tmp_path / "out/images/val" / row["file_name"]).is_file()
        index = data.keys.index(f"val/{Path(row['file_name']).stem}")
        drawn = np.full((row["height"], row["width"]), "background", dtype=object)
        for shape in content["annotations"]:
            if shape["image_id"] != row["id"]:
                continue
            inside = np.zeros(drawn.shape, bool)
            if isinstance(shape["segmentation"], dict):
                kinds.add("crowd" if shape["iscrowd"] else "hole")
                counts, on = shape["segmentation"]["counts"], False
                flat = np.zeros(0, bool)
                for count in counts:
                    flat, on = np.concatenate([flat, np.full(count, on)]), not on
                inside = flat.reshape(drawn.shape[::-1]).T
            else:
                kinds.add("polygon")
                for ring in shape["segmentation"]:
                    canvas = Image.new("1", (16 * drawn.shape[1], 16 * drawn.shape[0]))
                    ImageDraw.Draw(canvas).polygon([16 * number for number in ring], fill=1)
                    inside |= np.asarray(canvas)[8::16, 8::16]
            drawn[inside] = names[shape["category_id"]]
            assert shape["area"] == inside.sum()
            rows, columns = np.nonzero(inside)
            left, top = columns.min(), rows.min()
            assert shape["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
        assert (drawn == named(data, index)).all()
    assert kinds == {"polygon", "hole", "crowd"}


@pytest.mark.seconds
def test_what_is_written_for_the_other_tools_has_their_form(blobs, tmp_path):
    for form in ("yolo", "labelme", "cvat"):
        featherseg.convert(blobs, tmp_path / form, to_format=form)

    yaml = (tmp_path / "yolo/data.yaml").read_text()
    assert yaml.splitlines()[:2] == ["train: images/train", "val: images/val"]
    assert re.findall(r'  \d: "(\w+)"', yaml) == ["cat", "dog", "tree", "ignore"]
    for line in (tmp_path / "yolo/labels/val/0.txt").read_text().splitlines():
        number, *corners = line.split()
        assert 0 <= int(number) < 4
        assert len(corners) % 2 == 0
        assert all(0 <= float(corner) <= 1 for corner in corners)

    content = json.loads((tmp_path / "labelme/train/2.json").read_text())
    assert content["imagePath"] == "2.png"
    assert (tmp_path / "labelme/train/2.png").is_file()
    assert {shape["label"] for shape in content["shapes"]} >= {"cat", "dog", "tree", "__ignore__"}
    assert all(len(shape["points"]) > 2 for shape in content["shapes"])

    root = ElementTree.parse(tmp_path / "cvat/annotations.xml").getroot()
    assert [image.get("name") for image in root.iter("image")][2:4] == ["train/2.png", "val/0.png"]
    assert {label.findtext("name") for label in root.iter("label")} == {
        "cat",
        "dog",
        "tree",
        "ignore",
    }
    assert [label["name"] for label in json.loads((tmp_path / "cvat/labels.json").read_text())][
        :2
    ] == ["cat", "dog"]


CLASSES = (
    ClassInfo("background", (0, 0, 0)),
    ClassInfo("cat", (200, 0, 0), thing=True),
    ClassInfo("tree", (0, 99, 0)),
)


def predicted(folder: Path) -> np.ndarray:
    """What `predict` leaves of one image, NAME_mask.png among others."""
    mask = np.zeros(SIZE, np.uint8)
    mask[3:9, 4:12], mask[12:18, 10:25] = 1, 2
    folder.mkdir()
    save_index_png(mask, CLASSES, folder / "street_mask.png")
    picture(folder / "street_color.png")
    picture(folder / "street_overlay.png")
    return mask


@pytest.mark.parametrize("form", FORMATS)
def test_predicted_masks_go_to_the_tool_with_their_names(form, tmp_path):
    mask = predicted(tmp_path / "predictions")
    picture(tmp_path / "photos/street.jpg")
    done = featherseg.convert(
        tmp_path / "predictions", tmp_path / "there", to_format=form, images=tmp_path / "photos"
    )
    assert done.classes == ["cat", "tree"]
    assert done.notes == []
    featherseg.convert(tmp_path / "there", tmp_path / "back")
    data = open_dataset(str(tmp_path / "back/dataset.toml"), "train")
    assert (named(data, 0) == np.array(["background", "cat", "tree"], dtype=object)[mask]).all()


def test_images_of_one_name_get_their_own_masks(tmp_path):
    mask = predicted(tmp_path / "predictions")
    save_index_png(
        mask[::-1], CLASSES, tmp_path / "predictions/street-2_mask.png"
    )  # so `predict` names the second
    for name in ("street.jpg", "street.png"):
        picture(tmp_path / "photos" / name)
    done = featherseg.convert(
        tmp_path / "predictions",
        tmp_path / "there",
        to_format="labelme",
        images=tmp_path / "photos",
    )
    assert done.notes == []
    for name, source, drawn in (
        ("street.json", "street.jpg", mask),
        ("street-2.json", "street.png", mask[::-1]),
    ):
        content = json.loads((tmp_path / "there" / name).read_text())
        placed = tmp_path / "there" / content["imagePath"]
        assert placed.read_bytes() == (tmp_path / "photos" / source).read_bytes()
        left, top = np.array(
            next(s["points"] for s in content["shapes"] if s["label"] == "cat")
        ).min(axis=0)
        assert drawn[int(top), int(left)] == 1


def test_masks_of_other_images_are_refused_or_told(tmp_path):
    mask = predicted(tmp_path / "predictions")
    save_index_png(mask, CLASSES, tmp_path / "predictions/park_mask.png")
    picture(tmp_path / "photos/street.jpg")
    done = featherseg.convert(
        tmp_path / "predictions", tmp_path / "a", to_format="coco", images=tmp_path / "photos"
    )
    assert done.notes == [f"1 mask without an image in {tmp_path / 'photos'}: park_mask.png"]
    Image.new("RGB", (7, 5)).save(tmp_path / "photos/street.jpg")
    with pytest.raises(
        DataError, match=r"street_mask\.png is .* but .*street\.jpg is 5x7: it is of another image"
    ):
        featherseg.convert(
            tmp_path / "predictions", tmp_path / "b", to_format="coco", images=tmp_path / "photos"
        )


def test_predicted_masks_without_images_or_names_are_written_all_the_same(tmp_path):
    mask = predicted(tmp_path / "predictions")
    Image.fromarray(mask).save(tmp_path / "predictions/street_mask.png")
    done = featherseg.convert(tmp_path / "predictions", tmp_path / "there", to_format="coco")
    assert done.classes == ["class_0", "class_1", "class_2"]
    assert "--images" in done.notes[0]
    content = json.loads((tmp_path / "there/annotations/instances_default.json").read_text())
    assert content["images"][0]["file_name"] == "street.jpg"


def test_predicted_objects_are_kept(tmp_path):
    mask = predicted(tmp_path / "predictions")
    ids = np.where(mask == 1, 7, np.where(mask == 2, 9, 3)).astype(np.int32)
    ids[3:9, 4:8] = 8
    writer = PanopticWriter(
        tmp_path / "predictions/panoptic",
        [
            {"id": i, "name": info.name, "isthing": int(info.thing), "color": info.color}
            for i, info in enumerate(CLASSES)
        ],
    )
    segments = [
        {"id": i, "category_id": category} for i, category in ((3, 0), (7, 1), (8, 1), (9, 2))
    ]
    writer.add("street", "street.jpg", "street.png", (ids, segments))
    writer.finish()
    featherseg.convert(tmp_path / "predictions", tmp_path / "out", to_format="coco")
    content = json.loads((tmp_path / "out/annotations/instances_default.json").read_text())
    assert sorted((row["category_id"], row["area"]) for row in content["annotations"]) == [
        (1, 24),
        (1, 24),
        (2, 90),
    ]


def test_shares_are_not_cut_into_splits_for_the_tool(tmp_path):
    featherseg.convert(
        coco(tmp_path / "src", [("car", [square(1, 1, 5, 5)])]).parent, tmp_path / "ds"
    )
    toml = tmp_path / "ds/dataset.toml"
    assert tomllib.loads(toml.read_text())["splits"] == {"train": 1.0}
    featherseg.convert(toml, tmp_path / "out", to_format="cvat")
    assert (tmp_path / "out/images/a.png").is_file()


@pytest.mark.parametrize("form", FORMATS)
def test_images_outside_of_the_dataset_are_written_inside_of_the_output(form, tmp_path):
    """Their keys begin with "../": the files went beside OUT, over what lay there."""
    ds = tmp_path / "set/deep/ds"
    for folder in (tmp_path, ds):
        picture(folder / "raw/000.png")
        (folder / "gt").mkdir()
        Image.fromarray(np.ones(SIZE, np.uint8)).save(folder / "gt/000.png")
    (ds / "train.txt").write_text("../../../raw/000\nraw/000\n")
    sources = "".join(
        f'[[source]]\nimages = "{up}raw"\nmasks = "{up}gt"\n' for up in ("../../../", "")
    )
    head = HEAD.replace('images = "images"\nmasks = "masks"\n', "").replace('val = "val"\n', "")
    (ds / "dataset.toml").write_text(head.replace('= "train"', '= "train.txt"') + sources)
    before = set(tmp_path.rglob("*"))
    featherseg.convert(ds, tmp_path / "a/b/c", to_format=form)
    listed = open_dataset(str(ds), "train")
    write_samples(listed, [0, 1], form, tmp_path / "a/b/d", lambda *_: None)  # as `audit --to` does
    written = [path for path in set(tmp_path.rglob("*")) - before if path.suffix == ".png"]
    for out in "cd":
        assert sorted(p.name for p in written if p.is_relative_to(tmp_path / "a/b" / out)) == [
            "000-2.png",
            "000.png",
        ]
    assert len(written) == 4


def test_slips_on_the_way_back_are_messages(blobs, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFound, match="neither images with masks nor predicted masks"):
        featherseg.convert(tmp_path / "empty", tmp_path / "out", to_format="coco")
    with pytest.raises(ConfigError, match="--images is for predicted masks"):
        featherseg.convert(blobs, tmp_path / "out", to_format="coco", images=tmp_path)
    with pytest.raises(UnknownName, match="Did you mean 'coco'"):
        featherseg.convert(blobs, tmp_path / "out", to_format="coca")
    (blobs / "masks/val/1.png").unlink()
    with pytest.raises(FeathersegError, match="have no mask"):
        featherseg.convert(blobs, tmp_path / "out", to_format="coco")
    assert not (tmp_path / "out").exists()


@pytest.mark.seconds
def test_a_folder_without_a_dataset_toml_is_written_as_it_is_proposed(blobs, tmp_path):
    (blobs / "dataset.toml").unlink()
    done = featherseg.convert(blobs, tmp_path / "out", to_format="coco")
    assert done.images == {"train": 3, "val": 3}
    back = featherseg.convert(tmp_path / "out", tmp_path / "back")
    assert back.images == done.images


def test_outlines_of_labelme_have_few_corners_where_hardly_a_pixel_changes(tmp_path):
    y, x = np.mgrid[:480, :640]
    mask = np.zeros((480, 640), np.uint8)
    mask[np.hypot(y - 200, x - 300) < 100] = 1
    mask[np.hypot(y - 220, x - 320) < 40] = 2
    mask[300, 10:600] = 2  # a line of one pixel, out and back
    mask[310:400, 20:23] = 1
    (tmp_path / "predictions").mkdir()
    save_index_png(mask, CLASSES, tmp_path / "predictions/disc_mask.png")
    picture(tmp_path / "photos/disc.jpg", (480, 640))
    featherseg.convert(
        tmp_path / "predictions", tmp_path / "out", to_format="labelme", images=tmp_path / "photos"
    )
    content = json.loads((tmp_path / "out/disc.json").read_text())
    assert (
        max(len(shape["points"]) for shape in content["shapes"]) < 60
    )  # along the pixels the disc has 452
    featherseg.convert(tmp_path / "out", tmp_path / "back")
    found = np.array(Image.open(tmp_path / "back/masks/disc.png"))
    assert (found == mask).mean() >= 0.999
    assert (found[300, 10:600] == 2).all()
