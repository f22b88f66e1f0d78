import json
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.data.balls import WRONG, Balls
from support.models.color_model import CLASSES as COLOR_CLASSES

import featherseg
from featherseg.auditing import audit as session
from featherseg.auditing import examining
from featherseg.auditing.audit import audit
from featherseg.auditing.examples import Example
from featherseg.auditing.probabilities import probabilities_at, train_fold
from featherseg.core.errors import ConfigError, DataError, FeathersegError, UnknownName
from featherseg.data.checks.decisions import audited_places
from featherseg.inference.masks import probabilities
from featherseg.training import job
from featherseg.training.resolve import TooFewMinutes


@pytest.mark.seconds
def test_the_wrong_masks_come_first_and_every_image_once(runtime, tmp_path: Path):
    found = audit(Balls(), tmp_path / "audit.html", run="colors")
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert sorted(row["key"] for row in told["images"]) == Balls.keys
    scores = [row["score"] for row in told["images"]]
    assert scores == sorted(scores, reverse=True)
    assert {row["key"] for row in told["images"][:2]} == {Balls.keys[number] for number in WRONG}
    assert told["no_ranking"] is None
    for key in ("average_precision", "precision_at_50"):
        assert (
            0
            <= told["self_test"][key]["low"]
            <= told["self_test"][key]["value"]
            <= told["self_test"][key]["high"]
        )
    first = told["regions"][0]
    assert set(first) == {"key", "kind", "class", "score", "box"}
    assert first["key"] in {Balls.keys[number] for number in WRONG}


def test_images_too_few_to_judge_each_other_are_refused_with_a_run_as_well(runtime, tmp_path: Path):
    class Few(Balls):
        keys = Balls.keys[:5]

    with pytest.raises(DataError, match="has 5 images: 6 are needed"):
        audit(Few(), tmp_path / "audit.html", run="colors")


