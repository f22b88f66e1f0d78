import os
import sys
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featherseg.core.errors import ConfigError, DataError, DataNotFound, UnknownName
from featherseg.data import open_dataset, share_rule
from featherseg.data.cache.fingerprint import Fingerprint
from featherseg.data.cache.prepared import meaning
from featherseg.data.datasets.dataset_toml import (
    DatasetToml,
    SourceTable,
    ThingsTable,
    read_dataset_toml,
    toml_text,
)
from featherseg.data.datasets.folder import FolderData, folder_listing
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.pairs import Pair, files_by_stem
from featherseg.data.images.palettes import color_text, parse_color, voc_palette

TOML = """
name = "yard"
images = "images"
masks = "masks"
{top}
[splits]
{splits}
[classes]
grass = "#3a7d2c"
path = "#c8b496"
[map]
{map}
"""
MAP = '0 = "ignore"\n4 = "grass"\n9 = "path"'
RAW = np.array([[0, 4, 9], [9, 4, 4]], np.uint8)
LABEL = np.array([[255, 0, 1], [1, 0, 0]], np.uint8)


def write(
    folder: Path, *, top: str = "", splits: str = 'train = "train"\nval = "val"', map: str = MAP
) -> Path:
    path = folder / "dataset.toml"
    path.write_text(TOML.format(top=top, splits=splits, map=map))
    return path


def add(folder: Path, key: str, mask: np.ndarray = RAW, image: np.ndarray | None = None) -> None:
    """Write one image (black if none is given) and its mask as PNG."""
    image = np.zeros((*mask.shape[:2], 3), np.uint8) if image is None else image
    for kind, pixels in (("images", image), ("masks", mask)):
        path = folder / kind / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def yard(tmp_path: Path) -> Path:
    """Two splits as folders: train/a, train/b, val/c."""
    for key in ("train/a", "train/b", "val/c"):
        add(tmp_path, key)
    write(tmp_path)
    return tmp_path


def test_a_folder_is_read_by_its_toml(yard: Path):
    data = open_dataset(str(yard / "dataset.toml"), "train")
    assert (data.name, data.channels, data.keys, len(data)) == (
        "yard",
        3,
        ["train/a", "train/b"],
        2,
    )
    assert data.licence == "not stated"
    assert [(info.name, info.color) for info in data.classes] == [
        ("grass", (58, 125, 44)),
        ("path", (200, 180, 150)),
    ]
    sample = data[1]
    assert (sample.key, sample.image.shape, sample.label.dtype) == ("train/b", (2, 3, 3), np.uint8)
    np.testing.assert_array_equal(sample.label, LABEL)


def test_the_paths_start_from_the_given_root(yard: Path, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    toml = (yard / "dataset.toml").rename(elsewhere / "yard.toml")
    assert len(FolderData(toml, "train", yard)) == 2
    with pytest.raises(DataNotFound, match=r"images, which is .images. in the dataset\.toml"):
        FolderData(toml, "train")


def palette_mask(raw: np.ndarray) -> Image.Image:
    mask = Image.fromarray(raw)
    mask.putpalette([7 * value % 256 for value in range(768)])
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(Image.fromarray(RAW), id="grey"),
        pytest.param(palette_mask(RAW), id="palette"),
        pytest.param(Image.fromarray(RAW.astype(np.uint16)), id="16 bit"),
        pytest.param(Image.fromarray(RAW.astype(np.int32)), id="32 bit"),
        pytest.param(Image.fromarray(np.dstack([RAW] * 3)), id="grey stored as RGB"),
    ],
)
def test_every_kind_of_mask_gives_the_same_label(yard: Path, mask: Image.Image):
    (yard / "masks/val/c.png").unlink()
    mask.save(yard / "masks/val/c.tif")
    np.testing.assert_array_equal(FolderData(yard / "dataset.toml", "val").label(0), LABEL)


