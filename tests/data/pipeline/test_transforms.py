import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from featherseg.core.types import Sample
from featherseg.data.pipeline import augmentation
from featherseg.data.pipeline.augmentation import Augment, largest_share, random_window
from featherseg.data.pipeline.colours import gaussian_blur
from featherseg.data.pipeline.transforms import Crop, cut, is_interleaved, resize_ids, rotated

ALL = Augment(
    crop=(24, 40),
    resize=(30, 50),
    scale=(0.4, 3.0),
    category_ratio=0.7,
    rotate=30.0,
    flip=0.5,
    photometric=True,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    blur=0.5,
)


def scene(size=(40, 50), channels=3, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.choice(
        np.array([0, 3, 7, 255], np.uint8), size=(size[0] // 5 + 1, size[1] // 5 + 1)
    )
    label = label.repeat(5, 0).repeat(5, 1)[: size[0], : size[1]]
    return Sample("a", rng.integers(0, np.iinfo(dtype).max, (*size, channels), dtype=dtype), label)


@settings(max_examples=60)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    channels=st.sampled_from([1, 3, 5]),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    seed=st.integers(0, 1000),
)
def test_masks_get_no_new_values_and_images_keep_their_form(height, width, channels, dtype, seed):
    sample = scene((height, width), channels, dtype)
    image, label, *_ = ALL(sample, np.random.default_rng(seed))
    assert set(label.unique().tolist()) <= {*np.unique(sample.label).tolist(), 255}
    assert image.shape == (channels, 24, 40)
    assert label.shape == (24, 40)
    assert image.dtype == {np.uint8: torch.uint8, np.uint16: torch.uint16}[dtype]
    assert label.dtype == torch.uint8


def test_the_same_numbers_give_the_same_bytes():
    first, again, other = (ALL(scene(), np.random.default_rng([7, s])) for s in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def marked(height, width):
    """An image that holds 100 times the row and the column of each pixel."""
    rows, columns = np.mgrid[:height, :width]
    image = np.dstack([100 * rows, 100 * columns]).astype(np.uint16)
    return Sample("a", image, np.zeros((height, width), np.uint8))


def columns_a_pixel(image):
    """How many columns of the source a pixel of a crop of it covers, away from its edges."""
    return float(image[1, 0, 2:-1].double().diff().mean()) / 100


@pytest.mark.parametrize(
    ("size", "fit", "factor"),
    [((60, 80), (30, 100), 0.5), ((60, 240), (30, 100), 100 / 240), ((60, 80), (120, 400), 2)],
)
def test_an_image_is_brought_to_fit_before_the_drawn_factor(size, fit, factor):
    for scale in (1.0, 0.5):
        settings = Augment(crop=(8, 8), resize=fit, scale=(scale, scale))
        step = columns_a_pixel(random_window(marked(*size), settings, np.random.default_rng(0))[0])
        assert step == pytest.approx(1 / (factor * scale), rel=0.1)


def test_a_factor_is_drawn_evenly_or_evenly_by_its_logarithm():
    def shares(how):
        """The share of factors below 1, the least and the greatest, as the crops show them."""
        settings = Augment(crop=(1, 60), scale=(0.5, 2.0), scale_drawn=how)
        windows = [
            random_window(marked(3, 300), settings, np.random.default_rng(seed))[0]
            for seed in range(400)
        ]
        factors = 1 / np.array([columns_a_pixel(image) for image in windows])
        return np.mean(factors < 1), factors.min(), factors.max()

    for how, below in (("log-uniformly", 1 / 2), ("uniformly", 1 / 3)):
        share, low, high = shares(how)
        assert share == pytest.approx(below, abs=0.09)
        assert low < 0.56
        assert high > 1.8


def test_photometric_distortion_changes_the_image_alone_and_by_its_own_draws():
    plain, distorted = (
        Augment(crop=(20, 30), flip=0.5, photometric=on)(scene(), np.random.default_rng(4))
        for on in (False, True)
    )
    assert torch.equal(plain[1], distorted[1])
    assert not torch.equal(plain[0], distorted[0])
    assert distorted[0].dtype == torch.uint8


def slow_cut(sample, window, size, *, planar=False):
    """The first version of `cut`: copies everything, picks ids by torch, always takes the mean."""

    def placed(x, around):
        if x.shape[-2:] == size:
            return x
        full = torch.empty(*x.shape[:-2], *size, dtype=x.dtype)
        full[...] = around
        full[..., y0 : y0 + x.shape[-2], x0 : x0 + x.shape[-1]] = x[
            ..., : size[0] - y0, : size[1] - x0
        ]
        return full

    def ids(x):
        rows, columns = (
            ((torch.arange(new) + 0.5) * torch.tensor(old / new)).long().clamp(max=old - 1)
            for old, new in zip(x.shape, inside, strict=True)
        )
        return torch.from_numpy(np.ascontiguousarray(x))[rows][:, columns]

    def resized(x):
        if x.shape[1:] == inside:
            return x
        y = x[None] if x.dtype == torch.uint8 else x[None].float()
        y = torch.nn.functional.interpolate(y, size=inside, mode="bilinear", antialias=True)[0]
        return (
            y
            if x.dtype == torch.uint8
            else y.round().clamp(0, torch.iinfo(x.dtype).max).to(x.dtype)
        )

    top, left, height, width = window
    rows = slice(max(0, top), min(sample.label.shape[0], top + height))
    columns = slice(max(0, left), min(sample.label.shape[1], left + width))
    y0, y1 = (round((edge - top) * size[0] / height) for edge in (rows.start, rows.stop))
    x0, x1 = (round((edge - left) * size[1] / width) for edge in (columns.start, columns.stop))
    inside = max(y1, y0 + 1) - y0, max(x1, x0 + 1) - x0
    image = resized(
        torch.from_numpy(np.ascontiguousarray(sample.image[rows, columns])).permute(2, 0, 1)
    )
    mean = image.float().mean(dim=(1, 2)).round().to(image.dtype)[:, None, None]
    instances = (
        None if sample.instances is None else placed(ids(sample.instances[rows, columns]), 0)
    )
    return Crop(placed(image, mean), placed(ids(sample.label[rows, columns]), 255), instances)


@pytest.mark.parametrize("recolored", [False, True])
@pytest.mark.parametrize("scale", [(0.4, 3.0), (1.0, 1.0), (0.5, 0.5)])
def test_every_crop_has_the_bits_that_the_first_plain_form_gave(monkeypatch, recolored, scale):
    colors = {
        "photometric": True,
        "brightness": 0.3,
        "contrast": 0.3,
        "saturation": 0.3,
        "blur": 0.3,
    }

    def crops():
        for seed in range(60):
            rng = np.random.default_rng(seed)
            height, width, *crop = (int(length) for length in rng.integers(1, 90, 4))
            dtype = (np.uint8, np.uint8, np.uint16)[seed % 3]
            plain = scene((height, width), int(rng.choice([1, 3, 3, 4, 5])), dtype, seed)
            ids = rng.integers(-3, 9, (height, width)).astype(np.int32) if seed % 2 else None
            sample = Sample("a", plain.image, plain.label, ids)
            augment = Augment(
                crop=tuple(crop),
                scale=scale,
                category_ratio=0.8,
                flip=0.5,
                **(colors if recolored else {}),
            )
            yield augment(sample, rng)

    now = list(crops())
    monkeypatch.setattr(augmentation, "cut", slow_cut)
    for fast, slow in zip(now, crops(), strict=True):
        for a, b in zip(fast, slow, strict=True):
            assert (a is None and b is None) or (
                a.dtype == b.dtype and np.array_equal(a.numpy(), b.numpy())
            )


@pytest.mark.parametrize("size", [(9, 2), (7, 1), (13, 3)])
def test_five_channels_in_a_crop_of_one_column_are_as_they_were(size):
    """torch gives other values there for channels that are innermost in memory."""
    sample = scene(size, channels=5)
    for new in ((40, 1), (3, 1), (6, 1)):
        assert torch.equal(
            cut(sample, (0, 0, *size), new).image, slow_cut(sample, (0, 0, *size), new).image
        )


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
def test_ids_are_picked_as_torch_picks_the_nearest(height, width, new_height, new_width):
    ids = np.random.default_rng(height).integers(-(2**30), 2**30, (height, width), dtype=np.int32)
    picked = resize_ids(ids, (new_height, new_width))
    numbers = torch.arange(height * width, dtype=torch.float32).reshape(
        1, 1, height, width
    )  # exact in float32
    nearest = torch.nn.functional.interpolate(
        numbers, size=(new_height, new_width), mode="nearest-exact"
    )
    np.testing.assert_array_equal(picked, ids.ravel()[nearest[0, 0].long().numpy()])


def test_a_crop_that_keeps_its_colours_has_its_channels_innermost_in_memory():
    for scale in (0.5, 1.0, 2.0):
        assert is_interleaved(
            Augment(crop=(20, 30), scale=(scale, scale), flip=1.0)(
                scene(), np.random.default_rng(0)
            ).image
        )


def test_of_a_sample_only_the_window_is_read():
    class Counted(np.ndarray):
        """Counts the pixels that are taken from it."""

        taken = 0

        def __getitem__(self, key):
            found = super().__getitem__(key)
            Counted.taken = max(Counted.taken, found.size)
            return np.asarray(found)

    image, label = np.zeros((400, 500, 3), np.uint8), np.zeros((400, 500), np.uint8)
    sample = Sample("a", image.view(Counted), label)
    Augment(crop=(64, 64), scale=(2.0, 2.0))(sample, np.random.default_rng(0))
    assert Counted.taken == 32 * 32 * 3


def test_without_augmentation_the_window_is_a_plain_crop():
    sample = scene()
    image, label, *_ = random_window(sample, Augment(crop=(20, 30)), np.random.default_rng(0))
    whole = torch.from_numpy(sample.image).permute(2, 0, 1)
    places = [
        (y, x)
        for y in range(21)
        for x in range(21)
        if torch.equal(whole[:, y : y + 20, x : x + 30], image)
    ]
    assert len(places) == 1
    y, x = places[0]
    assert torch.equal(torch.from_numpy(sample.label)[y : y + 20, x : x + 30], label)


def test_image_and_mask_move_together():
    label = np.zeros((60, 80), np.uint8)
    label[20:40, 30:60] = 1
    sample = Sample("a", np.repeat(label[:, :, None] * 200, 3, axis=2), label)
    for seed in range(20):
        image, mask, *_ = Augment(crop=(48, 48), scale=(0.5, 2.0), flip=0.5)(
            sample, np.random.default_rng(seed)
        )
        bright = image[0] > 100
        inside = mask != 255
        assert (bright[inside] != (mask[inside] == 1)).float().mean() < 0.05  # edges alone


def test_a_window_larger_than_the_image_is_filled_with_ignore():
    sample = Sample("a", np.full((10, 10, 3), 50, np.uint8), np.ones((10, 10), np.uint8))
    image, label, *_ = cut(sample, (-5, -5, 20, 20), (20, 20))
    assert (label == 1).sum() == 100
    assert (label == 255).sum() == 300
    assert (label[5:15, 5:15] == 1).all()
    assert (image == 50).all()


def test_resizing_a_window_is_cropping_the_resized_image():
    ramp = np.linspace(0, 255, 64).round().astype(np.uint8)
    sample = Sample(
        "a", np.repeat(np.tile(ramp, (64, 1))[:, :, None], 3, axis=2), np.zeros((64, 64), np.uint8)
    )
    image, *_ = cut(sample, (16, 16, 32, 32), (64, 64))
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(sample.image).permute(2, 0, 1)[None], size=(128, 128), mode="bilinear"
    )[0]
    inner = slice(2, -2)  # the window's edges see no neighbours
    assert (image.int() - whole[:, 32:96, 32:96].int())[:, inner, inner].abs().max() <= 1


def test_a_window_of_one_class_is_drawn_again():
    label = np.zeros((40, 200), np.uint8)
    label[:, 100:] = 1
    sample = Sample("a", np.zeros((40, 200, 3), np.uint8), label)

    def share_of_one_window(ratio, seed):
        window = random_window(
            sample, Augment(crop=(20, 40), category_ratio=ratio), np.random.default_rng(seed)
        )
        return largest_share(window[1].numpy())

    shares = {
        ratio: np.mean([share_of_one_window(ratio, seed) for seed in range(40)])
        for ratio in (1.0, 0.7)
    }
    assert shares[0.7] < shares[1.0] - 0.1


@settings(max_examples=80)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    at=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    seed=st.integers(0, 1000),
)
def test_a_crop_over_a_point_holds_it_and_leaves_the_image_no_more_than_others_do(
    height, width, at, seed
):
    row, column = int(at[0] * height), int(at[1] * width)
    label = np.zeros((height, width), np.uint8)
    label[row, column] = 9
    sample = Sample("a", np.zeros((height, width, 3), np.uint8), label)
    _, mask, *_ = random_window(
        sample, Augment(crop=(20, 30)), np.random.default_rng(seed), (row, column)
    )
    assert (mask == 9).sum() == 1
    assert (mask != 255).sum() == min(height, 20) * min(width, 30)


