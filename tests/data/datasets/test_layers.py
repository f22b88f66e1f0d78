"""[[layer]] of a dataset.toml: binary masks of one image are merged in every verb."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.servers.fake_bucket import install

from featherseg.converters.masks import open_masks
from featherseg.core.errors import ConfigError, DataError, DataNotFound
from featherseg.data import open_dataset, open_files
from featherseg.data.cache import mirror
from featherseg.data.cache.fingerprint import Fingerprint
from featherseg.data.cache.prepared import PreparedData, meaning
from featherseg.data.cache.prepared_writer import prepare_data
from featherseg.data.checks.check import check_data
from featherseg.data.checks.fixes import write_mended
from featherseg.data.datasets.dataset_toml import read_dataset_toml, toml_text
from featherseg.data.datasets.folder import FolderData
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.training.objects import NAMES_ALONE
from featherseg.training.open import open_unlabelled

HEAD = """
name = "road"
{images}
classes = ["ground", "lane", "hole"]
[splits]
{splits}
[map]
0 = "ground"
"""
BY_SUFFIX = 'images = "Dataset"\nmasks = "Dataset"\nimage_suffix = "_RAW"'
ALL = "train = 1.0"
LANE, HOLE = (
    '[[layer]]\nclass = "lane"\nsuffix = "_LANE"\n',
    '[[layer]]\nclass = "hole"\nsuffix = "_HOLE"\n',
)
LANES = np.array([[0, 255, 255, 255], [0, 255, 255, 0]], np.uint8)
HOLES = np.array([[0, 0, 255, 0], [255, 0, 0, 0]], np.uint8)
LABEL = [[0, 1, 2, 1], [2, 1, 1, 0]]


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def describe(folder: Path, *layers: str, images: str = BY_SUFFIX, splits: str = ALL) -> str:
    """Write a dataset.toml and return its path."""
    (folder / "dataset.toml").write_text(
        HEAD.format(images=images, splits=splits) + "".join(layers)
    )
    return str(folder / "dataset.toml")


def add(folder: Path, key: str, number: int = 0) -> None:
    """Dataset/KEY/KEY_RAW.jpg with two masks in RGB."""
    image = np.random.default_rng(number).integers(0, 255, (2, 4, 3), np.uint8)
    save(folder / f"Dataset/{key}/{key}_RAW.jpg", image)
    for name, pixels in (("LANE", LANES), ("HOLE", HOLES)):
        save(folder / f"Dataset/{key}/{key}_{name}.png", np.repeat(pixels[:, :, None], 3, axis=2))


@pytest.fixture
def road(tmp_path):
    for number, key in enumerate(("a", "b")):
        add(tmp_path, key, number)
    describe(tmp_path, LANE, HOLE)
    return tmp_path


def test_later_layers_lie_on_top(road):
    data = open_dataset(str(road), "train")
    assert data.keys == ["a/a", "b/b"]
    assert data[0].label.tolist() == LABEL
    describe(road, HOLE, LANE)
    assert open_dataset(str(road), "train")[0].label.tolist() == [[0, 1, 1, 1], [2, 1, 1, 0]]


def test_a_threshold_reads_smoothed_layers(road):
    text = describe(road, LANE, HOLE, images=BY_SUFFIX + "\nthreshold = 100")
    save(road / "Dataset/a/a_LANE.png", np.where(LANES, 130, 90).astype(np.uint8))
    assert open_dataset(text, "train")[0].label.tolist() == LABEL


def test_what_is_ignored_in_a_layer_covers_those_below(road):
    text = describe(road, LANE, HOLE)
    Path(text).write_text(
        Path(text).read_text().replace('0 = "ground"', '0 = "ground"\n7 = "ignore"')
    )
    save(road / "Dataset/a/a_HOLE.png", np.where(HOLES, 7, 0).astype(np.uint8))
    assert open_dataset(text, "train")[0].label.tolist() == [[0, 1, 255, 1], [255, 1, 1, 0]]


def test_the_file_is_read_as_it_is_written(road):
    describe(
        road,
        LANE + "optional = true\n",
        '[[layer]]\nclass = "hole"\nmasks = "Dataset"\nprefix = "h"\n',
    )
    config = read_dataset_toml(road / "dataset.toml")
    (road / "again.toml").write_text(toml_text(config))
    assert read_dataset_toml(road / "again.toml") == config


def test_a_layer_that_is_not_there_is_a_fault_unless_it_is_optional(road):
    (road / "Dataset/b/b_HOLE.png").unlink()
    (fault,) = check_data(str(road)).faults
    assert fault.kind == "unpaired"
    assert fault.text.endswith("b_RAW.jpg has no mask of hole")
    with pytest.raises(DataNotFound, match="1 of 2 samples have no mask: b/b"):
        open_dataset(str(road), "train")
    describe(road, LANE, HOLE + "optional = true\n")
    assert not check_data(str(road)).faults
    assert open_dataset(str(road), "train")[1].label.tolist() == (LANES > 0).astype(int).tolist()


def test_an_image_without_any_optional_layer_has_no_mask(road):
    for name in ("LANE", "HOLE"):
        (road / f"Dataset/b/b_{name}.png").unlink()
    describe(road, LANE + "optional = true\n", HOLE + "optional = true\n")
    (fault,) = check_data(str(road)).faults
    assert fault.text.endswith("b_RAW.jpg has no mask")


def test_a_lower_layer_may_be_the_one_that_is_not_there(road):
    (road / "Dataset/a/a_LANE.png").unlink()
    describe(road, LANE + "optional = true\n", HOLE)
    assert open_dataset(str(road), "train")[0].label.tolist() == (2 * (HOLES > 0)).tolist()


@pytest.mark.parametrize(
    ("pixels", "kind", "words"),
    [
        (np.zeros((3, 4), np.uint8), "size", "a_HOLE.png is 3x4, but .*a_LANE.png is 2x4"),
        (np.full((2, 4), 9, np.uint8), "values", r"a_HOLE.png holds value 9 \(8 pixels\)"),
    ],
)
def test_a_fault_names_the_layer(road, pixels, kind, words):
    save(road / "Dataset/a/a_HOLE.png", pixels)
    (fault,) = check_data(str(road)).faults
    assert fault.kind == kind
    with pytest.raises(DataError, match=words):
        open_dataset(str(road), "train")[0]


def test_a_folder_of_masks_for_each_class(tmp_path):
    save(tmp_path / "images/x.jpg", np.zeros((2, 4, 3), np.uint8))
    save(tmp_path / "masks/lane/x.png", LANES // 255)
    save(tmp_path / "masks/hole/x_h.png", HOLES)
    layers = (
        '[[layer]]\nclass = "lane"\nmasks = "masks/lane"\n',
        '[[layer]]\nclass = "hole"\nmasks = "masks/hole"\nsuffix = "_h"\n',
    )
    text = describe(tmp_path, *layers, images='images = "images"')
    assert open_dataset(text, "train")[0].label.tolist() == LABEL


def test_any_folder_stands_in_images_and_masks(tmp_path):
    for split in ("train", "val"):
        save(tmp_path / f"{split}/images/x.jpg", np.zeros((2, 4, 3), np.uint8))
        save(tmp_path / f"{split}/lane/x.png", LANES)
        save(tmp_path / f"{split}/hole/x.png", HOLES)
    layers = [f'[[layer]]\nclass = "{name}"\nmasks = "*/{name}"\n' for name in ("lane", "hole")]
    text = describe(
        tmp_path, *layers, images='images = "*/images"', splits='train = "train"\nval = "val"'
    )
    for split in ("train", "val"):
        data = open_dataset(text, split)
        assert data.keys == [f"{split}/x"]
        assert data[0].label.tolist() == LABEL


@pytest.mark.parametrize(
    ("image", "masks", "images"),
    [
        (
            "cells/a/images/a.png",
            "cells/a/masks/{}.png",
            'images = "cells/*/images"\nmasks = "cells/*/masks"',
        ),
        ("images/a.png", "masks/a/{}.png", 'images = "images"\nmasks = "masks"'),
        (
            "cells/a/image.png",
            "cells/a/mask_{}.png",
            'images = "cells"\nmasks = "cells"\nimage_suffix = "image"',
        ),
    ],
)
def test_objects_of_one_class_are_joined(tmp_path, image, masks, images):
    save(tmp_path / image, np.zeros((2, 4, 3), np.uint8))
    save(tmp_path / masks.format("f0"), LANES)
    save(tmp_path / masks.format("f1"), HOLES)
    layer = '[[layer]]\nclass = "lane"\nobjects = true\n' + 'prefix = "mask_"\n' * (
        "mask_" in masks
    )
    text = describe(tmp_path, layer, images=images)
    Path(text).write_text(Path(text).read_text().replace(', "hole"', ""))
    data = open_dataset(text, "train")
    assert len(data) == 1
    assert data[0].label.tolist() == ((LANES | HOLES) > 0).astype(int).tolist()
    assert not check_data(text).faults


@pytest.mark.parametrize(
    ("layers", "images", "words"),
    [
        ((LANE, HOLE), BY_SUFFIX + '\nmask_suffix = "_m"', "mask_suffix: with "),
        (
            (LANE, HOLE.replace("_HOLE", "_LANE")),
            BY_SUFFIX,
            "have the same folder, prefix and suffix",
        ),
        (
            (LANE, HOLE.replace("hole", "hoel")),
            BY_SUFFIX,
            "layer 2: class = 'hoel' .*Did you mean 'hole'",
        ),
        (
            (LANE, HOLE),
            BY_SUFFIX.replace('images = "D', 'images = "*/D'),
            "once in each path of images and masks or never",
        ),
        ((LANE, HOLE, '[[source]]\nimages = "a"\nmasks = "b"\n'), "", "cannot be combined"),
        ((LANE + 'masks = "a"\n', HOLE + 'masks = "b"\n'), BY_SUFFIX, "remove the masks of all"),
    ],
)
def test_a_slip_in_layers_is_named(road, layers, images, words):
    with pytest.raises(ConfigError, match=words):
        open_dataset(describe(road, *layers, images=images), "train")


def test_layers_need_the_meaning_of_0(road):
    path = road / "dataset.toml"
    path.write_text(path.read_text().replace('0 = "ground"', '3 = "ground"'))
    with pytest.raises(ConfigError, match="lacks 0"):
        open_dataset(str(path), "train")


def test_a_training_knows_its_upper_layers(road):
    data = open_files(str(road), "train")
    assert isinstance(data, FolderData)
    known, meant = Fingerprint.of({"train": data}), meaning(data, 0, "")
    assert not known.differences({"train": open_files(str(road), "train")})
    save(road / "Dataset/a/a_HOLE.png", 255 - HOLES)
    changed = open_files(str(road), "train")
    assert isinstance(changed, FolderData)
    assert known.differences({"train": changed}) == [
        "the annotations of 1 mask of train changed: a/a"
    ]
    assert meaning(changed, 0, "") != meant
    describe(road, HOLE, LANE)
    save(road / "Dataset/a/a_HOLE.png", HOLES)
    assert known.differences({"train": open_files(str(road), "train")})  # the order is another


def test_prepared_data_of_layers_are_made_anew_where_an_upper_one_changed(road, monkeypatch):
    monkeypatch.setenv("FEATHERSEG_CACHE", str(road / "cache"))
    prepare_data(str(road), "train")
    assert isinstance(open_dataset(str(road), "train"), PreparedData)
    assert open_dataset(str(road), "train")[0].label.tolist() == LABEL
    save(road / "Dataset/a/a_HOLE.png", np.zeros_like(HOLES))
    assert open_dataset(str(road), "train")[0].label.tolist() == (LANES > 0).astype(int).tolist()


def test_a_mended_copy_has_one_mask_an_image(road, tmp_path):
    describe(road, LANE, HOLE, splits="train = 0.5\nval = 0.5")
    out = tmp_path / "copy"
    assert write_mended(check_data(str(road)), out).copied == 2
    labels = [open_dataset(str(out), split)[0].label.tolist() for split in ("train", "val")]
    assert labels == [LABEL, LABEL]


def test_layers_are_converted_as_one_mask(road):
    assert [image.mask.tolist() for image in open_masks(road, None).images] == [LABEL, LABEL]


def test_layers_in_a_bucket_are_copied(road, monkeypatch, tmp_path):
    bucket = install(monkeypatch, tmp_path / "home")
    files = [
        path
        for path in road.rglob("*")
        if path.is_file() and path.suffix in (".jpg", ".png", ".toml")
    ]
    bucket.objects = {
        f"yard/{path.relative_to(road).as_posix()}": path.read_bytes() for path in files
    }
    mirror.local_dataset.cache_clear()
    assert open_dataset("s3://yard/dataset.toml", "train")[1].label.tolist() == LABEL


def test_any_folder_in_a_bucket_is_copied(monkeypatch, tmp_path):
    place = tmp_path / "here"
    save(place / "cells/a/images/a.png", np.zeros((2, 4, 3), np.uint8))
    save(place / "cells/a/masks/m.png", LANES)
    images = 'images = "cells/*/images"\nmasks = "cells/*/masks"'
    text = Path(describe(place, '[[layer]]\nclass = "lane"\nobjects = true\n', images=images))
    text.write_text(text.read_text().replace(', "hole"', ""))
    bucket = install(monkeypatch, tmp_path / "home")
    files = [path for path in place.rglob("*") if path.is_file()]
    bucket.objects = {
        f"yard/{path.relative_to(place).as_posix()}": path.read_bytes() for path in files
    }
    mirror.local_dataset.cache_clear()
    assert (
        open_dataset("s3://yard/dataset.toml", "train")[0].label.tolist()
        == (LANES > 0).astype(int).tolist()
    )


def test_masks_of_upper_layers_are_no_images_without_masks(road):
    recipe = parse_recipe(read_recipe("frm-lite0-light"), [f"data.unlabelled={road / 'Dataset/a'}"])
    train = open_files(str(road), "train")
    with pytest.raises(DataError, match="images in it are masks of road"):
        open_unlabelled(recipe, train, train, NAMES_ALONE)
