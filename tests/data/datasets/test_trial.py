import numpy as np
import pytest
from PIL import Image

from featherseg.core.errors import DataNotFound
from featherseg.data import open_dataset


def test_masks_are_read_beside_their_images(tmp_path):
    mask = np.array([[0, 1, 255]], dtype=np.uint8)
    for folder, pixels in (("images", np.zeros((1, 3, 3), np.uint8)), ("masks", mask)):
        (tmp_path / folder / "val").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / folder / "val" / "a.png")
    data = open_dataset("trial", "val", tmp_path)
    assert (data.keys, [info.name for info in data.classes]) == (["a"], ["ground", "sky"])
    np.testing.assert_array_equal(data.label(0), mask)
    with pytest.raises(DataNotFound, match="holds no images/train"):
        open_dataset("trial", "train", tmp_path)
