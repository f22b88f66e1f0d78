"""Ambiguous sources, and sources that no mask can represent, give a message and no wrong label."""

import base64
import json
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.annotation_sources import (
    SIZE,
    coco,
    labelme,
    mask,
    picture,
    polygon,
    square,
    turned,
    write_json,
)

import featherseg
from featherseg.converters.dataset import IMAGE_NOTE
from featherseg.core.errors import DataError, DataNotFound
from featherseg.data import open_dataset

TRIANGLE = "0 0.1 0.1 0.5 0.1 0.5 0.5\n"


def test_lists_of_yolo_that_number_classes_otherwise_are_refused(tmp_path):
    picture(tmp_path / "src/images/a.png")
    (tmp_path / "src/labels").mkdir()
    (tmp_path / "src/labels/a.txt").write_text(TRIANGLE)
    (tmp_path / "src/coco.yaml").write_text("names: [person, car]\n")
    (tmp_path / "src/data.yaml").write_text("names: [car, person, road]\n")
    with pytest.raises(DataError, match=r"coco\.yaml.*data\.yaml"):
        featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert featherseg.convert(tmp_path / "src/data.yaml", tmp_path / "out").classes[1] == "car"
    (tmp_path / "src/coco.yaml").write_text("names: [car, person]\n")  # the beginning of the other
    assert featherseg.convert(tmp_path / "src", tmp_path / "b").classes == [
        "background",
        "car",
        "person",
        "road",
    ]


def test_a_classes_txt_in_each_folder_of_yolo_is_compared(tmp_path):
    for split, names in (("train", "car\nroad\n"), ("val", "road\ncar\n")):
        picture(tmp_path / f"src/{split}/images/{split}.png")
        (tmp_path / f"src/{split}/labels").mkdir()
        (tmp_path / f"src/{split}/labels/{split}.txt").write_text(TRIANGLE)
        (tmp_path / f"src/{split}/labels/classes.txt").write_text(names)
    with pytest.raises(DataError, match="expected one order"):
        featherseg.convert(tmp_path / "src", tmp_path / "out")
    done = featherseg.convert(tmp_path / "src/val/labels/classes.txt", tmp_path / "out")
    assert done.classes == ["background", "road", "car"]


def test_labels_of_yolo_find_images_of_another_folder(tmp_path):
    for name in ("train/a", "val/a", "val/b"):
        picture(tmp_path / f"ds/images/{name}.png")
    for name in ("labels/train/a", "deep/labels/b"):
        path = tmp_path / f"src/{name}.txt"
        path.parent.mkdir(parents=True)
        path.write_text(TRIANGLE)
    (tmp_path / "src/data.yaml").write_text("names: [car]\n")
    done = featherseg.convert(tmp_path / "src", tmp_path / "out", images=tmp_path / "ds/images")
    assert done.images == {"train": 1, "val": 1}
    assert (mask(tmp_path / "out", "train/a") == 1).any()
    assert (mask(tmp_path / "out", "val/b") == 1).any()
    assert list(done.left_out) == ["images that no annotation names"]  # val/a: not train's label


