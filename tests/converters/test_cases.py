"""Real exports beside clean shapes: order, holes, borders, names, sizes, EXIF, splits."""

import base64
import json
import tomllib
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.annotation_sources import (
    SIZE,
    box,
    coco,
    cvat,
    labelme,
    mask,
    picture,
    polygon,
    square,
    turned,
    write_json,
)

import featherseg
from featherseg.converters.annotations import EmptyShape
from featherseg.converters.run_lengths import region_of_counts
from featherseg.core.errors import DataError
from featherseg.data import open_dataset


def test_of_shapes_that_overlap_the_later_lies_on_top(tmp_path):
    big, small = square(2, 2, 20, 18), square(5, 5, 12, 12)
    for order, inner in (
        ((("road", big), ("car", small)), 1),
        ((("car", small), ("road", big)), None),
    ):
        out = tmp_path / f"out-{inner}"
        featherseg.convert(
            coco(tmp_path / f"src-{inner}", [(n, [s]) for n, s in order]).parent, out
        )
        assert box(mask(out), 1) == (5, 5, 12, 12) if inner else not (mask(out) == 1).any()


def test_colours_of_coco_annotator_are_kept_and_black_is_not(tmp_path):
    rows = [("weed", "#ff00aa"), ("crop", [1, 2, 3]), ("soil", "#000000"), ("root", "red")]
    categories = [{"id": i, "name": n, "color": c} for i, (n, c) in enumerate(rows, start=1)]
    shapes = [(name, [square(2, 2, 9, 9)]) for name, _ in rows]
    names = tuple(name for name, _ in rows)
    featherseg.convert(
        coco(tmp_path / "src", shapes, names, categories=categories).parent, tmp_path / "out"
    )
    toml = tomllib.loads((tmp_path / "out/dataset.toml").read_text(encoding="utf-8"))
    assert toml["classes"] == {
        "background": "#000000",
        "weed": "#ff00aa",
        "crop": "#010203",
        "soil": "#d55e00",
        "root": "#56b4e9",
    }


def test_z_order_of_cvat_decides_before_the_order_of_the_file(tmp_path):
    shape = '<polygon label="{}" points="{}" z_order="{}" occluded="0"/>'
    inside = shape.format("car", "5,5;12,5;12,12;5,12", 3) + shape.format(
        "road", "2,2;20,2;20,18;2,18", -1
    )
    featherseg.convert(cvat(tmp_path / "src", inside).parent, tmp_path / "out")
    assert box(mask(tmp_path / "out"), 1) == (5, 5, 12, 12)
    assert (mask(tmp_path / "out") == 2).sum() == 16 * 18 - 49


def test_a_pixel_of_coco_and_cvat_covers_a_half_open_square_and_one_of_labelme_its_middle(tmp_path):
    featherseg.convert(
        coco(tmp_path / "coco", [("car", [square(3, 4, 10, 9)])]).parent, tmp_path / "a"
    )
    corners = "3,4;10,4;10,9;3,9"
    featherseg.convert(
        cvat(tmp_path / "cvat", f'<polygon label="car" points="{corners}"/>').parent, tmp_path / "b"
    )
    picture(tmp_path / "labelme/a.png")
    featherseg.convert(
        labelme(tmp_path / "labelme", [polygon("car", *square(3, 4, 10, 9))]).parent, tmp_path / "c"
    )
    assert box(mask(tmp_path / "a"), 1) == box(mask(tmp_path / "b"), 1) == (4, 3, 9, 10)
    assert box(mask(tmp_path / "c"), 1) == (4, 3, 10, 11)


def test_holes_stay_holes(tmp_path):
    inside = np.zeros(SIZE, bool)
    inside[3:15, 4:20] = True
    inside[6:9, 8:12] = False
    flat = inside.ravel(order="F").astype(int)
    counts = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]).tolist()
    featherseg.convert(
        coco(tmp_path / "coco", [("car", {"size": list(SIZE), "counts": counts})]).parent,
        tmp_path / "a",
    )
    rows = np.diff(
        [0, *(np.flatnonzero(np.diff(inside[3:15, 4:20].ravel().astype(int))) + 1), 12 * 16]
    ).tolist()
    rle = ", ".join(map(str, [0, *rows]))
    xml = f'<mask label="car" rle="{rle}" left="4" top="3" width="16" height="12" z_order="0"/>'
    featherseg.convert(cvat(tmp_path / "cvat", xml).parent, tmp_path / "b")
    for out in ("a", "b"):
        assert ((mask(tmp_path / out) == 1) == inside).all()


