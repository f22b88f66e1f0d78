import numpy as np
import pytest

from featherseg.auditing.evidence import EVIDENCE, evidence_of
from featherseg.auditing.regions import (
    EDGE,
    FEATURES,
    SMALLEST,
    Prediction,
    components,
    regions_of,
    thickness_of,
)
from featherseg.auditing.soft_minimum import soft_minimum
from featherseg.core.types import IGNORE


def blocks(
    seed: int = 0, size: tuple[int, int] = (24, 32), classes: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask of 8-pixel blocks with an ignored corner, and mostly agreeing probabilities."""
    rng = np.random.default_rng(seed)
    label = (
        rng.integers(0, classes, (size[0] // 8, size[1] // 8))
        .repeat(8, 0)
        .repeat(8, 1)
        .astype(np.uint8)
    )
    scores = rng.normal(size=(classes, *size)) + 1.5 * (np.arange(classes)[:, None, None] == label)
    scores[:, 8:16, 8:16] = scores[::-1, 8:16, 8:16]
    label[:5, :5] = IGNORE
    return label, (np.exp(scores) / np.exp(scores).sum(0)).astype(np.float32)


def flooded(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """The connected regions of a mask by a walk from pixel to pixel."""
    left, found = {(y, x) for y, x in np.argwhere(mask != IGNORE).tolist()}, []
    while left:
        seen, waiting = set(), [left.pop()]
        while waiting:
            y, x = waiting.pop()
            seen.add((y, x))
            for place in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if place in left and mask[place] == mask[y, x]:
                    left.remove(place)
                    waiting.append(place)
        found.append(seen)
    return found


def test_components_are_those_of_a_walk_from_pixel_to_pixel():
    label, _ = blocks(3)
    numbers, classes = components(label)
    expected = {frozenset(region) for region in flooded(label) if len(region) >= SMALLEST}
    assert {
        frozenset(map(tuple, np.argwhere(numbers == i + 1).tolist())) for i in range(len(classes))
    } == expected
    assert all((label[numbers == i + 1] == k).all() for i, k in enumerate(classes))


def test_features_are_those_of_a_loop_over_pixels():
    label, chances = blocks()
    found = regions_of(label, Prediction(chances))
    predicted = chances.argmax(0)
    height, width = label.shape
    for index in range(len(found.kinds)):
        numbers = found.numbers[found.kinds[index]]
        mask = label if found.kinds[index] == 0 else predicted
        places = [tuple(place) for place in np.argwhere(numbers == index + 1).tolist()]
        own = found.classes[index]

        def is_edge(y, x, numbers=numbers, index=index):
            steps = [(y + EDGE, x), (y - EDGE, x), (y, x + EDGE), (y, x - EDGE)]
            clipped = [(min(max(a, 0), height - 1), min(max(b, 0), width - 1)) for a, b in steps]
            return any(numbers[place] != index + 1 for place in clipped)

        outside = [
            ((y, x), place)
            for y, x in places
            for place in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1))
            if 0 <= place[0] < height and 0 <= place[1] < width
            if label[place] != IGNORE and mask[place] != own
        ]
        edge = [place for place in places if is_edge(*place)]
        inner = [place for place in places if not is_edge(*place)]
        odds = [np.log(chances[:, p[0], p[1]].max() / chances[label[p]][p]) for p in places]
        wanted = {
            "odds": np.mean(odds),
            "odds_sum": np.log1p(np.sum(odds)),
            "odds_most": np.max(odds),
            "given": np.mean([chances[label[p]][p] for p in places]),
            "best": np.mean([chances[:, p[0], p[1]].max() for p in places]),
            "differs_inside": np.mean([predicted[p] != label[p] for p in inner]) if inner else 0,
            "differs_edge": np.mean([predicted[p] != label[p] for p in edge]) if edge else 0,
            "own_outside": np.mean([chances[own][q] for _, q in outside]) if outside else 0,
            "neighbour_inside": np.mean([chances[mask[q]][p] for p, q in outside])
            if outside
            else 0,
            "differs_outside": np.mean([predicted[q] != label[q] for _, q in outside])
            if outside
            else 0,
            "size": np.log(len(places) / label.size),
            "y": np.mean([p[0] for p in places]) / height,
            "class_share": (mask == own).mean(),
            "predicted": found.kinds[index],
        }
        for name, value in wanted.items():
            assert found.features[index, FEATURES.index(name)] == pytest.approx(value, abs=1e-5), (
                index,
                name,
            )
        ys, xs = zip(*places, strict=True)
        assert found.boxes[index].tolist() == [
            min(xs),
            min(ys),
            max(xs) - min(xs) + 1,
            max(ys) - min(ys) + 1,
        ]


def test_thickness_is_the_distance_to_the_nearest_pixel_that_agrees():
    differs = np.random.default_rng(0).random((9, 11)) < 0.8
    agree = np.argwhere(~np.pad(differs, 1)) - 1  # beyond the border nothing differs
    for y, x in np.ndindex(9, 11):
        expected = np.hypot(*(agree - (y, x)).T).min() if differs[y, x] else 0
        assert thickness_of(differs)[y, x] == pytest.approx(expected)


def test_evidence_tells_a_moved_mask_and_a_wrong_one_from_a_right_one():
    chances = np.full((3, 60, 80), 0.05, np.float32)
    label = np.zeros((60, 80), np.uint8)
    label[20:40, 25:50], label[45:] = 1, 2
    np.put_along_axis(chances, label[None].astype(int), 0.9, 0)
    prediction = Prediction(chances)

    def found(mask):
        return dict(zip(EVIDENCE, evidence_of(mask, prediction), strict=True))

    right, moved, wrong = (
        found(label),
        found(np.roll(label, 3, 1)),
        found(np.where(label == 1, 2, label)),
    )
    assert right["odds"] == pytest.approx(0, abs=1e-6)
    assert wrong["odds"] == pytest.approx(np.log((1 - 500 / 4800) + 500 / 4800 * 18), rel=1e-4)
    assert wrong["soft_minimum"] > right["soft_minimum"]
    assert (right["shift"], wrong["shift"]) == (0, 0)
    assert moved["shift"] > 0.2
    assert not evidence_of(np.full((60, 80), IGNORE, np.uint8), prediction).any()


def test_a_share_is_counted_over_the_pixels_of_the_region():
    label, chances = blocks(1)
    found = regions_of(label, Prediction(chances))
    covered = np.zeros(label.shape, bool)
    covered[:, :13] = True
    for index, share in enumerate(found.share(covered)):
        assert share == pytest.approx(
            covered[found.numbers[found.kinds[index]] == index + 1].mean()
        )


def test_a_mask_that_is_all_ignored_has_no_region():
    _, chances = blocks()
    assert len(regions_of(np.full((24, 32), IGNORE, np.uint8), Prediction(chances)).kinds) == 0


def test_the_soft_minimum_is_that_of_cleanlab_2_9():
    # cleanlab.segmentation.rank.get_label_quality_scores of the same arrays, cleanlab 2.9.0
    expected = [0.02628588069003058, 0.4326427525647448, 0.02651706922066874, 0.036704661134109515]
    rng = np.random.default_rng(5)
    chances = rng.gamma(0.3, size=(4, 5, 12, 16))
    chances /= chances.sum(1, keepdims=True)
    labels = rng.integers(0, 5, (4, 12, 16))
    labels[1] = chances[1].argmax(0)
    given = np.take_along_axis(chances, labels[:, None], 1)[:, 0]
    assert [soft_minimum(image.ravel()) for image in given] == pytest.approx(expected, abs=1e-12)