@pytest.mark.seconds
def test_a_stopped_audit_goes_on_and_ends_the_same(runtime, tmp_path: Path, monkeypatch):
    whole = audit(Balls(), tmp_path / "whole.html", run="colors").as_dict()
    examine, left = examining.examine, [5]

    def stopped(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return examine(*arguments)

    monkeypatch.setattr(examining, "examine", stopped)
    with pytest.raises(KeyboardInterrupt):
        audit(Balls(), tmp_path / "audit.html", run="colors")
    assert not (tmp_path / "audit.html").exists()
    left[0] = 19  # what is there is not examined again
    again = audit(Balls(), tmp_path / "audit.html", run="colors").as_dict()
    assert {**again, "page": ""} == {**whole, "page": ""}


@pytest.mark.slow
def test_masks_that_were_corrected_in_an_object_are_audited_anew(runtime, tmp_path: Path):
    class Corrected(Balls):
        def label(self, index: int) -> np.ndarray:
            return self.right(index)

    before = audit(Balls(), tmp_path / "audit.html", run="colors")
    after = audit(Corrected(), tmp_path / "audit.html", run="colors")
    alone = audit(Corrected(), tmp_path / "alone.html", run="colors")
    assert after.images == alone.images != before.images


def test_how_many_images_a_tool_gets_is_refused_without_one_and_below_one(runtime, tmp_path: Path):
    for options, said in (
        ({"top": 3}, "--top is the number"),
        ({"top": 0, "to_format": "yolo"}, "at least 1 image"),
    ):
        with pytest.raises(ConfigError, match=said):
            audit(Balls(), tmp_path / "audit.html", run="colors", **options)
    assert list(tmp_path.iterdir()) == []


class Clock:
    """Time that passes only where a test says so."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(examining, "time", clock)
    return clock


FOLDS = np.arange(24) // 8
CHANCES = np.full((3, 40, 56), 1 / 3, np.float32)


def looked_at(folder: Path) -> dict[int, bool]:
    """Image -> whether faults were planted into it."""
    return {
        int(path.stem): len(Example.load(path).faults) > 1 for path in sorted(folder.glob("*.npz"))
    }


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("seconds", "seen", "planted"), [(1000, 24, 24), (190, 19, 12), (0, 12, 12)]
)
def test_as_many_images_are_looked_at_as_there_is_time_for(
    tmp_path, clock, monkeypatch, seconds, seen, planted
):
    """Each takes ten seconds; twelve always get faults, the others if there is time for all."""
    monkeypatch.setattr(examining, "ALWAYS_PLANTED", 12)

    def source(*_):
        clock.now += 10
        return CHANCES

    found = examining.examine_all(Balls(), source, FOLDS, tmp_path, seconds, lambda *_: None)
    there = looked_at(tmp_path)
    assert found.tolist() == sorted(there)
    assert len(there) == seen
    assert sum(there.values()) == planted
    assert clock.now <= max(seconds, 120)
    assert min(np.bincount(FOLDS[found])) >= seen // 3  # of each fold as many
    clock.now = 0
    again = examining.examine_all(Balls(), source, FOLDS, tmp_path, 1000, lambda *_: None)
    assert again.tolist() == list(range(24))
    assert clock.now == 10 * (24 - seen)


@pytest.mark.seconds
@given(st.lists(st.integers(0, 2), min_size=1, max_size=200))
def test_every_beginning_of_the_order_is_spread_over_the_folds_and_over_the_images(folds):
    order = examining.spread_over(np.array(folds))
    assert sorted(order) == list(range(len(folds)))
    for fold in set(folds):
        members = [number for number, own in enumerate(folds) if own == fold]
        places = [members.index(number) for number in order if number in members]
        for first in range(1, len(places)):
            gaps = np.diff([0, *sorted(places[:first]), len(members)])
            assert gaps.max() <= 2 * len(members) / first + 2
    for first in range(len(order)):
        counts = [
            sum(folds[number] == fold for number in order[:first]) / folds.count(fold)
            for fold in set(folds)
        ]
        assert max(counts) - min(counts) <= 1 / min(folds.count(fold) for fold in set(folds)) + 1e-9


@pytest.mark.slow
def test_images_for_which_there_is_no_time_stand_last_and_are_named_and_the_same_call_goes_on(
    runtime, tmp_path, monkeypatch
):
    whole = audit(Balls(), tmp_path / "whole.html", run="colors")
    monkeypatch.setattr(session, "JUDGING", 1.0)  # no time is left for predicting
    found = audit(Balls(), tmp_path / "audit.html", run="colors")
    assert len(found.unseen) == 24 - examining.LEAST_PLANTED
    assert {key for key, _ in found.images[-12:]} == set(found.unseen)
    assert [score for _, score in found.images[-12:]] == [0.0] * 12
    assert sorted(key for key, _ in found.images) == Balls.keys
    assert "12 of 24 images were not looked at" in found.notes[0]
    assert not {region["key"] for region in found.regions} & set(found.unseen)
    monkeypatch.setattr(session, "JUDGING", 0.1)
    again = audit(Balls(), tmp_path / "audit.html", run="colors")
    assert (again.images, again.unseen) == (whole.images, ())


def test_a_fold_that_took_too_long_takes_from_predicting_and_the_rest_stay_as_long():
    assert session.share_of_fold(30, 0.0, 0) == 6.5
    assert session.share_of_fold(30, 6.5, 1, 6.5) == 6.5
    assert session.share_of_fold(18, 12.0, 2, 3.9) == 2.4  # of 6 left 3.6 are kept
    assert session.share_of_fold(18, 6.0, 1, 3.9) == 3.9
    assert session.share_of_fold(18, 17.9, 2, 3.9) == 0.1


@pytest.mark.seconds
def test_later_folds_take_the_steps_of_the_first_and_none_is_given_more_than_its_minutes(
    runtime, tmp_path, monkeypatch
):
    asked = []

    def train_fold(data, folds, fold, out, minutes, device, progress, sparse, steps):
        asked.append((fold, steps, minutes))
        return SimpleNamespace(metrics=lambda: {3: {}, 7: {}}, init="from scratch")

    monkeypatch.setattr(session, "train_fold", train_fold)
    monkeypatch.setattr(session, "open_runtime", lambda run, device: runtime)
    monkeypatch.setattr(session, "JUDGING", 1.0)
    found = audit(Balls(), tmp_path / "audit.html", minutes=60)
    assert found.notes[0].startswith("sequences were cut in time")  # all balls are of one
    assert found.notes[1].startswith("its models were trained from scratch: pip install")
    assert "with other --minutes an audit starts anew" in found.notes[2]
    assert [row[:2] for row in asked] == [(0, None), (1, 7), (2, 7)]
    assert max(row[2] for row in asked) <= session.TRAINING * 60


@pytest.mark.parametrize("plain", [12, 13])
def test_crops_are_drawn_by_class_if_most_masks_show_one_class(
    runtime, tmp_path, monkeypatch, plain
):
    class Sparse(Balls):
        def label(self, index: int) -> np.ndarray:
            return super().label(index) * (index >= plain)

    asked = []

    def train_fold(data, folds, fold, out, minutes, device, progress, sparse, steps):
        asked.append(sparse)
        raise TooFewMinutes(0.4, 0.6, 0.1)

    monkeypatch.setattr(session, "train_fold", train_fold)
    with pytest.raises(ConfigError):
        audit(Sparse(), tmp_path / "audit.html")
    assert asked == [plain > 12]


class Unseen(Balls):
    """The same masks beside images that show nothing of them."""

    def __getitem__(self, index: int):
        noise = np.random.default_rng(index).integers(0, 255, (40, 56, 3), dtype=np.uint8)
        return replace(super().__getitem__(index), image=noise)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "batch_size", "said"),
    [
        (125, 8, "125 steps each: try --minutes 240, which is enough for about 500."),
        (500, 4, "500 steps each: try --minutes 116, which is enough for about 960."),
        (500, 8, "500 steps each, the usual number: longer ones may not help."),
    ],
)
def test_without_a_ranking_the_minutes_that_trainings_need_are_named(
    runtime, tmp_path, monkeypatch, steps, batch_size, said
):
    """At least 500 steps; usual: 960 crops times the root of 16 images, by the batch size."""
    trained = SimpleNamespace(
        metrics=lambda: {steps: {}},
        init="ImageNet weights",
        recipe=SimpleNamespace(train=SimpleNamespace(batch_size=batch_size)),
    )
    monkeypatch.setattr(session, "train_fold", lambda *_: trained)
    monkeypatch.setattr(session, "open_run", lambda path: trained)
    monkeypatch.setattr(session, "open_runtime", lambda run, device: runtime)
    found = audit(Unseen(), tmp_path / "audit.html", minutes=60)
    assert found.no_ranking.endswith(said)
    assert (found.images, found.regions) == ([], [])
    again = audit(Unseen(), tmp_path / "audit.html", minutes=60)
    assert again == found


def test_too_few_minutes_are_told_in_those_of_the_audit(runtime, tmp_path, monkeypatch):
    def train_fold(*_):
        raise TooFewMinutes(0.4, 0.6, 0.1)

    monkeypatch.setattr(session, "train_fold", train_fold)
    with pytest.raises(
        ConfigError, match=r"--minutes 2 are too few .* Give at least (\d+), or a run"
    ) as raised:
        audit(Balls(), tmp_path / "audit.html", minutes=2)
    least = int(re.search(r"at least (\d+)", str(raised.value))[1])
    assert session.share_of_fold(least, 0.0, 0) >= 0.7  # three of 0.7 minutes are 0.65 of all
    assert session.share_of_fold(least - 1, 0.0, 0) < 0.7 + 0.1


@pytest.mark.parametrize("steps", [None, 7])
def test_a_fold_is_trained_until_its_minutes_are_over(tmp_path, monkeypatch, steps):
    asked = []
    monkeypatch.setattr(job, "train", lambda request, out, reporter, resume: asked.append(request))
    began = time.monotonic()
    train_fold(
        Balls(),
        np.arange(24) % 3,
        1,
        tmp_path / "fold",
        2.0,
        "cpu",
        lambda *_: None,
        steps is None,
        steps,
    )
    (request,) = asked
    assert ("train.steps=7" if steps else "train.minutes=2.0") in request.overrides
    assert ("data.class_uniform=0.5" in request.overrides) == (
        steps is None
    )  # where masks are sparse
    assert "train.batch_size=4" in request.overrides
    assert 100 < request.ends - began < 120 + time.monotonic() - began
    assert not set(request.objects.data[0].keys) & {
        key for n, key in enumerate(Balls.keys) if n % 3 == 1
    }


def test_a_key_of_two_images_is_refused(runtime, tmp_path, monkeypatch):
    monkeypatch.setattr(Balls, "keys", [*Balls.keys[1:], Balls.keys[1]])
    with pytest.raises(DataError, match="1 key of more than one image, such as 'yard/001'"):
        audit(Balls(), tmp_path / "audit.html", run="colors")


@pytest.mark.seconds
def test_the_most_suspicious_images_come_with_their_masks_as_they_are_for_a_tool(
    runtime, on_disk, tmp_path
):
    found = audit(on_disk, tmp_path / "audit.html", run="colors", to_format="labelme", top=3)
    assert found.to == tmp_path / "audit.labelme"
    names = sorted(
        path.relative_to(found.to).with_suffix("").as_posix() for path in found.to.rglob("*.json")
    )
    assert names == sorted(key for key, _ in found.images[:3])
    back = tmp_path / "back"
    featherseg.convert(found.to, back)
    listing = featherseg.check(back).listing
    read = {info.name: number for number, info in enumerate(listing.classes)}
    for pair in (pair for pairs in listing.splits.values() for pair in pairs):
        key = next(key for key in Balls.keys if pair.key.endswith(key.rpartition("/")[2]))
        given = Balls().label(Balls.keys.index(key))
        ids = listing.map_of(pair)(np.array(Image.open(pair.mask)), "mask")
        same = [read[info.name] for info in COLOR_CLASSES if info.name in read]
        assert (ids == np.array(same)[given]).mean() >= 0.999

    # Corrected files of a user are not overwritten, and nothing is done before the refusal
    runtime.model = None
    with pytest.raises(
        FeathersegError, match=r"audit\.labelme exists and is not empty\. What is corrected"
    ):
        audit(on_disk, tmp_path / "audit.html", run="colors", to_format="labelme")


def test_what_no_tool_can_show_is_refused_at_once(runtime, tmp_path):
    with pytest.raises(DataError, match="it has no image files that an annotation tool could show"):
        audit(Balls(), tmp_path / "audit.html", run="colors", to_format="cvat")
    with pytest.raises(UnknownName, match="labelme"):
        audit(Balls(), tmp_path / "audit.html", run="colors", to_format="labelmee")
    assert list(tmp_path.iterdir()) == []


def test_probabilities_at_some_places_are_those_of_the_whole_image(runtime):
    image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    rows, columns = np.array([0, 3, 17, 36]), np.array([1, 2, 49])
    whole = probabilities(runtime, image)
    assert probabilities_at(runtime, image, rows, columns) == pytest.approx(
        whole[:, rows][:, :, columns], abs=1e-6
    )


def test_small_images_are_audited_at_every_pixel_and_large_ones_evenly():
    rows, columns = audited_places((30, 40))
    assert (rows.tolist(), columns.tolist()) == (list(range(30)), list(range(40)))
    rows, columns = audited_places((1024, 2048))
    assert (len(rows), len(columns)) == (256, 512)
    assert set(np.diff(columns)) == {4}


@pytest.mark.seconds
def test_the_page_runs_its_own_script_alone_and_names_are_text(
    runtime, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(Balls, "keys", ["<script>alert(1)</script>", *Balls.keys[1:]])
    audit(Balls(), tmp_path / "audit.html", run="colors")
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert page.count("<script>") == 1
    assert re.search(r"default-src 'none'; .*script-src 'sha256-[A-Za-z0-9+/]{43}='", page)
    assert page.count('<figure class="triple suspect"') == 24
    assert "http://" not in page
    assert "https://" not in page
