"""IoU against the Cityscapes scripts and a double loop; ignored, void and impossible pixels."""

import warnings

import numpy as np
import pytest

from featherseg import FeathersegError
from featherseg.evaluation.iou import Confusion


def random_pair(seed: int, classes: int, void: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return truth with ignored pixels, without the last class, and prediction, `void` if asked."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes - 1, (13, 17)).astype(np.uint8)
    label[rng.random(label.shape) < 0.1] = 255
    prediction = np.where(
        rng.random(label.shape) < 0.6, label % classes, rng.integers(0, classes - 1, label.shape)
    )
    if void:
        prediction[rng.random(label.shape) < 0.1] = 255
        prediction[rng.random(label.shape) < 0.1] = classes
    return label, prediction.astype(np.uint8)


@pytest.mark.parametrize("classes", [2, 5, 255])
@pytest.mark.parametrize("void", [False, True])
def test_counts_are_those_of_a_double_loop(classes, void):
    confusion = Confusion(classes)
    matrix, missed = np.zeros((classes, classes), int), np.zeros(classes, int)
    for seed in range(3):
        label, prediction = random_pair(seed, classes, void and classes < 255)
        confusion.update(label, prediction)
        for t, p in zip(label.ravel(), prediction.ravel(), strict=True):
            if t == 255:
                continue
            if p < classes:
                matrix[t, p] += 1
            else:
                missed[t] += 1
    assert (confusion.matrix == matrix).all()
    assert (confusion.void == missed).all()


def test_iou_is_that_of_cityscapesscripts():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as official  # noqa: N813
        from cityscapesscripts.helpers.labels import name2label
    names = ["road", "sidewalk", "building", "wall", "fence", "pole"]
    ids = np.array([name2label[name].id for name in names])
    confusion = Confusion(len(names))
    for seed in range(3):
        confusion.update(*random_pair(seed, len(names), void=True))
    theirs = np.zeros((len(name2label) + 1,) * 2, dtype=np.uint64)
    theirs[np.ix_(ids, ids)] = confusion.matrix
    theirs[ids, name2label["unlabeled"].id] = (
        confusion.void
    )  # predicted as a label that is not scored
    args = official.CArgs()
    args.evalLabels = [name2label["unlabeled"].id, *ids.tolist()]
    expected = {
        name: official.getIouScoreForLabel(name2label[name].id, theirs, args) for name in names
    }
    np.testing.assert_allclose(confusion.iou(), list(expected.values()), rtol=1e-12)
    assert np.isnan(confusion.iou()[-1])
    assert confusion.miou() == pytest.approx(official.getScoreAverage(expected, args), rel=1e-12)


def test_accuracies_of_a_case_worked_out_by_hand():
    confusion = Confusion(3)
    confusion.update(np.array([[0, 0, 0, 0, 1, 1, 255]]), np.array([[0, 0, 0, 1, 1, 9, 2]]))
    assert confusion.pixel_accuracy() == 4 / 6
    assert confusion.class_accuracy() == (3 / 4 + 1 / 2) / 2
    np.testing.assert_array_equal(confusion.iou(), [3 / 4, 1 / 3, np.nan])
    assert confusion.miou() == (3 / 4 + 1 / 3) / 2


def test_precision_recall_and_f1_of_a_case_worked_out_by_hand():
    confusion = Confusion(3, np.array([[80, 20, 0], [30, 60, 0], [0, 0, 0]]), np.array([0, 10, 0]))
    nan = np.nan
    np.testing.assert_allclose(confusion.precision(), [80 / 110, 60 / 80, nan])
    np.testing.assert_allclose(confusion.recall(), [0.8, 0.6, nan])
    np.testing.assert_allclose(confusion.f1(), [160 / 210, 120 / 180, nan])


def test_nothing_labelled_gives_nan_and_no_warning():
    confusion = Confusion(4)
    confusion.update(np.full((3, 3), 255, np.uint8), np.zeros((3, 3), np.uint8))
    assert np.isnan(
        [confusion.miou(), confusion.pixel_accuracy(), confusion.class_accuracy()]
    ).all()


def test_counts_add_up_over_images():
    pairs = [random_pair(seed, 5, void=True) for seed in range(2)]
    total, parts = Confusion(5), Confusion(5)
    total.update(
        np.concatenate([pairs[0][0], pairs[1][0]]), np.concatenate([pairs[0][1], pairs[1][1]])
    )
    for label, prediction in pairs:
        one = Confusion(5)
        one.update(label, prediction)
        parts.add(one)
    assert (total.matrix == parts.matrix).all()
    assert (total.void == parts.void).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint16])
def test_the_type_of_the_integers_does_not_matter(dtype):
    label, prediction = random_pair(1, 5, void=True)
    expected, found = Confusion(5), Confusion(5)
    expected.update(label, prediction)
    found.update(label.astype(dtype), prediction.astype(dtype))
    assert (expected.matrix == found.matrix).all()
    assert (expected.void == found.void).all()


@pytest.mark.parametrize("value", [5, 254, -1, 300])
def test_a_label_outside_the_classes_is_refused_by_value(value):
    label = np.zeros((4, 4), np.int32)
    label[1, :3] = value
    with pytest.raises(FeathersegError, match=rf"{value} \(3 pixels\).*0\.\.4"):
        Confusion(5).update(label, np.zeros((4, 4), np.uint8))


def test_a_prediction_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(FeathersegError, match=r"2x3.*4x4"):
        Confusion(5).update(np.zeros((4, 4), np.uint8), np.zeros((2, 3), np.uint8))
