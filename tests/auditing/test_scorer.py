from functools import partial

import numpy as np
import pytest

from featherseg.auditing import boosting
from featherseg.auditing.boosting import fit_trees
from featherseg.auditing.examples import Example, examine
from featherseg.auditing.faults import FAULTS, plant
from featherseg.auditing.folds import FOLDS, folds_of
from featherseg.auditing.scorer import SOFT, Ranking, _regression, rank_images, share_of_faults
from featherseg.auditing.self_test import NOTHING_PLANTED, average_precision
from featherseg.core.types import IGNORE

CLASSES = 4


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask of two grounds and boxes, and a fair model's blurred, noisy prediction."""
    rng = np.random.default_rng(number)
    label = np.zeros((48, 64), np.uint8)
    label[rng.integers(20, 28) :] = 1
    for _ in range(rng.integers(2, 5)):
        y, x, height, width = (
            rng.integers(0, 34),
            rng.integers(0, 48),
            rng.integers(6, 14),
            rng.integers(6, 16),
        )
        label[y : y + height, x : x + width] = rng.integers(2, CLASSES)
    scores = 3.0 * (np.arange(CLASSES)[:, None, None] == label) + rng.normal(size=(CLASSES, 48, 64))
    y, x = rng.integers(0, 40), rng.integers(0, 56)
    scores[:, y : y + 8, x : x + 8] = scores[rng.permutation(CLASSES), y : y + 8, x : x + 8]
    for axis in (1, 2):
        scores = (np.roll(scores, 1, axis) + scores + np.roll(scores, -1, axis)) / 2
    label[:3] = IGNORE
    return label, (np.exp(scores) / np.exp(scores).sum(0)).astype(np.float32)


def examined_one(
    number: int, fault: str | None = None, planted: tuple[str, ...] = FAULTS
) -> Example:
    """Return a scene as the audit sees it, with a fault or not, and copies to learn from."""
    label, chances = scene(number)
    rng = np.random.default_rng([1, number])
    if fault:
        label = plant(label, fault, CLASSES, rng, scene(number + 1)[0])
    return examine(label, chances, (48, 64), planted, rng, scene(number + 7)[0])


def judged(
    examples: list[Example], training: np.ndarray | None = None
) -> tuple[Ranking, dict[int, np.ndarray]]:
    """-> (the outcome, of every image the scores of its regions)."""
    of_regions: dict[int, np.ndarray] = {}
    folds, keys = (
        np.arange(len(examples)) % FOLDS,
        [f"clip{n // 5}/{n:03}" for n in range(len(examples))],
    )
    given = partial(map, examples.__getitem__)
    return rank_images(
        given, folds, FAULTS, of_regions.__setitem__, keys, training=training
    ), of_regions


@pytest.fixture
def few_trees(monkeypatch) -> None:
    monkeypatch.setattr(boosting, "TREES", 15)


@pytest.fixture(scope="module")
def sound() -> list[Example]:
    return [examined_one(number) for number in range(60)]


def test_every_fault_changes_the_mask_as_its_name_says():
    label, _ = scene(0)
    for fault in FAULTS:
        made = plant(label, fault, CLASSES, np.random.default_rng(0), scene(1)[0])
        changed = made != label
        assert changed.any()
        assert not changed[:3].any(), "what is ignored stays so"
        if fault in ("dropped", "swapped"):
            assert len(np.unique(label[changed])) == 1
        if fault == "grown":
            assert len(np.unique(made[changed])) == 1
        if fault == "other":
            assert (made[3:] == scene(1)[0][3:]).all()


def test_a_mask_of_one_region_has_none_to_drop_and_stays_as_it_is():
    label = np.zeros((20, 20), np.uint8)
    for fault in ("dropped", "swapped"):
        assert plant(label, fault, CLASSES, np.random.default_rng(0), label) is label


