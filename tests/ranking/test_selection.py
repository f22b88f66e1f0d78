import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherseg.data.sequences import sequence_names
from featherseg.ranking import selection
from featherseg.ranking.selection import RANKED_BY, gap_of, select


def clips(rng: np.random.Generator, count: int) -> list[str]:
    """Names of frames of a few clips of unequal length, in no order."""
    clip = rng.integers(0, 4, count)
    names = [f"clip{c}_{(clip[:i] == c).sum():04d}" for i, c in enumerate(clip)]
    return [names[i] for i in rng.permutation(count)]


def naive(top, way, uncertainty, features, labelled, names):
    """By the words of the docstring, a step at a time: every image is asked anew against all that is taken."""
    units = [row / np.linalg.norm(row) for row in features.astype(float)]
    known = [row / np.linalg.norm(row) for row in labelled.astype(float)]
    gap, taken, scores = gap_of(len(names), top), [], []
    own = dict(zip(names, sequence_names(names), strict=True))
    while len(taken) < min(top, len(names)):
        best = (-1.0, -1)
        for i, name in enumerate(names):
            clip = sorted(n for n in names if own[n] == own[name])
            near = [j for j in taken if names[j] in clip and abs(clip.index(names[j]) - clip.index(name)) < gap]
            if near or i in taken:
                continue
            distance = min(np.linalg.norm(units[i] - other) for other in known + [units[j] for j in taken])
            value = {"both": uncertainty[i] * distance, "uncertainty": uncertainty[i], "diversity": distance}[way]
            best = max(best, (value, -i)) if value != best[0] else best
        taken.append(-best[1])
        scores.append(best[0])
    return taken, scores


@pytest.mark.parametrize("way", RANKED_BY)
@pytest.mark.parametrize(("count", "top"), [(40, 9), (23, 23), (60, 2)])
def test_images_are_taken_as_a_naive_loop_takes_them(way, count, top, monkeypatch):
    monkeypatch.setattr(selection, "ROWS", 7)  # several blocks of features
    rng = np.random.default_rng(count)
    uncertainty, features, labelled = rng.random(count), rng.normal(size=(count, 6)), rng.normal(size=(9, 6))
    names = clips(rng, count)
    picks = select(top, way, uncertainty, features, labelled, names)
    taken, scores = naive(top, way, uncertainty, features, labelled, names)
    assert [pick.number for pick in picks] == taken
    assert [pick.score for pick in picks] == pytest.approx(scores)


@given(st.integers(1, 120), st.integers(1, 140), st.integers(0, 99))
def test_as_many_are_taken_as_asked_for_and_never_two_near_frames(count, top, seed):
    rng = np.random.default_rng(seed)
    names = clips(rng, count)
    picks = select(top, "uncertainty", rng.random(count), None, None, names)
    assert len({pick.number for pick in picks}) == min(top, count)
    frames = sorted((names[pick.number].split("_")[0], int(names[pick.number].split("_")[1])) for pick in picks)
    steps = [b - a for (clip, a), (other, b) in itertools.pairwise(frames) if clip == other]
    assert min(steps, default=count) >= gap_of(count, top)


def test_frames_are_in_the_order_of_their_numbers_not_of_their_names():
    names = [f"clip_{number}" for number in range(1, 13)]  # without zeros before: clip_10 sorts before clip_2
    (first, second) = select(2, "uncertainty", np.linspace(1, 0, 12), None, None, names)
    assert gap_of(12, 2) == 3
    assert (names[first.number], names[second.number]) == ("clip_1", "clip_4")


def test_groups_say_what_a_sequence_is():
    names = ["north_1", "south_2", "north_3", "south_4"]
    picks = select(2, "uncertainty", np.array([4.0, 3.0, 2.0, 1.0]), None, None, names, groups="^[a-z]+")
    assert [names[pick.number] for pick in picks] == ["north_1", "south_2"]
    assert [p.number for p in select(2, "uncertainty", np.arange(4.0), None, None, list("abcd"))] == [3, 2]


def test_an_image_like_one_that_is_labelled_or_taken_comes_last():
    features = np.array([[1.0, 0, 0], [0, 2, 0], [0, 5, 0], [0, 0, 3]])  # 0 is like the labelled, 2 is like 1
    picks = select(4, "both", np.array([1.0, 0.9, 0.8, 0.1]), features, np.array([[7.0, 0, 0]]), list("abcd"))
    assert [pick.number for pick in picks] == [1, 3, 0, 2]
    assert [pick.distance for pick in picks] == pytest.approx([2**0.5, 2**0.5, 0, 0])


def test_without_labelled_images_the_mean_of_all_stands_for_them():
    features = np.array([[1.0, 0], [1, 0.1], [1, -0.1], [0, 1]])
    picks = select(2, "diversity", np.zeros(4), features, None, list("abcd"))
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    mean = units.sum(axis=0) / np.linalg.norm(units.sum(axis=0))
    assert picks[0].number == 3
    assert picks[0].distance == pytest.approx(np.linalg.norm(units[3] - mean))
    assert picks[1].distance == pytest.approx(np.linalg.norm(units - mean, axis=1)[picks[1].number])