def test_a_point_beyond_an_image_that_was_cut_before_is_passed_over():
    sample = Sample("a", np.zeros((30, 40, 3), np.uint8), np.zeros((30, 40), np.uint8))
    _, mask, *_ = random_window(sample, Augment(crop=(20, 30)), np.random.default_rng(0), (45, 70))
    assert (mask == 0).all()


def test_a_point_is_met_everywhere_in_the_crop():
    label = np.zeros((60, 80), np.uint8)
    label[30, 40] = 9
    sample = Sample("a", np.zeros((60, 80, 3), np.uint8), label)
    windows = [
        random_window(sample, Augment(crop=(4, 6)), np.random.default_rng(i), (30, 40))
        for i in range(400)
    ]
    assert {tuple(np.argwhere(mask.numpy() == 9)[0].tolist()) for _, mask, *_ in windows} == {
        (y, x) for y in range(4) for x in range(6)
    }


def test_the_largest_share_counts_labelled_pixels_alone():
    assert largest_share(np.array([[0, 0, 1, 255]], np.uint8)) == pytest.approx(2 / 3)
    assert largest_share(np.full((2, 2), 255, np.uint8)) == 1.0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        label = rng.choice(np.array([0, 1, 2, 200, 255], np.uint8), rng.integers(1, 12, 2))
        counts = [int((label[1:] == value).sum()) for value in range(255)]
        expected = max(counts) / sum(counts) if sum(counts) else 1.0
        assert largest_share(label[1:]) == pytest.approx(expected)


