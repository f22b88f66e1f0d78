"""Weights of classes, and how much of them the kept weights undo."""

import math
import re
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.models.color_model import CLASSES, ColorModel
from support.models.own_objects import SETTINGS, Halves, own_model
from support.models.small_training import (
    Killed,
    KilledAt,
    Silent,
    equal_state,
    outcome,
    request,
    trained,
)

import featherseg
from featherseg.core.errors import ConfigError, DataError
from featherseg.core.types import Sample
from featherseg.core.wording import WarningText
from featherseg.evaluation.bootstrap import image_counts
from featherseg.evaluation.clusters import clusters_of
from featherseg.evaluation.scoring import evaluate
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.training import class_weights, train
from featherseg.training.class_weights import (
    SHARES,
    best_share,
    resolve_class_weights,
    score_shares,
    undo_class_weights,
)

pytestmark = pytest.mark.usefixtures("tiny")

WEIGHTS = [0.2, 5.0]
"""Of dark and bright: with them dark halves of Spotted become bright, like some of their pixels."""


class Spotted(Halves):
    """Halves of which the dark one has bright labels here and there, that no image shows."""

    def label(self, index):
        spots = np.random.default_rng(index).random((32, 48)) < 0.2
        return super().label(index) | spots.astype(np.uint8)

    def __getitem__(self, index):
        return Sample(self.keys[index], super().__getitem__(index).image, self.label(index))


class Colors:
    """Random images, and as labels the channels that are largest behind a shift of each."""

    name, channels, licence, classes = "colors", 3, "CC0", CLASSES

    def __init__(self, count, shift):
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 250, (count, 9, 7, 3), dtype=np.uint8)
        self.labels = (self.images + shift).argmax(axis=3).astype(np.uint8)
        self.labels[:, 0] = 255
        self.keys = [str(i) for i in range(count)]

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        return Sample(self.keys[index], self.images[index], self.labels[index])


def test_every_share_is_scored_as_a_loop_over_pixels_scores_it():
    logs = np.array([40.0, -25.0, 0.0])
    data, weights = (
        Colors(3, -0.75 * logs),
        [*np.exp(logs[:2]), 0.0],
    )  # of a class without pixels nothing is undone
    runtime = TorchRuntime(ColorModel().eval(), CLASSES, name="color", device="cpu")
    total, counts = score_shares(runtime, data, weights, 0.25)
    assert set(counts) == set(SHARES)
    for share, of_images in counts.items():
        expected = np.zeros((3, 3, 3), dtype=int)
        for matrix, image, label in zip(expected, data.images, data.labels, strict=True):
            for pixel, true in zip(image.reshape(-1, 3), label.reshape(-1), strict=True):
                if true != 255:
                    matrix[true, np.argmax(pixel - (share - 0.25) * logs)] += 1
        assert (of_images == image_counts(expected)).all(), share
        if share == 0.25:
            assert (total.matrix == expected.sum(axis=0)).all()


def test_a_label_that_is_no_class_is_told_with_its_image():
    data, runtime = (
        Colors(2, 0),
        TorchRuntime(ColorModel().eval(), CLASSES, name="color", device="cpu"),
    )
    data.labels[1, 3, 3] = 7
    with pytest.raises(DataError, match="colors, image '1': "):
        score_shares(runtime, data, [1.0, 2.0, 3.0], 0.0)


def scored(accuracies):
    """Return counts of images of one class with 100,000 pixels, of which these shares are hit."""
    hits = np.round(100_000 * np.asarray(accuracies)).astype(int)
    nothing, missed = np.zeros_like(hits), 100_000 - hits
    return np.stack([[hits + missed, nothing], [hits, nothing], [hits, missed]]).transpose(
        2, 0, 1
    )  # (N, 3, 2)


def test_of_shares_that_are_near_to_the_best_the_smallest_is_taken():
    rng, clusters = np.random.default_rng(0), clusters_of([f"{i}" for i in range(40)])
    base, own = rng.uniform(0.5, 0.7, 40), rng.normal(0, 0.02, 40)
    gains = {0.25: 0.099, 0.5: 0.1, 0.75: 0.1}
    shares = {0.0: scored(base)} | {
        share: scored(base + own + gain) for share, gain in gains.items()
    }
    assert best_share(shares, clusters) == 0.25
    assert best_share(shares | {1.0: scored(base + own + 0.2)}, clusters) == 1.0


def test_nothing_is_undone_where_the_images_do_not_show_a_gain():
    rng, keys = np.random.default_rng(0), [f"drive_{i:05}" for i in range(60)]
    base = rng.uniform(0.5, 0.7, 60)
    unrelated, alike = (
        rng.normal(0.02, 0.02, 60),
        0.02 + 0.02 * np.sin(np.arange(60) / 12),
    )  # the same gain in all

    def best(gain, count=60):
        return best_share(
            {0.0: scored(base[:count]), 0.5: scored((base + gain)[:count])},
            clusters_of(keys[:count]),
        )

    assert best(unrelated) == 0.5
    assert best(-unrelated) == 0.0
    assert best(rng.normal(0.002, 0.04, 60)) == 0.0
    assert best(unrelated, 20) == 0.0  # too few
    assert best(alike) == 0.0  # of a clip whose frames score alike: too few clusters


def test_only_the_bias_of_the_classes_changes():
    state = {"classifier.bias": torch.tensor([1.0, 2.0, 3.0]), "other": torch.ones(2)}
    found = undo_class_weights(state, "classifier.bias", [math.e, 0.0, 1 / math.e], 0.5)
    assert found["classifier.bias"].tolist() == pytest.approx([0.5, 2.0, 3.5])
    assert found["other"] is state["other"]
    assert state["classifier.bias"].tolist() == [1.0, 2.0, 3.0]


