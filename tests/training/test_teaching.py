"""A model taught by a run: outputs are computed once and kept; a resumed run ends the same."""

import hashlib
import json
import os
import shutil
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support.models.small_training import (
    SMALL,
    YARD,
    Killed,
    KilledAt,
    Silent,
    equal_state,
    outcome,
    request,
)
from support.models.small_training import trained as trained_on_shapes

import featherseg
from featherseg import cli, models
from featherseg.comparison.sweep import train_all
from featherseg.core.errors import ConfigError, DataError, DataNotFound, FeathersegError, RunError
from featherseg.data import open_dataset
from featherseg.data.cache.teacher_outputs import read_outputs
from featherseg.inference.masks import probabilities
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.tiling import process_bytes
from featherseg.layers.resize import resize
from featherseg.losses import LOSSES
from featherseg.runs.run import load_run, save_weights
from featherseg.training import Request, job, teaching, train
from featherseg.training.objects import Objects

pytestmark = pytest.mark.usefixtures("tiny")

LARGE, LITTLE = "frm-lite0", "efficientvit-seg-b0"
EVERY_STEP = ("train.epochs=2", "train.ema=0.9", "train.checkpoint_seconds=1e-9")


def write_noise(path, seed, size=(64, 96), most=256):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size if most < 256 else (*size, 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, most, shape).astype(np.uint8)).save(
        path
    )


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    """A dataset of six images of three classes, three without masks, and a run trained on it."""
    folder = tmp_path_factory.mktemp("yard")
    for number in range(6):
        write_noise(folder / "images" / f"{number}.png", number)
        write_noise(folder / "masks" / f"{number}.png", number, most=3)
    for number, name in enumerate(("a.png", "b.png", "more/a.png")):
        write_noise(folder / "photos" / name, 10 + number, (70 + 10 * number, 130))
    (folder / "dataset.toml").write_text(YARD)
    (folder / "train.txt").write_text("0\n1\n2\n3\n")
    (folder / "val.txt").write_text("4\n5\n")
    train(
        request("train.epochs=1", data=str(folder / "dataset.toml")), folder / "teacher", Silent()
    )
    return folder


@pytest.fixture
def place(yard, tmp_path):
    """The same in another place, where it may be changed."""
    return shutil.copytree(yard, tmp_path / "yard")


def taught(place, *overrides, out="run", reporter=None, resume=False, runs="teacher"):
    """A run on the data of `place` that its teacher taught; -> (run, what was said)."""
    reporter = reporter or Silent()
    asked = request(
        "train.epochs=1",
        f"teacher.runs={','.join(str(place / name) for name in runs.split(','))}",
        *overrides,
        data=str(place / "dataset.toml"),
    )
    return train(asked, place / out, reporter, resume=resume), "\n".join(reporter.messages)


def outputs_of(place):
    return [
        read_outputs(folder)
        for folder in sorted((place / ".featherseg" / "yard").glob("teacher-*"))
    ]


HARD = (
    "data.class_uniform=0.3",
    "augment.cutmix=0.5",
    "augment.rotate=20",
    "loss.class_weights=auto",
)


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("kills", "workers"),
    [([1, 4], 0), pytest.param([3, 3], 2, marks=pytest.mark.slow)],
    ids=["first and last step", "same step again, by workers"],
)
def test_a_taught_run_that_is_stopped_ends_as_the_uninterrupted_one(place, kills, workers):
    settings = (*EVERY_STEP, *HARD, "train.batch_size=2", f"teacher.unlabelled={place / 'photos'}")
    whole, _ = taught(place, *settings, out="whole")
    for number, step in enumerate(kills):
        with pytest.raises(Killed):
            taught(place, *settings, reporter=KilledAt(step), resume=number > 0)
    shutil.rmtree(place / "teacher")  # its outputs are all that is needed
    run, _ = taught(place, *settings, f"data.workers={workers}", resume=True)
    assert equal_state(outcome(run), outcome(whole))
    assert sorted(run.metrics()) == [1, 2, 3, 4]


