"""Confusion counts: those of a loop over the pixels, whichever code runs, whatever the bytes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherseg import FeathersegError
from featherseg.kernels import confusion_counts, joint_counts

many = settings(max_examples=50)


def by_loop(label: np.ndarray, prediction: np.ndarray, classes: int, ignore: int) -> np.ndarray:
    counts = np.zeros((classes, classes), np.int64)
    for t, p in zip(label.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if t != ignore and p in range(classes):
            counts[t, p] += 1
    return counts


def labels(
    shape: tuple[int, ...], classes: int, ignore: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Truth of classes and ignored pixels; predictions of any byte."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, shape)
    label[rng.random(shape) < 0.2] = ignore
    return label.astype(np.uint8), rng.integers(0, 256 if seed % 2 else classes, shape).astype(
        np.uint8
    )


@many
@given(
    height=st.integers(0, 20),
    width=st.integers(1, 21),
    classes=st.sampled_from([1, 2, 19, 150, 255]),
    ignore=st.sampled_from([0, 200, 255]),
    seed=st.integers(0, 99),
)
def test_counts_are_those_of_a_loop(every_code, height, width, classes, ignore, seed):
    label, prediction = labels((height, width), classes, ignore, seed)
    expected = by_loop(label, prediction, classes, ignore)
    for counts in every_code(lambda: confusion_counts(label, prediction, classes, ignore)):
        assert counts.dtype == np.int64
        assert (counts == expected).all()


@many
@given(st.binary(max_size=300), st.integers(0, 3), st.sampled_from([1, 5, 254, 255, 256]))
def test_any_pair_of_bytes_is_counted_where_it_belongs(every_code, data, cut, classes):
    first = np.frombuffer(data, np.uint8)[cut:]
    second = first[::-1]
    side = min(classes + 1, 256)
    expected = np.zeros((side, side), np.int64)
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        expected[min(a, side - 1), min(b, side - 1)] += 1
    other = any(classes <= a < 255 for a in data[cut:])
    for counts, outside in every_code(lambda: joint_counts(first, second, classes)):
        assert (counts == expected).all()
        assert outside == other


def test_all_256_classes_can_be_counted(code):
    every = np.arange(256, dtype=np.uint8)
    assert (confusion_counts(every, every, 256, ignore_index=-1) == np.eye(256)).all()
    assert confusion_counts(every, every, 256).sum() == 255  # 255 is ignored


def test_a_large_flat_image_loses_no_pixel(code):
    """Four tables of their own: neighbours that are equal must all arrive."""
    label = np.full((513, 1025), 3, np.uint8)
    assert confusion_counts(label, label, 19)[3, 3] == label.size


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("ignore", [-1, 127])
def test_the_type_of_the_integers_does_not_matter(code, dtype, ignore):
    label, prediction = (x.astype(dtype) for x in labels((13, 17), 5, 127, seed=2))
    if ignore < 0 and np.dtype(dtype).kind == "u":
        ignore = 127
    label[label == 127] = ignore
    prediction[0] = 100
    prediction[1, :3] = 5
    expected = by_loop(label, prediction, 5, ignore)
    assert (confusion_counts(label, prediction, 5, ignore) == expected).all()
    mixed = confusion_counts(label, prediction.astype(np.uint8), 5, ignore)
    assert (mixed == expected).all()


def test_predictions_beyond_a_byte_do_not_wrap_around(code):
    label = np.zeros(4, np.int64)
    counts = confusion_counts(label, np.array([256, -256, 2**40, 0]), 256)
    assert counts[0, 0] == counts.sum() == 1


def test_tensors_give_tensors(code):
    label, prediction = labels((13, 17), 5, 255, seed=3)
    expected = confusion_counts(label, prediction, 5)
    for dtype in (torch.uint8, torch.int64):
        counts = confusion_counts(
            torch.from_numpy(label).to(dtype), torch.from_numpy(prediction).to(dtype), 5
        )
        assert isinstance(counts, torch.Tensor)
        assert (counts.numpy() == expected).all()


def test_the_layout_in_memory_does_not_matter(code):
    label, prediction = labels((12, 18), 5, 255, seed=4)
    expected = confusion_counts(label[::2, ::-1].copy(), prediction[::2, ::-1].copy(), 5)
    assert (confusion_counts(label[::2, ::-1], prediction[::2, ::-1], 5) == expected).all()
    label.setflags(write=False)
    assert confusion_counts(label.T, prediction.T, 5).sum() > 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_a_label_outside_the_classes_is_refused_by_value(code, dtype):
    label = np.zeros((4, 4), dtype)
    label[1, :3] = 7
    with pytest.raises(FeathersegError, match=r"7 \(3 pixels\).*0\.\.4.*200 to ignore"):
        confusion_counts(label, np.zeros((4, 4), dtype), 5, ignore_index=200)
    with pytest.raises(FeathersegError, match=r"7 \(3 pixels\)"):
        confusion_counts(torch.from_numpy(label), torch.zeros(4, 4, dtype=torch.uint8), 5)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(FeathersegError, match=r"\(2, 3\).*\(3, 2\)"):
        confusion_counts(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 5)
    with pytest.raises(FeathersegError, match="257"):
        confusion_counts(np.zeros(3, np.uint8), np.zeros(3, np.uint8), 257)
    with pytest.raises(FeathersegError, match="float64"):
        confusion_counts(np.zeros(3), np.zeros(3), 5)


@pytest.mark.gpu
def test_a_cuda_device_gives_the_same():
    label, prediction = labels((123, 217), 19, 255, seed=3)
    counts = confusion_counts(
        torch.from_numpy(label).cuda(), torch.from_numpy(prediction).cuda(), 19
    )
    assert counts.is_cuda
    assert (counts.cpu().numpy() == by_loop(label, prediction, 19, 255)).all()
