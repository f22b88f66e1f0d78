"""`fit` beside its trainings: what it refuses, times, decides, keeps and shows."""

import json
import math
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support.models.fit_plans import FAST, SLOW, answer, facts, fit_plan, timing, write_yard
from support.models.small_training import Silent

import featherseg
from featherseg.cli import main
from featherseg.core.errors import ConfigError, DataError, DeviceError, FeathersegError, RunError
from featherseg.data import open_dataset
from featherseg.fitting import beginning, candidates, feasible, state
from featherseg.fitting import fit as session
from featherseg.fitting import splits as splits_module
from featherseg.fitting.beginning import Pace
from featherseg.fitting.candidates import Offer, in_line, offers
from featherseg.fitting.elsewhere import bundle_candidates, timings_of
from featherseg.fitting.fit import FitSettings
from featherseg.fitting.halving import Candidate, make_schedule
from featherseg.fitting.latency import Measured
from featherseg.fitting.page import fit_html, outlook
from featherseg.fitting.plan import read_plan
from featherseg.fitting.results import FitResult, choose_again, read_fit
from featherseg.fitting.screening import segment_of
from featherseg.fitting.splits import find_splits, whole_path
from featherseg.fitting.state import FitJob, FitState
from featherseg.fitting.trials import Segment, Workers
from featherseg.training import job
from featherseg.training.memory import Estimate, estimate_memory

ALONE = Workers(None, 1, 1)

SPLITS = "train = 0.6\nval = 0.2\ntest = 0.2"


@pytest.fixture(autouse=True)
def idle(monkeypatch):
    """Masks are read in no time, whatever else runs here."""
    monkeypatch.setattr(beginning, "mask_seconds", lambda train: 0.0)


def begin(config, measured, out, said=None, began=None):
    """The plan of a new fit."""
    began = time.monotonic() if began is None else began
    return beginning.begin(config, measured, FitJob(out, began, ALONE, said or Silent()))


# Splits


def test_a_tenth_of_train_becomes_val_and_test_where_there_are_none(tmp_path):
    write_yard(tmp_path / "yard", splits="train = 1.0")
    parts, said = find_splits(str(tmp_path / "yard"), None, tmp_path)
    assert (
        "has no val and test images with masks: "
        "3 images of train became val and 3 images of train became test" in said[0]
    )
    root = tmp_path / "yard"
    keys = [set(open_dataset(parts.name, split, root).keys) for split in ("train", "val", "test")]
    assert [len(one) for one in keys] == [24, 3, 3]
    assert len(set.union(*keys)) == 30


def test_a_path_means_the_same_from_another_folder_and_an_address_stays_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert whole_path("yard/dataset.toml") == str(tmp_path / "yard" / "dataset.toml")
    assert whole_path(Path("s3://field/yard")) == "s3://field/yard"  # a Path has one slash fewer


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("images", "splits"),
    [
        (30, "train = 0.8\ntest = 0.2"),
        (30, "test = 0.2\ntrain = 0.8"),
        (30, "val = 0.2\ntrain = 0.8"),
        (510, "train = 0.8\ntest = 0.2"),
    ],
)
def test_images_that_were_set_aside_stay_what_they_are(tmp_path, splits, images):
    toml = write_yard(tmp_path / "yard", images, splits)
    parts, said = find_splits(str(toml), None, tmp_path)
    there, made = ("val", "test") if "val" in splits else ("test", "val")
    cut = open_dataset(parts.name, made, tmp_path / "yard")
    assert f"with masks: {len(cut)} images of train became {made}" in said[0]
    assert (
        open_dataset(parts.name, there, tmp_path / "yard").keys
        == open_dataset(str(toml), there).keys
    )
    train = {
        name: set(open_dataset(parts.name, name, tmp_path / "yard").keys)
        for name in ("train", "val", "test")
    }
    del train[there]
    assert set.union(*train.values()) == set(open_dataset(str(toml), "train").keys)


def test_splits_that_are_there_are_taken_as_they_are(tmp_path):
    toml = write_yard(tmp_path, splits="train = 0.6\nval = 0.2\ntest = 0.2")
    parts, said = find_splits(str(toml), None, tmp_path / "out")
    assert (parts.name, parts.test, said) == (str(toml), "test", [])
    parts, _ = find_splits("shapes", None, tmp_path)
    assert parts.test == "test"


def test_of_a_train_split_that_is_a_share_its_base_gives_the_others(tmp_path):
    toml = write_yard(
        tmp_path / "yard", splits='pool = "pool.txt"\ntrain = "60% of pool"\nval = "20% of pool"'
    )
    (tmp_path / "yard" / "pool.txt").write_text("\n".join(f"{number:03d}x" for number in range(30)))
    parts, said = find_splits(str(toml), None, tmp_path)
    assert "2 images of train became test" in said[0]
    sizes = {
        name: len(open_dataset(parts.name, name, toml.parent))
        for name in ("train", "val", "test", "pool")
    }
    assert sizes == {"train": 16, "val": 6, "test": 2, "pool": 6}


