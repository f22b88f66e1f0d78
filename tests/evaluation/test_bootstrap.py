"""The statistics of a comparison, against known differences and loops from the definition."""

import math
import tracemalloc
from itertools import combinations
from statistics import NormalDist

import numpy as np
import pytest
from support.models.simulated_scores import CLASSES, Scene, training_runs

from featherseg import FeathersegError
from featherseg.evaluation import bootstrap
from featherseg.evaluation.bootstrap import (
    Difference,
    Interval,
    best,
    compare_files,
    compare_models,
    image_counts,
    score_interval,
    student_quantile,
    too_few_runs,
)
from featherseg.evaluation.clusters import Clusters, clusters_of, single_images
from featherseg.evaluation.iou import Confusion

FRAMES = [f"{i:05d}" for i in range(1000)]


def coverage(
    scene: Scene, images: int, clusters: Clusters, sets: int, replicates: int = 400
) -> float:
    """Share of simulated sets whose interval of mIoU holds the true difference."""
    label, rng, held = scene.truth()[0], np.random.default_rng(1), 0
    for seed in range(sets):
        found = compare_files(
            scene.counts(rng, images), clusters, replicates=replicates, seed=seed
        )[0].miou
        held += found.low <= label <= found.high
    return held / sets


def splits_called_better(runs: np.ndarray, clusters: Clusters, replicates: int) -> int:
    """Of all ways to part the runs into two halves, those of which one half is called better."""
    half, called = len(runs) // 2, 0
    for others in combinations(range(1, len(runs)), half - 1):
        first = [0, *others]
        second = [i for i in range(len(runs)) if i not in first]
        called += (
            compare_models([runs[first], runs[second]], clusters, replicates=replicates)[0].better
            is not None
        )
    return called


def falsely_better(scene: Scene, simulations: int) -> float:
    """Share of simulations in which one of two equal files is called better."""
    rng, called = np.random.default_rng(3), 0
    for seed in range(simulations):
        found = compare_files(scene.counts(rng, 100), single_images(100), replicates=400, seed=seed)
        called += found[0].better is not None
    return called / simulations


def equal_models(simulations: int) -> tuple[float, float]:
    """Return the shares of simulations of 10 equal models with a best, and with a better one."""
    scene, rng, named, called = Scene(qualities=(1.0,) * 10), np.random.default_rng(20), 0, 0
    for seed in range(simulations):
        found = compare_files(scene.counts(rng, 100), single_images(100), replicates=400, seed=seed)
        named += best(found) is not None
        called += any(d.better is not None for d in found)
    return named / simulations, called / simulations


def test_counts_and_differences_are_those_of_the_confusion():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, (6, 20, 30)).astype(np.uint8)
    files = [
        np.where(rng.random(label.shape) < share, label, rng.integers(0, 5, label.shape))
        for share in (0.7, 0.5)
    ]
    totals, counts = [Confusion(4), Confusion(4)], []
    for total, file in zip(totals, files, strict=True):
        images = []
        for labels, prediction in zip(label, file.astype(np.uint8), strict=True):
            one = Confusion(4)
            one.update(labels, prediction)
            total.add(one)
            images.append(image_counts(one.matrix, one.void))
        counts.append(np.stack(images))
    (found,) = compare_files(counts, single_images(6))
    assert found.miou.value == pytest.approx(totals[0].miou() - totals[1].miou(), rel=1e-12)
    np.testing.assert_allclose(
        [c.value for c in found.classes], totals[0].iou() - totals[1].iou(), rtol=1e-12
    )


def test_the_interval_is_that_of_a_loop_that_draws_images_one_by_one():
    counts, rng = Scene().counts(np.random.default_rng(3), 40), np.random.default_rng(4)
    (found,) = compare_files(counts, single_images(40))
    drawn = []
    for _ in range(4000):
        pool = counts[:, rng.integers(0, 40, 39)].sum(axis=1)  # (S, 3, K)
        iou = pool[:, 1] / (pool[:, 0] + pool[:, 2] - pool[:, 1])
        drawn.append(iou[0].mean() - iou[1].mean())
    reach = (found.miou.high - found.miou.low) / 2 / np.std(drawn)
    assert 2.02 < reach < 2.25  # Student's t of 39 degrees of freedom, and of 12


def test_the_same_seed_gives_the_same_interval_and_identical_files_no_difference():
    counts = Scene().counts(np.random.default_rng(5), 50)
    assert compare_files(counts, single_images(50)) == compare_files(counts, single_images(50))
    (same,) = compare_files([counts[0], counts[0]], single_images(50))
    assert same.miou == Interval(0, 0, 0)
    assert same.better is None