def test_brightness_saturates_and_keeps_black_black():
    sample = Sample(
        "a",
        np.dstack([np.zeros((8, 8)), np.full((8, 8), 250), np.full((8, 8), 100)]).astype(np.uint8),
        np.zeros((8, 8), np.uint8),
    )
    image, *_ = Augment(crop=(8, 8), brightness=0.9)(sample, np.random.default_rng(3))
    assert (image[0] == 0).all()
    ratio = image[2].float().mean() / 100
    assert_close(image[1].float().mean(), (250 * ratio).clamp(max=255), atol=2.0, rtol=0.0)


def test_blur_is_a_convolution_with_the_gaussian():
    x = torch.zeros(1, 21, 21)
    x[0, 10, 10] = 1
    out = gaussian_blur(x, 1.5)
    distance = (torch.arange(21)[:, None] - 10) ** 2 + (torch.arange(21) - 10) ** 2
    near = distance <= 9
    expected = torch.exp(-distance / (2 * 1.5**2))
    assert_close(
        (out[0] / out.max())[near], (expected / expected.max())[near], atol=1e-4, rtol=1e-3
    )
    assert_close(out.sum(), torch.tensor(1.0))


def turned(crop, degrees):
    """Every pixel by itself: what lies where it comes from, and whether that is outside."""
    height, width = crop.label.shape
    colors, angle = crop.image.double().numpy(), math.radians(degrees)
    image, label = np.zeros(colors.shape), np.full((height, width), 255)
    for y in range(height):
        for x in range(width):
            dy, dx = y + 0.5 - height / 2, x + 0.5 - width / 2
            sx = dx * math.cos(angle) + dy * math.sin(angle) + width / 2
            sy = dy * math.cos(angle) - dx * math.sin(angle) + height / 2
            if not (0 <= sx <= width and 0 <= sy <= height):
                image[:, y, x] = colors.mean((1, 2)).round()
                continue
            label[y, x] = crop.label[min(int(sy), height - 1), min(int(sx), width - 1)]
            top, left = math.floor(sy - 0.5), math.floor(sx - 0.5)
            for row, share in ((top, 1 - (sy - 0.5 - top)), (top + 1, sy - 0.5 - top)):
                for column, part in ((left, 1 - (sx - 0.5 - left)), (left + 1, sx - 0.5 - left)):
                    color = colors[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
                    image[:, y, x] += share * part * color
    return image, label


@pytest.mark.parametrize("degrees", [17.0, -40.0])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_turned_crop_is_what_every_pixel_comes_from(degrees, dtype):
    sample = scene((14, 21), dtype=dtype)
    crop = cut(sample, (0, 0, 14, 21), (14, 21))._replace(
        instances=torch.arange(14 * 21).view(14, 21).int()
    )
    found, (image, label) = rotated(crop, degrees), turned(crop, degrees)
    assert abs(found.image.double().numpy() - image).max() <= (
        0.51 if dtype == np.uint8 else 3
    )  # of 65,535: in fp32
    assert (
        found.label.numpy() == label
    ).mean() > 0.99  # but where the source lies between two pixels
    assert torch.equal(
        found.label, torch.where(found.instances > 0, crop.label.flatten()[found.instances], 255)
    )


def test_a_right_angle_moves_whole_pixels_and_none_is_as_it_was():
    crop = cut(scene((12, 12)), (0, 0, 12, 12), (12, 12))
    for degrees, turns in ((0.0, 0), (90.0, -1), (-90.0, 1), (180.0, 2)):
        found = rotated(crop, degrees)
        assert torch.equal(found.image, crop.image.rot90(turns, (1, 2)))
        assert torch.equal(found.label, crop.label.rot90(turns))