@pytest.mark.parametrize("splits", [SPLITS, "train = 0.8\nval = 0.2", "train = 1.0"])
def test_images_to_judge_by_that_would_be_trained_on_are_refused_before_anything_trains(
    tmp_path, monkeypatch, splits
):
    toml = write_yard(tmp_path / "yard", splits=splits)
    first, *others = sorted((tmp_path / "yard" / "images").iterdir())
    for image in others:  # so that some of each split are the same
        shutil.copyfile(first, image)
    monkeypatch.setattr(beginning, "time_offers", None)
    mend = "`featherseg check DATA --fix OUT`"
    if splits != SPLITS:
        mend = (
            r"(is|are) cut from train: write train = .* test = 0\.\d+ into \[splits\] of .* "
            f"first; then {mend}"
        )
    with pytest.raises(
        DataError, match=rf"images of .*yard.* would be trained on as well.*: \d+x \(there .*{mend}"
    ):
        featherseg.fit(toml, 20.0, out=tmp_path / "out", hours=0.1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("train", "val", "test", "message"),
    [
        (
            "a",
            "b",
            "b",
            r"10 images of .* test would be chosen by as well.*: 010x, 011x, "
            ".*`featherseg check DATA --fix",
        ),
        ("a", "b", "c+b", r"10 images of .* test would be chosen by as well"),
        (
            "a",
            "b+a",
            "c",
            r"10 images of .* val would be trained on as well.*: 000x, "
            ".*`featherseg check DATA --fix OUT`",
        ),
    ],
)
def test_images_to_judge_or_to_choose_by_that_serve_otherwise_are_refused_before_anything_is_timed(
    tmp_path, monkeypatch, train, val, test, message
):
    lists = "\n".join(f'{name} = "{name}.txt"' for name in ("train", "val", "test"))
    toml = write_yard(tmp_path / "yard", splits=lists)
    for name, parts in (("train", train), ("val", val), ("test", test)):
        keys = [
            f"{'abc'.index(part)}{number}x".rjust(4, "0")
            for part in parts.split("+")
            for number in range(10)
        ]
        (tmp_path / "yard" / f"{name}.txt").write_text("\n".join(keys))
    monkeypatch.setattr(beginning, "time_offers", None)
    with pytest.raises(DataError, match=message):
        featherseg.fit(toml, 20.0, out=tmp_path / "out", hours=0.1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("images", [1, 2])
def test_so_few_images_that_no_split_can_be_cut_are_told_with_what_to_do(tmp_path, images):
    toml = write_yard(tmp_path / "yard", images, "train = 1.0")
    with pytest.raises(
        DataError,
        match=rf"{images} training images? are too few to cut them from: .*\. Add images, or",
    ):
        find_splits(str(toml), None, tmp_path)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_a_labelled_pixel_is_refused_before_anything_is_timed(
    tmp_path, monkeypatch, split
):
    toml = write_yard(tmp_path / "yard", splits=SPLITS)
    toml.write_text(toml.read_text() + '255 = "ignore"\n')
    monkeypatch.setattr(beginning, "time_offers", None)
    first, *others = open_dataset(str(toml), split).keys
    for key in others:
        Image.fromarray(np.full((64, 96), 255, np.uint8)).save(
            tmp_path / "yard" / "masks" / f"{key}.png"
        )
    splits_module.look_at(open_dataset(str(toml), split), "yard", 1.0)
    Image.fromarray(np.full((64, 96), 255, np.uint8)).save(
        tmp_path / "yard" / "masks" / f"{first}.png"
    )
    said = rf" {split} has no labelled pixel: in all of its {len(others) + 1} masks .* "
    said += r"in \[map\], or name other images"
    with pytest.raises(DataError, match=said):
        featherseg.fit(toml, 20.0, out=tmp_path / "out", hours=1.0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_file_that_cannot_be_read_is_said_before_anything_is_timed(tmp_path, monkeypatch, split):
    toml = write_yard(tmp_path / "yard", splits=SPLITS)
    monkeypatch.setattr(beginning, "time_offers", None)
    key = open_dataset(str(toml), split).keys[1]
    image, mask = (tmp_path / "yard" / part / f"{key}.png" for part in ("images", "masks"))
    sound = image.read_bytes()
    image.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(DataError, match=f"{image} cannot be read: .* damaged or truncated"):
        featherseg.fit(toml, 20.0, out=tmp_path / "out", hours=1.0)
    image.write_bytes(sound)
    Image.fromarray(np.full((64, 96), 7, np.uint8)).save(mask)
    with pytest.raises(DataError, match=f"{mask} holds value 7"):
        featherseg.fit(toml, 20.0, out=tmp_path / "out", hours=1.0)
    assert not (tmp_path / "out").exists()


def test_a_look_at_many_files_ends_with_its_share_of_the_time(tmp_path, monkeypatch):
    data = open_dataset(str(write_yard(tmp_path / "yard", splits=SPLITS)), "train")
    now, read = [0.0], []
    monkeypatch.setattr(splits_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(
        type(data), "label", lambda self, index: now.append(now.pop() + 1) or read.append("mask")
    )
    monkeypatch.setattr(
        type(data),
        "__getitem__",
        lambda self, index: (
            now.append(now.pop() + 1) or read.append("image") or SimpleNamespace(label=0)
        ),
    )
    splits_module.look_at(data, "yard train", 100.0)
    assert read == ["mask"] * 4 + ["image"] * 3


# Another device


@pytest.mark.seconds
@pytest.mark.parametrize(("light_ms", "trained"), [(15.0, SLOW.name), (50.0, FAST.name)])
def test_the_choice_is_for_the_device_that_was_measured(tmp_path, monkeypatch, light_ms, trained):
    monkeypatch.setattr(beginning, "_pace", lambda *rest: Pace(0.1, 0.01, 8))
    monkeypatch.setattr(beginning, "time_candidate", None)  # nothing is timed here
    measured = answer(tmp_path / "latency.json", light_ms)
    config = fit_plan(max_ms=20.0, hours=0.05).config
    other = replace(config, image_size=(64, 96))
    with pytest.raises(
        ConfigError, match="--image-size 64x96, but the device measured images of 256x512"
    ):
        begin(other, measured, tmp_path)
    plan = begin(config, measured, tmp_path)
    assert [one.name for one in plan.schedule.candidates] == [trained]
    assert (plan.device, plan.threads, plan.elsewhere) == ("a board", 4, True)
    with pytest.raises(ConfigError, match="holds no ncnn, but onnx, openvino"):
        begin(replace(config, format="ncnn"), measured, tmp_path)


def test_a_scale_that_is_not_offered_is_left_out_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(beginning, "_pace", lambda *rest: Pace(0.1, 0.01, 8))
    measured, heard = answer(tmp_path / "latency.json", 15.0), Silent()
    rows = [
        row.model_copy(update={"scale": 1.0000001}) if row.scale == 0.5 else row
        for row in measured.candidates
    ]
    measured = measured.model_copy(update={"candidates": tuple(rows)})
    config = fit_plan(max_ms=20.0, hours=0.05).config
    plan = begin(config, measured, tmp_path, heard)
    assert [(t.model, t.scale) for t in plan.timings] == [(FAST.model, 1.0), (SLOW.model, 1.0)]
    assert (
        f"left out, of no scale that images of 256x512 are tried at: {SLOW.model} at 1.0000001"
        in heard.messages
    )


def test_models_that_are_left_out_for_want_of_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(beginning, "_pace", lambda *rest: Pace(0.1, 0.01, 8))
    for module in (beginning, candidates):
        monkeypatch.setattr(module, "has_weights", lambda model: "lite0" in model)
    heard, measured = Silent(), answer(tmp_path / "latency.json", 15.0)
    begin(fit_plan(max_ms=20.0).config, measured, tmp_path, heard)
    told = next(text for text in heard.messages if text.startswith("left out"))
    assert (
        "frm-mobilenet-v2-light, frm-lite2-light, frm-lite2-half-light; "
        "how to get them: featherseg weights" in told
    )


def test_latencies_of_images_of_another_size_are_taken_on_demand_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(beginning, "_pace", lambda *rest: Pace(0.1, 0.01, 8))
    measured, yard = (
        answer(tmp_path / "latency.json", 15.0),
        write_yard(tmp_path / "yard", splits=SPLITS),
    )
    config = fit_plan(yard, hours=0.05).config
    with pytest.raises(
        ConfigError, match=r"images of 256x512, .* is 64x96\. .* --image-size 256x512; .* --measure"
    ):
        begin(config, measured, tmp_path)
    config = replace(config, image_size=(256, 512))
    plan = begin(config, measured, tmp_path)
    assert plan.image_size == (256, 512)


def test_who_has_no_room_in_the_memory_is_dropped_before_the_plan(tmp_path, monkeypatch):
    def pace(candidate, *rest):
        if candidate.model == SLOW.model:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Pace(0.1, 0.01, 8)

    monkeypatch.setattr(beginning, "_pace", pace)
    measured, config, said = (
        answer(tmp_path / "latency.json", 15.0),
        fit_plan(hours=0.05).config,
        Silent(),
    )
    plan = begin(config, measured, tmp_path, said)
    assert [one.name for one in plan.schedule.candidates] == [FAST.name]
    assert f"{SLOW.name} is dropped: CUDA out of memory" in said.messages


def test_remedies_are_options_of_fit(tmp_path, monkeypatch):
    def pace(candidate, *rest):
        raise ConfigError(
            "a step takes about 9.0 GB of memory, and 1.0 GB are free on cpu.",
            "What fits: --set x=1.",
        )

    monkeypatch.setattr(beginning, "_pace", pace)
    measured, config, said = (
        answer(tmp_path / "latency.json", 15.0),
        fit_plan(hours=0.05).config,
        Silent(),
    )
    with pytest.raises(
        ConfigError, match=r"about 9\.0 GB .* fit for smaller images: --image-size"
    ) as refused:
        begin(config, measured, tmp_path, said)
    assert "--set" not in f"{refused.value} {said.messages}"


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("step", "compared", "said"),
    [
        (0.1, True, ""),
        (2.0, False, "the time is too short to compare {} with others, so that they are not timed"),
        (math.nan, True, "{} is dropped: CUDA out of memory"),
    ],
)
def test_candidates_are_timed_beside_the_best_guess_where_the_time_allows_a_choice(
    tmp_path, monkeypatch, step, compared, said
):
    best = in_line(offers((256, 512)), (256, 512))[0]  # images of shapes

    def pace(candidate, *rest):
        if math.isnan(step) and candidate.name == best.name:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Pace(0.1 if math.isnan(step) else step, 0.01, 8)

    monkeypatch.setattr(beginning, "_pace", pace)
    monkeypatch.setattr(feasible, "guess_speed", lambda: 0.0)  # whatever else runs here
    monkeypatch.setattr(
        beginning,
        "time_candidate",
        lambda name, *rest: Measured(timing(name[0], name[1], 10.0), 5.0),
    )
    heard, config = Silent(), fit_plan(max_ms=1000.0, hours=0.5).config
    plan = begin(config, None, tmp_path, heard)
    assert (len(plan.timings) > 1) == (len(plan.schedule.candidates) > 1) == compared
    assert (plan.schedule.candidates[0].name == best.name) == (not math.isnan(step))
    assert said.format(best.name) in [*heard.messages, ""]


@pytest.mark.seconds
def test_no_step_is_timed_that_the_memory_has_no_room_for(tmp_path, monkeypatch):
    none = np.zeros(1)
    estimate = Estimate(1e6, 0.0, 0.0, 0.0, 1.0, np.array([1e9]), none, none)
    monkeypatch.setattr(job, "estimate_memory", lambda *given, **how: estimate)
    monkeypatch.setattr(beginning, "time_step", None)
    measured, config = answer(tmp_path / "latency.json", 15.0), fit_plan(hours=0.05).config
    with pytest.raises(ConfigError, match=r"about 1\.0 GB of memory"):
        begin(config, measured, tmp_path)


@pytest.mark.seconds
def test_room_is_asked_for_as_the_training_will_and_its_batch_is_planned(tmp_path, monkeypatch):
    asked = []

    def estimate(model, recipe, size, **how):
        asked.append(size)
        return estimate_memory(model, recipe, (256, 512))

    # one of the validation images
    monkeypatch.setattr(job, "largest_size", lambda val: (3000, 4000))
    monkeypatch.setattr(job, "estimate_memory", estimate)
    monkeypatch.setattr(job, "resolve_batch_size", lambda recipe, *given: sized(recipe, 3))
    monkeypatch.setattr(job, "check_memory", lambda *given: None)
    monkeypatch.setattr(beginning, "time_step", lambda *given: 0.1)
    monkeypatch.setattr(beginning, "time_validation", lambda *given: (0.0, 0.01))
    measured, config = answer(tmp_path / "latency.json", 15.0), fit_plan(hours=0.5).config
    plan = begin(config, measured, tmp_path)
    assert set(asked) == {(3000, 4000)}
    first = plan.schedule.candidates[0]
    assert first.batch_size == 3
    fit_job = FitJob(tmp_path, 0.0, ALONE, Silent())
    assert "train.batch_size=3" in segment_of(FitState(plan), fit_job, first, 10).overrides
    older = replace(first, batch_size=None)
    assert not [
        word
        for word in segment_of(FitState(plan), fit_job, older, 10).overrides
        if "batch_size" in word
    ]
    assert read_plan(tmp_path / "plan.json").schedule == plan.schedule


def sized(recipe, images):
    """The recipe with so many images a step."""
    return recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"batch_size": images})}
    )


