"""A source's splits, images and colours are kept, and what is skipped is counted."""

import base64
import tracemalloc
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.annotation_sources import (
    SIZE,
    box,
    coco,
    labelme,
    mask,
    picture,
    polygon,
    square,
    write_json,
)

import featherseg
from featherseg.core.errors import DataError, DataNotFound

SPLITS = {"train": "0001", "valid": "0401", "test": "0901"}
"""Folder of images -> the image in it."""


def of_coco(src: Path) -> None:
    rows = [
        {"id": int(n), "file_name": f"images/{s}/{n}.png", "height": 20, "width": 30}
        for s, n in SPLITS.items()
    ]
    shapes = [
        {
            "id": row["id"],
            "image_id": row["id"],
            "category_id": 1,
            "segmentation": [square(3, 4, 10, 9)],
        }
        for row in rows
    ]
    content = {"images": rows, "categories": [{"id": 1, "name": "car"}], "annotations": shapes}
    write_json(src / "annotations.json", content)


def of_labelme(src: Path) -> None:
    for split, name in SPLITS.items():
        path = labelme(
            src / "ann", [polygon("car", *square(3, 4, 9, 8))], f"../images/{split}/{name}.png"
        )
        path.rename(path.with_name(f"{name}.json"))


def of_label_studio(src: Path) -> None:
    points = (np.reshape(square(3, 4, 10, 9), (-1, 2)) / SIZE[::-1] * 100).tolist()
    row = {
        "type": "polygonlabels",
        "from_name": "tag",
        "value": {"points": points, "polygonlabels": ["car"]},
    }
    row |= {"original_height": SIZE[0], "original_width": SIZE[1]}
    places = [f"/data/local-files/?d=images/{split}/{name}.png" for split, name in SPLITS.items()]
    write_json(
        src / "p.json",
        [{"data": {"image": place}, "annotations": [{"result": [row]}]} for place in places],
    )


@pytest.mark.parametrize("write", [of_coco, of_labelme, of_label_studio])
def test_the_folder_of_an_image_is_its_split_where_annotations_say_none(write, tmp_path):
    for split, name in SPLITS.items():
        picture(tmp_path / f"src/images/{split}/{name}.png")
    write(tmp_path / "src")
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.images == {"train": 1, "val": 1, "test": 1}
    for split, name in (("train", "0001"), ("val", "0401"), ("test", "0901")):
        assert box(mask(tmp_path / "out", f"{split}/{name}"), 1) == (4, 3, 9, 10)


def test_what_annotations_say_of_a_split_comes_before_the_folder_of_an_image(tmp_path):
    for split, name in SPLITS.items():
        picture(tmp_path / f"src/images/{split}/{name}.png")
    of_coco(tmp_path / "src")
    (tmp_path / "src/annotations.json").rename(tmp_path / "src/instances_val.json")
    assert featherseg.convert(tmp_path / "src", tmp_path / "out").images == {"val": 3}


def encoded(image: Image.Image, format: str) -> str:
    """An image as labelme holds it."""
    file = BytesIO()
    image.save(file, format)
    return base64.b64encode(file.getvalue()).decode()


def test_two_images_of_one_name_inside_labelme_files_are_two(tmp_path):
    for camera, color, left in (("cam1", (200, 0, 0), 2), ("cam2.day", (0, 0, 200), 12)):
        inside = encoded(Image.new("RGB", SIZE[::-1], color), "PNG")
        shapes = [polygon("car", *square(left, 2, left + 5, 8))]
        path = labelme(tmp_path / "src", shapes, "0001.jpg", imageData=inside)
        path.rename(path.with_name(f"{camera}_0001.json"))
    featherseg.convert(tmp_path / "src", tmp_path / "out")
    for camera, color, left in (("cam1", (200, 0, 0), 2), ("cam2.day", (0, 0, 200), 12)):
        assert box(mask(tmp_path / "out", f"{camera}_0001"), 1) == (2, left, 9, left + 6)
        with Image.open(tmp_path / f"out/images/{camera}_0001.png") as image:
            assert image.getpixel((0, 0)) == color


