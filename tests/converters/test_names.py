"""Image names that tools write in other ways than the file system are found or counted."""

import unicodedata
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from support.data.annotation_sources import (
    SIZE,
    box,
    labelme,
    mask,
    picture,
    polygon,
    square,
    write_json,
)

import featherseg

NAME = "Écran 1"
"""The stem of the image on disk."""

LABEL = "0 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6\n"
"""The box (4, 3) to (12, 15) of an image of SIZE, as a line of YOLO."""


def of_coco(src: Path, name: str) -> None:
    shape = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [square(3, 4, 15, 12)]}
    row = {"id": 1, "file_name": f"{name}.png", "height": SIZE[0], "width": SIZE[1]}
    write_json(
        src / "coco.json",
        {"images": [row], "categories": [{"id": 1, "name": "car"}], "annotations": [shape]},
    )


def of_labelme(src: Path, name: str) -> None:
    labelme(src, [polygon("car", *square(3, 4, 14, 11))], f"images/{name}.png")


def of_cvat(src: Path, name: str) -> None:
    (src / "annotations.xml").write_text(
        f'<annotations><version>1.1</version><image id="0" name="{name}.png" '
        f'width="{SIZE[1]}" height="{SIZE[0]}">'
        '<box label="car" xtl="3" ytl="4" xbr="15" ybr="12"/></image></annotations>',
        encoding="utf-8",
    )


def of_label_studio(src: Path, name: str) -> None:
    points = (np.reshape(square(3, 4, 15, 12), (-1, 2)) / SIZE[::-1] * 100).tolist()
    row = {
        "type": "polygonlabels",
        "from_name": "tag",
        "value": {"points": points, "polygonlabels": ["car"]},
    }
    row |= {"original_height": SIZE[0], "original_width": SIZE[1]}
    write_json(
        src / "p.json",
        [{"data": {"image": f"images/{name}.png"}, "annotations": [{"result": [row]}]}],
    )


def of_yolo(src: Path, name: str) -> None:
    (src / "labels").mkdir()
    (src / f"labels/{name}.txt").write_text(LABEL)
    (src / "data.yaml").write_text("names: [car]\n")


def of_supervisely(src: Path, name: str) -> None:
    (src / "images").rename(src / "img")
    shape = {
        "classTitle": "car",
        "geometryType": "rectangle",
        "points": {"exterior": [[3, 4], [14, 11]], "interior": []},
    }
    size = {"height": SIZE[0], "width": SIZE[1]}
    write_json(src / f"ann/{name}.png.json", {"size": size, "tags": [], "objects": [shape]})
    write_json(
        src / "meta.json", {"classes": [{"title": "car", "shape": "rectangle", "color": "#FF0000"}]}
    )


def _mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def _square_mask() -> np.ndarray:
    values = np.zeros(SIZE, np.uint8)
    values[4:12, 3:15] = 1
    return values


def of_voc(src: Path, name: str) -> None:
    (src / "images").rename(src / "JPEGImages")
    _mask(src / f"SegmentationClass/{name}.png", _square_mask())
    (src / "class_names.txt").write_text("_background_\ncar\n")


def of_roboflow(src: Path, name: str) -> None:
    _mask(src / f"images/{name}_mask.png", _square_mask())
    (src / "images/_classes.csv").write_text("Pixel Value, Class\n0, background\n1, car\n")


def of_rgb_masks(src: Path, name: str) -> None:
    _mask(
        src / f"masks/{name}.png",
        np.stack([_square_mask() * 255, *2 * [np.zeros(SIZE, np.uint8)]], axis=2),
    )


def of_coco_panoptic(src: Path, name: str) -> None:
    colors = np.stack(
        [_square_mask() * 7, _square_mask() * 9, _square_mask()], axis=2
    )  # 7 + 256 * 9 + 65536
    _mask(src / f"panoptic/{name}.png", colors)
    segment = {"id": 67847, "category_id": 3, "iscrowd": 0, "area": 96}
    row = {"id": 1, "file_name": f"{name}.png", "height": SIZE[0], "width": SIZE[1]}
    annotation = {"image_id": 1, "file_name": f"{name}.png", "segments_info": [segment]}
    categories = [{"id": 3, "name": "car", "isthing": 1}]
    write_json(
        src / "panoptic.json",
        {"images": [row], "annotations": [annotation], "categories": categories},
    )


FORMATS: list[Callable[[Path, str], None]] = [
    of_coco,
    of_labelme,
    of_cvat,
    of_label_studio,
    of_yolo,
    of_supervisely,
    of_voc,
    of_roboflow,
    of_coco_panoptic,
]

