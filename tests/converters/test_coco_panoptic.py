"""Panoptic PNGs with their JSON become a dataset with objects; colours never become classes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.annotation_sources import picture, write_json

import featherseg
from featherseg.core.errors import DataError
from featherseg.data import open_dataset

CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1, "color": [220, 20, 60]},
    {"id": 17, "name": "cat", "isthing": 1},
    {"id": 184, "name": "tree", "isthing": 0},
    {"id": 187, "name": "sky", "isthing": 0},
]
SIZE = (24, 30)


def panoptic(
    folder: Path, count: int = 6, split: str = "", name: str = "panoptic", first: int = 0
) -> dict:
    """Write images and PNGs of random ids with void at one edge and one crowd; return the JSON."""
    rng = np.random.default_rng(first)
    content: dict = {"images": [], "annotations": [], "categories": CATEGORIES}
    for number in range(first, first + count):
        ids, segments = np.zeros(SIZE, np.int64), []
        for row, category in enumerate((187, 184, 1, 1, 17)):
            segment = int(rng.integers(1, 256**3))
            ids[4 * row : 4 * row + 6, row : 20 + row] = segment
            segments.append(
                {
                    "id": segment,
                    "category_id": category,
                    "iscrowd": int(row == 2 and number == first + 1),
                }
            )
        colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
        path = folder / f"{name}/{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colors).save(path)
        pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        image = folder / f"images/{split}/{number:06}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(image)
        content["images"].append(
            {"id": number, "file_name": image.name, "height": SIZE[0], "width": SIZE[1]}
        )
        content["annotations"].append(
            {"image_id": number, "file_name": path.name, "segments_info": segments}
        )
    write_json(folder / f"{name}.json", content)
    return content


def expected(folder: Path, annotation: dict, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return label and segment (0: no object) of each pixel, after the format's documentation."""
    colors = np.asarray(Image.open(folder / annotation["file_name"])).astype(int)
    label, objects = np.full(SIZE, 255), np.zeros(SIZE, int)
    listed = {segment["id"]: segment for segment in annotation["segments_info"]}
    category = {row["id"]: row for row in CATEGORIES}
    for y, x in np.ndindex(SIZE):
        red, green, blue = colors[y, x]
        segment = listed.get(red + 256 * green + 256**2 * blue)
        if segment:
            row = category[segment["category_id"]]
            label[y, x] = names.index(row["name"])
            objects[y, x] = segment["id"] if row["isthing"] and not segment["iscrowd"] else 0
    return label, objects


def test_classes_and_objects_are_those_of_the_json(tmp_path):
    content = panoptic(tmp_path / "src")
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert (done.format, done.left_out) == ("COCO panoptic", {})
    assert done.classes == ["person", "cat", "tree", "sky"]
    report = featherseg.check(tmp_path / "out")
    assert report.clean, report.faults
    seen = 0
    for split in report.splits:
        data = open_dataset(str(tmp_path / "out"), split)
        assert [info.name for info in data.classes if info.thing] == ["person", "cat"]
        for index, key in enumerate(data.keys):
            annotation = next(
                row for row in content["annotations"] if row["file_name"] == f"{key}.png"
            )
            label, objects = expected(tmp_path / "src/panoptic", annotation, done.classes)
            np.testing.assert_array_equal(data[index].label, label)
            pairs = set(
                zip(data[index].instances.ravel().tolist(), objects.ravel().tolist(), strict=True)
            )
            assert (
                len(pairs)
                == len({ours for ours, _ in pairs})
                == len({theirs for _, theirs in pairs})
            )
            assert (0, 0) in pairs
            seen += 1
    assert seen >= 5  # one may lie in the gap of a cut


def test_splits_are_those_of_the_names_and_a_json_alone_can_be_given(tmp_path):
    for split, first in (("train", 0), ("val", 4)):
        panoptic(tmp_path / "src/annotations", 4, name=f"panoptic_{split}2017", first=first)
    (tmp_path / "src/annotations/images").rename(tmp_path / "src/images")
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.images == {"train": 4, "val": 4}
    done = featherseg.convert(tmp_path / "src/annotations/panoptic_val2017.json", tmp_path / "val")
    assert done.images == {"val": 4}


def test_images_called_as_their_pngs_are_not_taken_for_them(tmp_path):
    content = panoptic(tmp_path / "src")
    for row in content["images"]:
        path = tmp_path / "src/images" / row["file_name"]
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
        row["file_name"] = path.with_suffix(".png").name
    write_json(tmp_path / "src/panoptic.json", content)
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert (done.images, done.left_out) == ({"all": 6}, {})