def test_the_trees_learn_what_no_line_tells_apart():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, 3)).astype(np.float32)
    yes = (rows[:, 0] > 0) != (rows[:, 2] > 0)
    trees = fit_trees(rows[:400], yes[:400], np.ones(400))
    assert ((trees.probability(rows[400:]) > 0.5) == yes[400:]).mean() > 0.9
    again = fit_trees(rows[:400], yes[:400], np.ones(400))
    assert np.array_equal(trees.probability(rows), again.probability(rows))


def test_average_precision_is_that_of_a_walk_down_the_list():
    rng = np.random.default_rng(3)
    scores, wrong = rng.permutation(40) / 40, rng.random(40) < 0.3
    order = np.argsort(-scores)
    walked = [wrong[order[: place + 1]].mean() for place in range(40) if wrong[order[place]]]
    assert average_precision(scores, wrong) == pytest.approx(np.mean(walked))
    assert average_precision(np.zeros(40), wrong) == pytest.approx(wrong.mean()), (
        "equal scores order nothing"
    )


def test_the_estimated_share_of_faults_is_the_true_one_where_they_look_like_planted_ones():
    for share in (0.02, 0.1, 0.3):
        found = []
        for seed in range(10):
            rng = np.random.default_rng(seed)
            scores = np.where(
                rng.random(1000) < share, rng.normal(2.5, 1, 1000), rng.normal(0, 1, 1000)
            )
            found.append(share_of_faults(scores, rng.normal(2.5, 1, 1000)))
        assert np.mean(found) == pytest.approx(share, abs=0.05)


@pytest.mark.seconds
def test_the_scorer_finds_faults_that_it_was_not_told_of(few_trees, sound: list[Example]):
    spoiled = {number: FAULTS[i % 5] for i, number in enumerate(range(0, 60, 6))}
    wrong = np.isin(np.arange(60), list(spoiled))
    examples = [
        examined_one(number, spoiled.get(number)) if number in spoiled else sound[number]
        for number in range(60)
    ]
    found = judged(examples)[0]
    assert average_precision(found.images, wrong) > 0.6
    test = found.self_test
    assert test.average_precision.value > 0.5
    assert test.better_than_chance
    assert set(test.by_fault) <= set(FAULTS)
    assert test.images == 60
    again = judged(examples)[0]
    assert np.array_equal(found.images, again.images)
    assert again.self_test == test


@pytest.mark.seconds
def test_no_image_has_a_part_in_the_scores_of_its_regions(few_trees, sound: list[Example]):
    before, before_regions = judged(sound)
    other = examined_one(0, "other")
    after, after_regions = judged([other, *sound[1:]])
    assert all(np.array_equal(before_regions[n], after_regions[n]) for n in range(3, 60, 3))
    assert not all(np.array_equal(before_regions[n], after_regions[n]) for n in range(1, 60))
    # ... nor in the score of any image of its fold, by trees or by the regression
    assert np.array_equal(before.images[3::3], after.images[3::3])
    assert not np.array_equal(before.images[1::3], after.images[1::3])


def test_what_speaks_against_an_image_never_speaks_for_it():
    rng = np.random.default_rng(0)
    yes = rng.random(300) < 0.5
    rows = np.stack(
        [yes + rng.normal(size=300), yes + rng.normal(size=300), rng.normal(size=300) - yes], axis=1
    )
    asked = np.array([[0.0, 0, 0], [0, 0, 3], [1, 0, 0], [0, 1, 0]])
    base, against, first, second = _regression(rows, yes, asked)
    assert against == base
    assert first > base
    assert second > base


@pytest.mark.seconds
def test_of_few_images_the_score_is_no_worse_than_the_soft_minimum(few_trees, sound: list[Example]):
    tests = [judged(sound[n : n + 24])[0].self_test for n in (0, 18, 36)]
    gains = [test.average_precision.value - test.soft_minimum for test in tests]
    assert np.mean(gains) > 0