@pytest.mark.seconds
def test_hours_in_which_nothing_can_be_trained_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(beginning, "_pace", lambda *rest: Pace(0.1, 0.01, 8))
    measured, config = answer(tmp_path / "latency.json", 15.0), fit_plan(hours=0.003).config
    with pytest.raises(
        ConfigError, match=r"--hours 0\.003: .* alone take about .* Give at least (\S+)\.$"
    ) as refused:
        begin(config, measured, tmp_path)
    least = float(re.search(r"at least (\S+)\.$", str(refused.value))[1])
    config = replace(config, hours=least)
    assert begin(config, measured, tmp_path).schedule.candidates

    # What the export and its timings take counts
    def time_candidate(name, *rest):
        return Measured(timing(*name[:2], p50=10.0), 20.0)

    monkeypatch.setattr(beginning, "time_candidate", time_candidate)
    config = fit_plan(hours=0.01).config
    with pytest.raises(ConfigError, match=r"Give at least (\S+)\.$") as refused:
        begin(config, None, tmp_path)
    assert 3600 * float(re.search(r"at least (\S+)\.$", str(refused.value))[1]) > 2 * 20 + 3 * 6


def test_hours_that_a_busy_machine_needs_to_start_are_refused_before_anything_is_timed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(beginning, "find_splits", None)
    config, began = fit_plan(hours=0.01).config, time.monotonic() - 19.0  # of 36 s
    with pytest.raises(
        ConfigError, match=r"alone take about 3\.8 minutes here\. Give at least 0\.08"
    ):
        begin(config, None, tmp_path, began=began)


