"""What keys tell about sequences, and how the rest is cut into blocks."""

import numpy as np
import pytest
from support.models.simulated_scores import Scene

from featherseg.evaluation.bootstrap import compare_files
from featherseg.evaluation.clusters import Sequences, clusters_of, single_images


def lengths(sequences: Sequences, length: int = 25) -> list[int]:
    clusters = sequences.cut(length)
    assert len(clusters.index) == len(sequences.order)
    found = np.bincount(clusters.index, minlength=clusters.count)
    assert (found > 0).all()
    return found.tolist()


def series(correlation: float, images: int, seed: int = 0) -> np.ndarray:
    """(N, 200) series, each value correlated with the one before, less their means."""
    found = np.random.default_rng(seed).normal(size=(images, 200))
    for i in range(1, images):
        found[i] = correlation * found[i - 1] + (1 - correlation**2) ** 0.5 * found[i]
    return found - found.mean(axis=0)


@pytest.mark.parametrize(
    "form", ["{s:04d}TP_{f:06d}", "Seq{s:02d}VD_f{f:05d}", "seq{s}/frame_{f:04d}", "city/{s}/{f}"]
)
def test_ten_sequences_are_drawn_whole(form):
    keys = [form.format(s=s, f=f) for s in range(10) for f in range(3 + s)]
    assert lengths(clusters_of(keys)) == lengths(clusters_of(keys), 1) == [3 + s for s in range(10)]
    assert clusters_of(keys).description == "10 whole sequences, blocks where they go on"


def test_groups_of_the_dataset_say_what_a_sequence_is():
    keys = [f"img{i:04d}_patient{i % 12:02d}" for i in range(48)]
    clusters = clusters_of(keys, "patient[0-9]+")
    assert clusters.description.startswith("12 whole sequences")
    assert (clusters.cut(1).index == np.arange(48) % 12).all()


def test_camvids_two_test_sequences_are_cut_into_blocks_that_never_cross():
    keys = [f"0001TP_{f:06d}" for f in range(62)] + [f"Seq05VD_f{f:05d}" for f in range(171)]
    found = lengths(clusters_of(keys))
    assert found[:2] == [31, 31]
    assert set(found[2:]) == {24, 25}
    assert lengths(clusters_of(keys), 1000) == [62, 171]
    assert len(lengths(clusters_of(keys), 2)) == 31 + 86
    assert clusters_of(keys).description.startswith("blocks of consecutive images")


@pytest.mark.parametrize(
    "form", ["ADE_val_{:08d}", "{:012d}", "munster/munster_{:06d}_000019", "0a{:06x}-7c39d841"]
)
def test_names_without_sequences_are_blocks_in_their_order(form):
    keys = [form.format(i) for i in range(500)]
    assert (clusters_of(keys).cut(25).index == np.arange(500) // 25).all()


@pytest.mark.parametrize("form", ["{}", "img_{}", "yard/frame{}", "a/{}b"])
def test_frames_whose_numbers_are_not_padded_are_blocks_in_time(form):
    frames = sorted(range(1, 101), key=str)  # 1, 10, 100, 11, ...: as files are listed
    clusters = clusters_of([form.format(f) for f in frames]).cut(25)
    assert {f: int(u) for f, u in zip(frames, clusters.index, strict=True)} == {
        f: (f - 1) // 25 for f in range(1, 101)
    }


def test_one_sequence_is_two_blocks_at_least_and_single_images_are_all_apart():
    assert lengths(clusters_of(["a", "b", "c"]), 100) == [2, 1]
    assert single_images(3).cut(100).index.tolist() == [0, 1, 2]


def test_fewer_than_32_images_are_too_few_unless_they_are_known_to_be_apart():
    assert [clusters_of([f"{i:04d}" for i in range(n)]).enough for n in (31, 32)] == [False, True]
    assert single_images(3).enough


@pytest.mark.parametrize(("correlation", "low", "high"), [(0, 1, 2), (0.8, 8, 32), (0.98, 64, 512)])
def test_scores_stay_correlated_for_as_long_as_they_were_made(correlation, low, high):
    frames = clusters_of([f"{i:05d}" for i in range(4000)])
    assert low <= np.median(frames.correlated(series(correlation, 4000))) <= high


@pytest.mark.parametrize("images", [40, 1000])
def test_files_that_agree_on_all_images_are_told_by_as_many_as_there_are(images):
    """A difference of 0 everywhere says nothing of how long neighbours score alike."""
    frames = clusters_of([f"{i:05d}" for i in range(images)])
    counts = Scene(qualities=(1.0,)).counts(np.random.default_rng(0), images)
    (found,) = compare_files([counts[0], counts[0]], frames, replicates=50)
    assert (found.miou.clusters, found.miou.few) == (images // 2, False)
    assert found.message(["a", "b"]) == "no difference between a and b is shown"


def test_autocorrelation_is_looked_for_within_sequences_in_their_order_in_time():
    one, keys = series(0.9, 1200), [f"{'abc'[i // 400]}_{i:05d}" for i in range(1200)]
    shuffled = np.random.default_rng(1).permutation(1200)
    known = clusters_of([keys[i] for i in shuffled]).correlated(one[shuffled])
    assert (known == clusters_of(keys).correlated(one)).all()
    assert np.median(known) >= 8
    unknown = clusters_of([f"{i:05d}" for i in range(1200)]).correlated(one[shuffled])
    assert np.median(unknown) <= 2


def test_what_the_files_differ_in_counts_and_not_how_hard_the_images_are():
    rng, hard = np.random.default_rng(2), series(0.98, 1000)[:, :5]
    label = np.full((1000, 5), 1000.0)
    hits = [
        np.round(label / (1 + np.exp(-1 - hard - 0.1 * rng.normal(size=hard.shape))))
        for _ in range(2)
    ]
    counts = [np.stack([label, own, own], axis=1) for own in hits]
    (found,) = compare_files(counts, clusters_of([f"{i:05d}" for i in range(1000)]), replicates=50)
    assert found.miou.clusters is not None
    assert found.miou.clusters >= 100