SPELLINGS: dict[str, Callable[[str], str]] = {
    "upper case": str.upper,
    "percent-encoded": quote,
    "decomposed": lambda name: unicodedata.normalize("NFD", name),
    "both": lambda name: quote(unicodedata.normalize("NFD", name.upper())),
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("write", [*FORMATS, of_rgb_masks])
def test_an_image_is_found_however_a_tool_spells_its_name(write, spell, tmp_path):
    picture(tmp_path / f"src/images/{NAME}.png")
    write(tmp_path / "src", spell(NAME))
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.left_out == {}
    stem = next((tmp_path / "out/masks").iterdir()).stem
    assert box(mask(tmp_path / "out", stem), 1) == (4, 3, 12, 15)


@pytest.mark.parametrize("write", [of_coco, of_labelme, of_cvat, of_label_studio])
def test_paths_of_windows_are_found_by_their_end(write, tmp_path):
    picture(tmp_path / "src/images/day 1/b.png")
    picture(tmp_path / "src/images/day 2/b.png")
    write(tmp_path / "src", r"C:\Users\me\images\Day%201\b")
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert list(done.left_out) == ["images that no annotation names"]
    assert box(mask(tmp_path / "out", "b"), 1) == (4, 3, 12, 15)


@pytest.mark.parametrize("write", [*FORMATS, of_rgb_masks])
def test_an_annotation_without_an_image_is_counted(write, tmp_path):
    """Beside an annotation with an image: the folder is converted and the other is reported."""
    picture(tmp_path / "src/images/a.png")
    write(tmp_path / "src", "a")
    other = tmp_path / "other"
    picture(other / "images/gone.png")
    write(other, "gone")
    for path in sorted(other.rglob("*")):
        target = tmp_path / "src" / path.relative_to(other)
        if path.is_file() and path.name != "gone.png":
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists() and path.suffix in (".json", ".xml") and "meta" not in path.name:
                target = target.with_stem("other")
            path.rename(target)
        elif path.name == "gone.png" and path.parent.name in (
            "SegmentationClass",
            "masks",
            "panoptic",
        ):
            path.rename(target)
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert sum(done.images.values()) == 1
    assert [times for times, _ in done.left_out.values()] == [1]


def test_exact_names_come_before_names_that_compare_equal(tmp_path):
    of_yolo_source = tmp_path / "src"
    for name in ("a b", "a%20b"):
        picture(of_yolo_source / f"images/{name}.png")
    of_yolo(of_yolo_source, "a b")
    (of_yolo_source / "labels/a%20b.txt").write_text("0 0.5 0.5 0.9 0.5 0.9 0.9 0.5 0.9\n")
    featherseg.convert(of_yolo_source, tmp_path / "out")
    assert box(mask(tmp_path / "out", "a b"), 1) == (4, 3, 12, 15)
    assert box(mask(tmp_path / "out", "a%20b"), 1) == (10, 15, 18, 27)


def test_labels_of_yolo_that_two_images_may_have_are_given_to_none(tmp_path):
    for name in ("b", "c"):
        picture(tmp_path / f"src/images/{name}.png")
    (tmp_path / "src/images/c.png").rename(tmp_path / "src/images/B.PNG")
    of_yolo(tmp_path / "src", "%62")
    picture(tmp_path / "src/images/a.png")
    (tmp_path / "src/labels/a.txt").write_text(LABEL)
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.images == {"all": 1}
    assert done.left_out["labels without an image"] == (1, "labels/%62.txt")
    assert any("2 images without a label skipped" in note for note in done.notes)


def test_images_without_a_label_of_yolo_are_background_where_no_label_is_left(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"src/Images/{name}.png")
    of_yolo(tmp_path / "src", "a")
    (tmp_path / "src/labels").rename(tmp_path / "src/Labels")
    (tmp_path / "src/Labels/a.txt").rename(tmp_path / "src/Labels/A.TXT")
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.left_out == {}
    assert box(mask(tmp_path / "out", "a"), 1) == (4, 3, 12, 15)
    assert not mask(tmp_path / "out", "b").any()


def test_names_in_lists_of_yolo_without_an_image_are_counted(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"src/images/{name}.png")
    of_yolo(tmp_path / "src", "a")
    (tmp_path / "src/labels/b.txt").write_text(LABEL)
    (tmp_path / "src/data.yaml").write_text("names: [car]\ntrain: train.txt\nval: val.txt\n")
    (tmp_path / "src/train.txt").write_text("C:\\data\\images\\A.png\nC:\\data\\images\\z.png\n")
    (tmp_path / "src/val.txt").write_text("./images/b.png\n")
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.images == {"train": 1, "val": 1}
    assert done.left_out == {"names in train.txt without an image": (1, "C:\\data\\images\\z.png")}