def test_swapping_two_files_turns_the_interval_round():
    a, b = Scene().counts(np.random.default_rng(6), 50)
    (forth,), (back,) = (
        compare_files([a, b], single_images(50)),
        compare_files([b, a], single_images(50)),
    )
    assert (forth.miou.low, forth.miou.high) == pytest.approx(
        (-back.miou.high, -back.miou.low), rel=1e-9
    )


@pytest.mark.parametrize(
    ("low", "high", "better"), [(0.1, 0.2, 0), (-0.2, -0.1, 1), (-0.1, 0.2, None), (0, 0.1, None)]
)
def test_better_is_said_only_where_the_interval_excludes_no_difference(low, high, better):
    found = Difference(0, 1, Interval((low + high) / 2, low, high), ())
    assert found.better == better
    words = found.message(["a", "b"])
    assert ("better" in words) == (better is not None)
    assert words == {0: "a is better than b", 1: "b is better than a"}.get(better, words)


def test_an_interval_is_told_in_points_and_that_there_is_none():
    assert Interval(0.0312, 0.0089, 0.0535).points() == "+3.12, +0.89 to +5.35"
    assert Interval(-0.001, math.nan, math.nan).points() == "-0.10, no interval"


def test_an_interval_on_fewer_than_8_clusters_says_so_and_carries_no_claim():
    few, enough = (Difference(0, 1, Interval(0.2, 0.1, 0.3, clusters), ()) for clusters in (7, 8))
    assert enough.message(["a", "b"]) == "a is better than b"
    assert (few.better, few.miou.sign) == (None, 0)
    assert few.message(["a", "b"]) == (
        "no difference between a and b is shown on 7 clusters of images, of which a claim needs 8"
    )


@pytest.mark.seconds
@pytest.mark.parametrize(
    "clusters", [clusters_of, lambda keys: single_images(len(keys))], ids=["blocks", "single"]
)
def test_counts_of_many_images_are_not_held_again(clusters, monkeypatch):
    """Those of 100,000 images are gigabytes; so are the draws of as many clusters."""
    monkeypatch.setattr(bootstrap, "MOST_DRAWN", 2**17)
    counts = Scene(qualities=(0.0, 1.0, 2.0, 3.0)).counts(np.random.default_rng(0), 20_000)
    sequences = clusters([f"{i:05d}" for i in range(20_000)])
    tracemalloc.start()
    compare_files(list(counts), sequences, replicates=50)
    assert tracemalloc.get_traced_memory()[1] < 2.5 * counts.nbytes
    tracemalloc.stop()


def test_replicates_are_the_same_however_many_are_drawn_at_a_time(monkeypatch):
    counts = Scene(qualities=(0.0, 3.0)).counts(np.random.default_rng(7), 60)
    (whole,) = compare_files(counts, single_images(60))
    monkeypatch.setattr(bootstrap, "MOST_DRAWN", 1000)
    (parts,) = compare_files(counts, single_images(60))
    assert [parts.miou.low, parts.miou.high] == pytest.approx(
        [whole.miou.low, whole.miou.high], rel=1e-12
    )


def test_nothing_is_said_where_all_images_are_one_unit():
    counts = Scene(qualities=(0.0, 3.0)).counts(np.random.default_rng(7), 20)
    (found,) = compare_files(counts, clusters_of(FRAMES[:20]))
    assert found.miou.value < -0.1
    assert math.isnan(found.miou.low)
    assert found.better is None
    assert "no difference" in found.message(["a", "b"])


def test_nothing_is_said_of_classes_that_are_in_one_unit_or_in_none():
    counts = Scene(qualities=(0.0, 3.0)).counts(np.random.default_rng(8), 60)
    counts[:, 1:, :, 0] = 0  # in the first image alone
    counts[:, :, :, 1] = 0  # nowhere
    (found,) = compare_files(counts, single_images(60))
    assert [math.isnan(c.low) for c in found.classes] == [True, True, False, False, False]
    assert math.isnan(found.classes[1].value)
    assert found.better == 1


def test_what_a_single_image_shows_of_a_class_is_no_claim_of_its_own():
    counts = Scene().counts(np.random.default_rng(8), 60)
    counts[:, 1:, :, 0] = 0  # in the first image alone, ...
    counts[1] = counts[0]
    counts[:, 0, 1, 0] = counts[:, 0, 0, 0] * [
        1,
        0,
    ]  # ... where one model finds it and the other does not
    counts[:, 0, 2, 0] = counts[:, 0, 1, 0]
    (found,) = compare_files(counts, single_images(60))
    assert found.miou.value > 0.15
    assert found.better is None
    assert found.miou.high - found.miou.value > found.miou.value


