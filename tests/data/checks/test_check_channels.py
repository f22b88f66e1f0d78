"""What `check` says of the values and channels of images."""

import json

import numpy as np
import pytest
from PIL import Image
from support.processes.command import command

from featherseg.cli.check import check
from featherseg.data.checks.check import check_data
from featherseg.data.images.image_range import channel_ranges

run = command(check)
RNG = np.random.default_rng(0)


def write(folder, images, channels=3, suffix="png", save=None):
    """images (H, W) or (H, W, C) by split; masks of two classes."""
    for place in ("images", "masks"):
        (folder / place).mkdir()
    for split, arrays in images.items():
        for i, pixels in enumerate(arrays):
            path = folder / f"images/{split}{i}.{suffix}"
            (save or (lambda file, array: Image.fromarray(array).save(file)))(path, pixels)
            mask = np.arange(pixels.shape[0] * pixels.shape[1]).reshape(pixels.shape[:2]) % 2
            Image.fromarray(mask.astype(np.uint8)).save(folder / f"masks/{split}{i}.png")
        (folder / f"{split}.txt").write_text("\n".join(f"{split}{i}" for i in range(len(arrays))))
    splits = "\n".join(f'{split} = "{split}.txt"' for split in images)
    (folder / "dataset.toml").write_text(
        f'name = "t"\nimages = "images"\nmasks = "masks"\nchannels = {channels}\n'
        f'classes = ["a", "b"]\n'
        f'[splits]\n{splits}\n[map]\n0 = "a"\n1 = "b"\n'
    )
    return folder


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_ranges_of_channels_are_those_that_numpy_finds(channels, dtype):
    image = RNG.integers(3, 200, (9, 7, channels)).astype(dtype)
    for found, channel in zip(channel_ranges(image), np.moveaxis(image, 2, 0), strict=True):
        assert (found.least, found.largest) == (channel.min(), channel.max())
        assert found.mean == pytest.approx(channel.mean())
        assert json.dumps(found.total)  # a plain int


def test_check_shows_range_and_mean_of_each_channel_over_all_images_of_a_split(tmp_path):
    train = [RNG.integers(10, 90, (8, 9, 3), dtype=np.uint8) for _ in range(3)]
    train[1][0, 0, 2] = 250
    write(tmp_path, {"train": train, "val": [np.full((8, 9, 3), 7, np.uint8)]})
    report = check_data(str(tmp_path))
    pixels = np.stack(train).reshape(-1, 3)
    found = report.splits["train"].channels
    assert [c.largest for c in found] == pixels.max(axis=0).tolist()
    assert [c.mean for c in found] == pytest.approx(pixels.mean(axis=0))
    printed = run(tmp_path).output
    blue = pixels[:, 2]
    assert f"{blue.min()} to 250 ({blue.mean():.0f})" in printed
    assert "channel 3, range (mean)" in printed
    assert "7 to 7 (7)" in printed
    assert not any("16-bit" in note for note in report.notes)
    assert (
        json.loads(run(tmp_path, "--json").stdout)["splits"]["train"]["channels"][2]["largest"]
        == 250
    )


def test_check_says_which_part_of_16_bits_train_uses_and_what_goes_beyond(tmp_path):
    twelve = RNG.integers(0, 4080, (8, 9), dtype=np.uint16)
    twelve[0, 0] = 4080
    write(tmp_path, {"train": [twelve], "val": [twelve * 2]}, channels=1)
    notes = check_data(str(tmp_path)).notes
    assert any(
        "train: 16-bit values reach 4,080 of 65,535: training takes values below 4,096" in note
        for note in notes
    )
    assert "values above that range: val (8,160)" in notes


def test_full_16_bits_are_no_matter(tmp_path):
    write(tmp_path, {"train": [RNG.integers(0, 65536, (8, 9), dtype=np.uint16)]}, channels=1)
    assert not any("16-bit" in note for note in check_data(str(tmp_path)).notes)


def test_alpha_and_bands_that_are_not_read_are_named(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    rgba = [RNG.integers(0, 255, (8, 9, 4), dtype=np.uint8) for _ in range(2)]
    (tmp_path / "alpha").mkdir()
    notes = check_data(str(write(tmp_path / "alpha", {"train": rgba}))).notes
    assert "train: images with an alpha channel, which is not used (2): train0, train1" in notes

    def save(path, pixels):
        tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unspecified"])

    for channels, said in ((3, True), (4, False)):
        (tmp_path / str(channels)).mkdir()
        folder = write(tmp_path / str(channels), {"train": rgba}, channels, "tif", save)
        notes = check_data(str(folder)).notes
        named = "train: images with bands beside red, green and blue, "
        named += "which are not used (2): train0, train1"
        assert (named in notes) == said


@pytest.mark.parametrize(("bands", "kind"), [(4, "unspecified"), (4, "unassalpha"), (5, None)])
def test_a_proposal_takes_all_bands(tmp_path, bands, kind):
    tifffile = pytest.importorskip("tifffile")
    for place in ("images", "masks"):
        (tmp_path / place).mkdir()
    for i in range(6):
        pixels = RNG.integers(0, 200, (16, 16, bands), dtype=np.uint8)
        options = (
            {"photometric": "rgb", "extrasamples": [kind]}
            if kind
            else {"photometric": "minisblack"}
        )
        tifffile.imwrite(
            tmp_path / f"images/t{'abcdef'[i]}.tif", pixels, planarconfig="contig", **options
        )
        mask = np.zeros((16, 16), np.uint8)
        mask[2 : 5 + i] = 1
        Image.fromarray(mask).save(tmp_path / f"masks/t{'abcdef'[i]}.png")
    report = check_data(str(tmp_path))
    assert f"channels = {bands}" in report.proposal.text
    assert len(report.splits["train"].channels) == bands
    assert report.clean
    assert any("channels = 3 leaves it out" in note for note in report.proposal.notes) == (
        bands == 4
    )