def test_what_lies_beyond_the_border_is_cut_off(tmp_path):
    shapes = [("road", [square(-50, 12, 900, 70)]), ("car", [square(40, 40, 60, 60)])]
    done = featherseg.convert(coco(tmp_path / "src", shapes).parent, tmp_path / "out")
    assert box(mask(tmp_path / "out"), 2) == (12, 0, 20, 30)
    assert list(done.left_out) == ["shapes that cover no pixel of their image"]
    xml = '<mask label="car" rle="0, 48" left="26" top="-2" width="8" height="6" z_order="0"/>'
    featherseg.convert(cvat(tmp_path / "cvat", xml).parent, tmp_path / "b")
    assert box(mask(tmp_path / "b"), 1) == (0, 26, 4, 30)


def test_two_categories_of_one_name_are_one_class_and_ids_may_have_gaps(tmp_path):
    path = coco(tmp_path / "src", [])
    categories = [{"id": 900, "name": "car"}, {"id": 3, "name": "road"}, {"id": 41, "name": "car "}]
    annotations = [
        {
            "id": i,
            "image_id": 1,
            "category_id": category,
            "segmentation": [square(8 * i, 2, 8 * i + 6, 8)],
        }
        for i, category in enumerate((900, 3, 41))
    ]
    images = [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}]
    write_json(path, {"images": images, "categories": categories, "annotations": annotations})
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.classes == ["background", "car", "road"]
    assert mask(tmp_path / "out")[4, [3, 11, 19]].tolist() == [1, 2, 1]
    assert "2 categories of coco.json are called 'car': they are one class" in done.notes


def test_the_name_of_a_roboflow_project_is_no_class(tmp_path):
    path = coco(tmp_path / "src/train", [])
    path.rename(path.with_name("_annotations.coco.json"))
    content = {
        "info": {"description": "Exported from roboflow.ai"},
        "licenses": [{"id": 1, "name": "CC BY 4.0"}],
        "categories": [
            {"id": 0, "name": "dogs-ab1c", "supercategory": "none"},
            {"id": 1, "name": "dog", "supercategory": "dogs-ab1c"},
        ],
        "images": [{"id": 0, "license": 1, "file_name": "a.png", "height": 20, "width": 30}],
        "annotations": [
            {
                "id": 0,
                "image_id": 0,
                "category_id": 1,
                "segmentation": [square(1, 1, 5, 5)],
                "iscrowd": 0,
            }
        ],
    }
    write_json(path.with_name("_annotations.coco.json"), content)
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.classes == ["background", "dog"]
    assert tomllib.loads((tmp_path / "out/dataset.toml").read_text())["licence"] == "CC BY 4.0"


@pytest.mark.parametrize("orientation", range(2, 9))
def test_shapes_lie_on_the_image_as_it_is_seen(orientation, tmp_path):
    """The size that is stated tells the image as it is stored from the image as it is seen."""
    seen = SIZE if orientation < 5 else SIZE[::-1]
    turned(tmp_path / "src/a.jpg", orientation)
    stated = {"imageHeight": seen[0], "imageWidth": seen[1]}
    labelme(tmp_path / "src", [polygon("car", *square(2, 3, 6, 5))], "a.jpg", **stated)
    featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert box(mask(tmp_path / "out"), 1) == (3, 2, 6, 7)
    sample = open_dataset(str(tmp_path / "out/dataset.toml"), "train")[0]
    assert sample.image.shape[:2] == sample.label.shape == seen


def test_shapes_of_the_image_as_it_is_stored_are_turned_with_it(tmp_path):
    stored = np.zeros((*SIZE, 3), np.uint8)
    stored[4:9, 3:12] = 255  # what the shape is drawn around
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "src").mkdir()
    Image.fromarray(stored).save(tmp_path / "src/a.png", exif=exif)
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [square(3, 4, 12, 9)]}
        ],
    }
    write_json(tmp_path / "src/coco.json", content)
    featherseg.convert(tmp_path / "src", tmp_path / "out")
    sample = open_dataset(str(tmp_path / "out/dataset.toml"), "train")[0]
    assert sample.image.shape[:2] == SIZE[::-1]
    assert ((sample.image[:, :, 0] == 255) == (sample.label == 1)).all()
    assert (sample.instances > 0).sum() == 45


def test_an_image_that_is_listed_twice_has_the_shapes_of_both(tmp_path):
    path = coco(tmp_path / "src", [])
    images = [{"id": i, "file_name": "a.png", "height": 20, "width": 30} for i in (1, 2)]
    shapes = [
        {"id": i, "image_id": i, "category_id": 1, "segmentation": [square(8 * i, 2, 8 * i + 6, 8)]}
        for i in (1, 2)
    ]
    write_json(
        path, {"images": images, "categories": [{"id": 1, "name": "car"}], "annotations": shapes}
    )
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert mask(tmp_path / "out")[4, [10, 18]].tolist() == [1, 1]
    assert (
        "further entries of an image that is listed twice (their shapes were joined)"
        in done.left_out
    )


