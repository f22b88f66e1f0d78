"""How often a 95 % interval covers the truth and equal models differ, on correlated frames.

Blocks of 25 frames, whatever the scores, covered it in 62 % if neighbours correlate by 0.98, and
called one of two equal models better in 38 % (233 frames, 200 sets).
"""

import numpy as np
import pytest
from support.models.simulated_scores import Scene, training_runs

from featherseg import FeathersegError
from featherseg.evaluation.bootstrap import (
    Difference,
    compare_files,
    compare_models,
    compare_variants,
)
from featherseg.evaluation.clusters import Sequences, clusters_of

CORRELATIONS = (0, 0.8, 0.95, 0.98, 0.99)
LEFT_TO_CHANCE = 0.01
"""What 1,000 sets may show above the true share, by one standard deviation and a half."""


def frames(*lengths: int) -> Sequences:
    """Sequences of so many frames each."""
    return clusters_of(
        [f"{'abcdefghijkl'[s]}_{f:05d}" for s, length in enumerate(lengths) for f in range(length)]
    )


def parts(count: int, length: int) -> Sequences:
    """So many folders of one drive, as a tool writes them: sequences by their names alone."""
    return clusters_of([f"part{p:03}/{f:03}" for p in range(count) for f in range(length)])


def shares(
    scene: Scene, sequences: Sequences, sets: int, runs: int = 1, one_drive: bool = False
) -> tuple[float, float]:
    """Return shares of sets of equal models: interval of mIoU covers 0, one is called better.

    one_drive: the sequences go on from one to the next.
    """
    rng, held, called = np.random.default_rng(7), 0, 0
    for seed in range(sets):
        drives = [len(sequences.order)] if one_drive else sequences.lengths
        counts = np.concatenate([scene.counts(rng, n) for n in drives], axis=1)
        found = difference(counts, sequences, runs, seed)
        held += found.miou.low <= 0 <= found.miou.high
        called += found.better is not None
    return held / sets, called / sets


def difference(counts: np.ndarray, sequences: Sequences, runs: int, seed: int) -> Difference:
    if runs == 1:
        return compare_files(list(counts), sequences, replicates=200, seed=seed)[0]
    return compare_models([counts[:runs], counts[runs:]], sequences, replicates=200, seed=seed)[0]


def equal(correlation: float, runs: int = 1) -> Scene:
    return Scene(qualities=(1.0,) * 2 * runs, correlation=correlation)


@pytest.mark.seconds
@pytest.mark.parametrize("correlation", [0.95, 0.98])
def test_alike_frames_leave_honest_intervals(correlation):
    held, called = shares(equal(correlation), frames(233), sets=60)
    assert held >= 0.88
    assert called <= 0.05


@pytest.mark.seconds
def test_so_they_do_where_names_cut_one_drive_into_sequences():
    held, called = shares(equal(0.98), parts(40, 10), sets=40, one_drive=True)
    assert held >= 0.88  # drawn as whole sequences: 0.5
    assert called <= 0.1


def test_a_true_difference_on_sequences_that_are_apart_is_still_seen():
    scene, rng = Scene(qualities=(1.0, 1.6), correlation=0.98), np.random.default_rng(3)
    twelve = frames(*[50] * 12)
    sets = [np.concatenate([scene.counts(rng, 50) for _ in range(12)], axis=1) for _ in range(20)]
    assert (
        sum(difference(counts, twelve, 1, seed).better == 1 for seed, counts in enumerate(sets))
        >= 15
    )


def test_a_true_difference_on_unrelated_images_is_still_seen():
    scene, rng = Scene(qualities=(1.0, 1.15)), np.random.default_rng(3)
    found = [difference(scene.counts(rng, 233), frames(233), 1, seed) for seed in range(30)]
    assert sum(d.better == 1 for d in found) >= 24
    assert all(d.better != 0 for d in found)


