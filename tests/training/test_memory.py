"""What a training is estimated to take of the memory, and what of it is kept in the run."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.models.own_objects import TwoStrides, WithPlaces
from support.models.small_training import SMALL, equal_state
from torch import nn

from featherseg import models
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.layers.own_model import OwnModel
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.training import memory
from featherseg.training.memory import check_memory, estimate_memory
from featherseg.training.resolve import choose_batch_size

pytestmark = pytest.mark.usefixtures("tiny")

CROP = (256, 320)


def recipe_of(*settings):
    return parse_recipe(read_recipe("frm-lite0"), [*SMALL, f"augment.crop={list(CROP)}", *settings])


@pytest.fixture(scope="module")
def model():
    return models.build("efficientvit-seg-b0", 3)


class OneLayer(nn.Module):
    """A 1x1 convolution from 3 to 3 channels."""

    classes, mean, std = 3, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        return self.layer(images)


def test_one_layer_takes_what_is_counted_by_hand():
    """Bytes a pixel: image 3, label 1 and 8 as int64, float images, logits and gradient 12 each."""
    estimate = estimate_memory(
        OwnModel(OneLayer()), recipe_of("train.ema=0.9", "loss.lovasz=0"), CROP
    )
    living = (estimate.added(8, CROP) - estimate.lasting) / estimate.held
    assert abs(living / (8 * 256 * 320 * (3 + 1 + 8 + 3 * 12)) - 1) < 0.1
    weights = 4 * (9 + 3)
    assert (
        estimate.lasting == memory.PROCESS + 3 * weights + 4 * weights / 2
    )  # AdamW's moments, EMA; a checkpoint


@pytest.mark.seconds
def test_it_grows_with_the_pixels_and_leaves_everything_as_it_was(model):
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    estimate = estimate_memory(model, recipe_of(), CROP)
    assert equal_state(before, dict(model.state_dict()))
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    one, two, wide = (estimate.added(*asked) for asked in ((8, CROP), (16, CROP), (8, (256, 640))))
    assert 1.8 < two / one < 2
    assert abs(wide / two - 1) < 0.01
    for free in (
        5e8,
        1e9,
        4e9,
    ):  # what "auto" takes is not refused, but where one image is too many
        less = replace(estimate, available=free)
        settings = f"train.batch_size={choose_batch_size(less, CROP, 400)}"
        assert check_memory(less, recipe_of(settings), lambda text: None)
    fitting = [
        choose_batch_size(estimate, size, 400)
        for size in (CROP, (512, 1024), (4096, 4096), (20_000, 20_000))
    ]
    assert fitting == sorted(fitting, reverse=True)
    assert fitting[-1] == 1
    larger = estimate_memory(model, recipe_of(), (4096, 4096))  # images of validation
    assert larger.added(1, CROP) > 5 * estimate.added(1, CROP)


def test_steps_have_more_images_where_crops_are_small_and_images_many():
    sizes = [(64, 64), (200, 200), (256, 320), (320, 320), (360, 480), (1024, 2048)]
    assert [choose_batch_size(None, size, 400) for size in sizes] == [32, 32, 16, 8, 8, 8]
    few = [choose_batch_size(None, (64, 64), images) for images in (1, 69, 70, 277, 278)]
    assert few == [8, 8, 16, 16, 32], (
        "500 steps of 32 are 16,000 samples, 960 for each root of 278 images"
    )
    assert [choose_batch_size(None, (256, 256), 400, ranks=n) for n in (1, 2, 3, 16, 20)] == [
        16,
        16,
        15,
        16,
        20,
    ]


@pytest.mark.seconds
def test_attention_over_all_pairs_grows_with_the_square_of_the_pixels():
    class Pairs(TwoStrides):
        def forward(self, images):
            x = self.layers(images)
            flat = x.flatten(2)  # (B, 2, N)
            return ((flat.mT @ flat).softmax(-1) @ flat.mT).mT.reshape(x.shape)

    estimate = estimate_memory(OwnModel(Pairs()), recipe_of(), CROP)
    living = [
        (estimate.added(1, size) - estimate.lasting) / estimate.held
        for size in ((512, 512), (1024, 1024))
    ]
    assert 15 < living[1] / living[0] < 16
    assert 2 < living[0] / (4 * 128**4) < 4  # products, their softmax, and a gradient


def test_of_a_model_that_takes_one_size_alone_it_is_not_known():
    class Fixed(TwoStrides):
        def forward(self, images):
            return self.layers(images) + torch.zeros(1, 1, CROP[0] // 4, CROP[1] // 4)

    said = []
    assert (
        check_memory(
            estimate_memory(OwnModel(Fixed()), recipe_of(), CROP), recipe_of(), said.append
        )
        is None
    )
    assert said == ["the memory of a step is unknown: the model takes no small images to try with"]


def test_a_model_that_makes_tensors_itself_or_looks_into_them_is_computed_to_be_known():
    plain, places = (
        estimate_memory(OwnModel(own()), recipe_of(), (512, 640)).between
        for own in (TwoStrides, WithPlaces)
    )
    assert 0.9 < places / plain < 1.3
    plain, places = (
        TorchRuntime(OwnModel(own()), "cpu").peak_bytes_per_pixel
        for own in (TwoStrides, WithPlaces)
    )
    assert 0.9 < places / plain < 1.3  # of a large image it says whether it is predicted in parts


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
@pytest.mark.parametrize(
    "row",
    [
        "frm-lite0 11 8 352x480 train.precision=bf16",
        "frm-lite0 19 2 700x970 train.precision=fp32 train.accumulate=2",
        "frm-lite0 11 8 352x480 train.precision=bf16 train.checkpoint_activations=true",
        "rsp-lite0-panoptic 11 4 352x480 train.precision=bf16",
        "ddrnet-23-slim 19 8 512x512 train.precision=fp32 loss.auxiliary=0.4",
        "cgrseg-t 150 4 512x512 train.precision=bf16",
    ],
)
def test_a_training_takes_what_was_estimated(row):
    script = Path(__file__).parents[2] / "benchmarks" / "training_memory.py"
    said = subprocess.run(
        [sys.executable, str(script), *row.split()], capture_output=True, text=True, check=True
    )
    ratio = float(re.search(r"([\d.]+)$", said.stdout.strip())[1])
    assert 0.8 < ratio < 1.2