def test_images_of_one_name_in_two_folders_are_two(tmp_path):
    for folder, left in (("x", 2), ("y", 12)):
        picture(tmp_path / f"src/{folder}/a.png")
        labelme(tmp_path / f"src/{folder}", [polygon("car", *square(left, 2, left + 5, 8))])
    featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert box(mask(tmp_path / "out", "x/a"), 1)[1] == 2
    assert box(mask(tmp_path / "out", "y/a"), 1)[1] == 12


def test_images_of_one_stem_get_names_of_their_own(tmp_path):
    for ending in ("png", "jpg"):
        picture(tmp_path / f"src/a.{ending}")
    for ending in ("png", "jpg"):
        labelme(tmp_path / "src", [polygon("car", *square(2, 2, 7, 8))], f"a.{ending}").rename(
            tmp_path / f"src/a_{ending}.json"
        )
    featherseg.convert(tmp_path / "src", tmp_path / "out")
    images = sorted(path.name for path in (tmp_path / "out/images").iterdir())
    masks = sorted(path.name for path in (tmp_path / "out/masks").iterdir())
    assert sorted(name.partition(".")[0] for name in images) == sorted(
        name.removesuffix(".png") for name in masks
    )
    assert len(masks) == 2


def test_missing_images_are_named_and_the_others_converted(tmp_path):
    path = coco(tmp_path / "src", [("car", [square(1, 1, 5, 5)])])
    content = json.loads(path.read_text())
    content["images"] += [{"id": 2, "file_name": "gone.png", "height": 20, "width": 30}]
    write_json(path, content)
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.left_out == {"images that are not there": (1, "gone.png")}
    assert done.images == {"all": 1}


