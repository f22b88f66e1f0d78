"""A dataset for a day."""

import numpy as np
from PIL import Image

from featherseg.data import open_dataset
from featherseg.data.checks import check_data


def test_a_trial_dataset_is_read(tmp_path):
    for split in ("train", "val"):
        for folder, pixels in (("images", np.zeros((4, 6, 3), np.uint8)), ("masks", np.eye(4, 6, dtype=np.uint8))):
            (tmp_path / folder / split).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / folder / split / f"{split}.png")
    assert open_dataset("trial", "val", tmp_path).label(0).sum() == 4
    assert check_data("trial", tmp_path).faults[0].kind == "duplicate"
