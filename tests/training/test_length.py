"""Crop and steps where the recipe leaves them open; a training that may take so many minutes."""

import subprocess
import sys
import time
from dataclasses import replace

import pytest
from support.models.small_training import SMALL, Killed, KilledAt, Silent, equal_state

from featherseg.core.errors import ConfigError
from featherseg.core.wording import duration
from featherseg.data import open_dataset
from featherseg.data.datasets.statistics import choose_crop
from featherseg.data.pipeline.loader import TrainingSamples
from featherseg.evaluation.ground_truth import GroundTruth
from featherseg.models import build
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.runs.run import load_run
from featherseg.training import Request, job, timing, train
from featherseg.training.batches import UNIFORM
from featherseg.training.objects import Objects
from featherseg.training.resolve import (
    ENDING_SECONDS,
    DataFacts,
    Facts,
    MachineFacts,
    Speed,
    count_steps,
    describe_length,
    latest_end,
    resolve,
)

pytestmark = pytest.mark.usefixtures("tiny")

OPEN = tuple(text for text in SMALL if "epochs" not in text)


def open_request(*overrides):
    """A small training, its length apart."""
    return Request("frm-lite0", overrides=("model.name=tiny", *OPEN, *overrides))


def facts(images, val_images, speed):
    """Facts of images of 256x512 and a CPU without bf16."""
    data = DataFacts(images, val_images, (256, 512))
    return Facts(data, MachineFacts("cpu", computes_bf16=False), from_scratch=True, speed=speed)


@pytest.mark.parametrize(
    ("size", "crop"),
    [
        ((200, 200), (200, 200)),
        ((360, 480), (360, 480)),
        ((448, 448), (448, 448)),
        ((970, 1300), (384, 512)),
        ((2048, 1024), (608, 320)),
    ],
)
def test_small_images_are_taken_whole_and_of_large_ones_windows_of_their_shape(size, crop):
    assert choose_crop(size) == crop


def test_validation_is_timed_on_the_objects_of_the_images_that_are_seen():
    class Panoptic(list):
        categories, rule, panoptic = [], "coco", staticmethod(lambda index: index)

    assert isinstance(Panoptic(), GroundTruth)
    few = timing._Few(Panoptic(range(8)), 2)
    assert ([*map(few.__getitem__, range(2))], few.rule) == ([0, 4], "coco")
    assert not isinstance(few, GroundTruth)  # which goes by places in all of the data


def test_a_narrow_image_keeps_a_crop_that_fits_in():
    assert choose_crop((20, 60_000)) == (20, 10016)


@pytest.mark.parametrize(
    ("images", "batch", "accumulate", "every", "expected"),
    [
        (367, 8, 1, 10, (2300, 460)),
        (8, 4, 1, 1, (100, 2)),
        (5, 8, 1, 1, (50, 1)),
        (16, 2, 4, 2, (100, 4)),
    ],
)
def test_an_epoch_is_as_many_steps_as_its_images_need(
    small_run, images, batch, accumulate, every, expected
):
    settings = small_run.recipe.train.model_copy(
        update={
            "epochs": 50,
            "batch_size": batch,
            "accumulate": accumulate,
            "validate_every": every,
        }
    )
    assert count_steps(small_run.recipe.model_copy(update={"train": settings}), images) == expected