def equal_variants(sets: int) -> tuple[float, float]:
    """Return shares of ablations of five equal variants that show a difference, or three signs."""
    rng, shown, signs = np.random.default_rng(5), 0, 0
    for seed in range(sets):
        runs = training_runs(rng, 18, 72, spread=0.1, noise=0.05).reshape(6, 3, 72, 3, -1)
        found = compare_variants(list(runs), frames(72), replicates=200, seed=seed)
        shown += any(d.better is not None for d in found)
        hits, union = (
            runs[..., 1, :].sum(axis=2),
            (runs[..., 0, :] + runs[..., 2, :] - runs[..., 1, :]).sum(axis=2),
        )
        miou = (hits / union).mean(axis=-1)  # (6, 3)
        signs += bool((np.abs(np.sign(miou[1:] - miou[0]).sum(axis=1)) == 3).any())
        np.testing.assert_allclose([d.miou.value for d in found], (miou[1:] - miou[0]).mean(axis=1))
    return shown / sets, signs / sets


@pytest.mark.seconds
def test_three_pairs_of_one_sign_are_no_claim():
    shown, signs = equal_variants(30)
    assert shown <= 0.07
    assert signs >= 0.5


@pytest.mark.slow
def test_of_five_equal_variants_one_is_shown_to_differ_in_5_percent_at_most():
    assert equal_variants(1000)[0] <= 0.05 + LEFT_TO_CHANCE


def test_a_variant_that_all_seeds_lose_much_by_is_shown_to_be_worse():
    runs = training_runs(np.random.default_rng(6), 9, 200, spread=0.02, noise=0.1)
    runs[3:6, :, 1] = np.round(0.8 * runs[3:6, :, 1])
    worse, equal_one = compare_variants(list(runs.reshape(3, 3, 200, 3, -1)), frames(200))
    assert (worse.first, worse.second, worse.better) == (1, 0, 0)
    assert equal_one.better is None


def test_seeds_that_move_all_variants_alike_do_not_hide_a_difference():
    runs = training_runs(np.random.default_rng(8), 3, 200, spread=0.3, noise=0.05)
    other = runs.copy()
    other[:, :, 1] = np.round(0.97 * other[:, :, 1])
    assert compare_variants([runs, other], frames(200))[0].better == 0
    assert compare_models([runs, other], frames(200))[0].better is None


def test_variants_of_other_numbers_of_seeds_are_refused():
    runs = training_runs(np.random.default_rng(9), 7, 40, 0.1, 0.1)
    for parts in ([runs[:3], runs[3:]], [runs[:2], runs[2:4]]):
        with pytest.raises(FeathersegError, match="the same 3 seeds"):
            compare_variants(parts, frames(40))


@pytest.mark.slow
@pytest.mark.parametrize("images", [233, 1000])
@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_intervals_cover_90_percent_and_equal_models_are_better_in_5(correlation, images):
    held, called = shares(equal(correlation), frames(images), sets=1000)
    assert held >= 0.90
    assert called <= 0.05 + LEFT_TO_CHANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    "lengths", [(62, 171), (100, 150, 250, 100), (50,) * 12], ids=["camvid", "four", "twelve"]
)
@pytest.mark.parametrize("correlation", [0.8, 0.98])
def test_so_they_do_over_several_sequences(correlation, lengths):
    held, called = shares(equal(correlation), frames(*lengths), sets=1000)
    assert held >= 0.90
    assert called <= 0.05 + LEFT_TO_CHANCE


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.8, 0.98])
def test_so_they_do_for_models_of_three_runs(correlation):
    held, called = shares(equal(correlation, runs=3), frames(500), sets=500, runs=3)
    assert held >= 0.90
    assert called <= 0.05 + LEFT_TO_CHANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("correlation", "count", "length"),
    [
        (0.8, 23, 10),
        (0.8, 100, 10),
        (0.8, 116, 2),
        *((0.98, *cut) for cut in [(23, 10), (100, 10), (116, 2), (12, 50)]),
    ],
)
def test_so_they_do_where_names_cut_one_drive_in_many_ways(correlation, count, length):
    held, called = shares(equal(correlation), parts(count, length), sets=1000, one_drive=True)
    assert held >= 0.90
    assert called <= 0.05 + LEFT_TO_CHANCE