def test_one_image_inside_two_labelme_files_is_one_with_the_shapes_of_both(tmp_path):
    inside = encoded(Image.new("RGB", SIZE[::-1], (200, 0, 0)), "PNG")
    for name, left in (("first", 2), ("second", 12)):
        path = labelme(
            tmp_path / "src", [polygon("car", *square(left, 2, left + 5, 8))], imageData=inside
        )
        path.rename(path.with_name(f"{name}.json"))
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.images == {"all": 1}
    assert mask(tmp_path / "out")[4, [3, 13]].tolist() == [1, 1]
    assert (
        "further entries of an image that is listed twice (their shapes were joined)"
        in done.left_out
    )


def test_a_damaged_image_inside_a_labelme_file_is_left_out_and_the_others_converted(tmp_path):
    shapes = [polygon("car", *square(2, 3, 6, 5))]
    labelme(tmp_path / "src", shapes, "b.png", imageData="no base64").rename(
        tmp_path / "src/b.json"
    )
    labelme(tmp_path / "src", shapes, imageData=encoded(Image.new("RGB", SIZE[::-1]), "PNG"))
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.images == {"all": 1}
    assert done.left_out == {"images inside an annotation that are damaged": (1, "b.png")}


@pytest.mark.seconds
def test_images_inside_labelme_files_are_in_memory_one_at_a_time(tmp_path):
    rng, side, count = np.random.default_rng(0), 400, 12
    for number in range(count):
        inside = encoded(
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)), "BMP"
        )
        sizes = {"imageHeight": side, "imageWidth": side}
        path = labelme(
            tmp_path / "src",
            [polygon("car", 2, 2, 9, 2, 9, 9)],
            f"{number}.bmp",
            imageData=inside,
            **sizes,
        )
        path.rename(path.with_name(f"{number}.json"))
    held = list[int]()

    def progress(*_: object) -> None:
        held.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    done = featherseg.convert(tmp_path / "src", tmp_path / "out", progress=progress)
    tracemalloc.stop()
    assert done.images == {"all": count}
    assert max(held) < count * side * side * 3 / 2