def test_colour_masks_are_mapped_by_their_colours(tmp_path: Path):
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 128]], np.uint8)
    add(tmp_path, "train/a", colors[np.array([[0, 1, 2], [2, 1, 1]])])
    toml = write(tmp_path, map='"#000000" = "ignore"\n"#ff0000" = "grass"\n"#00FF80" = "path"')
    np.testing.assert_array_equal(FolderData(toml, "train").label(0), LABEL)


def test_a_colour_mask_where_numbers_are_expected_is_named(yard: Path):
    add(yard, "val/c", np.dstack([RAW, RAW, RAW + 1]))
    with pytest.raises(DataError, match=r"masks/val/c\.png: the mask is a colour image"):
        FolderData(yard / "dataset.toml", "val").label(0)


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, np.uint8), (1, np.uint16), (6, np.uint8), (6, np.uint16)]
)
def test_images_of_one_to_n_channels_and_8_or_16_bits(tmp_path: Path, channels: int, dtype: type):
    add(tmp_path, "train/a")
    (tmp_path / "images/train/a.png").unlink()
    pixels = np.arange(6 * channels, dtype=dtype).reshape(2, 3, channels) * 3
    first, *rest = [
        Image.fromarray(np.ascontiguousarray(pixels[:, :, band])) for band in range(channels)
    ]
    first.save(tmp_path / "images/train/a.tiff", save_all=True, append_images=rest)
    sample = FolderData(write(tmp_path, top=f"channels = {channels}"), "train")[0]
    assert sample.image.dtype == dtype
    np.testing.assert_array_equal(sample.image, pixels)


def test_a_value_outside_the_map_is_named_with_file_and_pixels(yard: Path):
    add(yard, "val/c", np.array([[78, 78, 9], [78, 250, 4]], np.uint8))
    with pytest.raises(
        DataError,
        match=r"masks/val/c\.png holds value 78 \(3 pixels\), 250 \(1 pixel\), "
        r"which is not in \[map\]",
    ):
        FolderData(yard / "dataset.toml", "val")[0]


