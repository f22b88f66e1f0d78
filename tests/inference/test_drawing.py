"""Drawing: index values, class colours, harmless names from strangers, any size."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from featherseg.core.types import ClassInfo
from featherseg.inference import drawing

CLASSES = (
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("sky", (70, 130, 180)),
    ClassInfo("a\x1b[31m\n\u202eb", (9, 8, 7)),
)
MASK = np.array([[0, 1, 2], [2, 2, 255]], dtype=np.uint8)


def test_an_index_png_reads_back_as_indices_and_looks_coloured(tmp_path):
    path = tmp_path / "mask.png"
    drawing.save_index_png(MASK, CLASSES, path)
    with Image.open(path) as image:
        assert image.mode == "P"
        assert (np.array(image) == MASK).all()
        colors = np.array(image.convert("RGB"))
    assert colors[0].tolist() == [[128, 64, 128], [70, 130, 180], [9, 8, 7]]
    assert colors[1, 2].tolist() == [0, 0, 0]
    assert (colors == np.array(drawing.color_mask(MASK, CLASSES))).all()


def test_masks_are_drawn_in_class_colours_and_what_is_no_class_is_black():
    classes = (ClassInfo("road", (128, 64, 128)), ClassInfo("car", (0, 0, 142)))
    image = np.array(drawing.color_mask(np.array([[0, 1, 255]], dtype=np.uint8), classes))
    assert image.tolist() == [[[128, 64, 128], [0, 0, 142], [0, 0, 0]]]


def test_the_overlay_goes_from_the_image_to_the_colours():
    image = np.full((2, 3, 3), 200, dtype=np.uint8)
    assert (np.array(drawing.overlay(image, MASK, CLASSES, 0.0, contour=False)) == image).all()
    assert (
        np.array(drawing.overlay(image, MASK, CLASSES, 1.0))
        == np.array(drawing.color_mask(MASK, CLASSES))
    ).all()
    half = np.array(drawing.overlay(image, MASK, CLASSES, 0.5, contour=False))
    assert half[0, 0].tolist() == [164, 132, 164]


@pytest.mark.parametrize(("width", "reach"), [(40, 1), (2000, 2)])
def test_every_class_is_outlined_in_its_colour_on_its_side(width, reach):
    image = np.full((9, width, 3), 200, dtype=np.uint8)
    mask = np.zeros((9, width), dtype=np.uint8)
    mask[:, 20:] = 1
    row = np.array(drawing.overlay(image, mask, CLASSES, 0.0))[4].tolist()
    assert row[20 - reach : 20] == [list(CLASSES[0].color)] * reach
    assert row[20 : 20 + reach] == [list(CLASSES[1].color)] * reach
    assert row[: 20 - reach] + row[20 + reach :] == [[200] * 3] * (width - 2 * reach)


@pytest.mark.parametrize(
    "clear", [ClassInfo("asphalt", (0, 0, 0)), ClassInfo("_Background_", (128, 0, 0))]
)
def test_a_background_and_a_black_class_leave_the_image_as_it_is(clear):
    image = np.full((2, 3, 3), 200, dtype=np.uint8)
    classes = (clear, *CLASSES[1:])
    drawn = np.array(drawing.overlay(image, MASK, classes, 0.5))
    assert (drawn[MASK == 0] == 200).all()
    assert (
        drawn[MASK == 1] == np.array(drawing.overlay(image, MASK, CLASSES, 0.5))[MASK == 1]
    ).all()


def test_ignored_pixels_are_striped_and_no_others():
    label = np.zeros((40, 40), dtype=np.uint8)
    label[:20] = 255
    drawn = np.array(drawing.hatch_ignored(Image.new("RGB", (40, 40)), label))
    assert len(np.unique(drawn[:20].reshape(-1, 3), axis=0)) == 2
    assert (drawn[:20] > 0).all()  # it is no black background
    assert (drawn[20:] == 0).all()


def test_an_error_map_marks_wrong_labelled_pixels_alone():
    image = np.full((2, 3, 3), 90, dtype=np.uint8)
    label = np.array([[0, 1, 255], [2, 2, 0]], dtype=np.uint8)
    drawn = np.array(drawing.error_map(image, label, MASK))
    red = (drawn == (220, 20, 60)).all(axis=2)
    assert red.tolist() == [[False, False, False], [False, False, True]]
    assert len(np.unique(drawn[(label == MASK) & ~red])) == 2  # a grey, as its paper is not white


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, np.uint8), (3, np.uint16), (5, np.uint16), (4, np.uint8)]
)
def test_images_of_any_channels_and_depth_can_be_looked_at(channels, dtype):
    image = np.full((2, 3, channels), 77 * (257 if dtype == np.uint16 else 1), dtype=dtype)
    view = drawing.rgb_view(image)
    assert (view.mode, view.size) == ("RGB", (3, 2))
    assert (np.array(view) == 77).all()


@pytest.mark.parametrize("size", [(1, 1), (40, 9), (9, 900), (360, 480), (1500, 2000)])
def test_a_legend_leaves_the_image_whole_and_shows_every_class_that_is_there(size):
    image = Image.new("RGB", size[::-1], (1, 2, 3))
    sheet = np.array(
        drawing.with_legend(image, CLASSES, {"road": 0.7, "sky": 0.3, CLASSES[2].name: 0.0})
    )
    assert sheet.shape[0] > size[0]
    left = (sheet.shape[1] - size[1]) // 2
    assert (sheet[: size[0], left : left + size[1]] == (1, 2, 3)).all()
    below = sheet[size[0] :].reshape(-1, 3)
    shown = [(below == info.color).all(axis=1).sum() for info in CLASSES]
    assert shown[0] > 30
    assert shown[1] > 30
    assert shown[2] == 0


def test_the_swatch_of_a_background_is_empty():
    classes, shares = (ClassInfo("background", (128, 0, 0)),), {"background": 1.0}
    drawn = np.array(drawing.with_legend(Image.new("RGB", (90, 60)), classes, shares))
    assert not (drawn == (128, 0, 0)).all(axis=2).any()


def test_a_legend_without_classes_is_a_sheet_all_the_same():
    assert (
        drawing.with_legend(
            Image.new("RGB", (8, 8)), CLASSES, dict.fromkeys((c.name for c in CLASSES), 0.0)
        ).width
        >= 8
    )


def test_names_are_drawn_in_one_line_without_control_characters():
    assert drawing.printable("a\x1b[31m\n\u202eb") == "a [31m  b"
    assert drawing.printable("straße") == "straße"
    assert len(drawing.printable("x" * 500)) == drawing.LONGEST_NAME


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (37, 53)])
def test_colours_are_read_from_the_png_as_they_were(size):
    noise = Image.fromarray(np.random.default_rng(2).integers(0, 256, (*size, 3)).astype(np.uint8))
    for image in (
        noise,
        noise.quantize(5),
        noise.convert("L"),
        Image.new("RGB", size[::-1], (200, 7, 9)),
    ):
        with Image.open(BytesIO(drawing.png_bytes(image))) as read:
            read.verify()  # the checksums
        with Image.open(BytesIO(drawing.png_bytes(image))) as read:
            assert (read.format, read.mode, read.size) == ("PNG", image.mode, image.size)
            assert (np.array(read) == np.array(image)).all()
