"""Calibration images: only of the training split, drawn by a seed, as validation sees them."""

import numpy as np
import torch
from support.models.three_layer_run import three_layer_run

from featherseg.data.shapes import Shapes
from featherseg.exporters.calibration import CHECKED, labelled_split, training_images


def test_images_are_of_the_training_split_and_in_no_two_lists(tmp_path):
    calibrated, checked = training_images(three_layer_run(tmp_path / "run"), 5, seed=0)
    assert (len(calibrated), len(checked)) == (5, CHECKED)
    assert len({*calibrated.keys, *checked.keys}) == 5 + CHECKED
    assert {*calibrated.keys, *checked.keys} <= set(Shapes("train", 12).keys)


def test_the_seed_decides(tmp_path):
    run = three_layer_run(tmp_path / "run")
    first, again, other = (training_images(run, 5, seed)[0].keys for seed in (0, 0, 1))
    assert first == again != other


def test_a_small_split_gives_all_that_it_has(tmp_path):
    calibrated, checked = training_images(
        three_layer_run(tmp_path / "run", train_size=3), 5, seed=0
    )
    assert sorted(calibrated.keys) == sorted(checked.keys) == Shapes("train", 3).keys


def test_an_image_is_normalised_and_brought_to_the_size_of_validation(tmp_path):
    run = three_layer_run(tmp_path / "run")
    images, _ = training_images(run, 2, seed=0)
    pixels = Shapes("train", 12)[images.indices[0]].image.astype(np.float32)
    expected = (pixels - run.model.mean) / run.model.std  # (H, W, C)
    assert torch.equal(images[0][0].permute(1, 2, 0), torch.from_numpy(expected.astype(np.float32)))
    fitted, _ = training_images(
        three_layer_run(tmp_path / "other", test_resize=(128, 512)), 2, seed=0
    )
    assert fitted[0].shape == (1, 3, 128, 256)


def test_what_is_cut_out_stays_unread(tmp_path):
    images, _ = training_images(three_layer_run(tmp_path / "run"), 5, seed=0)
    assert images[1:3].keys == images.keys[1:3]


def test_the_labelled_split_is_what_training_validated_on(tmp_path):
    run = three_layer_run(tmp_path / "run")
    split = labelled_split(run)
    assert split.data.keys == Shapes("val", 2).keys
    assert 0 <= split.score(run) <= 1


def test_a_split_that_is_not_there_is_none(tmp_path):
    assert (
        labelled_split(three_layer_run(tmp_path / "run", name="camvid", root=str(tmp_path))) is None
    )
