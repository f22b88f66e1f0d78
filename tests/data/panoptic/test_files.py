import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.processes.faulty_disk import FAULTS, Crash, FaultyDisk

from featherseg.core.errors import DataError, DataNotFound, FeathersegError
from featherseg.data.panoptic import files as panoptic_files
from featherseg.data.panoptic.files import (
    MAX_ID,
    PanopticWriter,
    from_colors,
    official_id,
    read_ids,
    read_panoptic_json,
    to_colors,
    write_ids,
)
from featherseg.data.panoptic.segments import list_segments

COCO = "data/fixtures/coco_panoptic"
CITYSCAPES = "data/fixtures/cityscapes_panoptic/gtFine/cityscapes_panoptic_dummy_trainId"


@given(st.integers(0, MAX_ID))
def test_an_id_is_r_plus_256_g_plus_65536_b(number):
    red, green, blue = to_colors(np.array([[number]]))[0, 0].tolist()
    assert number == red + 256 * green + 65536 * blue
    assert from_colors(np.array([[[red, green, blue]]], np.uint8)).item() == number


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64])
def test_ids_up_to_the_largest_come_back_from_a_png(tmp_path, dtype):
    ids = np.array([[0, 1, 255, 256], [65535, 65536, 2**23, MAX_ID]], dtype)
    write_ids(tmp_path / "new/a.png", ids)
    np.testing.assert_array_equal(read_ids(tmp_path / "new/a.png"), ids)
    assert read_ids(tmp_path / "new/a.png").dtype == np.int32


@pytest.mark.parametrize("number", [-1, MAX_ID + 1])
def test_ids_that_three_bytes_do_not_hold_are_refused(tmp_path, number):
    with pytest.raises(DataError, match=f"do not fit a PNG of three bytes: expected 0 to {MAX_ID}"):
        write_ids(tmp_path / "a.png", np.array([[number, 1]]))
    assert not list(tmp_path.iterdir())