def test_images_that_nobody_annotated_are_counted(tmp_path):
    """In labelme such an image has no file, and is left out; in YOLO it is all background."""
    names = [picture(tmp_path / f"src/{name}.png").name for name in "abc"]
    labelme(tmp_path / "src", [polygon("car", *square(2, 3, 6, 5))], names[0])
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.left_out == {"images that no annotation names": (2, "b.png")}
    assert done.images == {"all": 1}

    for name in "ab":
        picture(tmp_path / f"yolo/images/{name}.png")
    (tmp_path / "yolo/labels").mkdir()
    (tmp_path / "yolo/labels/a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (tmp_path / "yolo/data.yaml").write_text("names: [car]\n")
    done = featherseg.convert(tmp_path / "yolo", tmp_path / "out-yolo")
    assert (
        done.notes[0]
        == "images without a label are all background, as in YOLO: 1, first images/b.png"
    )
    assert done.images == {"all": 2}


def test_an_image_inside_a_labelme_file_is_written_out(tmp_path):
    path = picture(tmp_path / "elsewhere/a.png")
    inside = base64.b64encode(path.read_bytes()).decode()
    labelme(
        tmp_path / "src", [polygon("car", *square(2, 3, 6, 5))], "../../a.png", imageData=inside
    )
    featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert (tmp_path / "out/images/a.png").read_bytes() == path.read_bytes()


def test_paths_of_another_machine_find_the_image_of_that_name(tmp_path):
    picture(tmp_path / "src/pictures/a.png")
    labelme(
        tmp_path / "src/json", [polygon("car", *square(2, 3, 6, 5))], "C:\\Users\\me\\data\\a.png"
    )
    assert featherseg.convert(tmp_path / "src", tmp_path / "out").images == {"all": 1}


def test_classes_to_ignore_and_background_keep_their_meaning(tmp_path):
    picture(tmp_path / "src/a.png")
    shapes = [
        polygon("road", *square(0, 0, 29, 19)),
        polygon("__ignore__", *square(2, 2, 5, 5)),
        polygon("_background_", *square(10, 2, 15, 5)),
    ]
    labelme(tmp_path / "src", shapes)
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.classes == ["_background_", "road"]
    assert mask(tmp_path / "out")[3, [3, 12, 20]].tolist() == [255, 0, 1]
    assert not np.array(Image.open(tmp_path / "out/instances/a.png"))[3, [3, 12]].any()


def test_no_background_where_every_pixel_has_a_shape(tmp_path):
    done = featherseg.convert(
        coco(tmp_path / "src", [("road", [square(0, 0, 30, 20)])]).parent, tmp_path / "out"
    )
    assert done.classes == ["car", "road"]
    assert tomllib.loads((tmp_path / "out/dataset.toml").read_text())["map"] == {
        "1": "car",
        "2": "road",
    }


def test_train_alone_gets_a_validation_part(tmp_path):
    for number in range(12):
        picture(tmp_path / f"src/train/{chr(97 + number)}.png")
        path = labelme(
            tmp_path / "src/train", [polygon("car", *square(2, 3, 6, 5))], f"{chr(97 + number)}.png"
        )
        path.rename(path.with_name(f"{number}.json"))
    featherseg.convert(tmp_path / "src", tmp_path / "out")
    splits = {
        name: open_dataset(str(tmp_path / "out/dataset.toml"), name).keys
        for name in ("train", "val")
    }
    assert splits["val"]
    assert len(splits["train"]) + len(splits["val"]) == 12


def test_an_image_of_two_splits_stays_in_test(tmp_path):
    picture(tmp_path / "src/images/a.png")
    picture(tmp_path / "src/images/b.png")
    for split in ("train", "test"):
        rows = [
            {"id": i, "file_name": f"{n}.png", "height": 20, "width": 30}
            for i, n in enumerate("ab")
        ]
        rows = rows if split == "train" else rows[:1]
        shapes = [{"id": 1, "image_id": 0, "category_id": 1, "segmentation": [square(1, 1, 5, 5)]}]
        content = {"images": rows, "categories": [{"id": 1, "name": "car"}], "annotations": shapes}
        write_json(tmp_path / f"src/annotations/instances_{split}.json", content)
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.images == {"test": 1, "train": 1}
    assert done.left_out["images of two splits (kept in test)"] == (1, "a.png")


def test_yaml_in_the_forms_that_tools_write(tmp_path):
    from featherseg.converters.yolo import read_yaml

    forms = {
        "train: ../train/images\nval: ../valid/images\n\n"
        "nc: 2\nnames: ['traffic light', \"car\"]\n": "roboflow",
        "path: .\ntrain: images/train # 128 images\n"
        "names:\n  0: traffic light\n  1: car\n": "ultralytics",
        "names:\n- traffic light\n- car\nnc: 2\n"
        "roboflow:\n  license: CC BY 4.0\n  version: 1\n": "a list",
        "names: {0: traffic light, 1: 'car'}\n": "in braces",
        "names: [traffic light,\n  car]\n": "two lines",
    }
    for text, form in forms.items():
        (tmp_path / "data.yaml").write_text(text)
        assert read_yaml(tmp_path / "data.yaml")["names"] == ["traffic light", "car"], form
    for text in ("names: [a]\n!!python/object:os.system ls\n", "names:\n  0: a\n  2: b\n"):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(DataError):
            read_yaml(tmp_path / "data.yaml")


def test_a_cvat_export_of_masks_is_read_by_its_labelmap(tmp_path):
    picture(tmp_path / "src/JPEGImages/a.jpg")
    colors = np.zeros((*SIZE, 3), np.uint8)
    colors[2:9, 3:12] = (250, 50, 83)
    for folder in ("SegmentationClass", "SegmentationObject"):
        (tmp_path / "src" / folder).mkdir()
        Image.fromarray(colors).save(tmp_path / f"src/{folder}/a.png")
    lines = (
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:250,50,83::\nroad:10,20,30::\n"
    )
    (tmp_path / "src/labelmap.txt").write_text(lines)
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.classes == ["background", "car", "road"]
    assert box(mask(tmp_path / "out"), 1) == (2, 3, 9, 12)
    toml = tomllib.loads((tmp_path / "out/dataset.toml").read_text())
    assert toml["classes"] == {"background": "#000000", "car": "#fa3253", "road": "#0a141e"}


def test_masks_of_pascal_voc_are_indices_and_255_is_ignored(tmp_path):
    picture(tmp_path / "src/JPEGImages/2007_000001.jpg")
    values = np.zeros(SIZE, np.uint8)
    values[2:9, 3:12], values[10:, :] = 15, 255
    image = Image.fromarray(values)
    image.putpalette(bytes(range(256)) * 3)
    (tmp_path / "src/SegmentationClass").mkdir()
    image.save(tmp_path / "src/SegmentationClass/2007_000001.png")
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert len(done.classes) == 21
    assert done.classes[15] == "person"
    assert [
        note
        for note in done.notes
        if note.startswith("no labelmap.txt or class_names.txt names the classes")
    ]
    found = mask(tmp_path / "out", "2007_000001")
    assert box(found, 15) == (2, 3, 9, 12)
    assert (found[10:] == 255).all()


def test_colours_without_a_list_are_classes_of_their_own(tmp_path):
    picture(tmp_path / "src/images/a.png")
    colors = np.zeros((*SIZE, 3), np.uint8)
    colors[2:9, 3:12], colors[12:, :] = (255, 0, 0), (0, 128, 0)
    (tmp_path / "src/masks").mkdir()
    Image.fromarray(colors).save(tmp_path / "src/masks/a.png")
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.classes == ["background", "class_008000", "class_ff0000"]
    assert box(mask(tmp_path / "out"), 2) == (2, 3, 9, 12)


def test_a_mask_takes_no_image_of_another_split_and_neither_of_two_as_near(tmp_path):
    colors = np.zeros((*SIZE, 3), np.uint8)
    colors[2:9, 3:12] = (255, 0, 0)
    for folder in ("train/masks", "val/masks"):
        (tmp_path / "src" / folder).mkdir(parents=True)
        Image.fromarray(colors).save(tmp_path / "src" / folder / "a.png")
    picture(tmp_path / "src/train/images/a.jpg")  # none of val is there
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert (done.images, done.left_out) == ({"all": 1}, {"images that are not there": (1, "a.jpg")})
    picture(tmp_path / "src/val/left/a.jpg")
    picture(tmp_path / "src/val/right/a.jpg")
    done = featherseg.convert(tmp_path / "src", tmp_path / "out2")
    assert done.images == {"all": 1}
    assert list(done.left_out) == [
        "images whose name several files have",
        "images that no annotation names",
    ]


def test_the_image_inside_a_labelme_file_comes_before_one_of_its_name_elsewhere(tmp_path):
    Image.new("RGB", SIZE[::-1], (200, 0, 0)).save(tmp_path / "red.png")
    inside = base64.b64encode((tmp_path / "red.png").read_bytes()).decode()
    labelme(tmp_path / "src/day2", [polygon("car", *square(3, 4, 10, 9))], imageData=inside)
    picture(tmp_path / "src/day1/a.png")
    featherseg.convert(tmp_path / "src", tmp_path / "out")
    with Image.open(tmp_path / "out/images/a.png") as image:
        assert image.convert("RGB").getpixel((0, 0)) == (200, 0, 0)


def test_images_may_lie_in_another_folder(tmp_path):
    path = coco(tmp_path / "src", [("car", [square(1, 1, 5, 5)])])
    (tmp_path / "photos/day").mkdir(parents=True)
    (tmp_path / "src/a.png").rename(tmp_path / "photos/day/a.png")
    with pytest.raises(DataError, match="--images"):
        featherseg.convert(path, tmp_path / "out")
    done = featherseg.convert(path, tmp_path / "out", images=tmp_path / "photos")
    assert done.images == {"all": 1}
    assert box(mask(tmp_path / "out"), 1) == (1, 1, 5, 5)
    assert (tmp_path / "out/images/a.png").samefile(tmp_path / "photos/day/a.png")


@pytest.mark.parametrize("inside", [True, False])
def test_images_of_a_folder_that_lies_in_the_source_or_around_it_are_counted_once(
    inside, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": i, "file_name": f"/away/{n}.png", "height": 20, "width": 30}
        for i, n in enumerate("ab", 1)
    ]
    coco(tmp_path / "p", [("car", [square(1, 1, 5, 5)])], images=rows)
    (tmp_path / "p/a.png").unlink()
    for name in "ab":
        picture(tmp_path / f"p/images/{name}.png")
    given = tmp_path / "p/images" if inside else tmp_path  # by another spelling than SRC
    assert featherseg.convert("p", "out", images=given).images == {"all": 2}
    (tmp_path / "p/data.yaml").write_text("names: [car]\n")
    (tmp_path / "p/labels").mkdir()
    (tmp_path / "p/labels/a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    assert featherseg.convert("p/data.yaml", "yolo", images="p/images").images == {"all": 2}


def test_large_files_whose_ends_tell_no_tool_are_told_by_their_keys(tmp_path):
    """As in Label Studio's COCO (images, categories, annotations) and labelme's sorted keys."""
    path = coco(tmp_path / "coco", [])
    content = json.loads(path.read_text())
    content["images"] += [
        {"id": i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in range(2, 400)
    ]
    ring = square(3, 4, 10, 9)[:4] + [10.0, 9.0] * 2000 + [3.0, 9.0]
    shape = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [ring], "iscrowd": 0}
    path.write_text(
        json.dumps(
            {key: content[key] for key in ("images", "categories")} | {"annotations": [shape]}
        )
    )
    small = coco(tmp_path / "coco/val", [("car", [square(3, 4, 10, 9)])])
    picture(tmp_path / "labelme/a.png")
    corners = [3, 4, 9, 9, *[3, 9] * 2000]
    shapes = [
        {"shape_type": "polygon", "label": "car", "points": np.reshape(corners, (-1, 2)).tolist()}
    ]
    content = {"imageData": "A" * 9000, "imagePath": "a.png", "shapes": shapes, "version": "5.0"}
    other = write_json(tmp_path / "labelme/a.json", content)
    for number, (src, name) in enumerate(
        ((path, "coco"), (path, None), (other, "labelme"), (other.parent, None))
    ):
        featherseg.convert(src, tmp_path / f"out{number}", from_format=name)
        assert (mask(tmp_path / f"out{number}")[5:9, 4] == 1).all()
    done = featherseg.convert(small.parents[1], tmp_path / "both")
    assert done.images == {"train": 1, "val": 1}


@pytest.mark.parametrize(("on_disk", "in_file"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_an_accent_in_a_name_is_one_character_or_two_alike(on_disk, in_file, tmp_path):
    there, named = (unicodedata.normalize(form, "Kälber") for form in (on_disk, in_file))
    for name in (
        f"coco/Süd/{there}.png",
        f"voc/JPEGImages/{there}.jpg",
        f"yolo/images/{there}.png",
    ):
        picture(tmp_path / name)
    for number, name in enumerate((f"{named}.png", f"/away/{named.upper()}.png")):
        rows = [{"id": 1, "file_name": name, "height": 20, "width": 30}]
        path = coco(tmp_path / "coco", [("car", [square(1, 1, 5, 5)])], images=rows)
        done = featherseg.convert(path, tmp_path / f"out{number}")
        assert [p.name for p in (tmp_path / f"out{number}/images").iterdir()] == [f"{there}.png"]
    (tmp_path / "yolo/labels").mkdir()
    (tmp_path / f"yolo/labels/{named}.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (tmp_path / "yolo/data.yaml").write_text("names: [car]\n")
    assert featherseg.convert(tmp_path / "yolo", tmp_path / "out-yolo").notes == []
    (tmp_path / "voc/SegmentationClass").mkdir()
    Image.fromarray(np.full(SIZE, 1, np.uint8)).save(
        tmp_path / f"voc/SegmentationClass/{named}.png"
    )
    done = featherseg.convert(tmp_path / "voc", tmp_path / "out-voc")
    assert (done.images, done.left_out) == ({"all": 1}, {})


def test_many_images_of_one_name_are_found_without_comparing_each_with_all(tmp_path, monkeypatch):
    from featherseg.converters import rasters
    from featherseg.converters.source import Source

    compared = []
    folders, below = rasters._folders, Path.is_relative_to
    monkeypatch.setattr(rasters, "_folders", lambda path: (compared.append(path), folders(path))[1])
    monkeypatch.setattr(
        Path, "is_relative_to", lambda path, other: (compared.append(path), below(path, other))[1]
    )
    scenes = [tmp_path / f"scene_{number}" for number in range(60)]
    for scene in scenes:
        for name in ("rgb/1.png", "masks/1.png"):
            (scene / name).parent.mkdir(parents=True)
            (scene / name).touch()
    source = Source(tmp_path)
    stems = rasters.Stems(source, {path for path in source.images if path.parent.name == "masks"})
    for scene in scenes:
        image = scene / "rgb/1.png"
        assert stems.image_of(scene / "masks/1.png", "") == image
        assert source.find_image(f"C:\\away\\{scene.name}\\rgb\\1.png", tmp_path) == (
            image,
            "by the end of its path",
        )
        assert source.find_image("rgb/1.png", scene / "json") == (
            None,
            "images whose name several files have",
        )
        assert source.find_image("1.png", scene / "rgb") == (image, "")
    assert len(compared) < 20 * len(scenes)


def test_a_second_conversion_passes_over_what_the_first_wrote(tmp_path):
    path = coco(tmp_path / "src", [("car", [square(1, 1, 5, 5)])])
    featherseg.convert(path.parent, path.parent / "out")
    assert featherseg.convert(path.parent, path.parent / "out2").images == {"all": 1}
    with pytest.raises(DataError, match="is a dataset already"):
        featherseg.convert(path.parent / "out", tmp_path / "again")


def test_objects_of_pascal_voc_are_told_apart(tmp_path):
    picture(tmp_path / "src/JPEGImages/a.jpg")
    for folder, (left, right) in (("SegmentationClass", (7, 7)), ("SegmentationObject", (1, 2))):
        values = np.zeros(SIZE, np.uint8)
        values[2:9, 3:12], values[2:9, 12:20], values[2:9, 20] = left, right, 255
        image = Image.fromarray(values)
        image.putpalette([c for index in range(256) for c in voc_color(index)])
        (tmp_path / "src" / folder).mkdir()
        image.save(tmp_path / f"src/{folder}/a.png")
    featherseg.convert(tmp_path / "src", tmp_path / "out")
    objects = np.array(Image.open(tmp_path / "out/instances/a.png"))
    assert len(np.unique(objects[2:9, 3:12])) == len(np.unique(objects[2:9, 12:20])) == 1
    assert objects[4, 5] != objects[4, 15]
    assert objects[4, [5, 15]].all()
    assert not objects[4, 20]
    assert mask(tmp_path / "out")[4, [5, 15, 20]].tolist() == [7, 7, 255]


def voc_color(index: int) -> list[int]:
    """Return an entry of the VOC devkit's palette: index bits dealt to red, green, blue in turn."""
    return [
        sum((index >> (3 * bit + band) & 1) << (7 - bit) for bit in range(3)) for band in range(3)
    ]


def test_the_parts_of_a_group_are_one_object(tmp_path):
    picture(tmp_path / "src/a.png")
    parts = [
        polygon("car", *square(x, 2, x + 4, 8)) | {"group_id": group}
        for x, group in ((2, 7), (10, 7), (20, None))
    ]
    labelme(tmp_path / "src", parts)
    featherseg.convert(tmp_path / "src", tmp_path / "out")
    objects = np.array(Image.open(tmp_path / "out/instances/a.png"))
    left, middle, right = objects[4, [3, 11, 21]].tolist()
    assert left == middle != right


def test_a_source_named_from_where_one_stands_is_read_alike(tmp_path, monkeypatch):
    for split, left in (("train", 2), ("valid", 9)):
        picture(tmp_path / f"ds/{split}/images/a.png")
        (tmp_path / f"ds/{split}/labels").mkdir()
        corners = np.reshape(square(left, 4, left + 6, 10), (-1, 2)) / SIZE[::-1]
        line = " ".join(f"{number:.6f}" for number in corners.ravel())
        (tmp_path / f"ds/{split}/labels/a.txt").write_text(f"0 {line}\n")
        colors = np.zeros((*SIZE, 3), np.uint8)
        colors[4:10, left : left + 6] = 200
        (tmp_path / f"rgb/{split}/masks").mkdir(parents=True)
        Image.fromarray(colors).save(tmp_path / f"rgb/{split}/masks/a.png")
        picture(tmp_path / f"rgb/{split}/images/a.png")
    (tmp_path / "ds/data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\nnames: ['car']\n"
    )
    monkeypatch.chdir(tmp_path)
    for src, out in (("ds", "a"), ("rgb", "b")):
        assert featherseg.convert(src, out).images == {"train": 1, "val": 1}
        assert box(mask(tmp_path / out, "train/a"), 1) == (4, 2, 10, 8)
        assert box(mask(tmp_path / out, "val/a"), 1) == (4, 9, 10, 15)
    monkeypatch.chdir(tmp_path / "ds")
    assert featherseg.convert(".", "../c").images == {"train": 1, "val": 1}


def test_an_annotation_of_an_image_that_is_missing_goes_onto_no_other(tmp_path):
    path = coco(tmp_path / "src", [])
    (tmp_path / "src/a.png").unlink()
    picture(tmp_path / "src/cam2/0001.png")
    images = [{"id": i, "file_name": f"cam{i}/0001.png", "height": 20, "width": 30} for i in (1, 2)]
    corners = {1: square(2, 2, 9, 9), 2: square(12, 3, 20, 10)}
    shapes = [
        {"id": i, "image_id": i, "category_id": 1, "segmentation": [corners[i]]} for i in (1, 2)
    ]
    write_json(
        path, {"images": images, "categories": [{"id": 1, "name": "car"}], "annotations": shapes}
    )
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert box(mask(tmp_path / "out", "0001"), 1) == (3, 12, 10, 20)
    assert list(done.left_out) == ["images that are not there"]


def test_lists_of_yolo_are_splits(tmp_path):
    for name in ("a", "b", "c"):
        picture(tmp_path / f"yolo/images/{name}.png")
    (tmp_path / "yolo/labels").mkdir()
    (tmp_path / "yolo/labels/a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (tmp_path / "yolo/autosplit_train.txt").write_text("./images/a.png\n./images/b.png\n")
    (tmp_path / "yolo/autosplit_val.txt").write_text("/home/else/yolo/images/c.png\n")
    (tmp_path / "yolo/data.yaml").write_text(
        "names: [car]\ntrain: autosplit_train.txt\nval: autosplit_val.txt\n"
    )
    featherseg.convert(tmp_path / "yolo", tmp_path / "out")
    assert sorted(open_dataset(str(tmp_path / "out"), "val").keys) == ["val/c"]
    assert sorted(open_dataset(str(tmp_path / "out"), "train").keys) == ["train/a", "train/b"]


def test_boxes_and_images_that_nothing_names_are_counted_and_named(tmp_path):
    path = coco(tmp_path / "src", [("car", [square(2, 3, 6, 5)]), ("road", [])])
    content = json.loads(path.read_text())
    content["images"] += [{"id": 2, "file_name": "b.png", "height": 20, "width": 30}]
    content["annotations"] += [{"id": 9, "image_id": 2, "category_id": 2, "bbox": [1, 1, 5, 5]}]
    write_json(path, content)
    picture(tmp_path / "src/b.png")
    picture(tmp_path / "src/new.png")
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.images == {"all": 2}
    assert done.left_out == {
        "boxes without a segmentation": (2, "a.png"),
        "images that no annotation names": (1, "new.png"),
    }
    assert done.notes == []  # b has an annotation, if only a box
    picture(tmp_path / "src/holiday/beach.png")  # what lies around a file is not part of its export
    assert featherseg.convert(path, tmp_path / "out-2").left_out == done.left_out


def test_names_in_a_zip_are_utf8_also_where_it_does_not_say_so(tmp_path):
    path = coco(tmp_path / "src", [("car", [square(2, 3, 6, 5)])])
    path.write_text(path.read_text().replace("a.png", "Größe.png"))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, file in (("coco.json", path), ("Groesse.png", tmp_path / "src/a.png")):
            archive.write(file, name)
    packed = (tmp_path / "x.zip").read_bytes()
    assert len("Größe.png".encode()) == len("Groesse.png")
    (tmp_path / "x.zip").write_bytes(packed.replace(b"Groesse.png", "Größe.png".encode()))
    featherseg.convert(tmp_path / "x.zip", tmp_path / "out")
    assert (mask(tmp_path / "out", "Größe") == 1).any()


def test_one_flat_list_of_numbers_is_one_polygon(tmp_path):
    for number, segmentation in enumerate((square(2, 3, 6, 9), [square(2, 3, 6, 9)])):
        featherseg.convert(
            coco(tmp_path / f"{number}", [("car", segmentation)]).parent, tmp_path / f"out{number}"
        )
    assert np.array_equal(mask(tmp_path / "out0"), mask(tmp_path / "out1"))


def test_uploads_of_label_studio_are_found_under_the_names_that_they_had(tmp_path):
    """Its COCO export names them so; spaces and brackets were taken out when they were uploaded."""
    path = coco(tmp_path / "src", [("car", [square(2, 3, 6, 5)])])
    name = "../../label-studio/data/media/upload/1/1a2b3c4d-my_photo_1.jpg"
    path.write_text(path.read_text().replace("a.png", name))
    (tmp_path / "src/a.png").unlink()
    picture(tmp_path / "photos/my photo (1).jpg")
    done = featherseg.convert(path, tmp_path / "out", images=tmp_path / "photos")
    assert (mask(tmp_path / "out", "my photo (1)") == 1).any()
    assert "1 image found by the end of the path alone" in done.notes[0]
    for other in ("my_photo_1.jpg", "9a2b3c4d-my photo_1.jpg"):  # missing, and no upload of it
        path.write_text(path.read_text().replace("1a2b3c4d-my_photo_1.jpg", other))
        with pytest.raises(DataError, match="no image can be used"):
            featherseg.convert(path, tmp_path / "out-2", images=tmp_path / "photos")
        path.write_text(path.read_text().replace(other, "1a2b3c4d-my_photo_1.jpg"))
    picture(tmp_path / "photos/further/my photo [1].jpg")  # of two it is not known
    with pytest.raises(DataError, match="whose name several files have"):
        featherseg.convert(path, tmp_path / "out-2", images=tmp_path / "photos")
    path.write_text(path.read_text().replace("my_photo", "your_photo"))
    with pytest.raises(
        DataError,
        match=r"--images\. .*photos was looked through: 2 images, such as further/my photo",
    ):
        featherseg.convert(path, tmp_path / "out-2", images=tmp_path / "photos")


def test_the_ending_of_jpegs_that_browsers_save_is_known(tmp_path):
    path = coco(tmp_path / "src", [("car", [square(2, 3, 6, 5)])])
    path.write_text(path.read_text().replace("a.png", "a.jfif"))
    Image.open(tmp_path / "src/a.png").save(tmp_path / "src/a.jfif", "JPEG")
    (tmp_path / "src/a.png").unlink()
    assert featherseg.convert(tmp_path / "src", tmp_path / "out").images == {"all": 1}
    assert [path.name for path in (tmp_path / "out/images").iterdir()] == ["a.jfif"]
    assert featherseg.check(tmp_path / "out").faults == []


@pytest.mark.parametrize("seed", range(6))
def test_run_lengths_of_coco_go_down_the_columns(seed):
    rng, size = np.random.default_rng(seed), (7, 40)
    flat = np.zeros(280, bool)
    first, last = sorted(rng.integers(0, 281, 2).tolist()) if seed else (0, 280)
    flat[first:last] = rng.random(last - first) < 0.7
    flat[last - 1] = True
    lengths, value = [0], False
    for (
        pixel
    ) in flat.tolist():  # by the format's own words: runs of zeros and ones in turn, zeros first
        if pixel != value:
            lengths += [0]
            value = pixel
        lengths[-1] += 1
    lengths[2:2] = [0, 0]  # a run may be empty
    region = region_of_counts(lengths, size)
    whole = np.zeros(size, bool)
    whole[region.top :, region.left : region.left + region.inside.shape[1]] = region.inside
    assert np.array_equal(whole, flat.reshape(40, 7).T)
    assert region.inside[:, 0].any()
    assert region.inside[:, -1].any()
    with pytest.raises(EmptyShape):
        region_of_counts([280], size)