def test_what_png_and_json_do_not_agree_on_is_left_out_and_counted(tmp_path):
    content = panoptic(tmp_path / "src")
    content["annotations"][0]["segments_info"].pop()
    content["annotations"][1]["segments_info"][0]["category_id"] = 99
    (tmp_path / "src/panoptic/000002.png").unlink()
    (tmp_path / "src/images/000003.jpg").unlink()
    picture(tmp_path / "src/images/000004.jpg", (10, 10))
    write_json(tmp_path / "src/panoptic.json", content)
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.images == {"all": 1}
    assert done.left_out == {
        "panoptic PNGs that are not there": (1, "000002.png"),
        "images that are not there": (1, "000003.jpg"),
        "panoptic PNGs with segments that the JSON does not list": (1, "images/000000.jpg"),
        "segments of a category that the JSON does not name": (1, "images/000001.jpg"),
        "images of another size than their annotation says": (1, "images/000004.jpg"),
        "images that no annotation names": (1, "images/000002.jpg"),
    }


def test_pngs_that_are_not_there_and_categories_without_a_name_are_refused(tmp_path):
    content = panoptic(tmp_path / "src")
    content["categories"] = [{"id": 1}]
    write_json(tmp_path / "src/panoptic.json", content)
    with pytest.raises(DataError, match="category 1 without a name"):
        featherseg.convert(tmp_path / "src", tmp_path / "out")
    (tmp_path / "src/panoptic").rename(tmp_path / "elsewhere")
    content["categories"] = CATEGORIES
    write_json(tmp_path / "src/panoptic.json", content)
    with pytest.raises(
        DataError, match=r"first 000000\.png\. Put them into the folder panoptic beside it"
    ):
        featherseg.convert(tmp_path / "src", tmp_path / "out")


@pytest.mark.parametrize("pngs", [True, False])
def test_beside_instances_of_coco_they_are_a_choice_where_their_pngs_are_there(tmp_path, pngs):
    content = panoptic(tmp_path / "src", name="panoptic_val2017")
    shape = {
        "id": 1,
        "image_id": 0,
        "category_id": 1,
        "segmentation": [[1, 1, 9, 1, 9, 9]],
        "iscrowd": 0,
    }
    write_json(tmp_path / "src/instances_val2017.json", content | {"annotations": [shape]})
    if pngs:
        with pytest.raises(DataError, match=r"--from coco\n(.|\n)*--from coco-panoptic"):
            featherseg.convert(tmp_path / "src", tmp_path / "out")
        assert featherseg.convert(
            tmp_path / "src", tmp_path / "out", from_format="coco-panoptic"
        ).images == {"val": 6}
    else:
        (tmp_path / "src/panoptic_val2017").rename(tmp_path / "elsewhere")
        assert featherseg.convert(tmp_path / "src", tmp_path / "out").format == "COCO"


def test_check_sends_them_to_convert_and_takes_their_colours_for_no_classes(tmp_path):
    panoptic(tmp_path / "src")
    command = f"featherseg convert {tmp_path / 'src'} --out OUT"
    with pytest.raises(DataError, match=f"panoptic.json lists as segments.*{command}"):
        featherseg.check(tmp_path / "src", write=True)
    write_json(tmp_path / "src/annotations/segments.json", panoptic(tmp_path / "src"))
    (tmp_path / "src/panoptic.json").unlink()
    with pytest.raises(DataError, match=f"segments.json lists as segments.*{command}"):
        featherseg.check(tmp_path / "src", write=True)
    assert featherseg.convert(tmp_path / "src", tmp_path / "out").images == {"all": 6}
    (tmp_path / "src/annotations/segments.json").unlink()
    with pytest.raises(
        DataError, match=r"30 of their 31 colours occur in one mask each.*class_dict\.csv"
    ):
        featherseg.check(tmp_path / "src", write=True)
    assert not (tmp_path / "src/dataset.toml").exists()


def test_a_list_of_colours_says_that_they_are_classes(tmp_path):
    panoptic(tmp_path / "src")
    (tmp_path / "src/panoptic.json").unlink()
    (tmp_path / "src/class_dict.csv").write_text("name,r,g,b\nvoid,0,0,0\ntree,1,2,3\n")
    assert featherseg.check(tmp_path / "src").proposal


def test_masks_of_classes_beside_panoptic_pngs_are_read(tmp_path):
    panoptic(tmp_path / "src")
    for number in range(6):
        colors = np.zeros((*SIZE, 3), np.uint8)
        colors[:10], colors[15:, number:] = (255, 0, 0), (0, 0, 255)
        path = tmp_path / f"src/masks/{number:06}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(colors).save(path)
    report = featherseg.check(tmp_path / "src")
    assert [info.name for info in report.classes] == [
        "class_000000",
        "class_0000ff",
        "class_ff0000",
    ]
    assert report.proposal.others == []