@pytest.mark.seconds
def test_a_delivery_takes_as_long_as_this_machine_needs_now(tmp_path, monkeypatch):
    monkeypatch.setattr(beginning, "_pace", lambda *rest: Pace(0.1, 0.01, 8))
    monkeypatch.setattr(
        beginning, "time_candidate", lambda name, *rest: Measured(timing(*name[:2], 10.0), 8.0)
    )
    config = fit_plan(hours=0.3).config
    for start_up, an_export in ((0.0, 8.0), (20.0, 20.0)):  # the measurement may be of an idle day
        began = time.monotonic() - start_up
        plan = begin(config, None, tmp_path, began=began)
        tested = 0.01 * len(open_dataset("shapes", "test"))
        assert plan.delivering == pytest.approx(3.5 * an_export + tested, abs=3.0)
        assert plan.ending > plan.delivering + 0.05 * 3600 * 0.3
        assert read_plan(tmp_path / "plan.json") == plan


def test_a_start_takes_as_long_as_opening_and_reading_masks_takes_here(tmp_path, monkeypatch):
    toml = write_yard(tmp_path / "yard", splits=SPLITS)  # 18, 6 and 6 images
    monkeypatch.setattr(
        beginning, "time_candidate", lambda name, *rest: Measured(timing(*name[:2], 10.0), 1.0)
    )
    monkeypatch.setattr(beginning, "_pace", lambda *rest: Pace(0.1, 0.5, 8, 20.0))
    monkeypatch.setattr(beginning, "mask_seconds", lambda train: 2.0)
    plan = begin(fit_plan(toml).config, None, tmp_path)
    assert (plan.validating, plan.opening) == (20.0 + 6 * 0.5, 12 * 0.0075 + 18 * 2.0)

    data, now = open_dataset(str(toml), "train"), [0.0]
    monkeypatch.setattr(splits_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(
        type(data), "label", lambda self, index: now.append(now.pop() + 1 + (index == 17))
    )
    assert splits_module.mask_seconds(data) == 9 / 8


@pytest.mark.seconds
def test_timing_candidates_ends_with_the_hours(tmp_path, monkeypatch):
    now, timed = [0.0], []

    def time_candidate(name, *rest):
        timed.append(name)
        now[0] += 40.0
        return Measured(timing(*name[:2], p50=10_000.0), 40.0)

    monkeypatch.setattr(beginning, "time_candidate", time_candidate)
    monkeypatch.setattr(
        feasible, "guess_speed", lambda: 0.0
    )  # so that the best guess is timed first
    for module in (beginning, feasible, state):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with pytest.raises(
        ConfigError,
        match=r"--hours 0\.01: timing, start, validation and export alone take about 3\.1",
    ):
        begin(fit_plan(hours=0.01).config, None, tmp_path, began=0.0)
    assert len(timed) == 1  # the cheapest is not tried any more


@pytest.mark.parametrize("kept", [True, False])
def test_a_limit_that_is_not_kept_is_exit_code_1(tmp_path, monkeypatch, capsys, kept):
    told = facts() | ({} if kept else {"limit_kept": False, "latency_over_ms": 5.2})
    monkeypatch.setattr(
        "featherseg.fit", lambda *given, **how: FitResult(tmp_path / "my fit", told)
    )
    words = ["--data", "shapes", "--max-ms", "20", "--out", str(tmp_path / "my fit")]
    monkeypatch.setattr("sys.argv", ["featherseg", "fit", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == (0 if kept else 1)
    said = capsys.readouterr().out
    over = "5.2 ms (26%) over the limit of 20 ms. Time the file again when nothing else runs:\n"
    assert (f"{over}featherseg fit --resume --out '{tmp_path / 'my fit'}'\n" in said) == (not kept)


def test_an_option_that_is_of_no_use_is_refused(monkeypatch, tmp_path, capsys):
    for words, message in (
        (["--show", "--hours", "2"], "--show makes no use of --hours"),
        (["--confirm", "a.json", "--format", "ncnn"], "--confirm makes no use of --format"),
        (["--measure", "--max-ms", "5"], "--measure makes no use of --max-ms"),
        (["--show", "--resume"], "--show makes no use of --resume"),
        (["--show", "--percentile", "50"], "--show makes no use of --percentile"),
    ):
        monkeypatch.setattr("sys.argv", ["featherseg", "fit", *words, "--out", str(tmp_path / "x")])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_one_command_with_resume_begins_a_fit_and_goes_on_with_it(monkeypatch, tmp_path, capsys):
    begun, out, file = [], tmp_path / "out", tmp_path / "latency.json"

    def begin(config, measured, job):
        begun.append(config)
        timings = timings_of(measured, config.format) if measured else fit_plan().timings
        plan = replace(
            fit_plan(), config=config, elsewhere=measured is not None, timings=tuple(timings)
        )
        plan.write(job.out)
        return plan

    def killed(*rest):
        raise RunError("killed here")

    monkeypatch.setattr(session, "begin", begin)
    monkeypatch.setattr(session, "screen", killed)

    def fit(*words, percentile="95"):
        given = [
            "--data",
            "shapes",
            "--max-ms",
            "9",
            "--percentile",
            percentile,
            "--format",
            "onnx",
            "--resume",
            *words,
        ]
        monkeypatch.setattr("sys.argv", ["featherseg", "fit", *given, "--out", str(out)])
        with pytest.raises(SystemExit):
            main()
        printed = capsys.readouterr()
        return " ".join((printed.out + printed.err).split())

    # The first start begins, those behind it go on
    answer(file, 15.0)
    out.mkdir()
    (out / ".fit.lock").touch()  # of one that was killed before its plan
    said = fit("--latency", str(file))
    assert "a new fit begins" in said
    assert "killed here" in said
    assert [(one.data, one.max_ms, one.percentile, one.format) for one in begun] == [
        ("shapes", 9.0, 95, "onnx")
    ]
    for words in ((), ("--latency", str(file))):
        said = fit(*words)
        assert "going on with" in said
        assert "killed here" in said
    assert len(begun) == 1

    # What is not as it was is refused
    assert "it was begun with --percentile 95, and now it is 50" in fit(percentile="50")
    file.write_text(file.read_text().replace('"p50": 5.0,', '"p50": 5.05,'))
    assert "it was begun with other latencies than --latency" in fit("--latency", str(file))


# Records


def test_another_limit_is_chosen_for_from_what_was_trained():
    assert [row["model"] for row in choose_again(facts(), 50)] == [
        "frm-lite0-light",
        "frm-lite0-half-light",
    ]
    assert [row["model"] for row in choose_again(facts(), 10)] == ["frm-lite0-half-light"]
    assert choose_again(facts(), 1) == []

    # By fit's rules: a tenth spare, within the memory, the faster of those that are level
    assert [row["model"] for row in choose_again(facts(), 16)] == ["frm-lite0-half-light"]
    assert choose_again(facts() | {"max_mib": 299}, 50) == []
    level = facts()
    level["candidates"][0]["miou_val"] = 0.6
    assert choose_again(level, 50)[0]["status"] == "chosen"
    other = timing("frm-lite2-light", p50=6.0).as_dict() | {
        "status": "dropped at rung 1",
        "miou_val": 0.6,
    }
    level["candidates"].append(other | {"run": "trials/frm-lite2-light-1"})
    assert [row["latency_ms"]["p50"] for row in choose_again(level, 50)] == [15.0, 5.0, 6.0]

    # Who was dropped last comes first: its score is of a longer training
    level["candidates"][-1] |= {"status": "dropped at rung 10", "miou_val": 0.4}
    assert [row["latency_ms"]["p50"] for row in choose_again(level, 10)] == [6.0, 5.0]
    level["candidates"][0]["status"], level["candidates"][-1]["status"] = (
        "dropped at rung 2",
        "dropped at rung 1",
    )
    assert [row["latency_ms"]["p50"] for row in choose_again(level, 10)] == [5.0, 6.0]
    del level["candidates"][-1]

    # Whoever was delivered kept its limit when it was timed again, however near it is
    near = facts()
    near["candidates"][1]["latency_ms"] = {"p50": 19.5, "p95": 25.0}
    assert choose_again(near, 20)[0]["status"] == "chosen"
    assert [row["model"] for row in choose_again(near, 19.6)] == ["frm-lite0-half-light"]
    level["candidates"][0]["status"] = "not delivered: its training failed"
    assert [row["model"] for row in choose_again(level, 50)] == ["frm-lite0-light"]
    with pytest.raises(ConfigError, match="expected milliseconds above 0"):
        choose_again(facts(), 0)


def test_another_limit_is_chosen_for_by_what_the_delivered_file_took():
    slow = facts()
    slow["chosen"] |= {"latency_ms": {"p50": 18.2, "p95": 25.0}}  # 15 before its training
    assert [row["model"] for row in choose_again(slow, 17)] == ["frm-lite0-half-light"]
    assert choose_again(slow, 20)[0]["latency_ms"]["p50"] == 18.2
    fast = facts()
    fast["chosen"] |= {"latency_ms": {"p50": 9.0, "p95": 10.0}}
    assert choose_again(fast, 50)[0]["latency_ms"]["p50"] == 15.0

    # What the device itself says of the file counts before both
    confirmed = {
        "latency_ms": {"p50": 30.0, "p95": 31.0},
        "memory_mib": 100.0,
        "keeps_limit": False,
    }
    assert [row["model"] for row in choose_again(facts() | {"confirmed": confirmed}, 20)] == [
        "frm-lite0-half-light"
    ]
    assert choose_again(facts() | {"confirmed": confirmed}, 40)[0]["latency_ms"]["p50"] == 30.0
    confirmed |= {"latency_ms": {"p50": 19.5, "p95": 31.0}, "keeps_limit": True}
    assert choose_again(slow | {"confirmed": confirmed}, 20)[0]["status"] == "chosen"


def test_who_took_too_long_at_the_delivery_is_there_for_a_higher_limit(
    tmp_path, monkeypatch, capsys
):
    one = facts()
    slow = timing("frm-lite2-light", p50=17.0).as_dict() | {
        "miou_val": 0.9,
        "run": "trials/frm-lite2-light-1-to-900",
    }
    reason = "not delivered: 20.5 ms in the worst of 3 timings of its file"
    one["candidates"].append({**slow, "status": reason, "seconds_trained": 60.0})
    assert [row["model"] for row in choose_again(one, 20)] == [
        "frm-lite0-light",
        "frm-lite0-half-light",
    ]
    first = choose_again(one, 30)[0]
    assert (first["model"], first["latency_ms"]["p50"]) == ("frm-lite2-light", 20.5)
    assert choose_again(one, 22)[0]["status"] == "chosen"  # a tenth must be to spare

    (tmp_path / "fit.json").write_text(json.dumps(one))
    monkeypatch.setattr(
        "sys.argv", ["featherseg", "fit", "--show", "--max-ms", "30", "--out", str(tmp_path)]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    line = "20.5 ms, validation mIoU 90.00 % (selected on these images), "
    line += f"trained for 60 s, {reason} frm"
    assert f"frm-lite2-light at 1: {line}" in said
    assert said.endswith(
        f"{tmp_path / 'trials/frm-lite2-light-1-to-900'}, trained to its end, without a file"
    )


@pytest.mark.parametrize("stopped", [False, True])
def test_a_bundle_tells_where_it_is_and_that_nothing_is_kept_of_a_stopped_one(
    tmp_path, monkeypatch, capsys, stopped
):
    def bundle_candidates(out, data, formats, size, data_root, progress):
        for number, name in enumerate(("a", "b")):
            progress(f"{name}: writing onnx", number, 2)
        if stopped:
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr("featherseg.fitting.elsewhere.bundle_candidates", bundle_candidates)
    monkeypatch.setattr(
        "sys.argv", ["featherseg", "fit", "--measure", "--out", str(tmp_path / "b.zip")]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["a: writing onnx (1 of 2)", "b: writing onnx (2 of 2)"]
    assert (ended.value.code == 0) is not stopped
    assert ("nothing of it is kept: the same command begins anew" in lines) is stopped


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"max_ms": "20ms"}, "max_ms = '20ms': expected a number"),
        ({"hours": "1h"}, "hours = '1h': expected a number"),
        ({"image_size": "120x160"}, r"image_size = '120x160': expected \(height, width\)"),
        ({"image_size": 120}, r"image_size = 120: expected \(height, width\)"),
        ({"image_size": (120,)}, r"image_size = \(120,\): expected \(height, width\)"),
    ],
)
def test_values_of_another_kind_are_refused(tmp_path, words, said):
    with pytest.raises(ConfigError, match=said):
        featherseg.fit(**{"data": "shapes", "max_ms": 20, "out": tmp_path / "fit"} | words)
    assert not (tmp_path / "fit").exists()


@pytest.mark.seconds
def test_show_imports_nothing_heavy(tmp_path):
    (tmp_path / "fit.json").write_text(json.dumps(facts()))
    words = ["fit", "--show", "--max-ms", "10", "--out", str(tmp_path)]
    command = "import sys; from featherseg.cli import main; "
    command += f"sys.argv = {['featherseg', *words]!r}\ntry: main()\n"
    command += "finally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "frm-lite0-half-light at 1: 5.0 ms" in done.stdout
    assert "% (selected on these images), " in done.stdout
    assert "trials/frm-lite0-half-light-1, which was not trained to its end" in done.stdout
    assert done.stdout.endswith("False\n")


def test_show_says_where_nothing_keeps_the_limit_that_some_is_to_spare(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "fit.json").write_text(json.dumps(facts()))
    monkeypatch.setattr(
        "sys.argv", ["featherseg", "fit", "--show", "--max-ms", "5.5", "--out", str(tmp_path)]
    )
    with pytest.raises(SystemExit):
        main()
    assert "keeps 5.5 ms (with 10% to spare)" in capsys.readouterr().err


def test_a_folder_that_is_no_fit_is_told_and_the_nearest_one_where_it_is_a_typo(tmp_path):
    fit_plan().write(tmp_path / "yard-20ms")
    with pytest.raises(RunError, match=r"has not ended\. Go on with"):
        read_fit(tmp_path / "yard-20ms")
    with pytest.raises(
        RunError,
        match=r"not the folder of a fit: it has no plan\.json\. Did you mean '.*yard-20ms'\?",
    ):
        read_fit(tmp_path / "yard-20m")
    with pytest.raises(RunError, match=r"not the folder of a fit: it has no plan\.json\. Expected"):
        read_fit(tmp_path)


def test_the_page_tells_what_became_of_every_candidate_and_escapes_it():
    page = fit_html(
        facts(),
        {FAST.name: [(4, 0.5)], SLOW.name: [(4, 0.5), (8, 0.55), (10, 0.6)]},
        fit_plan().schedule,
    )
    for text in (
        "over the limit",
        "dropped at rung 1",
        "a board, &lt;2&gt; cores",
        "mIoU 58.00 % (50.00 to 70.00)",
    ):
        assert text in page
    assert "From step 4 to step 8, at its constant rate, the chosen model gained 5.0 points" in page
    assert "A higher limit would let in frm-lite0 at 1 first, with 40.0 ms" in page
    assert "fastest that was timed" not in page


def test_the_page_names_every_curve_and_is_drawn_for_screens_and_for_phones():
    page = fit_html(
        facts(),
        {FAST.name: [(4, 0.5)], SLOW.name: [(4, 0.5), (8, 0.55), (10, 0.6)]},
        fit_plan().schedule,
    )
    for width in (720, 380):
        assert len(re.findall(f'viewBox="0 0 {width} ', page)) == 2
    assert f"<title>{FAST.name}: 50.0</title>" in page
    assert f"<title>{SLOW.name}: 50.0, 55.0, 60.0</title>" in page
    assert len(re.findall(rf'class="tag"[^>]*>{FAST.name}<', page)) == 2
    assert '"At 1" in a name' in page
    assert re.search(r">candidate</th><th [^>]*>what became of it</th>", page)


def test_the_page_tells_where_all_of_the_time_went():
    told = facts() | {"seconds_before": 130.0, "seconds": 500.0}
    told["candidates"][1]["seconds_trained"] = 240.0
    page = fit_html(told, {}, fit_plan().schedule)
    for text in (
        "2 min: looking at the images",
        "4 min: training frm-lite0-light at 1, chosen",
        "8 min in all.",
    ):
        assert text in page
    assert "60 s: training frm-lite0-half-light at 1, dropped at rung 1" in page
    assert "70 s: export, timing the file, scoring" in page
    del told["seconds_before"]  # as in those of older versions
    assert "3 min: looking at the images, timing candidates and their steps, export" in fit_html(
        told, {}, fit_plan().schedule
    )
    side_by_side = fit_html(told | {"seconds": 250.0}, {}, fit_plan().schedule)
    assert "4 min in all, as trainings ran side by side." in side_by_side
    assert "export" not in side_by_side.partition("Where the time went")[2].partition("<h2>")[0]


def test_the_page_of_one_candidate_draws_no_single_dot_and_tells_what_more_hours_would_do():
    told, plan = facts(), make_schedule([SLOW], 100.0)
    told["candidates"] = [row for row in told["candidates"] if row["status"] == "chosen"]
    page = " ".join(fit_html(told, {SLOW.name: [(10, 0.6)]}, plan).split())
    assert "<svg" not in page
    assert (
        "One candidate was trained, frm-lite0-light at 1: "
        "mIoU 60.0 % on the validation images at 15.0 ms" in page
    )
    assert "featherseg fit --resume --hours HOURS --out RUN" in page
    assert (
        "With 7 min for training, where this one had 100 s, a new fit could compare it with another"
        in page
    )
    assert "could compare it" not in fit_html(told, {}, make_schedule([SLOW], 500.0))


def test_the_outlook_goes_by_the_percentile_of_the_limit_and_knows_the_fastest_by_its_name():
    content = facts() | {"percentile": 95}
    over = [row for row in content["candidates"] if row["status"] == "over the limit"]
    calm, jumpy = (
        {**over[0], "model": name, "latency_ms": {"p50": p50, "p95": p95}}
        for name, p50, p95 in (("calm", 19.0, 22.0), ("jumpy", 18.0, 40.0))
    )
    chosen = next(row for row in content["candidates"] if row["status"] == "chosen")
    content["candidates"] = [chosen, calm, jumpy]
    content["chosen"] |= {
        "latency_ms": {"p50": chosen["latency_ms"]["p50"] + 0.1, "p95": 21.0}
    }  # timed again
    said = " ".join(outlook(content, {}, fit_plan().schedule))
    assert "would let in calm at 1 first" in said
    assert "The chosen one is the fastest that was timed." in said
    content["candidates"] = [chosen]
    assert "fastest" not in " ".join(
        outlook(content, {}, fit_plan().schedule)
    )  # nothing else was timed


# What is refused before any work


def test_what_cannot_be_is_refused_and_leaves_nothing(tmp_path):
    cases = [
        ({"data": "shapes"}, ConfigError, "data or limit is missing"),
        ({"data": "shapes", "max_ms": -1}, ConfigError, "milliseconds above 0"),
        ({"data": "shapes", "max_ms": 5, "hours": 0.0}, ConfigError, "hours"),
        ({"data": "shapes", "max_ms": 5, "format": "onx"}, FeathersegError, "Did you mean 'onnx'"),
        (
            {"data": "shapes", "max_ms": 5, "format": "tensorrt"},
            FeathersegError,
            "cannot be timed",
        ),
        ({"data": "shaps", "max_ms": 5}, FeathersegError, "shapes"),
        ({"data": "shapes", "max_ms": 5, "image_size": (3, 3)}, ConfigError, "image_size"),
        (
            {"data": "shapes", "max_ms": 5, "image_size": (2**16, 2**16)},
            ConfigError,
            "at most 178,956,970 pixels",
        ),
        (
            {"data": "shapes", "max_ms": 5, "settings": FitSettings(device="cuda:99")},
            DeviceError,
            "CUDA devices",
        ),
        ({"resume": True}, ConfigError, "nothing to continue"),
    ]
    for words, kind, message in cases:
        with pytest.raises(kind, match=message):
            featherseg.fit(**words, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(FeathersegError, match="shapes"):
        featherseg.fit("shaps", 5, out=tmp_path / "a" / "b" / "out")
    assert not (tmp_path / "a").exists()
    with pytest.raises(ConfigError, match="expected 50 or 95"):
        FitSettings(percentile=90)
    (tmp_path / "dataset.toml").write_text("mine")
    with pytest.raises(RunError, match="already exists"):
        featherseg.fit("shaps", 5, out=tmp_path)
    assert (tmp_path / "dataset.toml").read_text() == "mine"
    (tmp_path / "mine.txt").write_text("mine")
    for resume, message in (
        (False, "already exists"),
        (True, r"contains files, but no plan\.json"),
    ):
        with pytest.raises(RunError, match=message):
            featherseg.fit("shapes", 5, out=tmp_path, resume=resume)
    assert (tmp_path / "dataset.toml").read_text() == "mine"


def test_images_too_small_are_refused_as_such_a_size_is_unless_larger_ones_are_predicted(
    tmp_path, monkeypatch
):
    def timed(choice, config, image_size, *rest):
        raise RunError(f"timed at {image_size}")

    data = write_yard(tmp_path / "yard", splits="train = 0.6\nval = 0.2\ntest = 0.2")
    for path in (tmp_path / "yard").glob("*/*.png"):
        with Image.open(path) as whole:
            small = whole.resize((31, 20), Image.Resampling.NEAREST)
        small.save(path)
    message = r"a typical image of .* is 20x31: expected \(height, width\), "
    message += "each from 32 pixels on, .* Enlarge them, or"
    with pytest.raises(ConfigError, match=message):
        featherseg.fit(data, 20.0, out=tmp_path / "out", hours=0.1)
    with pytest.raises(ConfigError, match=message):
        bundle_candidates(tmp_path / "b.zip", str(data))
    monkeypatch.setattr(beginning, "time_offers", timed)
    with pytest.raises(RunError, match=r"timed at \(32, 48\)"):
        featherseg.fit(data, 20.0, out=tmp_path / "out", hours=0.1, image_size=(32, 48))


def test_what_a_kill_left_of_the_plan_is_in_no_way(tmp_path):
    (tmp_path / ".fit.lock").touch()
    (tmp_path / ".plan.json.123-abcd0123456789ab.tmp").write_text("{")
    with pytest.raises(FeathersegError, match="shapes"):  # the name is wrong, not the folder
        featherseg.fit("shaps", 5, out=tmp_path)


def test_a_resumed_fit_keeps_what_it_was_asked(tmp_path):
    fit_plan().write(tmp_path)
    with pytest.raises(ConfigError, match=r"begun with --max-ms 20\.0, and now it is 30"):
        featherseg.fit(max_ms=30, out=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="begun with --format onnx, and now it is openvino"):
        featherseg.fit(format="openvino", out=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="begun with --percentile 50, and now it is 95"):
        featherseg.fit(out=tmp_path, resume=True, settings=FitSettings(percentile=95))
    with pytest.raises(ConfigError, match="begun with --image-size 64x96, and now it is 96x64"):
        featherseg.fit(image_size=(96, 64), out=tmp_path, resume=True)
    with pytest.raises(
        ConfigError, match="begun with --loggers none, and now it is tensorboard,mlflow"
    ):
        featherseg.fit(
            out=tmp_path, resume=True, settings=FitSettings(loggers=("tensorboard", "mlflow"))
        )
    with pytest.raises(ConfigError, match="begun with --data shapes, and now it is camvid"):
        featherseg.fit("camvid", out=tmp_path, resume=True)
    of_ncnn = fit_plan()
    replace(of_ncnn, config=replace(of_ncnn.config, format="ncnn", percentile=95)).write(tmp_path)
    with pytest.raises(ConfigError, match="begun with --format ncnn, and now it is onnx"):
        featherseg.fit(format="onnx", out=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="begun with --percentile 95, and now it is 50"):
        featherseg.fit(out=tmp_path, resume=True, settings=FitSettings(percentile=50))
    with pytest.raises(ConfigError, match="More can be given, not less"):
        featherseg.fit(hours=0.5, out=tmp_path, resume=True)
    with pytest.raises(RunError, match="already exists"):
        featherseg.fit("shapes", 20, out=tmp_path)
    with pytest.raises(RunError, match="has not ended"):
        read_fit(tmp_path)


def test_the_same_data_may_be_spelled_otherwise_when_a_fit_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun = fit_plan("yard", data_root="data")
    begun.refuse_other(
        {"data": str(tmp_path / "yard"), "data_root": f"{tmp_path}/data/", "image_size": (64, 96)}
    )
    begun.refuse_other({"data": "yard/", "data_root": None, "max_ms": 20})
    with pytest.raises(ConfigError, match="begun with --data-root data, and now it is data2"):
        begun.refuse_other({"data_root": "data2"})


def test_segments_are_plain_values():
    import pickle

    segment = Segment(__import__("pathlib").Path("a"), "frm-lite0", ("train.steps=1",), 5)
    assert pickle.loads(pickle.dumps(segment)) == segment
    assert Offer("frm-lite0", 0.5, 1.0).name == Candidate("frm-lite0", 0.5, 0, 0).name