def test_nothing_is_said_where_most_classes_lie_within_one_unit():
    counts = Scene(qualities=(0.0, 3.0)).counts(np.random.default_rng(8), 60)
    sequences = clusters_of([f"drive{i // 5}/{i % 5}" for i in range(60)])
    for k in range(3):
        counts[:, sequences.cut(1).index != k, :, k] = 0
    (found,) = compare_files(counts, sequences)
    assert math.isnan(found.miou.low)
    assert found.better is None


def test_fewer_images_with_a_class_leave_a_wider_interval_of_it():
    (found,) = compare_files(
        Scene(rare=True).counts(np.random.default_rng(9), 100), single_images(100)
    )
    widths = [c.high - c.low for c in found.classes]
    assert widths[0] > 2 * max(widths[1:])


def test_one_run_each_says_nothing_about_the_models():
    assert too_few_runs([1, 1]) == "one run each: says nothing about the models"
    assert too_few_runs([2, 2, 2]) == "2 runs each: says nothing about the models"
    assert too_few_runs([3, 1]) == "3, 1 runs: says nothing about the models"
    assert too_few_runs([3, 5]) == ""
    runs = training_runs(np.random.default_rng(0), 2, 30, 0.1, 0.1)
    with pytest.raises(FeathersegError, match="one run each: says nothing about the models"):
        compare_models([runs[:1], runs[1:]], single_images(30))


def test_models_are_told_apart_less_easily_than_files_where_runs_differ():
    rng = np.random.default_rng(10)
    runs = training_runs(rng, 6, 200, spread=0.3, noise=0.05)
    (files,) = compare_files([runs[0], runs[1]], single_images(200))
    (models,) = compare_models([runs[:3], runs[3:]], single_images(200))
    assert models.miou.high - models.miou.low > 2 * (files.miou.high - files.miou.low)


def test_a_model_that_is_truly_better_is_called_so_by_three_runs_each():
    rng = np.random.default_rng(11)
    runs = training_runs(rng, 6, 200, spread=0.02, noise=0.1)
    runs[3:, :, 1] = np.round(0.8 * runs[3:, :, 1])  # a fifth of the hits lost
    found = compare_models([runs[:3], runs[3:]], clusters_of(FRAMES[:200]))
    assert found[0].better == 0
    assert best(found) == 0


def test_intervals_grow_with_the_number_of_comparisons():
    counts = Scene(qualities=(1.0,) * 6).counts(np.random.default_rng(12), 100)
    alone = compare_files(counts[:2], single_images(100))[0].miou
    among = compare_files(counts, single_images(100))[0].miou
    assert (
        1.4 < (among.high - among.low) / (alone.high - alone.low) < 1.8
    )  # 15 pairs: t at 0.17 % is 1.66 times that


@pytest.mark.seconds
def test_the_pairs_called_better_are_those_of_holms_procedure_on_one_by_one_p_values():
    counts = Scene(qualities=(1.0, 1.005, 1.02, 1.04, 1.1)).counts(np.random.default_rng(16), 1500)
    found = compare_files(counts, single_images(1500))
    p_values = {}
    for d in found:
        (alone,) = compare_files(counts[[d.first, d.second]], single_images(1500))
        spread = (
            (alone.miou.high - alone.miou.low) / 2 / 1.963
        )  # t of some 700 degrees of freedom, all but normal
        p_values[d.first, d.second] = 2 * NormalDist().cdf(-abs(alone.miou.value) / spread)
    shown = set()
    for i, (pair, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p > 0.05 / (len(found) - i):
            break
        shown.add(pair)
    assert 2 < len(shown) < 10
    assert {(d.first, d.second) for d in found if d.better is not None} == shown


def test_the_best_is_better_than_every_other():
    apart = compare_files(
        Scene(qualities=(0.5, 1.5, 0.5)).counts(np.random.default_rng(17), 100), single_images(100)
    )
    assert best(apart) == 1
    tied = compare_files(
        Scene(qualities=(1.5, 1.5, 0.5)).counts(np.random.default_rng(18), 100), single_images(100)
    )
    assert [d.better for d in tied] == [None, 0, 1]
    assert best(tied) is None


def test_files_of_other_images_are_refused():
    counts = Scene().counts(np.random.default_rng(13), 20)
    other = counts[1] + 1
    with pytest.raises(FeathersegError, match="labels of the images differ"):
        compare_files([counts[0], other], single_images(20))
    with pytest.raises(FeathersegError, match="counts of 20 images, but clusters of 21"):
        compare_files(counts, single_images(21))
    with pytest.raises(FeathersegError, match="1 to compare"):
        compare_files(counts[:1], single_images(20))


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (9, 2.2622), (30, 2.0423), (120, 1.9799)],
)
def test_quantiles_are_those_of_the_printed_table(freedom, expected):
    assert student_quantile(0.975, np.array([freedom]))[0] == pytest.approx(expected, abs=5.1e-5)