@pytest.mark.slow
def test_images_that_are_no_files_are_taught_from_the_run_s_own_folder(small_run, tmp_path):
    settings = (*EVERY_STEP, f"teacher.runs={small_run.path}")
    whole = trained_on_shapes(tmp_path / "whole", *settings)
    with pytest.raises(Killed):
        trained_on_shapes(tmp_path / "run", *settings, reporter=KilledAt(3))
    reporter = Silent()
    run = trained_on_shapes(tmp_path / "run", *settings, resume=True, reporter=reporter)
    assert equal_state(outcome(run), outcome(whole))
    assert not any(" once: about" in message for message in reporter.messages)
    assert all(
        {"loss_supervised", "loss_teacher"} <= record.keys() for record in run.metrics().values()
    )
    assert all(
        r["loss"] == pytest.approx(r["loss_supervised"] + r["loss_teacher"])
        for r in run.metrics().values()
    )


@pytest.mark.seconds
def test_the_teacher_changes_what_is_learned_and_is_on_record(place):
    plain = train(
        request("train.epochs=1", data=str(place / "dataset.toml")), place / "plain", Silent()
    )
    run, _ = taught(place)
    assert not equal_state(dict(plain.model.state_dict()), dict(run.model.state_dict()))
    (row,) = run.info.teachers
    own = load_run(place / "teacher")
    assert (row.name, row.model, row.licence) == ("teacher", "tiny", own.licence)
    assert run.recipe.teacher.runs == (str(place / "teacher"),)
    card = (run.path / "card.md").read_text()
    assert "Taught by: teacher (`tiny`" in card
    assert row.weights[:12] in card


def test_what_is_kept_is_what_the_teacher_says_of_the_whole_image(place):
    taught(place, f"teacher.unlabelled={place / 'photos'}")
    (outputs,) = outputs_of(place)
    assert len(outputs.entries) == 7
    runtime, data = (
        open_runtime(load_run(place / "teacher")),
        open_dataset(str(place / "dataset.toml"), "train"),
    )
    for index, key in enumerate(data.keys):
        entry = outputs.entries[
            hashlib.sha256((place / "images" / f"{key}.png").read_bytes()).hexdigest()
        ]
        logits = torch.from_numpy(entry.read(outputs.file, slice(None), slice(None)))[None]
        full = resize(logits, entry.grid.covered, align_corners=entry.grid.align_corners)[
            0, :, :64, :96
        ].softmax(0)
        exact = torch.from_numpy(probabilities(runtime, data[index].image))
        assert (full - exact).abs().max() < 0.02


@pytest.mark.seconds
def test_outputs_are_computed_once_for_what_they_are_of(place):
    _, said = taught(place)
    assert "sees 4 images once" in said
    _, said = taught(place, "model.channels=8", out="another")
    assert " once: about" not in said
    assert "taught by teacher (tiny): 4 images" in said

    # A touched image is known by its content; another one is looked at, and those without masks are
    os.utime(place / "images" / "0.png")
    write_noise(place / "images" / "1.png", 99)
    shutil.copy(place / "photos" / "a.png", place / "photos" / "copy.png")
    _, said = taught(place, f"teacher.unlabelled={place / 'photos'}", out="third")
    assert "sees 4 images once" in said  # the changed one, and three of the four photos
    assert "4 images without masks: 50 % of the samples" in said

    # Another teacher has outputs of its own, whatever its name
    weights = load_run(place / "teacher").path / "weights.safetensors"
    other = train(
        request("train.epochs=1", "train.seed=5", data=str(place / "dataset.toml")),
        place / "b",
        Silent(),
    )
    shutil.copy(other.path / "weights.safetensors", weights)
    _, said = taught(place, out="fourth")
    assert "sees 4 images once" in said
    assert len(outputs_of(place)) == 2