def test_a_mask_of_another_size_is_named_with_both_sizes(yard: Path):
    add(yard, "val/c", RAW, image=np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(DataError, match=r"masks/val/c\.png is 2x3, but its image .*c\.png is 4x5"):
        FolderData(yard / "dataset.toml", "val")[0]


def test_missing_partners_are_counted_and_three_are_named(yard: Path):
    for name in "defgh":
        add(yard, f"train/{name}")
        (yard / f"masks/train/{name}.png").unlink()
    with pytest.raises(
        DataNotFound,
        match=r"5 of 7 samples have no mask: train/d, train/e, train/f, \.\.\.\. "
        "Add .*check DATA --fix OUT",
    ):
        FolderData(yard / "dataset.toml", "train")
    (yard / "images/val/c.png").unlink()
    with pytest.raises(DataNotFound, match="1 of 1 samples have no image: val/c"):
        FolderData(yard / "dataset.toml", "val")


def test_two_files_of_one_stem_are_named(yard: Path):
    Image.new("RGB", (3, 2)).save(yard / "images/val/c.jpg")
    with pytest.raises(DataError, match=r"c\.png has the same stem as another file"):
        FolderData(yard / "dataset.toml", "val")


def test_names_that_no_file_system_takes_are_refused(yard: Path):
    toml = yard / "dataset.toml"
    text = toml.read_text()
    toml.write_text(text.replace('"images"', f'"{"x" * 5000}"'))
    with pytest.raises(DataNotFound, match=r"which is 'images' in the dataset\.toml"):
        FolderData(toml, "train")
    toml.write_text(text.replace('"yard"', f'"{"x" * 5000}"'))
    with pytest.raises(ConfigError, match="name"):
        FolderData(toml, "train")


def test_hidden_files_and_other_endings_are_passed_over(yard: Path):
    (yard / "images/train/._a.png").write_bytes(b"resource fork")
    (yard / "images/train/notes.txt").write_text("x")
    assert FolderData(yard / "dataset.toml", "train").keys == ["train/a", "train/b"]


def test_masks_may_have_a_suffix_and_lie_beside_the_images(tmp_path: Path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (3, 2)).save(tmp_path / "images/a.png")
    Image.fromarray(RAW).save(tmp_path / "images/a_mask.png")
    toml = write(tmp_path, top='mask_suffix = "_mask"', splits="train = 1.0")
    toml.write_text(toml.read_text().replace('masks = "masks"', 'masks = "images"'))
    assert FolderData(toml, "train").keys == ["a"]
    toml.write_text(toml.read_text().replace('mask_suffix = "_mask"', ""))
    with pytest.raises(ConfigError, match="set the suffix of the masks"):
        FolderData(toml, "train")


def test_images_and_masks_may_both_have_a_suffix(tmp_path: Path):
    for name in ("001", "002"):
        add(tmp_path, name)
        (tmp_path / f"images/{name}.png").rename(tmp_path / f"images/{name}_image.png")
        (tmp_path / f"masks/{name}.png").rename(tmp_path / f"masks/{name}_annotation.png")
    (tmp_path / "images/readme_figure.png").write_bytes(b"")
    toml = write(
        tmp_path, top='image_suffix = "_image"\nmask_suffix = "_annotation"', splits="train = 1.0"
    )
    data = FolderData(toml, "train")
    assert data.keys == ["001", "002"]
    np.testing.assert_array_equal(data.label(0), LABEL)


@pytest.mark.parametrize(
    ("keys", "image", "mask"),
    [
        ('mask_suffix = ".png"', "a.jpg", "a.png"),
        ('image_suffix = ".jpg"', "a.jpg", "a.png"),
        ('image_suffix = ".jpg"\nmask_suffix = "_gt.png"', "a.jpg", "a_gt.png"),
        ('image_suffix = "_rgb"', "a_rgb.png", "a.png"),
    ],
)
def test_in_one_folder_masks_are_told_by_ending_or_suffix(
    tmp_path: Path, keys: str, image: str, mask: str
):
    (tmp_path / "both").mkdir()
    Image.new("RGB", (3, 2), (9, 9, 9)).save(tmp_path / "both" / image)
    Image.fromarray(RAW).save(tmp_path / "both" / mask)
    toml = write(tmp_path, top=keys, splits="train = 1.0")
    toml.write_text(toml.read_text().replace('"images"', '"both"').replace('"masks"', '"both"'))
    data = FolderData(toml, "train")
    assert data.keys == ["a"]
    assert [file.name for file in data.pairs[0].files] == [image, mask]


@pytest.mark.parametrize(("images", "masks"), [(".", "labels"), ("rgb", ".")])
def test_one_folder_may_lie_in_the_other(tmp_path: Path, images: str, masks: str):
    for folder, pixels in ((images, np.zeros((2, 3, 3), np.uint8)), (masks, RAW)):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / folder / "a.png")
    toml = write(tmp_path, splits="train = 1.0")
    toml.write_text(
        toml.read_text().replace('"images"', f'"{images}"').replace('"masks"', f'"{masks}"')
    )
    assert FolderData(toml, "train").keys == ["a"]


def test_values_from_the_threshold_on_count_as_255_and_lower_ones_as_0(tmp_path: Path):
    add(tmp_path, "a", np.array([[0, 1, 127], [128, 254, 255]], np.uint8))
    toml = write(
        tmp_path, top="threshold = 128", splits="train = 1.0", map='0 = "grass"\n255 = "path"'
    )
    np.testing.assert_array_equal(FolderData(toml, "train").label(0), [[0, 0, 0], [1, 1, 1]])
    for wrong, message in (
        (MAP, r"expected 0 and 255 in \[map\]"),
        ('0 = "grass"', r"\[map\] lacks 255|no raw value"),
    ):
        with pytest.raises(ConfigError, match=message):
            FolderData(
                write(tmp_path, top="threshold = 128", splits="train = 1.0", map=wrong), "train"
            )