@pytest.mark.parametrize(
    ("images", "batch", "expected"),
    [(1, 8, 500), (30, 8, 657), (367, 8, 2299), (4000, 8, 7589), (4000, 32, 1897)],
)
def test_open_steps_grow_with_the_root_of_the_number_of_images(images, batch, expected):
    recipe = parse_recipe(
        read_recipe("frm-lite0"), [f"train.batch_size={batch}", "augment.crop=[64, 64]"]
    )
    assert recipe.train.steps == "auto"
    data = [open_dataset("shapes", "train", size=images), open_dataset("shapes", "val", size=1)]
    model = build("tiny", len(data[0].classes))
    speed = timing.measure_speed(recipe, model, data, None, Objects(), time.monotonic(), UNIFORM)
    assert speed.step_seconds > 0
    whole = resolve(recipe, facts(images, 1, speed))
    assert whole.train.steps == expected
    assert count_steps(whole, images) == (expected, max(-(-images // batch), -(-expected // 10)))


@pytest.fixture
def paced(monkeypatch):
    """A batch takes 0.5 s, opening a model for validation 1 s and each image 0.1 s."""
    monkeypatch.setattr(timing, "time_batch", lambda *args, **kwargs: 0.5)
    monkeypatch.setattr(timing, "time_validation", lambda *args: (1.0, 0.1))


def resolved(*overrides):
    asked = ["augment.crop=[64, 64]", "loss.class_weights=none", *overrides]
    recipe = parse_recipe(read_recipe("efficientvit-seg-b0"), asked)
    data = [open_dataset("shapes", "train", size=8), open_dataset("shapes", "val", size=20)]
    model = build("tiny", len(data[0].classes))
    began = time.monotonic() - 12
    speed = timing.measure_speed(recipe, model, data, None, Objects(), began, UNIFORM)
    return resolve(recipe, facts(8, 20, speed)).train


@pytest.mark.usefixtures("paced")
@pytest.mark.parametrize(("accumulate", "per_step"), [(1, 0.5), (4, 2.0)])
def test_minutes_become_steps_once_start_validations_and_report_are_taken_off(accumulate, per_step):
    settings = resolved("train.minutes=10", f"train.accumulate={accumulate}")
    seconds = 12 + settings.steps * per_step + (settings.validations + 1) * 3 + ENDING_SECONDS
    assert 0.97 * 600 < seconds <= 0.985 * 600
    assert (settings.minutes, settings.epochs, settings.validations) == (10, None, 9)


@pytest.mark.seconds
@pytest.mark.usefixtures("paced")
def test_the_small_images_of_the_beginning_are_timed_as_such(monkeypatch):
    def by_height(model, recipe, batches, *args):
        return next(iter(batches))[0].shape[2] / 128

    monkeypatch.setattr(timing, "time_batch", by_height)
    settings = resolved("train.minutes=10", "augment.progressive=true")
    pace = (
        0.4 * 0.25 + 0.3 * 0.375 + 0.3 * 0.5
    )  # 32, 48 and 64 pixels for these shares of the steps
    seconds = 12 + settings.steps * pace + (settings.validations + 1) * 3 + ENDING_SECONDS
    assert 0.94 * 600 < seconds <= 0.985 * 600


@pytest.mark.usefixtures("paced")
def test_processes_on_one_cpu_take_as_many_times_as_long():
    alone, two = (
        resolved("train.minutes=10", f"train.devices={number}").steps for number in (1, 2)
    )
    assert alone - 2 * two in (0, 1)


@pytest.mark.parametrize(("workers", "read"), [(0, 2), (1, 0)])
def test_reading_is_foretold_where_no_process_of_its_own_does_it(monkeypatch, workers, read):
    monkeypatch.setattr(timing, "time_batch", lambda *args, **kwargs: 0.5)
    seen, own = [], TrainingSamples.__getitem__
    monkeypatch.setattr(
        TrainingSamples, "__getitem__", lambda self, place: seen.append(place) or own(self, place)
    )
    settings = ["augment.crop=[64, 64]", "train.batch_size=8", f"data.workers={workers}"]
    recipe = parse_recipe(read_recipe("frm-lite0"), settings)
    data = [open_dataset("shapes", "train", size=8), open_dataset("shapes", "val", size=1)]
    model = build("tiny", 9)
    timing.measure_speed(recipe, model, data, None, Objects(), time.monotonic(), UNIFORM)
    assert len(seen) == read


def test_a_rate_that_falls_for_longer_than_there_are_steps_is_refused(tmp_path):
    asked = open_request("train.schedule=stable", "train.decay_steps=900")
    with pytest.raises(ConfigError, match=r"train\.decay_steps = 900: the run has 679 steps\."):
        train(asked, tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


def test_the_share_of_images_without_masks_is_said():
    recipe = parse_recipe(
        read_recipe("frm-lite0"), ["augment.crop=[64, 64]", "train.steps=75", "train.batch_size=4"]
    )
    assert "each of 30 images 10 times," in describe_length(recipe, 30, 7, 1.0)
    assert describe_length(recipe, 30, 7, 1.0).endswith("about 75 s and 10 validations of 7 images")
    taught = describe_length(recipe, 30, 7, 1.0, 0.25)
    assert "each of 30 images 7.5 times (25% of the samples have pseudo-masks)," in taught


@pytest.mark.usefixtures("paced")
def test_validations_take_a_twentieth_of_the_time_at_most():
    assert resolved("train.minutes=2").validations == 1
    assert resolved("train.minutes=5").validations == 4


@pytest.mark.usefixtures("paced")
def test_too_few_minutes_are_refused_with_how_many_are_needed():
    with pytest.raises(
        ConfigError, match=r"train\.minutes = 0\.3: .* take about 0\.\d minutes here\. Give .* 1\."
    ):
        resolved("train.minutes=0.3")


@pytest.mark.slow
@pytest.mark.usefixtures("paced")
def test_a_run_of_so_many_minutes_resumes_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "time_batch", lambda *args, **kwargs: 60.0)
    asked = (
        "train.minutes=10.41",
        "train.checkpoint_seconds=0.001",
    )  # room for 9.9 steps, less what the start takes
    whole = train(open_request(*asked), tmp_path / "whole", Silent())
    assert whole.recipe.train.steps == 9
    with pytest.raises(Killed):
        train(open_request(*asked), tmp_path / "killed", KilledAt(4))
    monkeypatch.setattr(
        timing, "time_batch", lambda *args, **kwargs: 1.0
    )  # a faster machine changes nothing
    again = train(open_request(*asked), tmp_path / "killed", Silent(), resume=True)
    assert again.recipe.train.steps == load_run(tmp_path / "killed").recipe.train.steps == 9
    assert equal_state(again.model.state_dict(), whole.model.state_dict())
    with pytest.raises(ConfigError, match=r"train\.minutes is 10\.41 in the run and 2\.0 now"):
        train(open_request("train.minutes=2"), tmp_path / "killed", Silent(), resume=True)


def test_the_length_is_said_before_the_first_step(tmp_path):
    reporter = Silent()
    train(open_request("train.steps=2"), tmp_path / "run", reporter)
    (said,) = [text for text in reporter.messages if " steps of " in text]
    assert said.startswith("2 steps of 4 images, crops of 64x96: each of 8 images 1 times, about ")
    assert reporter.steps == [1, 2]


def test_times_are_told_in_units_that_fit():
    assert [duration(seconds) for seconds in (40, 1440, 12_600)] == ["40 s", "24 min", "3.5 h"]


@pytest.mark.slow
@pytest.mark.parametrize("minutes", [1.5, 3])
def test_the_command_ends_within_its_minutes(minutes, tmp_path):
    began = time.monotonic()
    settings = [
        "--set",
        "data.train_size=60",
        "--set",
        "data.val_size=20",
        "--minutes",
        str(minutes),
    ]
    command = [
        sys.executable,
        "-m",
        "featherseg",
        "train",
        "efficientvit-seg-b0",
        "--data",
        "shapes",
        *settings,
    ]
    subprocess.run([*command, "--out", tmp_path / "run"], check=True)
    assert time.monotonic() - began <= 1.05 * 60 * minutes


def test_a_training_ends_with_the_step_that_is_called_its_last(tmp_path):
    asked = []
    request = replace(
        open_request('train.keep="last"'), ends=lambda step: asked.append(step) or step == 2
    )
    run = train(request, tmp_path / "run", told := Silent())
    assert (told.steps, asked) == ([1, 2], [1, 2])
    assert run.metrics()[2]["val_miou"] is not None


def test_minutes_end_a_training_whose_steps_take_longer_than_they_did(tmp_path, monkeypatch):
    speed, model = Speed(1.0, 4.0, 20.0), read_recipe("efficientvit-seg-b0")
    limited = parse_recipe(model, ["train.minutes=2"])
    assert latest_end(limited, speed, 1000.0) == 1000 + 120 - ENDING_SECONDS - 12
    assert latest_end(parse_recipe(model, []), speed, 1000.0) is None

    monkeypatch.setattr(job, "latest_end", lambda *args: time.monotonic())
    told = Silent()
    run = train(open_request("train.steps=5"), tmp_path / "run", told)
    assert told.steps == [1]
    assert any("the time is over after step 1 of 5: " in text for text in told.messages)
    assert run.metrics()[1]["val_miou"] is not None
    assert "- Settings: 5 steps, 1 taken, batch " in (run.path / "card.md").read_text("utf-8")


def test_a_training_whose_time_is_over_ends_with_the_step_it_is_in(tmp_path):
    """... validates, keeps its weights, and is finished: it does not go on another day."""
    told, late = Silent(), replace(open_request('train.keep="last"'), ends=time.monotonic())
    run = train(late, tmp_path / "run", told)
    assert told.steps == [1]
    assert run.metrics()[1]["val_miou"] is not None
    assert (tmp_path / "run/weights.safetensors").is_file()
    again = Silent()
    train(open_request('train.keep="last"'), tmp_path / "run", again, resume=True)
    assert again.steps == []
    assert any("is finished: 1 steps" in text for text in again.messages)
