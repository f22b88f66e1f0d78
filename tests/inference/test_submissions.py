import numpy as np
import pytest
from PIL import Image

from featherseg.core.errors import ConfigError
from featherseg.data.datasets.cityscapes_labels import (
    CITYSCAPES_CLASSES,
    FROM_LABEL_IDS,
    FROM_TRAIN_IDS,
)
from featherseg.data.images.decoding import read_mask
from featherseg.inference.submissions import SUBMISSIONS

MASK = np.random.default_rng(0).integers(0, 19, (30, 40)).astype(np.uint8)
NAME = "berlin_000000_000019_leftImg8bit"


@pytest.mark.parametrize(
    ("name", "reader"), [("cityscapes", FROM_LABEL_IDS), ("bdd100k", FROM_TRAIN_IDS)]
)
def test_a_submission_is_a_grey_png_that_the_dataset_s_reader_reads_back(tmp_path, name, reader):
    path = SUBMISSIONS[name].save(MASK, tmp_path, NAME)
    assert path == SUBMISSIONS[name].file(tmp_path, NAME) == tmp_path / f"{NAME}.png"
    with Image.open(path) as image:
        assert (image.mode, image.size) == ("L", (40, 30))
    np.testing.assert_array_equal(reader(read_mask(path), str(path)), MASK)


def test_cityscapes_takes_label_ids(tmp_path):
    path = SUBMISSIONS["cityscapes"].save(np.array([[0, 2, 10, 18]], np.uint8), tmp_path, NAME)
    assert read_mask(path).tolist() == [[7, 11, 23, 33]]  # road, building, sky, bicycle


def test_bdd100k_takes_train_ids(tmp_path):
    path = SUBMISSIONS["bdd100k"].save(np.array([[0, 2, 10, 18]], np.uint8), tmp_path, NAME)
    assert read_mask(path).tolist() == [[0, 2, 10, 18]]


@pytest.mark.parametrize("classes", [CITYSCAPES_CLASSES[:18], CITYSCAPES_CLASSES[::-1]])
def test_other_classes_or_another_order_are_refused(classes):
    SUBMISSIONS["cityscapes"].check("net", CITYSCAPES_CLASSES)
    with pytest.raises(
        ConfigError, match=rf"net has {len(classes)} classes .*needs the 19 .*--data cityscapes"
    ):
        SUBMISSIONS["cityscapes"].check("net", classes)
