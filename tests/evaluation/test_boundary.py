"""Boundary F against a loop written from its definition, with every distance worked out."""

import math

import numpy as np
import pytest

from featherseg.evaluation.boundary import BoundaryF, boundary_f, dilate


def boundary_of(values: np.ndarray, k: int) -> list[tuple[int, int]]:
    """Pixels of class k with a 4-neighbour of another class that is not 255."""
    found = []
    for y, x in zip(*np.nonzero(values == k), strict=True):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= v < values.shape[0] and 0 <= u < values.shape[1]
            if inside and values[v, u] not in (k, 255):
                found.append((int(y), int(x)))
                break
    return found


def by_the_definition(
    label: np.ndarray, prediction: np.ndarray, classes: int, tolerance: float
) -> np.ndarray:
    radius = tolerance * math.hypot(*label.shape)
    prediction = np.where(label == 255, 255, np.where(prediction >= classes, 1000, prediction))
    scores = np.full(classes, np.nan)
    for k in range(classes):
        if not (label == k).any():
            continue
        true, seen = boundary_of(label, k), boundary_of(prediction, k)
        if not true or not seen:
            scores[k] = float(not true and not seen)
            continue
        near = [[math.dist(a, b) <= radius for b in seen] for a in true]
        recall = sum(any(row) for row in near) / len(true)
        precision = sum(any(column) for column in zip(*near, strict=True)) / len(seen)
        scores[k] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return scores


@pytest.mark.parametrize("classes", [1, 3, 9, 20, 70, 200])
@pytest.mark.parametrize("tolerance", [0.01, 0.05, 0.12])
def test_it_is_the_definition(classes, tolerance):
    rng = np.random.default_rng(classes)
    blocks = rng.integers(0, classes, (2, 4, 6)).repeat(5, 1).repeat(5, 2)
    label, prediction = (
        np.where(rng.random((20, 30)) < 0.03, rng.integers(0, classes, (20, 30)), b) for b in blocks
    )
    prediction = np.where(rng.random(label.shape) < 0.6, label, prediction).astype(np.uint8)
    prediction[3:6, 3:9] = 255
    label = label.astype(np.uint8)
    label[10:14, 12:20] = 255
    expected = by_the_definition(label.astype(int), prediction.astype(int), classes, tolerance)
    np.testing.assert_allclose(
        boundary_f(label, prediction, classes, tolerance), expected, atol=1e-12
    )


@pytest.mark.parametrize("radius", [0.0, 0.9, 1.0, 1.5, 2.0, 2.9, 5.0, 7.3, 40.0])
def test_a_dilated_point_is_the_disk(radius):
    bits = np.zeros((23, 31), dtype=np.uint16)
    bits[9, 14], bits[20, 2] = 1, 4
    y, x = np.mgrid[:23, :31]
    disks = [np.hypot(y - v, x - u) <= radius for v, u in ((9, 14), (20, 2))]
    assert (dilate(bits, radius) == disks[0] * 1 + disks[1] * 4).all()


def stripe(at: int) -> np.ndarray:
    """100 x 100, class 1 from column `at` on."""
    return (np.arange(100) >= at)[None].repeat(100, 0).astype(np.uint8)


def test_a_boundary_moved_by_the_tolerance_is_right_and_one_beyond_is_wrong():
    # diagonal 141.4, tolerance 0.75 % = 1.06 pixels
    assert boundary_f(stripe(50), stripe(51), 2).tolist() == [1, 1]
    assert boundary_f(stripe(50), stripe(52), 2).tolist() == [0, 0]


def test_empty_boundaries_are_right_together_and_wrong_alone():
    nothing = np.zeros((100, 100), np.uint8)
    assert boundary_f(nothing, nothing, 2)[0] == 1
    assert boundary_f(nothing, stripe(50), 2)[0] == 0
    assert boundary_f(stripe(50), nothing, 2).tolist() == [0, 0]


def test_a_dataset_is_the_mean_over_images_and_a_class_over_those_that_hold_it():
    measure = BoundaryF(3)
    measure.update(stripe(50), stripe(50))
    measure.update(stripe(50), np.zeros((100, 100), np.uint8))
    measure.update(np.zeros((100, 100), np.uint8), np.zeros((100, 100), np.uint8))
    measure.update(
        np.full((100, 100), 255, np.uint8), stripe(50)
    )  # nothing labelled: counts nowhere
    assert measure.mean() == pytest.approx(2 / 3)
    np.testing.assert_allclose(measure.per_class(), [2 / 3, 1 / 2, np.nan])