def test_an_export_of_boxes_alone_is_refused(tmp_path):
    path = coco(tmp_path / "coco", [("car", [])])
    picture(tmp_path / "yolo/images/a.png")
    (tmp_path / "yolo/labels").mkdir()
    (tmp_path / "yolo/labels/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "yolo/data.yaml").write_text("names: [car]\n")
    for src in (path.parent, tmp_path / "yolo"):
        with pytest.raises(DataError, match="boxes alone"):
            featherseg.convert(src, tmp_path / "out")


def yolo(folder: Path, labels: dict[str, str], head: str = "") -> Path:
    """Images of 20 x 30 with their labels, class 0 is car."""
    (folder / "labels").mkdir(parents=True)
    (folder / "data.yaml").write_text(f"names: [car]\n{head}")
    for name, text in labels.items():
        picture(folder / f"images/{name}.png")
        (folder / f"labels/{name}.txt").write_text(text)
    return folder


def test_labels_of_yolo_in_pixels_or_of_key_points_are_no_outlines(tmp_path):
    """A label in pixels gave a mask that is one class, or all background."""
    pixels, points = (
        "0 5 5 20 5 20 15\n",
        "0 0.5 0.5 0.4 0.4 0.3 0.3 2 0.6 0.6 2 0.5 0.5 0 0.5 0.5 0\n",
    )
    labels = {
        "a": pixels,
        "b": "0 0 0 20 0 20 20 0 20\n",
        "c": points,
        "d": TRIANGLE,
        "e": "0 -0.005 0 0.5 0 0.5 1.005\n",
    }
    done = featherseg.convert(yolo(tmp_path / "src", labels), tmp_path / "out")
    assert done.images == {"all": 2}
    assert [(times, "fractions" in reason) for reason, (times, _) in done.left_out.items()] == [
        (3, True)
    ]
    with pytest.raises(DataError, match="kpt_shape: its labels are key points"):
        featherseg.convert(
            yolo(tmp_path / "pose", {"a": points}, "kpt_shape: [4, 3]\n"), tmp_path / "no"
        )


@pytest.mark.parametrize("image", ["1", 1, "7"])
def test_ids_of_coco_may_be_numbers_in_one_place_and_text_in_the_other(image, tmp_path):
    images = [{"id": image, "file_name": "a.png", "height": 20, "width": 30}]
    shapes = [
        {
            "id": 1,
            "image_id": 7 if image == "7" else "1",
            "category_id": "1",
            "segmentation": [square(1, 1, 5, 5)],
        }
    ]
    path = coco(tmp_path / "src", [], images=images, annotations=shapes)
    assert featherseg.convert(path, tmp_path / "out").left_out == {}
    assert (mask(tmp_path / "out") == 1).sum() == 16


def test_annotations_of_which_none_can_be_used_are_refused_and_images_without_any_are_not(tmp_path):
    """Every mask was background, and the conversion a success."""
    shapes = [{"id": 1, "image_id": 5, "category_id": 1, "segmentation": [square(1, 1, 5, 5)]}]
    path = coco(tmp_path / "strange", [], annotations=shapes)
    with pytest.raises(
        DataError,
        match=r"no annotation can be used, .* Annotations of images that are not listed: 1",
    ):
        featherseg.convert(path, tmp_path / "out")
    src = yolo(tmp_path / "some", {"a": "0 5 5 20 5 20 15\n", "b": ""})
    with pytest.raises(
        DataError,
        match=r"no annotation can be used, .* no fractions of the image.*: 1, first images/a",
    ):
        featherseg.convert(src, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (src / "labels/a.txt").write_text(TRIANGLE)
    assert featherseg.convert(src, tmp_path / "a").images == {"all": 2}  # the empty one, too
    assert featherseg.convert(coco(tmp_path / "free", []), tmp_path / "b").images == {"all": 1}


def test_the_folder_that_is_named_says_no_split_of_coco(tmp_path):
    path = coco(tmp_path / "test", [("car", [square(1, 1, 5, 5)])])
    assert featherseg.convert(path.parent, tmp_path / "a").images == {"all": 1}
    assert featherseg.convert(path, tmp_path / "b").images == {"all": 1}
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.write(path, "coco.json")
        archive.write(path.with_name("a.png"), "a.png")
    assert featherseg.convert(tmp_path / "export.zip", tmp_path / "ds_test").images == {"all": 1}
    assert featherseg.convert(tmp_path, tmp_path / "c").images == {"test": 1}


def test_a_source_of_test_alone_is_told_with_the_way_to_train_on_it(tmp_path):
    for name in "bcdef":
        picture(tmp_path / f"src/test shots/{name}.png")
        path = labelme(
            tmp_path / "src/test shots", [polygon("car", *square(2, 3, 9, 9))], f"{name}.png"
        )
        path.rename(path.with_name(f"{name}.json"))
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.images == {"test": 5}
    toml = tmp_path / "out/dataset.toml"
    [note] = [note for note in done.notes if "no image is in train" in note]
    assert "all are in test" in note
    assert str(toml) in note
    toml.write_text(
        toml.read_text().replace('test = "test"', "train = 0.8\nval = 0.2")
    )  # as the note says
    assert [len(open_dataset(str(toml), split)) for split in ("train", "val")] == [4, 1]


def test_files_beside_instances_of_coco_are_read_but_those_of_other_tasks(tmp_path):
    for name, stem in (
        ("instances_train.json", "a"),
        ("night.json", "b"),
        ("person_keypoints_train.json", "c"),
    ):
        path = coco(tmp_path / "src", [("car", [square(1, 1, 5, 5)])])
        content = json.loads(path.read_text())
        content["images"][0]["file_name"] = picture(tmp_path / f"src/{stem}.png").name
        path.unlink()
        write_json(tmp_path / "src" / name, content)
    assert featherseg.convert(tmp_path / "src", tmp_path / "out").images == {"all": 2}


def test_two_images_of_one_id_in_coco_are_refused(tmp_path):
    images = [
        {"id": 1, "file_name": name, "height": 20, "width": 30} for name in ("a.png", "b.png")
    ]
    path = coco(tmp_path / "src", [("car", [square(1, 1, 5, 5)])], images=images)
    picture(tmp_path / "src/b.png")
    with pytest.raises(DataError, match="two images of the id 1"):
        featherseg.convert(path, tmp_path / "out")


def test_lists_of_pascal_voc_name_masks_by_all_of_their_name(tmp_path):
    names = [
        "my image 1",
        "my image 2",
        "clip.0001",
        "clip.0002",
        "cam1/0001",
        "cam2/0001",
        "a_jpg.rf.0f3c",
        "plain",
    ]
    for name in names:
        picture(tmp_path / f"src/JPEGImages/{name}.jpg")
        path = tmp_path / f"src/SegmentationClass/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(SIZE, 1, np.uint8)).save(path)
    sets = tmp_path / "src/ImageSets/Segmentation"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text(
        'my image 1\nclip.0001\ncam1/0001\na_jpg.rf.0f3c\ngone\n"my image 2"\n'
    )
    (sets / "Validation.txt").write_text(
        "clip.0002.jpg\ncam2/0001\n/JPEGImages/plain.jpg /SegmentationClass/plain.png\n"
    )
    (sets / "test.txt").write_text('"my image 2" 1\n')
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    splits = {
        split: set(open_dataset(str(tmp_path / "out"), split).keys)
        for split in ("train", "val", "test")
    }
    assert splits == {
        "train": {"train/my image 1", "train/clip.0001", "train/cam1/0001", "train/a_jpg.rf.0f3c"},
        "val": {"val/clip.0002", "val/cam2/0001", "val/plain"},
        "test": {"test/my image 2"},
    }
    assert done.left_out == {
        "images of two splits (kept in test)": (1, '"my image 2"'),
        "names in lists of splits of which there is no mask, or more than one": (1, "gone"),
    }


def test_a_list_that_gives_two_classes_one_colour_is_refused(tmp_path):
    picture(tmp_path / "src/images/a.png")
    (tmp_path / "src/masks").mkdir()
    Image.fromarray(np.full((*SIZE, 3), 200, np.uint8)).save(tmp_path / "src/masks/a.png")
    (tmp_path / "src/class_dict.csv").write_text("name,r,g,b\ncar,200,200,200\nrust,200,200,200\n")
    with pytest.raises(DataError, match="'car' and 'rust' the same colour, #c8c8c8"):
        featherseg.convert(tmp_path / "src", tmp_path / "out")
    (tmp_path / "src/class_dict.csv").write_text(
        "name,r,g,b\ncar,200,200,200\nvoid,0,0,0\nunlabelled,0,0,0\n"
    )
    assert featherseg.convert(tmp_path / "src", tmp_path / "out").images == {"all": 1}


def test_two_masks_of_one_image_leave_it_out(tmp_path):
    for folder, color, names in (("crack", 200, "ab"), ("rust", 100, "a")):
        (tmp_path / f"src/masks/{folder}").mkdir(parents=True)
        for name in names:
            picture(tmp_path / f"src/images/{name}.jpg")
            Image.fromarray(np.full((*SIZE, 3), color, np.uint8)).save(
                tmp_path / f"src/masks/{folder}/{name}.png"
            )
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.images == {"all": 1}
    assert [reason.partition(":")[0] for reason in done.left_out] == ["images with several masks"]


def test_a_second_entry_of_another_size_leaves_the_image_out(tmp_path):
    path = coco(tmp_path / "src", [("car", [square(1, 1, 5, 5)])])
    content = json.loads(path.read_text())
    content["images"].append({"id": 2, "file_name": "b.png", "height": 20, "width": 30})
    content["annotations"].append(content["annotations"][0] | {"id": 2, "image_id": 2})
    picture(tmp_path / "src/b.png")
    write_json(path, content)
    content["images"] = [{"id": 1, "file_name": "a.png", "height": 10, "width": 15}]
    content["annotations"] = content["annotations"][:1]
    write_json(path.with_name("half.json"), content)
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.left_out == {"images that are listed twice, in two sizes": (1, "a.png")}
    assert done.images == {"all": 1}


def test_groups_of_two_files_are_two_objects(tmp_path):
    picture(tmp_path / "src/a.png")
    for left, name in ((2, "first"), (12, "second")):
        shapes = [polygon("car", *square(left, 2, left + 5, 8)) | {"group_id": 1}]
        labelme(tmp_path / "src", shapes).rename(tmp_path / f"src/{name}.json")
    featherseg.convert(tmp_path / "src", tmp_path / "out")
    objects = np.array(Image.open(tmp_path / "out/instances/a.png"))
    assert objects[4, 3] != objects[4, 13]
    assert objects[4, [3, 13]].all()


def test_a_class_called_void_is_named_as_ignored(tmp_path):
    shapes = [("void", [square(1, 1, 5, 5)]), ("car", [square(9, 9, 12, 12)])]
    done = featherseg.convert(
        coco(tmp_path / "src", shapes, ("void", "car")).parent, tmp_path / "out"
    )
    assert done.classes == ["background", "car"]
    assert [note for note in done.notes if note.startswith("'void': neither trained on nor scored")]
    path = coco(tmp_path / "all", [("void", [square(0, 0, 30, 20)])], ("void",))
    with pytest.raises(DataError, match="no pixel has a class: all are 'void'"):
        featherseg.convert(path, tmp_path / "none")


def test_a_square_image_that_exif_turns_is_noted(tmp_path):
    turned(tmp_path / "src/a.jpg", 6, (20, 20))
    labelme(
        tmp_path / "src",
        [polygon("car", *square(2, 3, 6, 5))],
        "a.jpg",
        imageHeight=20,
        imageWidth=20,
    )
    assert IMAGE_NOTE in featherseg.convert(tmp_path / "src", tmp_path / "out").notes
    turned(tmp_path / "src/a.jpg", 6)  # here the size tells
    labelme(
        tmp_path / "src",
        [polygon("car", *square(2, 3, 6, 5))],
        "a.jpg",
        imageHeight=30,
        imageWidth=20,
    )
    assert IMAGE_NOTE not in featherseg.convert(tmp_path / "src", tmp_path / "out2").notes


def test_an_image_below_its_annotations_comes_before_one_of_its_name_elsewhere(tmp_path):
    path = coco(tmp_path / "src/batch2", [("car", [square(1, 1, 5, 5)])])
    (tmp_path / "src/batch2/pics").mkdir()
    path.with_name("a.png").rename(tmp_path / "src/batch2/pics/a.png")
    picture(tmp_path / "src/images/a.png")
    featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert (tmp_path / "out/images/a.png").samefile(tmp_path / "src/batch2/pics/a.png")


def test_an_image_found_by_less_than_its_name_is_noted(tmp_path):
    images = [{"id": 1, "file_name": "cam1/0001.png", "height": 20, "width": 30}]
    path = coco(tmp_path / "src", [("car", [square(1, 1, 5, 5)])], images=images)
    picture(tmp_path / "src/cam2/0001.png")
    done = featherseg.convert(path, tmp_path / "out")
    assert done.notes == [
        "1 image found by the end of the path alone, first: cam1/0001.png is cam2/0001.png"
    ]
    images[0]["file_name"] = "cam2/0001.png"
    coco(tmp_path / "src", [("car", [square(1, 1, 5, 5)])], images=images)
    assert featherseg.convert(path, tmp_path / "out2").notes == []


def label_studio(folder, data, rows):
    """A project of Label Studio with one task; of each result (type, value, more)."""
    results = [
        {"id": f"r{i}", "type": kind, "from_name": "tag", "to_name": "image", "value": value} | more
        for i, (kind, value, more) in enumerate(rows)
    ]
    sized = [row | {"original_height": SIZE[0], "original_width": SIZE[1]} for row in results]
    return write_json(folder / "project.json", [{"data": data, "annotations": [{"result": sized}]}])


CORNERS = {"points": [[10, 20], [30, 20], [30, 60]], "closed": True, "polygonlabels": ["car"]}


@pytest.mark.parametrize(
    ("data", "more"),
    [
        (
            {"image": "a.png", "right": "b.png"},
            {"to_name": "second"},
        ),  # a second region is of "image"
        ({"left": "a.png", "right": "b.png"}, {}),
        ({"image": ["a.png", "b.png"]}, {"item_index": 1}),
    ],
)
def test_a_task_of_several_images_is_left_out(data, more, tmp_path):
    for name in "ab":
        picture(tmp_path / f"src/{name}.png")
    rows = [
        ("polygonlabels", CORNERS, {} if "item_index" not in more else more),
        ("polygonlabels", CORNERS, more),
    ]
    label_studio(tmp_path / "src", data, rows)
    with pytest.raises(DataError, match="Label Studio"):
        featherseg.convert(tmp_path / "src", tmp_path / "out")


@pytest.mark.parametrize(
    "data",
    [
        {"time": "noon", "image": "a.png"},
        {"claim": "17", "photo": "a.png"},
        {"thumb": "b.png", "image": "a.png"},
        {"image2": "b.png", "image": "a.png"},
        {"image": "s3://bucket/a.png?signed=1"},
    ],
)
def test_the_image_of_a_task_is_what_ends_like_one(data, tmp_path):
    picture(tmp_path / "src/a.png")
    label_studio(tmp_path / "src", data, [("polygonlabels", CORNERS, {})])
    assert featherseg.convert(tmp_path / "src", tmp_path / "out").images == {"all": 1}


def test_an_uploaded_image_whose_name_several_files_have_is_called_so(tmp_path):
    for name in ("photos/a.png", "more/a.png"):
        picture(tmp_path / "src" / name)
    label_studio(
        tmp_path / "src",
        {"image": "/data/upload/1/1a2b3c4d-a.png"},
        [("polygonlabels", CORNERS, {})],
    )
    with pytest.raises(DataError, match="name several files have"):
        featherseg.convert(tmp_path / "src", tmp_path / "out")
    (tmp_path / "src/more/a.png").unlink()
    done = featherseg.convert(tmp_path / "src", tmp_path / "out", images=tmp_path / "src/photos")
    assert done.images == {"all": 1}


@pytest.mark.parametrize("kind", ["bitmasklabels", "vectorlabels"])
def test_areas_of_label_studio_that_cannot_be_drawn_leave_the_image_out(kind, tmp_path):
    picture(tmp_path / "src/a.png")
    rows = [("polygonlabels", CORNERS, {}), (kind, {"closed": True, kind: ["rust"]}, {})]
    label_studio(tmp_path / "src", {"image": "a.png"}, rows)
    with pytest.raises(DataError, match="egions of the type"):
        featherseg.convert(tmp_path / "src", tmp_path / "out")
    label_studio(
        tmp_path / "src",
        {"image": "a.png"},
        [rows[0], ("vectorlabels", {"vectorlabels": ["line"]}, {})],
    )
    assert featherseg.convert(tmp_path / "src", tmp_path / "out").classes == ["background", "car"]


def region(*labels):
    value = CORNERS | {"polygonlabels": list(labels)}
    return {
        "id": "r",
        "type": "polygonlabels",
        "from_name": "tag",
        "to_name": "image",
        "value": value,
    }


@pytest.mark.parametrize(
    ("annotations", "taken"),
    [
        (
            [
                {"result": [region("car")], "ground_truth": True},
                {"result": [region("road")]},
                {"result": []},
            ],
            "car",
        ),
        ([{"result": [region("car")]}, {"result": [region("road")]}, {"result": []}], "road"),
        ([{"result": [region("car")]}, {"result": [], "ground_truth": True}], None),
    ],
)
def test_of_several_annotations_of_label_studio_ground_truth_comes_first(
    annotations, taken, tmp_path
):
    picture(tmp_path / "src/a.png")
    write_json(
        tmp_path / "src/project.json", [{"data": {"image": "a.png"}, "annotations": annotations}]
    )
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.classes == ["background", *([taken] if taken else [])]
    assert bool(mask(tmp_path / "out").any()) == bool(taken)
    assert [
        note
        for note in done.notes
        if note.startswith("1 image with several annotations") and "a.png" in note
    ]


def test_further_labels_of_a_region_of_label_studio_are_told(tmp_path):
    picture(tmp_path / "src/a.png")
    task = {
        "data": {"image": "a.png"},
        "annotations": [{"result": [region("car", "damaged", "car ")]}],
    }
    write_json(tmp_path / "src/project.json", [task])
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.classes == ["background", "car"]
    reason = "further labels of a region, of which the first was taken: 'damaged'"
    assert done.left_out == {reason: (1, "a.png")}


@pytest.mark.parametrize("column", ["shapes", "categories"])
def test_columns_of_label_studio_may_be_called_as_keys_of_other_tools(column, tmp_path):
    picture(tmp_path / "src/a.png")
    label_studio(
        tmp_path / "src", {"image": "a.png", column: "street"}, [("polygonlabels", CORNERS, {})]
    )
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.classes == ["background", "car"]


def test_exports_of_label_studio_without_annotations_say_what_to_export(tmp_path):
    picture(tmp_path / "src/a.png")
    least = {
        "image": "a.png",
        "id": 1,
        "tag": [CORNERS],
        "annotator": 1,
        "annotation_id": 1,
        "lead_time": 2.5,
    }
    path = write_json(tmp_path / "src/project.json", [least])
    for asked in (None, "label-studio"):
        with pytest.raises(
            DataNotFound,
            match=r"Label Studio in JSON-MIN, which cannot be read\. Export JSON from there",
        ):
            featherseg.convert(path, tmp_path / "out", from_format=asked)
    task = {
        "data": {"image": "a.png"},
        "annotations": [],
        "predictions": [{"result": [region("car")]}],
    }
    write_json(path, [task, task])
    with pytest.raises(DataNotFound, match=r"2 tasks with predictions of a model alone.* Accept"):
        featherseg.convert(path, tmp_path / "out")


def test_alpha_masks_of_supervisely_leave_the_image_out(tmp_path):
    picture(tmp_path / "src/img/a.png")
    size = {"height": SIZE[0], "width": SIZE[1]}
    objects = [{"classTitle": "rust", "geometryType": "alpha_mask", "bitmap": {}}]
    write_json(tmp_path / "src/ann/a.png.json", {"size": size, "objects": objects})
    write_json(tmp_path / "src/meta.json", {"classes": [{"title": "rust", "shape": "alpha_mask"}]})
    with pytest.raises(DataError, match="bjects of the type 'alpha_mask'"):
        featherseg.convert(tmp_path / "src", tmp_path / "out")


TRIANGLE_OBJECT = {
    "geometryType": "polygon",
    "points": {"exterior": [[2, 2], [20, 2], [20, 15]], "interior": []},
}


def supervisely(folder, name, label="car", annotation="", **more):
    """An image of a dataset of Supervisely with one polygon, or the objects in `more`."""
    picture(folder / "img" / name)
    size = {"height": SIZE[0], "width": SIZE[1]}
    content = {
        "size": size,
        "tags": [],
        "objects": [TRIANGLE_OBJECT | {"classTitle": label}],
    } | more
    return write_json(folder / "ann" / (annotation or f"{name}.json"), content)


def test_tags_of_supervisely_that_are_called_as_splits_are_splits(tmp_path):
    tagged = {
        "a": ["train"],
        "b": ["sunny", "Validation"],
        "c": ["train", "test"],
        "d": ["test drive"],
    }
    for name, tags in tagged.items():
        supervisely(
            tmp_path / "src/ds", f"{name}.png", tags=[{"name": tag, "value": None} for tag in tags]
        )
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.images == {"train": 2, "val": 1, "test": 1}
    assert (tmp_path / "out/masks/val/b.png").is_file()
    (tmp_path / "src/ds").rename(tmp_path / "src/test")  # folders come first
    assert featherseg.convert(tmp_path / "src", tmp_path / "again").images == {"test": 4}


def test_classes_of_supervisely_that_cover_no_area_are_none(tmp_path):
    supervisely(tmp_path / "src/ds", "a.png")
    shapes = {
        "lane": "line",
        "car": "polygon",
        "knee": "graph",
        "tree": "any",
        "rust": "alpha_mask",
        "old": None,
    }
    classes = [{"title": title, "shape": shape} for title, shape in shapes.items()]
    write_json(tmp_path / "src/meta.json", {"classes": classes})
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.classes == ["background", "car", "tree", "rust", "old"]


def test_annotations_of_supervisely_may_lack_the_ending_of_their_image(tmp_path):
    supervisely(tmp_path / "src/ds", "a.png", annotation="a.json")
    supervisely(tmp_path / "src/ds", "b.png", annotation="b.json")
    picture(tmp_path / "src/ds/img/b.jpg")
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.images == {"all": 1}
    assert done.left_out["images whose name several files have"] == (1, "b")
    supervisely(tmp_path / "src/ds", "b.jpg")  # the other has one of its own
    assert featherseg.convert(tmp_path / "src", tmp_path / "again").images == {"all": 3}


@pytest.mark.parametrize("named", ["ds", "ds/ann/a.png.json"])
def test_a_dataset_of_supervisely_takes_the_classes_of_its_project(named, tmp_path):
    supervisely(tmp_path / "src/ds", "a.png", "car")
    write_json(tmp_path / "src/meta.json", {"classes": [{"title": "road"}, {"title": "car"}]})
    done = featherseg.convert(tmp_path / "src" / named, tmp_path / "out")
    assert done.classes == ["background", "road", "car"]
    assert any("src/meta.json" in note for note in done.notes)
    with zipfile.ZipFile(
        tmp_path / "src/ds.zip", "w"
    ) as archive:  # unpacked beside OUT, which says nothing of it
        for path in (tmp_path / "src/ds").rglob("*.*"):
            archive.write(path, path.relative_to(tmp_path / "src/ds"))
    assert featherseg.convert(tmp_path / "src/ds.zip", tmp_path / "src/out").classes == [
        "background",
        "car",
    ]
    write_json(tmp_path / "src/ds/meta.json", {"classes": [{"title": "car"}, {"title": "tree"}]})
    assert featherseg.convert(tmp_path / "src" / named, tmp_path / "own").classes == [
        "background",
        "car",
        "tree",
    ]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_bitmaps_of_supervisely_with_alpha_are_read_by_it(mode, tmp_path):
    bitmap = np.full((4, 6, len(mode)), 255, np.uint8)
    bitmap[:, :3, -1] = 0
    file = BytesIO()
    Image.fromarray(bitmap).save(file, "PNG")
    data = base64.b64encode(zlib.compress(file.getvalue())).decode()
    row = {
        "classTitle": "car",
        "geometryType": "bitmap",
        "bitmap": {"data": data, "origin": [5, 2]},
    }
    supervisely(tmp_path / "src", "a.png", objects=[row])
    featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert np.argwhere(mask(tmp_path / "out")).tolist() == [
        [y, x] for y in range(2, 6) for x in range(8, 11)
    ]
