"""Files that nobody should send: a message, and nothing half written."""

import base64
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.annotation_sources import (
    SIZE,
    coco,
    cvat,
    labelme,
    mask,
    picture,
    polygon,
    square,
    write_json,
)

import featherseg
from featherseg.converters.annotations import UnusableShape
from featherseg.converters.pixel_rules import coco_polygon
from featherseg.converters.run_lengths import coco_counts, label_studio_mask
from featherseg.core.errors import (
    ConfigError,
    DataError,
    DataNotFound,
    FeathersegError,
    UnknownName,
)

LAUGHS = '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


def refused(src: Path, out: Path, kind: type[Exception] = DataError, **more: object) -> str:
    """The message; nothing stays beside it."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(kind) as caught:
        featherseg.convert(src, out, **more)
    assert not out.exists()
    assert sorted(out.parent.iterdir()) == before
    return str(caught.value)


@pytest.mark.parametrize("head", [LAUGHS, OUTSIDE])
def test_xml_with_entities_is_refused(head, tmp_path):
    path = cvat(tmp_path / "src", '<tag label="car"/>', head)
    assert "DOCTYPE" in refused(path.parent, tmp_path / "out")


def test_broken_json_and_xml_are_named(tmp_path):
    path = coco(tmp_path / "json", [])
    path.write_text(path.read_text()[:-20])
    assert str(path) in refused(path.parent, tmp_path / "out")
    path.write_text('{"images": [], "categories": ' + "[" * 100_000)
    assert "nested too deeply" in refused(path.parent, tmp_path / "out")
    path = cvat(tmp_path / "xml", '<polygon label="car">')
    assert str(path) in refused(path.parent, tmp_path / "out")


def test_shapes_of_unknown_pixels_leave_their_image_out(tmp_path):
    nan = float("nan")
    shapes = {
        "corners that are not finite (NaN or infinity)": [[nan, 2.0, 9.0, 2.0, 9.0, 9.0]],
        "corners that are no pairs of numbers": [[1.0, 2.0, "x", 4.0, 5.0, 6.0]],
        "corners more than 1,000,000 pixels away": [[1.0, 2.0, 1e12, 4.0, 5.0, 6.0]],
        "run lengths of 5 pixels where the mask has 600": {"size": list(SIZE), "counts": [2, 3]},
        "run lengths of another size than the image": {"size": [600, 1], "counts": [300, 300]},
        "run lengths that are no counts of pixels": {"size": list(SIZE), "counts": [700, -100]},
        "run lengths that end in the middle of a number": {"size": list(SIZE), "counts": "oo"},
        "segmentations that are neither polygons nor run lengths": "everything",
    }
    for number, (reason, segmentation) in enumerate(shapes.items()):
        path = coco(tmp_path / f"src{number}", [("car", segmentation)])
        message = refused(path.parent, tmp_path / "out")
        assert reason.casefold() in message.casefold()
        assert "Nothing was written" in message


def test_a_polygon_of_two_points_is_left_out_and_the_others_drawn(tmp_path):
    shapes = [("car", [[1.0, 1.0, 5.0, 5.0]]), ("car", [[]]), ("road", [square(2, 2, 9, 9)])]
    done = featherseg.convert(coco(tmp_path / "src", shapes).parent, tmp_path / "out")
    assert done.left_out == {"polygons of fewer than three corners": (2, "a.png")}
    assert (mask(tmp_path / "out") == 2).sum() == 49


def test_one_bad_image_does_not_spoil_the_others(tmp_path):
    path = coco(tmp_path / "src", [("car", [square(2, 2, 9, 9)])])
    picture(tmp_path / "src/b.png", (7, 9))
    (tmp_path / "src/c.png").write_bytes(b"no image")
    content = json.loads(path.read_text())
    for number, name in ((2, "b.png"), (3, "c.png")):
        content["images"].append({"id": number, "file_name": name, "height": 20, "width": 30})
    write_json(path, content)
    done = featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert done.images == {"all": 1}
    assert done.left_out == {
        "images of another size than their annotation says": (1, "b.png"),
        "images that cannot be read": (1, "c.png"),
    }


@pytest.mark.parametrize("name", [None, "", "  ", 7])
def test_a_category_without_a_name_is_refused(name, tmp_path):
    path = coco(tmp_path / "coco", [], categories=[{"id": 1, "name": name}])
    assert "Give it a name" in refused(path.parent, tmp_path / "out")
    picture(tmp_path / "labelme/a.png")
    labelme(tmp_path / "labelme", [polygon("car", 1, 1, 2, 2, 3, 1) | {"label": name}])
    assert "without a label" in refused(tmp_path / "labelme", tmp_path / "out")


def test_two_tools_in_one_folder_are_told_apart_by_from(tmp_path):
    coco(tmp_path / "src", [("car", [square(2, 2, 9, 9)])])
    labelme(tmp_path / "src", [polygon("road", *square(2, 2, 9, 9))])
    message = refused(tmp_path / "src", tmp_path / "out")
    assert "COCO (coco.json) and labelme (a.json)" in message
    for tool in ("coco", "labelme"):
        assert f"featherseg convert {tmp_path / 'src'} --out OUT --from {tool}" in message
    done = featherseg.convert(tmp_path / "src", tmp_path / "out", from_format="labelme")
    assert done.classes == ["background", "road"]


def test_nothing_known_and_nothing_there_are_said(tmp_path):
    (tmp_path / "src").mkdir()
    write_json(tmp_path / "src/a.json", {"hello": 1})
    assert "no known annotations" in refused(tmp_path / "src", tmp_path / "out", DataNotFound)
    assert "does not exist" in refused(tmp_path / "srk", tmp_path / "out", DataNotFound)
    assert "Did you mean 'coco'" in refused(
        tmp_path / "src", tmp_path / "out", UnknownName, from_format="coca"
    )
    assert "no annotations of YOLO" in refused(
        tmp_path / "src", tmp_path / "out", DataNotFound, from_format="yolo"
    )
    refused(tmp_path / "src", tmp_path / "out", ConfigError, to_format="coco", from_format="coco")
    refused(tmp_path / "src", tmp_path / "out", DataNotFound, images=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"_via_settings": {}, "_via_img_metadata": {}},
            "VGG Image Annotator, which cannot be read. Export its annot",
        ),
        ({"a.png99": {"regions": [{"shape_attributes": {"name": "rect"}}]}}, "VGG Image Annotator"),
        (
            {"dm_format_version": "1", "categories": {}, "items": [{"annotations": []}]},
            "Datumaro, which cannot be read. Export COCO or",
        ),
    ],
)
def test_files_of_tools_that_are_not_read_are_called_by_name(content, said, tmp_path):
    picture(tmp_path / "src/a.png")
    path = write_json(tmp_path / "src/project.json", content)
    assert f"{path} is a file of {said}" in refused(
        tmp_path / "src", tmp_path / "out", DataNotFound
    )


@pytest.mark.parametrize(
    "name", ["../../secret.png", "/etc/secret.png", "..\\..\\secret.png", "C:\\secret.png"]
)
def test_names_lead_nowhere(name, tmp_path):
    picture(tmp_path / "secret.png")
    picture(tmp_path / "a/src/other.png")
    labelme(tmp_path / "a/src", [polygon("car", *square(2, 2, 9, 9))], name)
    message = refused(tmp_path / "a/src", tmp_path / "a/out")
    said = "leads out of the folder" if ".." in name else "are not there"
    assert said in message.replace("whose name ", "")
    assert message.endswith("Name the folder of the images with --images.")


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    path = coco(tmp_path / "src", [("car", [square(2, 2, 9, 9)])])
    (tmp_path / "src/a.png").rename(tmp_path / "a.png")
    os.symlink(tmp_path / "a.png", tmp_path / "src/a.png")
    assert "images that are not there" in refused(path.parent, tmp_path / "out").casefold()
    picture(tmp_path / "src/real/b.png").rename(tmp_path / "src/b.png")
    (tmp_path / "src/a.png").unlink()
    os.symlink(tmp_path / "src/b.png", tmp_path / "src/a.png")  # stays inside
    assert featherseg.convert(path.parent, tmp_path / "out").images == {"all": 1}
    assert not (tmp_path / "out/images/a.png").is_symlink()


@pytest.mark.parametrize(
    "name", ["../evil.json", "/evil.json", "a/../../evil.json", "C:/evil.json", "..\\evil.json"]
)
def test_a_zip_with_names_that_leave_its_folder_is_refused(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(name, "{}")
    assert "leads out of its folder" in refused(tmp_path / "x.zip", tmp_path / "out")


@pytest.mark.seconds
def test_zip_bombs_and_damaged_zips_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", b"0" * (1 << 27))
    assert "would unpack to 134,217,728" in refused(tmp_path / "bomb.zip", tmp_path / "out")
    path = coco(tmp_path / "src", [])
    with zipfile.ZipFile(tmp_path / "cut.zip", "w") as archive:
        archive.write(path, "coco.json")
    content = (tmp_path / "cut.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(
        content.replace(b'"images"', b'"imagez"', 1)
    )  # its checksum is wrong now
    assert "cannot be unpacked" in refused(tmp_path / "cut.zip", tmp_path / "out")


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_zip_whose_packed_bytes_are_damaged_is_refused(packing, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", packing) as archive:
        archive.writestr("coco.json", bytes(range(256)) * 40)
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[60:120] = bytes([255]) * 60
    (tmp_path / "x.zip").write_bytes(content)
    assert "cannot be unpacked" in refused(tmp_path / "x.zip", tmp_path / "out")


@pytest.mark.parametrize("name", ["export.zip", "export.tar.gz", "EXPORT.RAR"])
def test_an_archive_that_is_not_read_is_called_one(name, tmp_path):
    (tmp_path / name).write_bytes(b"no zip")
    assert "another kind of archive, which cannot be read" in refused(
        tmp_path / name, tmp_path / "out"
    )


def test_a_folder_in_use_is_never_written_over(tmp_path):
    path = coco(tmp_path / "src", [("car", [square(2, 2, 9, 9)])])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(FeathersegError, match="not empty"):
        featherseg.convert(path.parent, tmp_path / "out")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_the_folder_one_stands_in_is_not_replaced(tmp_path, monkeypatch):
    path = coco(tmp_path / "src", [("car", [square(2, 2, 9, 9)])])
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(FeathersegError, match="is where this command runs"):
        featherseg.convert(path, ".")


def test_a_disk_that_refuses_leaves_nothing(tmp_path, monkeypatch):
    path = coco(tmp_path / "src", [("car", [square(2, 2, 9, 9)])])

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert "No space left" in refused(path.parent, tmp_path / "out", FeathersegError)


@pytest.mark.seconds
def test_too_many_shapes_on_one_image_are_refused_before_they_are_drawn(tmp_path):
    path = coco(tmp_path / "src", [])
    row = '{"id":1,"image_id":1,"category_id":1,"segmentation":[[1,1,2,1,2,2]]}'
    text = json.dumps(json.loads(path.read_text()))
    path.write_text(
        text.replace('"annotations": []', f'"annotations": [{",".join([row] * 100_001)}]')
    )
    assert "images of more than 100,000 shapes" in refused(path.parent, tmp_path / "out").casefold()


def test_more_classes_than_a_mask_can_hold_are_refused(tmp_path):
    categories = [{"id": number, "name": f"c{number}"} for number in range(300)]
    path = coco(tmp_path / "src", [], categories=categories)
    assert "300 classes, the limit is 254" in refused(path.parent, tmp_path / "out")


def test_a_corner_far_away_takes_no_time_and_no_memory():
    far = np.array([[1.0, 1.0], [999_999.0, 2.0], [1.0, 999_999.0]])
    region = coco_polygon(far, SIZE)
    assert region is not None
    assert region.inside.shape == (19, 29)


def test_a_zigzag_over_the_whole_image_is_refused_before_it_is_drawn():
    corners = np.stack([np.arange(9000) % 2 * 4000.0, np.arange(9000) / 9], axis=1)
    with pytest.raises(UnusableShape, match="cross more than"):
        coco_polygon(corners, (1000, 4000))


def test_cut_and_foreign_run_lengths_are_refused():
    for data in ([], [0, 0, 9, 96], [0, 0, 9, 96, 57, 27, 252, 96, 255], ["x"], [256], [0] * 40):
        with pytest.raises(UnusableShape):
            label_studio_mask(data, SIZE)
    for text in ("\x00", "~~~", "o" * 40):
        with pytest.raises(UnusableShape):
            coco_counts(text)


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        (
            '<mask label="car" rle="1, 2" left="0" top="0" width="9" height="9"/>',
            "run lengths of 3 pixels",
        ),
        (
            '<mask label="car" rle="a" left="0" top="0" width="9" height="9"/>',
            "run lengths that are no counts",
        ),
        (
            '<mask label="car" rle="1" left="0" top="0" width="1e9" height="1e9"/>',
            "an impossible size",
        ),
        ('<mask label="car" rle="1" left="nan" top="0" width="1" height="1"/>', "are no numbers"),
        ('<box label="car" xtl="0" ytl="0" xbr="inf" ybr="1"/>', "are no numbers"),
        ('<polygon label="car" points="1,2;3"/>', "no pairs of numbers"),
        ('<polygon label="car" points="1,nan;3,4;5,6"/>', "not finite"),
    ],
)
def test_impossible_shapes_of_cvat_leave_their_image_out(inside, reason, tmp_path):
    assert reason in refused(cvat(tmp_path / "src", inside).parent, tmp_path / "out").replace(
        "Run", "run"
    )


def test_video_tasks_and_labels_without_a_name_are_refused(tmp_path):
    path = cvat(tmp_path / "src", '<polygon label="" points="1,2;3,4;5,6"/>')
    assert "without a label" in refused(path.parent, tmp_path / "out")
    path.write_text('<annotations><track id="0" label="car"/></annotations>')
    assert "CVAT for images 1.1" in refused(path.parent, tmp_path / "out")


def test_lines_of_yolo_that_are_none_are_named(tmp_path):
    picture(tmp_path / "src/images/a.png")
    (tmp_path / "src/labels").mkdir()
    (tmp_path / "src/data.yaml").write_text("names: [car, road]\n")
    label = tmp_path / "src/labels/a.txt"
    label.write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n2 0.1 0.1 0.5 0.1 0.5 0.5\n")
    assert "line 2: class '2', but there are 2 names" in refused(tmp_path / "src", tmp_path / "out")
    for line, reason in (
        ("0 0.1 0.1 0.5 0.1 0.5", "half a corner"),
        ("0 0.1 x 0.5 0.1 0.5 0.5", "not finite"),
    ):
        label.write_text(line)
        assert reason in refused(tmp_path / "src", tmp_path / "out")


def test_a_type_that_is_no_text_is_dropped_and_told(tmp_path):
    shutil.copytree(Path(__file__).parent / "files" / "supervisely", tmp_path / "src")
    path = tmp_path / "src/train/ann/a.png.json"
    content = json.loads(path.read_text())
    content["objects"][0]["geometryType"] = {"of": ["long " * 1000]}
    path.write_text(json.dumps(content))
    left = featherseg.convert(tmp_path / "src", tmp_path / "out").left_out
    assert [len(reason) < 200 for reason in left if reason.startswith("objects of the type")] == [
        True
    ]


def test_a_file_that_is_no_json_is_called_so_where_its_tool_is_not_known(tmp_path):
    (tmp_path / "export.json").write_text('{"images": [')
    assert "export.json" in (said := refused(tmp_path / "export.json", tmp_path / "out"))
    assert "no annotations" not in said


def test_an_image_of_several_pictures_inside_a_labelme_file_is_a_jpeg(tmp_path):
    frames = [Image.new("RGB", SIZE[::-1], color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.mpo", save_all=True, append_images=frames[1:])
    inside = base64.b64encode((tmp_path / "a.mpo").read_bytes()).decode()
    labelme(tmp_path / "src", [polygon("car", *square(2, 3, 6, 5))], imageData=inside)
    featherseg.convert(tmp_path / "src", tmp_path / "out")
    assert (tmp_path / "out/images/a.jpg").is_file()
