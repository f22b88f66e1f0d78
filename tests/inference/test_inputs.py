"""Images in any form: the same pixels whatever holds them, and a sentence for what is not clear."""

import time

import numpy as np
import pytest
import torch
from PIL import Image

from featherseg import FeathersegError
from featherseg.core.errors import DataError
from featherseg.inference.inputs import read_ahead, read_input

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)


def test_a_path_a_pil_image_an_array_and_tensors_give_the_same_pixels(tmp_path):
    path = tmp_path / "street.view.png"
    Image.fromarray(PIXELS).save(path)
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    forms = (
        path,
        str(path),
        Image.open(path),
        Image.fromarray(PIXELS),
        PIXELS,
        tensor,
        tensor.float() / 255,
    )
    images = [read_input(form, 3) for form in forms]
    assert all((image.pixels == PIXELS).all() for image in images)
    assert [image.name for image in images] == ["street.view"] * 3 + ["image"] * 4


def test_a_turned_photo_is_upright_from_a_path_and_from_pil(tmp_path):
    path = tmp_path / "phone.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned right by 90 degrees
    Image.fromarray(PIXELS).save(path, exif=exif)
    for form in (path, Image.open(path)):
        assert (read_input(form, 3).pixels == np.rot90(PIXELS, -1)).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA"])
def test_pil_images_of_any_mode_become_rgb(mode):
    assert read_input(Image.fromarray(PIXELS).convert(mode), 3).pixels.shape == (5, 7, 3)


def test_the_inks_of_cmyk_are_no_four_channels():
    with pytest.raises(DataError, match="the PIL image is a CMYK image"):
        read_input(Image.new("CMYK", (2, 1), (255, 0, 0, 0)), 4)
    assert read_input(Image.new("RGBA", (1, 1), (1, 2, 3, 4)), 4).pixels.tolist() == [
        [[1, 2, 3, 4]]
    ]


def test_sixteen_bit_grey_is_kept_for_one_channel_and_repeated_for_three(tmp_path):
    deep = np.arange(35, dtype=np.uint16).reshape(5, 7) * 1000
    for form in (Image.fromarray(deep), deep, deep[:, :, None]):
        assert (read_input(form, 1).pixels == deep[:, :, None]).all()
    Image.fromarray(deep).save(tmp_path / "a.png")
    for form in (Image.fromarray(deep), tmp_path / "a.png", Image.open(tmp_path / "a.png")):
        assert (read_input(form, 3).pixels == deep[:, :, None]).all()


@pytest.mark.parametrize(
    ("x", "named"),
    [
        (PIXELS.astype(np.float32), "float32"),
        (PIXELS.astype(np.int64), "int64"),
        (PIXELS[:, :, :2], r"\(5, 7, 2\)"),
        (PIXELS[:, :, 0], r"\(5, 7\): expected \(H, W, 3\).* np\.stack\(\[x\] \* 3, -1\)"),
        (PIXELS.transpose(2, 0, 1), r"looks like \(C, H, W\)"),
        (PIXELS[None], "list"),
        (PIXELS[:0], "0x7"),
        (torch.from_numpy(PIXELS), r"looks like \(H, W, C\)"),
        (torch.from_numpy(PIXELS).permute(2, 0, 1)[None], "list"),
        (torch.from_numpy(PIXELS).permute(2, 0, 1).float(), "from 0 to 25[0-9]|expected 0 to 1"),
        (torch.full((3, 4, 4), float("nan")), "nan"),
        (torch.zeros(3, 0, 4, dtype=torch.uint8), "0x4"),
        (Image.new("F", (4, 4)), "mode F"),
        (Image.new("La", (4, 4)), "mode La"),
        (7, "type int"),
        (None, "NoneType"),
        ({"image": PIXELS}, "type dict"),
    ],
)
def test_what_is_not_clear_is_refused_by_what_was_found(x, named):
    with pytest.raises(FeathersegError, match=named):
        read_input(x, 3)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_quantised_tensor_is_refused():
    tensor = torch.quantize_per_tensor(torch.zeros(3, 4, 4), 1.0, 0, torch.quint8)
    with pytest.raises(DataError, match=r"torch\.quint8: expected uint8"):
        read_input(tensor, 3)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    for path in (tmp_path, tmp_path / "none.jpg"):
        with pytest.raises(FeathersegError, match=path.name):
            read_input(path, 3)


def test_the_next_is_read_ahead_beside_light_ones_only_and_errors_keep_their_place():
    begun = []

    def read(item, only_light):
        if only_light and not item.islower():
            return None
        begun.append(item)
        if item == "bad":
            raise DataError("bad")
        return item

    ahead, seen = [], []
    for found in read_ahead(["a", "b", "HEAVY", "c", "bad", "d"], read):
        if isinstance(found, str):
            time.sleep(0.05)  # what the thread reads ahead, it has read by now
        seen.append(str(found))
        ahead.append(len(begun) - len(seen))
    assert seen == begun == ["a", "b", "HEAVY", "c", "bad", "d"]
    assert [ahead[n] for n in (0, 1, 2, 3, 5)] == [1, 0, 0, 1, 0]


def test_a_palette_s_numbers_are_no_grey_values():
    with pytest.raises(FeathersegError, match="with a palette has colours: expected 1 channels"):
        read_input(Image.fromarray(PIXELS).convert("P"), 1)
    assert read_input(Image.fromarray(PIXELS).convert("P"), 3).pixels.shape == PIXELS.shape