def color_mask(path: Path, *colors: tuple[int, int, int]) -> None:
    """A mask of 20 x 30 in vertical stripes of these colours, of equal width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.repeat(np.array(colors, np.uint8), SIZE[1] // len(colors), axis=0)
    Image.fromarray(np.tile(values, (SIZE[0], 1, 1))).save(path)


def of_voc(src: Path) -> str:
    for name in (
        "SegmentationClass/a.png",
        "SegmentationObject/a.png",
        "SegmentationClassVisualization/a.jpg",
    ):
        color_mask(src / name, (0, 0, 0), (200, 0, 0))
    (src / "labelmap.txt").write_text("background:0,0,0::\ncar:200,0,0::\n")
    return "JPEGImages"


def of_roboflow(src: Path) -> str:
    (src / "photos").mkdir(parents=True)
    (src / "photos/_classes.csv").write_text("Pixel Value, Class\n0, background\n1, car\n")
    Image.fromarray(np.full(SIZE, 1, np.uint8)).save(src / "photos/a_mask.png")
    return "photos"


def of_rgb_masks(src: Path) -> str:
    color_mask(src / "masks/a.png", (0, 0, 0), (200, 0, 0))
    return "images"


@pytest.mark.parametrize("write", [of_voc, of_roboflow, of_rgb_masks])
def test_images_without_a_mask_are_counted_and_masks_are_none(write, tmp_path):
    folder = write(tmp_path / "src")
    for name in "abc":
        picture(tmp_path / f"src/{folder}/{name}.jpg")
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.images == {"all": 1}
    assert done.left_out == {"images that no annotation names": (2, f"{folder}/b.jpg")}


def test_linked_folders_that_lead_out_are_counted(tmp_path):
    path = coco(tmp_path / "src", [("car", [square(1, 1, 5, 5)])])
    picture(tmp_path / "elsewhere/b.png")
    (tmp_path / "src/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "src/real").mkdir()
    (tmp_path / "src/again").symlink_to(tmp_path / "src/real")  # of what is looked through as it is
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.left_out == {"links that lead out of the folder": (1, "more")}
    (tmp_path / "src/a.png").rename(tmp_path / "elsewhere/a.png")
    with pytest.raises(
        DataError, match=r"Images that are not there: 1, .* Links that lead out .*: 1, first more\."
    ):
        featherseg.convert(tmp_path / "src", tmp_path / "none")
    path.rename(tmp_path / "elsewhere/coco.json")
    for asked in (None, "coco"):
        with pytest.raises(
            DataNotFound, match=r"Not followed: 1 link out of it, first more\. Put the files"
        ):
            featherseg.convert(tmp_path / "src", tmp_path / "none", from_format=asked)


def yolo(src: Path, lines: str, *images: str) -> Path:
    """Images in "A/images" with labels in "A/labels", and the lines of data.yaml."""
    for name in images:
        picture(src / f"{name}.png")
        label = src / f"{name.replace('images', 'labels')}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (src / "data.yaml").write_text(f"names: [car]\n{lines}")
    return src


NO_FOLDER = "folders of splits that are not there, or are those of another split"


def test_folders_of_splits_are_found_by_the_ends_of_their_paths(tmp_path):
    lines = "train: /data/farm/set_a/images\nval: D:\\farm\\set_b\\images\n"
    src = yolo(tmp_path / "src", lines, "set_a/images/day1/a", "set_a/images/b", "set_b/images/c")
    done = featherseg.convert(src, tmp_path / "out")
    assert (done.images, done.left_out) == ({"train": 2, "val": 1}, {})
    assert (tmp_path / "out/images/val/c.png").is_file()


def test_folders_of_splits_that_are_not_there_are_counted(tmp_path):
    src = yolo(
        tmp_path / "a",
        "train: ../train/images\nval: ../valid/images\n",
        "train/images/a",
        "train/images/b",
    )
    done = featherseg.convert(src, tmp_path / "out-a")
    assert (done.images, done.left_out) == ({"all": 2}, {NO_FOLDER: (1, "../valid/images")})
    src = yolo(
        tmp_path / "b",
        "train: /farm/set_a/images\nval: /farm/set_b/images\n",
        "images/a",
        "images/b",
    )
    done = featherseg.convert(src, tmp_path / "out-b")
    assert (done.images, done.left_out) == ({"all": 2}, {NO_FOLDER: (1, "/farm/set_b/images")})


def test_one_folder_for_train_and_val_alike_is_not_missing(tmp_path):
    src = yolo(
        tmp_path / "src",
        "train: images/train\nval: images/train\n",
        "images/train/a",
        "images/train/b",
    )
    done = featherseg.convert(src, tmp_path / "out")
    assert (sum(done.images.values()), done.left_out) == (2, {})


def test_labels_without_names_of_their_classes_are_told_from_nothing(tmp_path):
    src = yolo(tmp_path / "src", "", "images/a", "images/b")
    (src / "data.yaml").unlink()
    for more in ({}, {"from_format": "yolo"}):
        with pytest.raises(
            DataNotFound,
            match=r"labels/\w\.txt is a label of YOLO, but no data\.yaml and no classes",
        ):
            featherseg.convert(src, tmp_path / "out", **more)
    for label in (src / "labels").iterdir():
        label.write_text("0 0.5 0.5 0.1 0.1\n")  # of boxes
    with pytest.raises(DataNotFound, match="contains no known annotations"):
        featherseg.convert(src, tmp_path / "out")


def test_what_stands_in_a_path_as_a_whole_comes_before_the_end_of_another(tmp_path):
    src = yolo(
        tmp_path / "src", "train: /old/images\nval: images/val\n", "images/a", "images/val/b"
    )
    done = featherseg.convert(src, tmp_path / "out")
    assert (done.images, done.left_out) == ({"train": 1, "val": 1}, {})


@pytest.mark.parametrize("folders", [("images", "masks"), ("JPEGImages", "SegmentationClass")])
def test_colours_of_one_name_are_one_class(folders, tmp_path):
    colors = [(0, 0, 0), (255, 255, 255), (200, 0, 0), (0, 0, 200), (0, 200, 0)]
    picture(tmp_path / "src" / folders[0] / "a.jpg")
    color_mask(tmp_path / "src" / folders[1] / "a.png", *colors)
    names = ["void", "void", "car", "road", "car"]
    lines = [f"{name},{r},{g},{b}\n" for name, (r, g, b) in zip(names, colors, strict=True)]
    (tmp_path / "src/class_dict.csv").write_text("".join(["name,r,g,b\n", *lines]))
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert (done.images, done.left_out) == ({"all": 1}, {})
    assert done.classes == ["car", "road"]
    assert mask(tmp_path / "out")[4, [3, 9, 15, 21, 27]].tolist() == [255, 255, 1, 2, 1]
