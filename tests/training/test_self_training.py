"""Images without masks: a first training labels them, a second learns from all."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
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

import featherseg
from featherseg import cli
from featherseg.core.errors import ConfigError, DataError, DataNotFound, RunError
from featherseg.data import open_dataset
from featherseg.data.datasets.unlabelled import PseudoMasks, UnlabelledImages, read_pseudo_mask
from featherseg.inference.predictor import Predictor
from featherseg.models import build
from featherseg.runs.run import load_run
from featherseg.training import Request, job, self_training, train
from featherseg.training.objects import Objects
from featherseg.training.self_training import FIRST, PSEUDO_MASKS, least_confidence

pytestmark = pytest.mark.usefixtures("tiny")

EVERY_STEP = ("train.ema=0.9", "train.checkpoint_seconds=1e-9", "train.epochs=2")
HARD = (
    *("data.class_uniform=0.3", "augment.cutmix=0.5", "augment.copy_paste=0.5"),
    *("augment.rotate=20", "loss.class_weights=auto"),
)


def write_noise(path, seed, size=(64, 96), most=256):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size if most < 256 else (*size, 3)
    values = np.random.default_rng(seed).integers(0, most, shape).astype(np.uint8)
    Image.fromarray(values).save(path)


@pytest.fixture
def place(tmp_path):
    """A dataset of six images of three classes, and three images without masks."""
    folder = tmp_path / "yard"
    for number in range(6):
        write_noise(folder / "images" / f"{number}.png", number)
        write_noise(folder / "masks" / f"{number}.png", number, most=3)
    for number, name in enumerate(("a.png", "b.png", "more/a.png")):
        write_noise(folder / "photos" / name, 10 + number, (70 + 10 * number, 130))
    (folder / "dataset.toml").write_text(YARD)
    (folder / "train.txt").write_text("0\n1\n2\n3\n")
    (folder / "val.txt").write_text("4\n5\n")
    return folder


def asked(place, *overrides, length="train.epochs=1", **kwargs):
    settings = ["model.name=tiny", *(key for key in SMALL if not key.startswith("train.epochs"))]
    settings += [length, f"data.unlabelled={place / 'photos'}", *overrides]
    data = str(place / "dataset.toml")
    return Request("frm-lite0", data=data, overrides=tuple(settings), **kwargs)


def trained(place, *overrides, out="run", reporter=None, resume=False, **kwargs):
    """-> (run, what was said)."""
    reporter = reporter or Silent()
    run = train(asked(place, *overrides, **kwargs), place / out, reporter, resume=resume)
    return run, "\n".join(reporter.messages)


class KilledAtWork(Silent):
    """Killed when it reports this work for the `nth` time."""

    def __init__(self, doing, nth):
        super().__init__()
        self.doing, self.left = doing, nth

    def progress(self, doing, done, total):
        self.left -= doing == self.doing
        if self.left < 0:
            raise Killed


class KilledInSecond(KilledAt):
    """Killed at a step of the second training."""

    def message(self, text):
        super().message(text)
        self.second = getattr(self, "second", False) or "second training" in text

    def step(self, step, steps, record):
        if getattr(self, "second", False):
            super().step(step, steps, record)


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("kills", "workers"),
    [
        ([KilledAt(1), KilledAtWork("labelling images", 2), KilledInSecond(3)], 0),
        pytest.param([KilledAt(4), KilledInSecond(1), KilledAt(4)], 2, marks=pytest.mark.slow),
    ],
    ids=["one of each", "last and first steps, by workers"],
)
def test_a_training_that_is_killed_anywhere_ends_as_the_uninterrupted_one(place, kills, workers):
    settings = (*EVERY_STEP, *HARD, "train.batch_size=2")
    whole, _ = trained(place, *settings, out="whole")
    for number, reporter in enumerate(kills):
        with pytest.raises(Killed):
            trained(place, *settings, reporter=reporter, resume=number > 0)
    run, _ = trained(place, *settings, f"data.workers={workers}", resume=True)
    assert equal_state(outcome(run), outcome(whole))
    assert sorted(run.metrics()) == sorted(load_run(run.path / FIRST).metrics()) == [1, 2, 3, 4]
    again, said = trained(place, *settings, resume=True)
    assert "nothing left to do" in said
    assert again.weights_sha256 == run.weights_sha256


@pytest.mark.seconds
def test_the_second_training_begins_anew_and_learns_the_masks_of_the_first(place):
    first = train(replace(asked(place), first=True), place / "first", Silent())
    still = ("train.lr=1e-12", "train.backbone_lr=1e-12", "train.ema=0")
    plain = train(replace(asked(place, *still), first=True), place / "plain", Silent())
    run, said = trained(place, *still, labeller=first.path)
    states = [one.model.state_dict() for one in (run, plain, first)]
    for name, _ in run.model.named_parameters():
        state, begun, labeller = (state[name] for state in states)
        assert (state - begun).abs().max() < 1e-6
        assert (state - labeller).abs().max() > 1e-6
    assert run.info.loaded == first.info.loaded
    assert "3 images without masks labelled" in said
    assert "43% of the samples have pseudo-masks" in said
    assert "labelled by a first training" in (run.path / "card.md").read_text()

    # A pseudo-mask is the first run's mask and confidence, of both mirror images' mean; sure
    # pixels have all the same
    predictor = Predictor(first, "cpu", inference={"flip": True})
    predictor.soft = "confidence"
    for name in ("a.png", "b.png", "more/a.png"):
        prediction = predictor(str(place / "photos" / name))
        both = read_pseudo_mask(run.path / PSEUDO_MASKS / f"{name}.png")
        sure = np.where(prediction.soft >= 230, 255, prediction.soft)
        assert np.array_equal(both[..., 0], prediction.mask)
        assert np.array_equal(both[..., 1], sure)


def test_of_each_class_the_surer_half_is_labelled_and_all_that_is_sure():
    counts = np.zeros((4, 256), int)
    counts[0, [100, 150, 200]] = (10, 10, 20)  # half of the pixels have 200 at least
    counts[1, [100, 255]] = (10, 90)  # most are sure
    counts[2, [100, 150, 200]] = (10, 15, 15)
    least = least_confidence(counts)
    assert least.tolist() == [200, 230, 150, 230]
    for row, value in zip(counts[:3], least, strict=False):
        assert row[value:].sum() >= row.sum() / 2


def test_pixels_that_are_not_sure_enough_are_ignored(place):
    train_data = open_dataset(str(place / "dataset.toml"), "train")
    images = UnlabelledImages(place / "photos", train_data, train_data[0].image)
    images.keep({"a.png"})
    both = np.zeros((70, 130, 2), np.uint8)
    both[0, :4] = [(0, 99), (0, 100), (1, 254), (3, 255)]
    folder = place / "labels"
    folder.mkdir()
    Image.fromarray(both).save(folder / "a.png.png")
    (sample,) = PseudoMasks(images, folder, [100, 255, 230], 0.5)
    assert sample.label[0, :5].tolist() == [255, 0, 255, 255, 255]
    assert np.array_equal(sample.image, np.asarray(Image.open(place / "photos/a.png")))
    Image.fromarray(both[1:]).save(folder / "a.png.png")
    with pytest.raises(DataError, match=r"a\.png\.png is 69x130, its image 70x130"):
        PseudoMasks(images, folder, [100], 0.5)[0]
    (folder / "a.png.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png\.png cannot be read"):
        PseudoMasks(images, folder, [100], 0.5)[0]


@pytest.mark.seconds
def test_images_without_masks_change_neither_class_weights_nor_the_length(place):
    settings = ("train.epochs=4", "train.validate_every=1", "loss.class_weights=auto")
    plain, best = (
        train(
            request(*settings, f"train.keep={keep}", data=str(place / "dataset.toml")),
            place / keep,
            Silent(),
        )
        for keep in ("last", "best")
    )
    assert plain.weights_sha256 != best.weights_sha256
    more, _ = trained(place, *settings)
    assert more.info.class_weights == plain.info.class_weights
    assert more.info.image_size == plain.info.image_size
    assert sorted(more.metrics()) == sorted(plain.metrics())
    # the first is the training as it would be without them, with its last weights
    assert load_run(more.path / FIRST).weights_sha256 == plain.weights_sha256


@pytest.mark.seconds
def test_images_that_have_masks_are_left_out_of_those_without(place):
    toml = (place / "dataset.toml").read_text()
    (place / "test.txt").write_text("5\n")
    (place / "val.txt").write_text("4\n")
    (place / "dataset.toml").write_text(toml.replace("[map]", 'test = "test.txt"\n[map]'))
    for number in (0, 1, 4, 5):
        shutil.copy(place / "images" / f"{number}.png", place / "photos" / f"seen-{number}.png")
    (place / "photos" / "broken.png").write_text("no image")
    run, said = trained(place)
    assert "3 images without masks labelled" in said
    assert "1 image cannot be labelled: broken.png" in said
    for images, split in (("2 images", "train"), ("1 image", "val"), ("1 image", "test")):
        assert f"left out {images} of {place / 'photos'}: also in {split}" in said
    kept = json.loads((run.path / "data.json").read_text())["splits"]["unlabelled"]
    assert [row[0] for row in kept] == ["a.png", "b.png", "more/a.png"]
    assert "says less" not in said

    for name in ("a.png", "b.png", "more/a.png", "broken.png"):
        (place / "photos" / name).unlink()
    with pytest.raises(DataNotFound, match="has no image without a mask: 4 images of it are in"):
        trained(place, out="none")
    assert not (place / "none").exists()


@pytest.mark.seconds
def test_images_with_pseudo_masks_are_known_when_they_are_scored_later(place):
    (place / "val.txt").write_text("4\n")
    shutil.copy(place / "images" / "5.png", place / "photos")
    run, _ = trained(place)
    (place / "val.txt").write_text("4\n5\n")
    notes = featherseg.evaluate(run, split="val", device="cpu").notes
    told = (
        "1 image of yard val is trained on too, with pseudo-masks, so that a score on this split "
        "says less: 5 (there 5.png)"
    )
    assert [note for note in notes if "says less" in note] == [told]


@pytest.mark.seconds
def test_minutes_are_for_both_trainings_and_bound_the_labelling(place, monkeypatch):
    seen = []
    monkeypatch.setattr(self_training, "LABELLING_SHARE", 1e-9)
    resolve = job.resolve
    monkeypatch.setattr(job, "resolve", lambda *args: seen.append(args) or resolve(*args))
    monkeypatch.setattr("featherseg.training.timing.TIMED_SECONDS", 0.1)
    two_steps = {"length": "train.minutes=0.75", "ends": lambda step: step == 2}
    run, said = trained(place, **two_steps)
    assert [recipe.train.minutes for recipe, _ in seen] == [0.25, 0.75]
    assert "1 image without masks labelled" in said
    assert "drawn from 3" in said
    kept = json.loads((run.path / "data.json").read_text())["splits"]["unlabelled"]
    assert len(kept) == 1
    trained(place, **two_steps, resume=True)

    refused = r"= 0\.1: .* in the first training, which has 33% of them\. Give at least [1-9]"
    with pytest.raises(ConfigError, match=refused):
        trained(place, length="train.minutes=0.1", out="short")
    assert not (place / "short").exists()


def test_a_folder_with_the_masks_in_it_is_no_folder_of_images(place):
    (place / "photos").rename(place / "masks" / "photos")
    (place / "masks").rename(place / "photos")
    (place / "photos").joinpath("masks").mkdir()
    toml = (place / "dataset.toml").read_text().replace('"masks"', '"photos"')
    (place / "dataset.toml").write_text(toml)
    with pytest.raises(DataError, match=r"4 images in it are masks of yard, such as 0\.png"):
        trained(place)
    assert not (place / "run").exists()


def test_what_cannot_be_is_refused_before_anything_is_written(place):
    shutil.rmtree(place / "photos")
    with pytest.raises(DataNotFound, match="photos is no folder"):
        trained(place)
    (place / "photos").mkdir()
    write_noise(place / "photos" / "a.png", 1)
    settings = (*SMALL, f"data.unlabelled={place / 'photos'}")
    panoptic = Request("frm-lite0-panoptic", overrides=settings)
    with pytest.raises(ConfigError, match="is panoptic, and pseudo-masks have no objects"):
        train(panoptic, place / "run", Silent())
    Image.fromarray(np.full((8, 8), 300, np.uint16)).save(place / "photos" / "0.png")
    with pytest.raises(DataError, match="has 16 bits a channel, the training images 8"):
        trained(place)
    assert not (place / "run").exists()


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("spoil", "error", "told"),
    [
        (
            lambda place: (place / "run" / PSEUDO_MASKS / "index.json").unlink(),
            RunError,
            "index.json cannot be read .*: without it this run cannot go on",
        ),
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
    ids=["no pseudo-masks", "another image", "an image less"],
)
def test_a_run_goes_on_with_the_same_images_or_not_at_all(place, spoil, error, told):
    with pytest.raises(Killed):
        trained(place, *EVERY_STEP, reporter=KilledInSecond(2))
    before = (place / "run" / "last.ckpt").read_bytes()
    spoil(place)
    with pytest.raises(error, match=told):
        trained(place, *EVERY_STEP, resume=True)
    assert (place / "run" / "last.ckpt").read_bytes() == before


@pytest.mark.seconds
def test_a_stopped_first_training_is_never_overwritten_and_says_how_it_goes_on(place):
    with pytest.raises(Killed):
        trained(place, *EVERY_STEP, reporter=KilledAt(2))
    before = (place / "run" / FIRST / "last.ckpt").read_bytes()
    with pytest.raises(RunError, match=r"already exists\. Add --resume"):
        trained(place, *EVERY_STEP)
    with pytest.raises(ConfigError, match="Give the whole command again, with --resume"):
        train(replace(asked(place), recipe=None), place / "run", Silent(), resume=True)
    assert (place / "run" / FIRST / "last.ckpt").read_bytes() == before
    (place / "photos").rename(place / "moved")
    moved = f"data.unlabelled={place / 'moved'}"
    with pytest.raises(Killed):
        trained(place, *EVERY_STEP, moved, reporter=KilledInSecond(1), resume=True)
    (place / "moved").rename(place / "photos")  # they may lie elsewhere
    run, _ = trained(place, *EVERY_STEP, resume=True)
    assert run.recipe.data.unlabelled == str(place / "photos")


@pytest.mark.seconds
def test_a_model_as_an_object_is_labelled_by_its_first_training(place):
    objects = Objects(model=build("tiny", 3))
    with pytest.raises(Killed):  # before a checkpoint
        trained(place, reporter=KilledInSecond(1), objects=objects)
    assert not (place / "run" / "last.ckpt").exists()
    run, _ = trained(place, objects=objects, resume=True)
    whole, _ = trained(place, out="whole", objects=objects)
    assert equal_state(outcome(run), outcome(whole))


@pytest.mark.seconds
def test_data_as_objects_train_themselves_too(place):
    toml = str(place / "dataset.toml")
    data = open_dataset(toml, "train"), open_dataset(toml, "val")
    run, said = trained(place, objects=Objects(data=data))
    assert "3 images without masks labelled" in said
    assert run.metrics()


@pytest.mark.seconds
def test_seeds_of_one_model_are_compared_as_one(place):
    runs = [trained(place, f"train.seed={seed}", out=f"run-{seed}")[0] for seed in range(2)]
    comparison = featherseg.compare([run.path for run in runs], costs=False, device="cpu")
    (ranking,) = comparison.rankings
    assert [one.seeds for one in ranking.results] == [2]


@pytest.mark.seconds
def test_the_command_line_names_images_without_masks(place, monkeypatch, capsys):
    words = ["train", "efficientvit-seg-b0", "--data", str(place / "dataset.toml"), "--no-report"]
    words += ["--unlabelled", str(place / "photos")]
    words += [word for setting in (*SMALL, "train.epochs=1") for word in ("--set", setting)]

    def told(*more):
        monkeypatch.setattr(sys, "argv", ["featherseg", *words, "--out", str(place / "run"), *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        return capsys.readouterr().out

    assert "after a first training on the masks alone" in told("--dry-run")
    assert not (place / "run").exists()
    assert "43% of the samples have pseudo-masks" in told()
    assert load_run(place / "run").recipe.data.unlabelled == str(place / "photos")