@pytest.mark.seconds
def test_a_kill_on_the_way_costs_no_more_than_was_not_on_the_disk(place, monkeypatch):
    class KilledAfterTwo(Silent):
        def message(self, text):
            if "2 of 4 images" in text:
                raise Killed

    monkeypatch.setattr("featherseg.training.teaching.FLUSH_BYTES", 1)
    monkeypatch.setattr("featherseg.training.teaching.MESSAGE_SECONDS", 0)
    with pytest.raises(Killed):
        taught(place, reporter=KilledAfterTwo())
    (outputs,) = outputs_of(place)
    assert len(outputs.entries) == 2
    with open(outputs.file, "ab") as file:
        file.write(b"torn")
    with open(outputs.folder / "index.jsonl", "a") as file:
        file.write('{"key": "2", "sha')
    run, said = taught(place)
    assert "sees 2 images once" in said
    whole = shutil.copytree(place, place.parent / "whole")
    shutil.rmtree(whole / ".featherseg")
    other, _ = taught(whole, out="again")
    assert equal_state(dict(run.model.state_dict()), dict(other.model.state_dict()))


def test_data_of_one_s_own_are_taught_from_the_run_and_nothing_is_written_beside_them(
    place, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    data = tuple(open_dataset(str(place / "dataset.toml"), split) for split in ("train", "val"))
    asked = request(
        "train.epochs=1", f"teacher.runs={place / 'teacher'}", objects=Objects(data=data)
    )
    run = train(asked, place / "run", Silent())
    assert [path.name[:8] for path in (run.path / "teacher").iterdir()] == ["teacher-"]
    assert not any(folder.exists() for folder in (place / ".featherseg", tmp_path / ".featherseg"))


def test_nothing_is_written_through_a_link_beside_the_data(place, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (place / ".featherseg").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FeathersegError, match="is a symbolic link"):
        taught(place)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.seconds
def test_several_teachers_teach_together(place):
    train(
        request("train.epochs=1", "train.seed=5", data=str(place / "dataset.toml")),
        place / "b",
        Silent(),
    )
    run, said = taught(place, runs="teacher,b")
    assert [row.name for row in run.info.teachers] == ["teacher", "b"]
    assert said.count(" once: about") == 2
    alone, said = taught(place, runs="b", out="alone")
    assert " once: about" not in said
    assert run.metrics()[1]["loss_teacher"] != alone.metrics()[1]["loss_teacher"]


@pytest.mark.seconds
def test_images_without_masks_change_neither_class_weights_nor_the_length(place):
    plain, _ = taught(place, "loss.class_weights=auto", out="plain")
    more, _ = taught(place, "loss.class_weights=auto", f"teacher.unlabelled={place / 'photos'}")
    assert more.info.class_weights == plain.info.class_weights
    assert more.info.image_size == plain.info.image_size
    assert sorted(more.metrics()) == sorted(plain.metrics())


def test_images_that_have_masks_are_left_out_of_those_without(place):
    toml = (place / "dataset.toml").read_text()
    (place / "test.txt").write_text("5\n")
    (place / "val.txt").write_text("4\n")
    (place / "dataset.toml").write_text(toml.replace("[map]", 'test = "test.txt"\n[map]'))
    for number in (0, 1, 4, 5):
        shutil.copy(place / "images" / f"{number}.png", place / "photos" / f"seen-{number}.png")
    settings = (*EVERY_STEP, f"teacher.unlabelled={place / 'photos'}")
    with pytest.raises(Killed):
        taught(place, *settings, reporter=KilledAt(1))
    run, said = taught(place, *settings, resume=True)
    assert "3 images without masks" in said
    for images, split in (("2 images", "train"), ("1 image", "val"), ("1 image", "test")):
        assert f"left out {images} of {place / 'photos'}: also in {split}" in said
    kept = json.loads((run.path / "data.json").read_text())["splits"]["unlabelled"]
    assert [row[0] for row in kept] == ["a.png", "b.png", "more/a.png"]
    assert "says less" not in said

    for name in ("a.png", "b.png", "more/a.png"):
        (place / "photos" / name).unlink()
    with pytest.raises(DataNotFound, match="has no image without a mask: 4 images of it are in"):
        taught(place, settings[-1], out="none")
    assert not (place / "none").exists()


@pytest.mark.seconds
def test_images_that_teach_are_known_wherever_they_are_scored_later(place):
    (place / "train.txt").write_text("0\n1\n2\n3\n4\n")
    (place / "val.txt").write_text("5\n")
    train(request("train.epochs=1", data=str(place / "dataset.toml")), place / "wide", Silent())
    (place / "train.txt").write_text("0\n1\n2\n3\n")
    (place / "val.txt").write_text("4\n")
    shutil.copy(place / "images" / "5.png", place / "photos")
    told = [
        "1 image of yard val is taught too, without its mask, "
        "so that a score on this split says less: 5 (there 5.png)",
        "1 image of yard val is what a teacher was trained on, "
        "so that a score on this split says less: 4",
    ]
    run, said = taught(place, f"teacher.unlabelled={place / 'photos'}", runs="wide")
    assert told[1] in said
    (place / "val.txt").write_text("4\n5\n")
    notes = featherseg.evaluate(run, split="val", device="cpu").notes
    assert [note for note in notes if "says less" in note] == told
    cautions = featherseg.compare([run, place / "wide"], costs=False, device="cpu").cautions
    assert [text for text in cautions if "says less" in text] == [
        f"{run.name}: {text}" for text in told
    ]
    pupil, said = taught(place, out="pupil", runs="run")  # a teacher's teacher
    assert told[1] in said
    again, _ = taught(place, out="pupil", runs="run", resume=True)  # of no other data
    assert again.weights_sha256 == pupil.weights_sha256


def test_a_folder_with_the_masks_in_it_is_no_folder_of_images(place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(DataError, match=r"4 images in it are masks of yard, such as masks/0\.png"):
        taught(place, "teacher.unlabelled=.")
    assert not (place / "run").exists()


@pytest.mark.seconds
def test_room_for_outputs_is_judged_by_the_size_of_each_image(place, monkeypatch):
    write_noise(
        place / "photos" / "z.png", 20, (640, 960)
    )  # none of the three that are looked at first
    taught(place, f"teacher.unlabelled={place / 'photos'}")
    (outputs,) = outputs_of(place)
    size = outputs.file.stat().st_size

    def begin_with(free):
        shutil.rmtree(place / ".featherseg")
        usage = shutil._ntuple_diskusage(10**12, 10**12 - free, free)
        monkeypatch.setattr("featherseg.training.teaching.shutil.disk_usage", lambda _: usage)
        taught(place, f"teacher.unlabelled={place / 'photos'}", out=f"run-{free}")

    with pytest.raises(FeathersegError, match="Free disk space"):
        begin_with(size * 9 // 10)
    begin_with(2 * size)


def test_a_teacher_in_training_is_named_and_one_without_weights_is_not_taken_on_the_way(place):
    shutil.copytree(place / "teacher", place / "half")
    (place / "half" / "curve.svg").unlink()
    (place / "half" / "checkpoint.pt").touch()
    _, said = taught(place, runs="half")
    assert "teacher half is not finished" in said
    (place / "half" / "weights.safetensors").rename(place / "half" / "gone")
    shutil.copytree(place / "half", place / "moved")
    with pytest.raises(RunError, match="moved has no weights yet"):
        taught(place, runs="moved", resume=True)


def test_steps_of_images_without_masks_alone_are_sound(place, monkeypatch):
    monkeypatch.setattr("featherseg.training.teaching.MOST_UNLABELLED", 1.0)
    for number in range(200):  # nearly all of the samples
        shutil.copy(place / "photos" / "a.png", place / "photos" / f"{number}.png")
    run, said = taught(
        place, f"teacher.unlabelled={place / 'photos'}", "train.batch_size=1", "train.epochs=1"
    )
    assert "sees 7 images once" in said  # copies are the same image
    losses = [record["loss_supervised"] for record in run.metrics().values()]
    assert losses.count(0.0) >= 3
    assert all(record["loss_teacher"] > 0 for record in run.metrics().values())


def without_outputs(place):
    shutil.rmtree(place / ".featherseg")
    shutil.rmtree(place / "teacher")


def with_another_teacher(place):
    shutil.rmtree(place / ".featherseg")
    state = (place / "teacher" / "weights.safetensors").read_bytes()
    (place / "teacher" / "weights.safetensors").write_bytes(state[:-1] + bytes([state[-1] ^ 1]))


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("spoil", "error", "told"),
    [
        (without_outputs, RunError, "teacher itself cannot be opened"),
        (with_another_teacher, RunError, "has other weights now"),
        (
            lambda place: write_noise(place / "photos" / "a.png", 77),
            DataError,
            "1 image of unlabelled changed: a.png",
        ),
        (
            lambda place: (place / "photos" / "b.png").unlink(),
            DataError,
            "1 image removed from unlabelled: b.png",
        ),
    ],
    ids=["no outputs, no teacher", "another teacher", "another image", "an image less"],
)
def test_a_run_goes_on_with_the_same_teacher_and_images_or_not_at_all(place, spoil, error, told):
    settings = (*EVERY_STEP, f"teacher.unlabelled={place / 'photos'}")
    with pytest.raises(Killed):
        taught(place, *settings, reporter=KilledAt(2))
    before = (place / "run" / "last.ckpt").read_bytes()
    spoil(place)
    with pytest.raises(error, match=told):
        taught(place, *settings, resume=True)
    assert (place / "run" / "last.ckpt").read_bytes() == before


@pytest.mark.seconds
def test_a_resumed_run_takes_its_teacher_from_where_it_lies_now_and_no_other(place):
    with pytest.raises(Killed):
        taught(place, *EVERY_STEP, reporter=KilledAt(2))
    train(
        request("train.epochs=1", "train.seed=5", data=str(place / "dataset.toml")),
        place / "b",
        Silent(),
    )
    with pytest.raises(ConfigError, match=r"teacher\.runs is"):
        taught(place, *EVERY_STEP, resume=True, runs="b")
    with pytest.raises(ConfigError, match=r"teacher\.runs is"):
        train(
            request(*EVERY_STEP, data=str(place / "dataset.toml")),
            place / "run",
            Silent(),
            resume=True,
        )
    (place / "teacher").rename(place / "moved")
    shutil.rmtree(place / ".featherseg")
    run, said = taught(place, *EVERY_STEP, resume=True, runs="moved")
    assert "sees 4 images" in said
    assert len(run.metrics()) == 2


@pytest.mark.parametrize(
    ("setting", "error", "told"),
    [
        ("teacher.runs=no/such/run", RunError, "no run folder"),
        ("teacher.runs=efficientvit-seg-b0-shapes", ConfigError, "same classes in the same order"),
        ("teacher.runs=model.onnx", ConfigError, "exported file"),
        ("teacher.logits=0 teacher.channels=0", ConfigError, "both 0"),
        ("teacher.runs=a,a", ConfigError, "every run once"),
        ("loss.name=other", ConfigError, "needs the recipe's own loss"),
        ("teacher.unlabelled=no/such/folder", DataNotFound, "is no folder"),
        (
            "teacher.unlabelled=deep",
            DataError,
            r"a\.png has 16 bits a channel, the training images 8",
        ),
        ("teacher.runs=[] teacher.unlabelled=x", ConfigError, "need a teacher"),
        ("teacher.runs=", ConfigError, "expected names, separated by commas"),
        ("teacher.runs=,", ConfigError, "expected names"),
        ("teacher.temperature=3", ConfigError, "unknown key 'teacher.temperature'"),
    ],
)
def test_what_cannot_teach_is_refused_before_anything_is_written(
    place, setting, error, told, monkeypatch
):
    (place / "deep").mkdir()
    Image.fromarray(np.zeros((64, 96), np.uint16)).save(place / "deep" / "a.png")
    monkeypatch.chdir(place)
    monkeypatch.setitem(LOSSES, "other", None)  # of an installed package
    with pytest.raises(error, match=told):
        taught(place, *setting.split(" "))
    assert not (place / "run").exists()
    assert not (place / ".featherseg").exists()


def test_other_refusals_name_what_does_not_fit(place, small_run):
    resolved = place / "teacher" / "resolved.json"
    values = json.loads(resolved.read_text())
    values["classes"] = values["classes"][::-1]
    resolved.write_text(json.dumps(values))
    with pytest.raises(
        ConfigError, match=r"plant, path, grass, and the data have 3, grass, path, plant"
    ):
        taught(place)
    (place / "teacher" / "weights.safetensors").unlink()
    values["classes"] = values["classes"][::-1]
    resolved.write_text(json.dumps(values))
    with pytest.raises(RunError, match="no weights yet"):
        taught(place)
    with pytest.raises(FeathersegError, match="already exists"):
        taught(place, out="teacher")


def test_panoptic_models_other_channels_and_objects_of_one_s_own_are_refused(place, small_run):
    resolved = place / "teacher" / "resolved.json"
    text = resolved.read_text()
    resolved.write_text(text.replace('"channels": 3', '"channels": 4'))
    with pytest.raises(ConfigError, match="images with 4 channels; yard has 3"):
        taught(place)
    resolved.write_text(text.replace('"name": "tiny"', '"name": "frm-lite0-panoptic"'))
    with pytest.raises(ConfigError, match=r"is panoptic .* cannot teach"):
        taught(place)
    asked = Request("frm-lite0-panoptic", overrides=(*SMALL, f"teacher.runs={small_run.path}"))
    with pytest.raises(ConfigError, match="teachers teach only classes"):
        train(asked, place / "run", Silent())
    for objects in (
        Objects(loss=torch.nn.functional.cross_entropy),
        Objects(augment=lambda *both: both[:2]),
    ):
        unweighted = [one for one in SMALL if not one.startswith("loss.")]
        overrides = ("model.name=tiny", *unweighted, f"teacher.runs={small_run.path}")
        asked = Request("frm-lite0", overrides=overrides, objects=objects)
        with pytest.raises(ConfigError, match="Leave out one of them"):
            train(asked, place / "run", Silent())


def test_a_disk_without_room_is_named_before_anything_is_written(place, monkeypatch):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000)
    )
    with pytest.raises(FeathersegError, match=r"the disk of .* has 0\.0 GB free"):
        taught(place)
    assert not (place / "run").exists()