def train_spotted(out, undo, reporter=None, resume=False):
    settings = SETTINGS | {
        "loss.class_weights": WEIGHTS,
        "loss.undo_class_weights": undo,
        "train.keep": "last",
    }
    settings |= {"train.checkpoint_seconds": 1e-6}
    model = own_model()
    model.class_bias = "layers.4.bias"
    data = Spotted(8), Spotted(40)
    return featherseg.train(
        model, data, out=out, settings=settings, resume=resume, report=False, progress=reporter
    )


def trained_state(run):
    return torch.load(run.path / "last.ckpt", weights_only=True)["state_dict"]


def bias_of(run):
    return run.model.state_dict()["module.layers.4.bias"]


@pytest.mark.seconds
def test_the_share_that_is_best_on_validation_images_is_kept_and_scored_as_it_is_kept(tmp_path):
    run, plain = (train_spotted(tmp_path / str(undo), undo) for undo in ("auto", 0.0))
    last, before = (r.metrics()[max(r.metrics())] for r in (run, plain))
    share = last["class_weights_undone"]
    assert share > 0
    assert last["val_miou"] > before["val_miou"] + 0.05
    assert "class_weights_undone" not in before
    assert equal_state(
        trained_state(run), trained_state(plain)
    )  # what trains on knows nothing of it
    assert (bias_of(plain) - bias_of(run)).tolist() == pytest.approx(
        (share * np.log(WEIGHTS)).tolist(), abs=1e-6
    )
    assert evaluate(open_runtime(run), Spotted(40)).miou == last["val_miou"]


def test_a_run_that_was_killed_undoes_the_same(tmp_path):
    reporter = Silent()
    whole = train_spotted(tmp_path / "whole", "auto", reporter)
    assert any(
        re.search(r"\d+% of the class weights are undone .*: mIoU", text)
        for text in reporter.messages
    )
    with pytest.raises(Killed):
        train_spotted(tmp_path / "killed", "auto", KilledAt(17))
    resumed = train_spotted(tmp_path / "killed", "auto", resume=True)
    assert equal_state(outcome(resumed), outcome(whole))
    assert outcome(whole)["recorder"]["undone"] > 0


@pytest.mark.seconds
def test_a_share_that_is_given_is_undone(tmp_path):
    given, none = (train_spotted(tmp_path / str(share), share) for share in (0.4, 0.0))
    assert (bias_of(none) - bias_of(given)).tolist() == pytest.approx(
        (0.4 * np.log(WEIGHTS)).tolist(), abs=1e-6
    )


@pytest.mark.seconds
@pytest.mark.parametrize("both", [True, False])
def test_images_that_are_trained_on_tell_no_share(both, tmp_path):
    splits = (
        ('data.train_split=["train", "val"]',)
        if both
        else ("data.train_split=val", "data.val_size=8")
    )
    reporter, weights = Silent(), "loss.class_weights=auto"
    short = request(
        *splits, weights, "loss.undo_class_weights=auto", "train.epochs=1", "train.validations=1"
    )
    run = train(short, tmp_path / "run", reporter)
    assert run.recipe.loss.undo_class_weights == 0
    assert any(
        "the kept weights undo none of the class weights" in message
        for message in reporter.messages
    )
    train(short, tmp_path / "run", Silent(), resume=True)  # the same recipe, which says "auto"


@pytest.mark.seconds
def test_what_cannot_be_undone_is_refused_or_told(tmp_path):
    with pytest.raises(
        ConfigError, match=r"undo_class_weights = 0\.5: loss\.class_weights is .none."
    ):
        trained(tmp_path / "run", "loss.undo_class_weights=0.5")
    with pytest.raises(
        ConfigError, match=r"loss\.undo_class_weights does not apply to panoptic models"
    ):
        trained(tmp_path / "run", "model.name=tiny-panoptic", "loss.undo_class_weights=auto")
    settings = SETTINGS | {"loss.class_weights": WEIGHTS, "train.epochs": 1}
    own = {"recipe": own_model(), "data": (Halves(4), Halves(2)), "out": tmp_path / "run"}
    with pytest.raises(
        ConfigError, match=r"TwoStrides names no bias of its classes \(class_bias\)\. Leave it out"
    ):
        featherseg.train(**own, settings=settings | {"loss.undo_class_weights": 0.5})
    assert not (tmp_path / "run").exists()
    reporter = Silent()
    featherseg.train(
        **own, settings=settings | {"loss.undo_class_weights": "auto"}, progress=reporter
    )
    assert any("so its kept weights undo nothing" in message for message in reporter.messages)


def test_a_class_in_no_training_mask_is_told():
    recipe = parse_recipe(read_recipe("frm-lite0"), ["loss.undo_class_weights=0"])
    said, data = [], Halves(2)
    data.classes = (*Halves.classes, CLASSES[1])
    assert [
        weight > 0 for weight in resolve_class_weights(recipe, data, ColorModel(), said.append)
    ] == [
        True,
        True,
        False,
    ]
    assert said[-1] == "train: no pixel of grass, so it cannot be learned"
    assert isinstance(said[-1], WarningText)
    assert said[0] == "counting the classes in 2 masks"
    assert len(said) == 2


def test_counting_many_masks_tells_how_far_it_is(monkeypatch):
    clock = count(step=7.0)  # seconds; looked at once a mask, and again where a line is said
    monkeypatch.setattr(class_weights, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    recipe, said = parse_recipe(read_recipe("frm-lite0"), ["loss.undo_class_weights=0"]), []
    resolve_class_weights(recipe, Halves(8), ColorModel(), said.append)
    assert said[1:] == ["counting classes: 3 of 8 masks", "counting classes: 6 of 8 masks"]