@pytest.mark.seconds
def test_images_that_are_not_learnt_from_are_judged_by_what_the_others_taught(
    few_trees, sound: list[Example]
):
    """... whatever faults were planted into them; so that they need not be kept."""
    training = np.arange(0, 60, 2)  # of every fold ten
    first, of_regions = judged(sound, training)
    as_is = [sound[n] if n % 2 == 0 else examined_one(n, planted=()) for n in range(60)]
    again, regions_again = judged(as_is, training)
    assert np.array_equal(first.images, again.images)
    assert all(np.array_equal(of_regions[n], regions_again[n]) for n in range(60))
    assert first.self_test == again.self_test
    changed = [sound[n] if n % 2 == 0 else examined_one(n, "other") for n in range(60)]
    assert np.array_equal(judged(changed, training)[0].images[::2], first.images[::2])


@pytest.mark.seconds
def test_faults_in_too_few_images_for_a_fifth_are_found_among_those_alone(
    few_trees, sound: list[Example]
):
    """Else the more images there are without, the rarer the faults, and the lower every figure."""
    few = [example if n < 6 else examined_one(n, planted=()) for n, example in enumerate(sound)]
    test = judged(few)[0].self_test
    assert test.precision_at_50.value == pytest.approx(1 / 6)  # a fifth of six is one
    assert (test.images, test.planted) == (6, 1)
    assert not test.better_than_chance, "six images in two clips are too few for an interval"


def test_where_no_fault_can_be_planted_nothing_is_said_of_how_good_it_is(few_trees):
    none = [examined_one(n, planted=()) for n in range(12)]
    found = judged(none)[0]
    odds = np.exp([example.evidence[0][SOFT] for example in none])
    assert found.scores == pytest.approx(odds / (1 + odds))  # of 1 - the soft-minimum
    assert found.self_test == NOTHING_PLANTED


def test_folds_keep_sequences_together_and_hold_each_class_elsewhere():
    keys = [f"clip{c}/{i:03}" for c in range(7) for i in range(10 + c)]
    folds, cut = folds_of(keys, np.ones((len(keys), 2), bool))
    clips = np.array([key[:5] for key in keys])
    assert all(len(np.unique(folds[clips == clip])) == 1 for clip in np.unique(clips))
    assert np.bincount(folds).max() <= 0.5 * len(keys)
    alone = clips[:, None] == np.unique(clips)  # each clip of a class of its own
    assert not cut
    folds, cut = folds_of(keys, alone)
    assert cut
    assert all(len(np.unique(folds[clips == clip])) == FOLDS for clip in np.unique(clips))


@pytest.mark.parametrize("groups", [None, "clip[0-9]"])
def test_a_sequence_that_goes_on_from_train_into_val_is_in_one_fold(groups):
    keys = [
        f"{'val' if i > 8 - c else 'train'}/clip{c}_{i:03}" for c in range(6) for i in range(10)
    ]
    folds, _ = folds_of(keys, np.ones((len(keys), 2), bool), groups)
    assert all(len(set(folds[10 * c : 10 * c + 10])) == 1 for c in range(6))


def test_names_that_are_in_train_and_in_val_are_of_two_sequences():
    keys = [
        f"{split}/clip{c}_{i:03}" for split in ("train", "val") for c in range(6) for i in range(10)
    ]
    folds, _ = folds_of(keys, np.ones((len(keys), 2), bool))
    assert all(len(set(folds[10 * c : 10 * c + 10])) == 1 for c in range(12))
    assert sorted(np.bincount(folds)) == [40, 40, 40]


def test_an_example_is_the_same_from_disk(tmp_path):
    example = examined_one(0)
    example.save(tmp_path / "0.npz")
    for name, array in Example.load(tmp_path / "0.npz").__dict__.items():
        assert np.array_equal(array, getattr(example, name)), name
    sound = (tmp_path / "0.npz").read_bytes()
    flipped = bytearray(sound)
    flipped[len(sound) // 2] ^= 255
    for spoiled in (b"PK\x03\x04 torn", b"", bytes(100), sound[:-60], bytes(flipped)):
        (tmp_path / "0.npz").write_bytes(spoiled)
        with pytest.raises(ValueError, match=r"0\.npz is damaged$"):
            Example.load(tmp_path / "0.npz")