def test_minutes_that_the_teacher_alone_takes_are_refused_before_it_looks_at_every_image(
    place, monkeypatch
):
    seen, said = [], teaching._outputs_of
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 60 * len(seen), sleep=time.sleep)
    monkeypatch.setattr(teaching, "time", clock)
    monkeypatch.setattr(teaching, "_outputs_of", lambda *about: (seen.append(1), said(*about))[1])
    overrides = [text for text in SMALL if not text.startswith("train.epochs")]
    overrides += ["model.name=tiny", "train.minutes=4", f"teacher.runs={place / 'teacher'}"]
    asked = Request(
        LARGE, data=str(place / "dataset.toml"), overrides=tuple(overrides), began=time.monotonic()
    )
    with pytest.raises(
        ConfigError,
        match=r"train\.minutes = 4: about 4\.\d minutes .* image\. Give 9 to train for 4",
    ):
        train(asked, place / "run", Silent())
    assert len(seen) == 2
    assert not (place / "run").exists()


@pytest.mark.seconds
def test_images_that_do_not_fit_into_the_memory_are_named(place, monkeypatch):
    resolved = place / "teacher" / "resolved.json"
    resolved.write_text(resolved.read_text().replace('"name": "tiny"', f'"name": "{LITTLE}"'))
    save_weights(place / "teacher", models.build(LITTLE, 3).state_dict())
    monkeypatch.setattr(
        "featherseg.training.teaching.available_memory", lambda _: process_bytes() + 0.1e9
    )
    write_noise(place / "images" / "3.png", 3, (900, 1200))
    write_noise(place / "masks" / "3.png", 3, (900, 1200), most=3)
    with pytest.raises(ConfigError, match=r"3\.png of 900x1200"):
        taught(place, "augment.crop=[64, 96]")