SOURCES = """
name = "tiles"
{top}
classes = ["background", "crack", "fray"]
[splits]
train = 1.0
[map]
0 = "background"
[[source]]
images = "crack/imgs"
masks = "crack/imgs"
class = "crack"
[[source]]
images = "fray/imgs"
masks = "fray/imgs"
class = "fray"
[[source]]
images = "free/imgs"
masks = "free/imgs"
"""


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Three folders of images and masks of 0 and 255: each has its own class, the last has none."""
    for name, value in (("crack", 255), ("fray", 1), ("free", 0)):
        (tmp_path / name / "imgs").mkdir(parents=True)
        Image.new("RGB", (3, 2)).save(tmp_path / name / "imgs/e1.jpg")
        Image.fromarray(np.array([[0, 0, value], [0, value, value]], np.uint8)).save(
            tmp_path / name / "imgs/e1.png"
        )
    (tmp_path / "dataset.toml").write_text(SOURCES.format(top='mask_suffix = ".png"'))
    return tmp_path / "dataset.toml"


def test_a_source_says_what_class_its_folder_is_of(tiles: Path):
    data = FolderData(tiles, "train")
    assert data.keys == ["crack/imgs/e1", "fray/imgs/e1", "free/imgs/e1"]
    for index, number in enumerate((1, 2, 0)):
        np.testing.assert_array_equal(data[index].label, [[0, 0, number], [0, number, number]])
    Image.new("L", (3, 2), 7).save(tiles.parent / "crack/imgs/e1.png")
    with pytest.raises(DataError, match=r"holds value 7"):
        data.label(0)
    assert toml_text(read_dataset_toml(tiles)).count("[[source]]") == 3


def test_the_class_of_a_source_is_part_of_what_a_run_knows_and_of_what_is_prepared(tiles: Path):
    before = FolderData(tiles, "train")
    known = Fingerprint.of({"train": before})
    text = tiles.read_text()
    tiles.write_text(
        text.replace('class = "crack"', 'class = "x"').replace('class = "fray"', 'class = "crack"')
    )
    tiles.write_text(tiles.read_text().replace('class = "x"', 'class = "fray"'))
    after = FolderData(tiles, "train")
    assert known.differences({"train": after}) == [
        "the annotations of 2 masks of train changed: crack/imgs/e1, fray/imgs/e1"
    ]
    same = [meaning(before, i, "") == meaning(after, i, "") for i in range(3)]
    assert same == [False, False, True]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'class = "fray"',
            'class = "frey"',
            r"source 2: class = 'frey' is not a class .* Did you mean 'fray'",
        ),
        (
            "[splits]",
            'images = "images"\n[splits]',
            r"images and masks are keys of each \[\[source\]\]",
        ),
        ('images = "fray/imgs"', 'images = "crack/imgs"', "two .* have the same images"),
        ('class = "fray"\n', "", "no raw value in .* is mapped to class 'fray'"),
        (
            '"background"\n',
            '"background"\n255 = "ignore"\n',
            r"map\.255 = 'ignore', but 255 is the class of a",
        ),
    ],
)
def test_a_slip_in_the_sources_gets_a_sentence(tiles: Path, old: str, new: str, message: str):
    tiles.write_text(tiles.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=message):
        read_dataset_toml(tiles)


def test_a_folder_without_masks_is_told_which_key_is_missing(yard: Path):
    toml = yard / "dataset.toml"
    toml.write_text(toml.read_text().replace('masks = "masks"\n', ""))
    with pytest.raises(ConfigError, match="key 'masks' is missing"):
        read_dataset_toml(toml)


THINGS = '\n[things]\nclasses = ["path"]\ninstances = "instances"\n'


def test_things_have_their_objects_from_a_folder_of_their_own(yard: Path):
    toml = yard / "dataset.toml"
    toml.write_text(toml.read_text() + THINGS)
    with pytest.raises(
        DataNotFound, match=r"2 of 2 samples have no file of instances: .*instances/train/a\.png"
    ):
        FolderData(toml, "train")
    for key in ("train/a", "train/b"):
        (yard / "instances/train").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array([[5, 5, 1000], [0, 5, 5]], np.uint16)).save(
            yard / f"instances/{key}.png"
        )
    data = FolderData(toml, "train")
    assert [info.thing for info in data.classes] == [False, True]
    np.testing.assert_array_equal(
        data[0].instances, [[0, 0, 1000], [0, 0, 0]]
    )  # grass has none, and 0 is a crowd
    known = Fingerprint.of({"train": data})
    Image.fromarray(np.array([[0, 0, 3], [4, 0, 0]], np.uint8)).save(yard / "instances/train/b.png")
    assert known.differences({"train": FolderData(toml, "train")}) == [
        "the annotations of 1 mask of train changed: train/b"
    ]
    for wrong, message in (
        (np.zeros((3, 3), np.uint8), "is 3x3"),
        (np.zeros((2, 3, 3), np.uint8), "colour image"),
    ):
        Image.fromarray(wrong).save(yard / "instances/train/a.png")
        with pytest.raises(DataError, match=message):
            data[0]
    toml.write_text(toml.read_text().replace('classes = ["path"]', 'classes = ["pat"]'))
    with pytest.raises(
        ConfigError, match=r"things\.classes = 'pat' is not a class .* Did you mean 'path'"
    ):
        read_dataset_toml(toml)


def test_a_split_may_take_a_share_of_another(tmp_path: Path):
    for i in range(40):
        add(tmp_path, f"train/photo-{chr(97 + i // 26)}{chr(97 + i % 26)}")
    for i in range(5):
        add(tmp_path, f"test/other-{chr(97 + i)}")
    toml = write(
        tmp_path,
        splits='train = "train"\nval = "10% of train"\ndev = "20% of train"\ntest = "test"',
    )
    listing = folder_listing(toml)
    splits = {name: [pair.key for pair in pairs] for name, pairs in listing.splits.items()}
    assert {name: len(keys) for name, keys in splits.items()} == {
        "train": 28,
        "val": 4,
        "dev": 8,
        "test": 5,
    }
    assert len({key for keys in splits.values() for key in keys}) == 45
    assert "train by image" in listing.how_split
    assert share_rule(str(toml)) == "sequence-2"
    assert (
        read_dataset_toml(toml).splits
        == DatasetToml.model_validate_json(
            read_dataset_toml(toml).model_dump_json(exclude_none=True)
        ).splits
    )


@pytest.mark.parametrize(
    "pattern",
    [r"^(\w+)_\d+", r"[(+*]+\)+_", "patient([0-9]{3})", r"(?:clip|take)\d{2,4}", "a?b?c?"],
)
def test_groups_of_usual_regular_expressions_are_taken(tmp_path: Path, pattern: str):
    toml = write(tmp_path, top=f"groups = '{pattern}'", splits="train = 0.8\nval = 0.2")
    assert read_dataset_toml(toml).groups == pattern


def test_groups_say_what_stays_together(tmp_path: Path):
    keys = [
        f"{date}_patient{patient}_{i}"
        for patient in range(10)
        for date in ("mon", "tue")
        for i in range(3)
    ]
    for key in keys:
        add(tmp_path, key)
    toml = write(tmp_path, top='groups = "patient[0-9]+"', splits="train = 0.8\nval = 0.2")
    splits = folder_listing(toml).splits
    patients = {name: {pair.key.split("_")[1] for pair in pairs} for name, pairs in splits.items()}
    assert (len(patients["train"]), len(patients["val"])) == (8, 2)
    assert not patients["train"] & patients["val"]
    assert "(by groups): 10 sequences" in folder_listing(toml).how_split
    by_hand = folder_listing(
        write(tmp_path, top='groups = "_patient([0-4])_|_"', splits="train = 0.8\nval = 0.2")
    )
    assert "6 sequences" in by_hand.how_split  # five patients, and all others as one


def test_a_list_names_stems_in_its_own_order(yard: Path):
    (yard / "some.txt").write_text("# two of three\nval/c.png\n\ntrain/a\n")
    toml = write(yard, splits='train = "some.txt"')
    assert FolderData(toml, "train").keys == ["val/c", "train/a"]
    assert folder_listing(toml).unlisted == ["train/b"]
    (yard / "some.txt").write_text("train/zzz\n")
    with pytest.raises(DataNotFound, match="1 of 1 samples have no image: train/zzz"):
        FolderData(toml, "train")
    (yard / "some.txt").unlink()
    with pytest.raises(DataNotFound, match=r"some\.txt does not exist"):
        FolderData(toml, "train")


@pytest.mark.parametrize(("on_disk", "typed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_split_s_folder_is_found_however_its_accents_are_spelled(
    tmp_path: Path, on_disk: str, typed: str
):
    add(tmp_path, f"{normalize(on_disk, 'träin')}/a")
    toml = write(tmp_path, splits=f'train = "{normalize(typed, "träin")}"')
    assert len(FolderData(toml, "train")) == 1
    assert folder_listing(toml).unlisted == []


@pytest.mark.parametrize(("split_by", "together"), [("sequence", 10), ("image", 1)])
def test_shares_split_without_overlap_and_keep_sequences_together(
    tmp_path: Path, split_by: str, together: int
):
    for i in range(50):
        add(tmp_path, f"clip{i // 10}_{i % 10:03}")
    toml = write(
        tmp_path, top=f'split_by = "{split_by}"', splits="train = 0.6\nval = 0.2\ntest = 0.2"
    )
    splits = {split: FolderData(toml, split).keys for split in ("train", "val", "test")}
    assert sorted(key for keys in splits.values() for key in keys) == sorted(
        pair.key for pair in all_pairs(toml)
    )
    assert [len(keys) for keys in splits.values()] == [30, 10, 10]
    parts = {(key[:5], split) for split, keys in splits.items() for key in keys}
    assert (len(parts) == 5) == (together == 10)
    assert toml_text(read_dataset_toml(toml)).count("split_by") == (together == 1)


def all_pairs(toml: Path) -> list[Pair]:
    return [pair for pairs in folder_listing(toml).splits.values() for pair in pairs]


def test_an_unknown_or_empty_split_is_named(yard: Path):
    with pytest.raises(UnknownName, match=r"unknown split .* 'trainn'\. Did you mean 'train'"):
        FolderData(yard / "dataset.toml", "trainn")
    toml = write(yard, splits='train = "train"\nval = "missing"')
    with pytest.raises(DataNotFound, match="yard val: this split has no images"):
        FolderData(toml, "val")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('images = "images"', 'image = "images"', r"unknown key 'image'. Did you mean 'images'"),
        ('name = "yard"\n', "", r"key 'name' is missing"),
        ('9 = "path"', '9 = "pathh"', r"map.9 = 'pathh' is not a class .* Did you mean 'path'"),
        ('9 = "path"', '9 = "grass"', r"no raw value in \[map\] is mapped to class 'path'"),
        ('9 = "path"', '09 = "path"\n9 = "path"', r"a raw value occurs twice"),
        ('9 = "path"', '"1-" = "path"', r"'1-' in \[map\] is not a raw mask value"),
        ('9 = "path"', '"#00ff00" = "path"', r"\[map\] mixes numbers and '#rrggbb' colours"),
        ('"#c8b496"', '"#3A7D2C"', r"'path' and 'grass' have the same colour"),
        ('"#c8b496"', '"brown"', r"'brown' is not a colour"),
        ('path = "#c8b496"', 'ignore = "#c8b496"', r"a class cannot be named 'ignore'"),
        ('train = "train"', "train = 0.5", r"fractions must be given for all splits or none"),
        ('val = "val"', "", None),
        ('train = "train"\nval = "val"', "train = 0.8\nval = 0.3", r"sum to at most 1"),
        ('train = "train"', "train = 0", r"a fraction between 0 and 1"),
        ('train = "train"', 'train = "../train"', r"expected a folder inside images"),
        ("[map]", "[map", r"dataset\.toml is not valid TOML: .*line"),
        (
            'name = "yard"',
            'name = "yard"\nchannels = "3"',
            r"channels = '3': input should be a valid integer",
        ),
        ('name = "yard"', 'name = "yard"\nchannels = 0', r"channels = 0"),
        ('val = "val"', 'val = "10% of trian"', r"a share of 'trian': expected a split"),
        ('val = "val"', 'val = "ten % of train"', r"expected a share such as"),
        ('train = "train"', 'train = "20% of val"\ntest = "10% of train"', r"a share of 'train'"),
        ('val = "val"', 'val = "60% of train"\ntest = "40% of train"', r"take all of 'train'"),
        ('name = "yard"', 'name = "yard"\ngroups = "(["', r"expected a regular expression"),
        ('name = "yard"', 'name = "yard"\ngroups = "(a+)+b"', r"endlessly long"),
        ('name = "yard"', 'name = "yard"\ngroups = "(?:a|a){2,}b"', r"endlessly long"),
        ('name = "yard"', 'name = "yard"\ngroups = ".*.*.*.*b"', r"and 3 of them at most"),
        ('name = "yard"', 'name = "yard"\ngroups = "(([^)]*)*)b"', r"endlessly long"),
    ],
)
def test_a_slip_in_the_toml_gets_a_sentence(yard: Path, old: str, new: str, message: str | None):
    toml = yard / "dataset.toml"
    assert old in toml.read_text()
    toml.write_text(toml.read_text().replace(old, new))
    if message is None:
        read_dataset_toml(toml)
    else:
        with pytest.raises(ConfigError, match=message) as caught:
            read_dataset_toml(toml)
        assert str(toml) in str(caught.value)


def test_a_missing_toml_is_named(tmp_path: Path):
    with pytest.raises(DataNotFound, match=r"dataset\.toml does not exist"):
        open_dataset(str(tmp_path / "dataset.toml"), "train")


def test_classes_without_colours_get_bright_ones_and_a_background_black(tmp_path: Path):
    toml = tmp_path / "dataset.toml"
    toml.write_text(
        'name = "a"\nimages = "i"\nmasks = "m"\nclasses = ["Background", "x", "y"]\n'
        '[splits]\ntrain = 1.0\n[map]\n0 = "Background"\n1 = "x"\n2 = "y"'
    )
    assert [info.color for info in read_dataset_toml(toml).class_infos()] == [
        (0, 0, 0),
        (213, 94, 0),
        (86, 180, 233),
    ]


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_a_colour_survives_being_written(color: tuple[int, int, int]):
    assert parse_color(color_text(color)) == color


NAMES = st.text(min_size=1, max_size=8).filter(lambda name: name != "ignore" and name.isprintable())


@settings(max_examples=30)
@given(
    names=st.lists(NAMES, min_size=1, max_size=6, unique=True),
    channels=st.integers(1, 64),
    shares=st.booleans(),
)
def test_a_written_toml_reads_as_what_it_was_written_from(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], channels: int, shares: bool
):
    colors = voc_palette(len(names))
    config = DatasetToml(
        name=names[0],
        images="images",
        masks="masks",
        mask_suffix=names[0],
        channels=channels,
        licence=names[-1],
        splits={"train": 0.75, "val": 0.25} if shares else {"train": "train"},
        classes={name: color_text(color) for name, color in zip(names, colors, strict=True)},
        map={color_text(color): name for name, color in zip(names, colors, strict=True)},
    )
    path = tmp_path_factory.mktemp("toml") / "dataset.toml"
    path.write_text(toml_text(config), encoding="utf-8")
    assert read_dataset_toml(path) == config


def test_every_further_key_survives_being_written(tmp_path: Path):
    common = {
        "name": "a",
        "classes": {"x": "#000001", "y": "#000002"},
        "map": {"0": "x", "255": "y"},
    }
    for more in (
        {
            "images": "i",
            "masks": "m",
            "image_suffix": "_i.jpg",
            "mask_suffix": ".png",
            "threshold": 99,
        },
        {
            "images": "i",
            "masks": "m",
            "groups": r"^(\w+)\\",
            "things": ThingsTable(classes=["y"], instances='"n"'),
        },
        {
            "source": (
                SourceTable(images="a", masks="b"),
                SourceTable(images="c", masks="d", class_="y"),
            )
        },
    ):
        config = DatasetToml(**common, splits={"train": "train", "val": "2.5% of train"}, **more)
        (tmp_path / "dataset.toml").write_text(toml_text(config), encoding="utf-8")
        assert read_dataset_toml(tmp_path / "dataset.toml") == config


@settings(max_examples=50)
@given(
    st.dictionaries(st.integers(-70000, 70000), st.integers(0, 255), min_size=1, max_size=9),
    st.lists(st.integers(-70000, 70000), min_size=1, max_size=20),
)
def test_a_label_map_does_what_a_loop_over_the_pixels_does(ids: dict[int, int], values: list[int]):
    raw = np.array([values + list(ids)], dtype=np.int32)
    label_map = LabelMap(ids, expected="the test")
    expected = [[ids.get(int(value), -1) for value in raw[0]]]
    np.testing.assert_array_equal(label_map.apply(raw), expected)
    if raw.min() >= 0 and raw.max() < 65536:
        np.testing.assert_array_equal(label_map.apply(raw.astype(np.uint16)), expected)
    outside = [int(value) for value in raw[0] if value not in ids]
    assert label_map.outside(raw) == {value: outside.count(value) for value in outside}


def test_a_negative_value_of_the_map_is_no_other_counted_from_the_end():
    label_map = LabelMap({-1: 255, 0: 3}, expected="the test")
    assert label_map.apply(np.array([[0, 65535]], np.uint16)).tolist() == [[3, -1]]
    assert label_map.apply(np.array([[0, -1, -2]], np.int32)).tolist() == [[3, 255, -1]]
    with pytest.raises(DataError, match=r"a\.tif holds value -2 \(1 pixel\)"):
        label_map(np.array([[-2]], np.int32), "a.tif")


def test_hidden_folders_and_files_are_no_images(tmp_path):
    for folder in ("images", "images/.thumbnails"):
        (tmp_path / folder).mkdir()
        for name in ("a.png", "._a.png"):
            Image.fromarray(RAW).save(tmp_path / folder / name)
    assert list(files_by_stem(tmp_path / "images")) == ["a"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text_is_said(tmp_path):
    with open(os.fsencode(tmp_path / "x") + b"\xdf.png", "wb"):
        pass
    with pytest.raises(
        DataError, match=r"1 file of a name that is not UTF-8, first 'x\\udcdf.png'\. Rename them"
    ):
        files_by_stem(tmp_path)


def test_a_mark_of_byte_order_is_no_part_of_a_name(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.fromarray(RAW).save(tmp_path / folder / "0001.png")
    for name in ("train", "val"):
        (tmp_path / f"{name}.txt").write_text("\ufeff0001\n")
    path = write(tmp_path, splits='train = "train.txt"\nval = "val.txt"')
    path.write_text("\ufeff" + path.read_text())
    assert open_dataset(str(path), "train").keys == ["0001"]