def test_palettes_and_alpha_are_read_as_the_colours_they_show(tmp_path):
    ids = np.array([[0, 70000, 3937500], [5, 5, MAX_ID]])
    image = Image.fromarray(to_colors(ids))
    for name, form in (("p.png", image.quantize(8)), ("rgba.png", image.convert("RGBA"))):
        form.save(tmp_path / name)
        np.testing.assert_array_equal(read_ids(tmp_path / name), ids)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_grey_png_is_no_map_of_ids(tmp_path, dtype):
    Image.fromarray(np.full((2, 2), 7, dtype)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png is a grey image: expected colours"):
        read_ids(tmp_path / "a.png")


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("k", range(1, 5))
def test_a_png_is_the_old_or_the_new_one_whatever_happens(tmp_path, monkeypatch, fault, k):
    path, old, new = tmp_path / "a.png", np.full((2, 2), 3), np.full((2, 2), 70000)
    write_ids(path, old)
    with monkeypatch.context() as patched:
        FaultyDisk(patched, k, fault)
        with pytest.raises(Crash if fault is Crash else FeathersegError):
            write_ids(path, new)
    assert (read_ids(path) == old).all() or (read_ids(path) == new).all()


# The JSON of several commands


def test_names_that_would_share_an_image_id_have_their_file_names_in_whatever_order(tmp_path):
    """Otherwise its own reader refuses it; other names keep the form of COCO and of Cityscapes."""
    ids = {
        "1.png": "1.png",
        "01.png": "01.png",
        "x.png": "x.png",
        "x_leftImg8bit.png": "x_leftImg8bit.png",
    }
    ids |= {"000000000007.png": 7, "jena_1_2_leftImg8bit.png": "jena_1_2"}
    ids |= {"x.png_leftImg8bit.png": "x.png_leftImg8bit.png"}  # would share what x.png has by now
    for number, names in enumerate((list(ids), sorted(ids), sorted(ids, reverse=True))):
        for folder, at_once in (
            (tmp_path / f"{number}/at-once", True),
            (tmp_path / f"{number}/by-one", False),
        ):
            writer = PanopticWriter(folder, [])
            for name in [*names, names[0]]:  # the first is predicted anew at the end
                writer.add(
                    official_id(name.removesuffix(".png")),
                    "a.jpg",
                    name,
                    (np.ones((2, 2), int), []),
                )
                if not at_once:
                    writer.finish()
                    writer = PanopticWriter(folder, [])
                    writer.keep(lambda name, folder=folder: (folder / name).is_file(), [])
            found = read_panoptic_json(writer.finish()).annotations
            assert {row.file_name: row.image_id for row in found} == ids
            images = json.loads(folder.with_name(f"{folder.name}.json").read_text())["images"]
            assert [image["id"] for image in images] == [row.image_id for row in found]


# Real files


@pytest.mark.data
@pytest.mark.parametrize("name", [f"{COCO}/panoptic_val2017", CITYSCAPES])
def test_real_files_read_and_write_back_the_same(shared: Path, tmp_path: Path, name):
    """The written file agrees with the JSON in every id, category, area, crowd and box."""
    folder = shared / name
    content = read_panoptic_json(folder.with_name(f"{folder.name}.json"))
    raw = json.loads(folder.with_name(f"{folder.name}.json").read_text())["annotations"]
    writer = PanopticWriter(tmp_path / folder.name, list(content.categories.values()))
    for annotation in content.annotations:
        ids = read_ids(folder / annotation.file_name)
        known = {segment["id"]: segment for segment in annotation.dicts()}
        assert set(np.unique(ids)) - {0} == set(known)
        crowds = frozenset(i for i, segment in known.items() if segment["iscrowd"])
        panoptic = list_segments(
            ids, {i: segment["category_id"] for i, segment in known.items()} | {0: 0}, crowds
        )
        writer.add(annotation.image_id, "image.jpg", annotation.file_name, panoptic)
    again = read_panoptic_json(writer.finish())
    assert again.categories == content.categories
    for before, after, theirs in zip(content.annotations, again.annotations, raw, strict=True):
        assert (after.image_id, after.file_name) == (before.image_id, before.file_name)
        assert sorted(after.segments.tolist()) == sorted(before.segments.tolist())
        old, new = (
            read_ids(folder / before.file_name),
            read_ids(tmp_path / folder.name / after.file_name),
        )
        np.testing.assert_array_equal(new, old)
        written = json.loads((tmp_path / f"{folder.name}.json").read_text())["annotations"][0][
            "segments_info"
        ]
        ours = {segment["id"]: segment for segment in written}
        for segment in theirs["segments_info"]:
            assert segment.items() <= ours[segment["id"]].items()


# The JSON


SEGMENT = {"id": 5, "category_id": 1, "area": 4, "iscrowd": 0, "bbox": [0, 0, 2, 2]}


def annotated(**changes: object) -> dict:
    return {"image_id": 1, "file_name": "a.png", "segments_info": [SEGMENT]} | changes


def write(path: Path, annotations: object, **more: object) -> Path:
    path.write_text(json.dumps({"annotations": annotations} | more))
    return path


def test_what_a_segment_may_leave_out(tmp_path):
    path = write(tmp_path / "a.json", [annotated(segments_info=[{"id": 5, "category_id": 1}])])
    assert read_panoptic_json(path).annotations[0].dicts() == [
        {"id": 5, "category_id": 1, "iscrowd": 0}
    ]
    path = write(tmp_path / "a.json", [annotated(segments_info=[])])
    assert read_panoptic_json(path).annotations[0].segments.shape == (0, 4)


@pytest.mark.parametrize(
    "name",
    ["../a.png", "/etc/a.png", "x/../../a.png", "..", "", "..\\a.png", "C:\\a.png", "a\0.png"],
)
def test_file_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    path = write(tmp_path / "a.json", [annotated(file_name=name)])
    with pytest.raises(
        DataError, match=r"annotation 0 names the file .*: expected a name inside the folder"
    ):
        read_panoptic_json(path)
    writer = PanopticWriter(tmp_path / "out", [])
    with pytest.raises(DataError, match="expected a name inside the folder"):
        writer.add(1, "a.jpg", name, (np.ones((2, 2), int), []))


@pytest.mark.parametrize(
    ("annotations", "sentence"),
    [
        ({}, "not a panoptic JSON: expected an object with a list 'annotations'"),
        ([7], "annotation 0 has no list 'segments_info'"),
        (
            [annotated(), {"image_id": 2, "bbox": [1]}],
            "annotation 1 has no list 'segments_info'.*another task",
        ),
        ([annotated(image_id=None)], "annotation 0 lacks 'image_id'"),
        ([annotated(file_name=3)], "annotation 0 lacks 'image_id'.* or 'file_name'"),
        ([annotated(), annotated(image_id=2)], "two annotations have the file_name 'a.png'"),
        ([annotated(), annotated(file_name="b.png")], "two annotations have the image_id 1"),
        (
            [annotated(segments_info=[SEGMENT, SEGMENT])],
            r"annotation 0 \(a\.png\) lists an id twice",
        ),
        ([annotated(segments_info=[SEGMENT | {"id": 0}])], "an id from 1 to 16777215"),
        ([annotated(segments_info=[SEGMENT | {"id": MAX_ID + 1}])], "an id from 1 to 16777215"),
        ([annotated(segments_info=[SEGMENT | {"id": "5"}])], "expected whole numbers"),
        ([annotated(segments_info=[{"id": 5}])], "a category_id"),
        ([annotated(segments_info=["x"])], r"has the segment 'x'"),
    ],
)
def test_a_json_that_cannot_be_right_is_refused_by_the_annotation(tmp_path, annotations, sentence):
    with pytest.raises(DataError, match=rf"a\.json.*{sentence}"):
        read_panoptic_json(write(tmp_path / "a.json", annotations))


def test_a_file_that_is_no_json_too_large_or_not_there(tmp_path, monkeypatch):
    with pytest.raises(DataNotFound, match=r"a\.json does not exist"):
        read_panoptic_json(tmp_path / "a.json")
    for content in (b"{", b"[" * 100_000, b"\xff\xfe\x00", b""):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.json cannot be read as JSON"):
            read_panoptic_json(tmp_path / "a.json")
    for row in ({"name": "road"}, {"id": []}):
        with pytest.raises(DataError, match="'categories' is not a list of objects with an 'id'"):
            read_panoptic_json(write(tmp_path / "a.json", [], categories=[row]))
    monkeypatch.setattr(panoptic_files, "MAX_JSON_BYTES", 10)
    with pytest.raises(DataError, match="the limit is 10"):
        read_panoptic_json(tmp_path / "a.json")