@pytest.mark.seconds
def test_the_command_line_names_teachers_and_images_without_masks(place, monkeypatch, capsys):
    words = [
        "train",
        "efficientvit-seg-b0",
        "--data",
        str(place / "dataset.toml"),
        "--out",
        str(place / "run"),
    ]
    words += [
        "--teacher",
        f"{place / 'teacher'}",
        "--unlabelled",
        str(place / "photos"),
        "--no-report",
    ]
    settings = [word for setting in (*SMALL, "train.epochs=1") for word in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", ["featherseg", *words, *settings])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert "3 images without masks: 43 % of the samples" in capsys.readouterr().out
    recipe = load_run(place / "run").recipe
    assert (recipe.teacher.runs, recipe.teacher.unlabelled) == (
        (str(place / "teacher"),),
        str(place / "photos"),
    )


@pytest.mark.slow
def test_in_a_sweep_the_largest_model_is_trained_first_and_teaches(place):
    asked = Request(LARGE, overrides=(*SMALL, "train.epochs=1"), data=str(place / "dataset.toml"))
    taught = replace(
        asked,
        overrides=(
            *asked.overrides,
            f"teacher.unlabelled={place / 'photos'}",
            'teacher.runs="largest"',
        ),
    )
    reporter, out = Silent(), place / "field"
    runs = train_all(taught, [LITTLE, LARGE], [0, 1], out, reporter)
    titles = [message for message in reporter.messages if ", seed " in message]
    assert titles == [
        f"{LARGE}, seed 0",
        f"{LARGE}, seed 1",
        f"{LITTLE}, seed 0",
        f"{LITTLE}, seed 1",
    ]
    assert [run.name for run in runs] == [f"{LITTLE}-0", f"{LITTLE}-1", f"{LARGE}-0", f"{LARGE}-1"]
    assert [[row.name for row in load_run(run).info.teachers] for run in runs] == [
        [f"{LARGE}-0"],
        [f"{LARGE}-1"],
        [],
        [],
    ]
    assert load_run(runs[0]).recipe.teacher.unlabelled == str(place / "photos")
    again = Silent()
    train_all(taught, [LITTLE, LARGE], [0, 1], out, again)
    assert sum("is finished" in message for message in again.messages) == 4


def test_each_training_of_a_sweep_has_its_minutes(place, monkeypatch):
    begun = []
    monkeypatch.setattr(job, "train", lambda asked, *rest, **more: begun.append(asked.began))
    asked = Request(LARGE, overrides=("train.minutes=10",), data=str(place / "dataset.toml"))
    train_all(asked, [LITTLE, LARGE], [0, 1], place / "field", heard := Silent())
    assert heard.messages[0] == "4 trainings to begin, about 40 min, then the comparison"
    assert len(begun) == 4
    assert all(one > asked.began for one in begun)
    assert begun == sorted(set(begun))


@pytest.mark.parametrize(
    ("models", "setting", "told"),
    [
        ([LITTLE], "teacher.logits=1", "nobody to teach"),
        ([LITTLE, LARGE], "teacher.unlabelled=no/such", "is no folder"),
        ([LITTLE, LARGE], "teacher.logit=1", "unknown key 'teacher.logit'"),
        (
            [LITTLE, LARGE],
            "model.name=rsp-lite0",
            r"model\.name = rsp-lite0: a sweep trains with each of its models",
        ),
        (
            [LITTLE, LARGE],
            "train.seed=7",
            r"train\.seed = 7: a sweep trains with each of its seeds",
        ),
    ],
)
def test_a_sweep_that_cannot_teach_is_refused_before_the_first_is_trained(
    place, models, setting, told
):
    overrides = (*SMALL, setting, "teacher.runs=largest")
    asked = Request(LARGE, overrides=overrides, data=str(place / "dataset.toml"))
    with pytest.raises(FeathersegError, match=told):
        train_all(asked, models, [0, 1], place / "field", Silent())
    assert not (place / "field").exists()


@pytest.mark.seconds
def test_a_sweep_whose_largest_model_is_panoptic_has_no_teacher(tmp_path):
    asked = Request("frm-lite0-panoptic", overrides=(*SMALL, "teacher.runs=largest"), data="shapes")
    with pytest.raises(
        ConfigError, match="frm-lite0-panoptic costs most and would teach, but it is panoptic"
    ):
        train_all(asked, [LITTLE, "frm-lite0-panoptic"], [0, 1], tmp_path / "field", Silent())