def test_quantiles_far_out_are_those_of_the_closed_forms():
    p = 0.99999
    one, two = student_quantile(p, np.array([1.0, 2.0]))
    assert one == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-9)
    assert two == pytest.approx((2 * p - 1) * math.sqrt(1 / (2 * p * (1 - p))), rel=1e-9)


@pytest.mark.seconds
def test_a_small_simulation_covers_what_the_large_one_does():
    assert 0.91 <= coverage(Scene(), 100, single_images(100), sets=200, replicates=200) <= 0.98


def test_the_runs_of_one_recipe_are_seldom_called_better():
    runs = training_runs(np.random.default_rng(14), 8, 100, spread=0.1, noise=0.05)
    assert splits_called_better(runs, clusters_of(FRAMES[:100]), replicates=100) <= 3


@pytest.mark.seconds
@pytest.mark.parametrize("lone", [1, 2])
def test_equal_models_are_seldom_better_where_classes_lie_in_single_images(lone):
    assert (
        falsely_better(Scene(qualities=(1.0, 1.0), lone=lone), 60) <= 0.1
    )  # without lone's share a half


def test_ten_equal_models_have_no_best():
    assert equal_models(10)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "clusters"),
    [(100, single_images(100)), (30, single_images(30)), (233, clusters_of(FRAMES[:233]))],
    ids=["100 images", "30 images", "233 images in blocks"],
)
def test_intervals_cover_93_to_97_percent_of_independent_sets(images, clusters):
    assert 0.93 <= coverage(Scene(), images, clusters, sets=2000) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(
    "clusters", [single_images(100), clusters_of(FRAMES[:100])], ids=["images", "blocks"]
)
def test_intervals_cover_90_percent_with_a_class_in_3_of_100_images(clusters):
    assert coverage(Scene(rare=True), 100, clusters, sets=2000) >= 0.90


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spread", "noise"), [(0.1, 0.05), (0.02, 0.3)], ids=["runs differ", "images differ"]
)
def test_of_35_splits_of_8_runs_at_most_3_are_called_better(spread, noise):
    rng = np.random.default_rng(15)
    for _ in range(40):
        runs = training_runs(rng, 8, 233, spread, noise)
        assert splits_called_better(runs, clusters_of(FRAMES[:233]), replicates=300) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("lone", [1, 2])
def test_equal_models_are_better_in_5_percent_at_most_where_classes_lie_in_single_images(lone):
    assert falsely_better(Scene(qualities=(1.0, 1.0), lone=lone), 1000) <= 0.06


@pytest.mark.slow
def test_among_ten_equal_models_a_best_is_named_in_5_percent_at_most():
    named, called = equal_models(1000)
    assert named <= 0.05
    assert called <= 0.06  # any pair: 5 %, and 1 % for what 1,000 simulations leave to chance


def test_simulated_models_have_the_classes_they_say():
    assert Scene().counts(np.random.default_rng(0), 3).shape == (2, 3, 3, CLASSES)


def test_the_mean_of_a_replicate_varies_as_the_mean_of_the_clusters_does():
    values = np.array(
        [1.0, 2.0, 4.0, 8.0, 3.0]
    )  # with U draws instead of U - 1 it is a fifth too little
    drawn = bootstrap._draw(
        np.ones((5, 1, 3, 1)) * values[:, None, None, None], 40_000, np.random.default_rng(0)
    )
    means = drawn[:, 0, 0, 0] / 4
    assert means.var() == pytest.approx(values.var(ddof=1) / 5, rel=0.03)


def test_the_interval_of_a_score_holds_it():
    rng = np.random.default_rng(0)
    counts = image_counts(rng.integers(1, 50, (300, 3, 3)) + 200 * np.eye(3, dtype=int))
    whole = counts.sum(axis=0)
    found = score_interval(counts, single_images(300))
    assert found.value == pytest.approx((whole[1] / (whole[0] + whole[2] - whole[1])).mean())
    assert found.low < found.value < found.high < found.low + 0.02
