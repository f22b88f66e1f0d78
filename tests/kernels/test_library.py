"""The extension: chosen by processor, disabled on request, refuses bad arguments; its threads."""

import ctypes
import os
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
import torch

from featherseg.kernels import library, native


def test_the_extension_is_left_aside_on_request():
    command = "from featherseg.kernels import native; print(native())"
    run = subprocess.run(
        [sys.executable, "-c", command],
        env=os.environ | {"FEATHERSEG_NO_EXT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "None"


def test_the_widest_instruction_set_of_the_processor_is_used(extension):
    assert native() == extension.clones()[-1]
    assert extension.clones()[0] == "baseline"


def test_an_unknown_instruction_set_is_refused(extension):
    with pytest.raises(ValueError, match="avx9"):
        extension.use("avx9")


@pytest.fixture(params=["torch's threads", "threads of Python's"])
def threads_of(request, monkeypatch):
    """The kind of threads that pieces are worked on by; torch's are GNU OpenMP's on Linux alone."""
    if request.param == "threads of Python's":
        monkeypatch.setattr(library, "_openmp", lambda: None)
    elif library._openmp() is None:
        pytest.skip("torch's threads are no GNU OpenMP's here")


@pytest.mark.usefixtures("threads_of")
def test_pieces_are_worked_on_at_the_same_time_and_answer_in_their_order():
    meeting, made = threading.Barrier(3, timeout=30), []

    def piece(number: int) -> int:
        if number < 3:
            meeting.wait()  # until three threads are here
        made.append(threading.get_ident())
        return number

    for _ in range(3):
        assert library.run([partial(piece, i) for i in range(40)], 3) == list(range(40))
    assert 3 <= len(set(made)) <= 9
    assert threading.get_ident() in made


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_beside_another_library_kernels_take_threads_of_their_own_that_sleep(three_threads):
    meeting, seen = threading.Barrier(2, timeout=30), []

    def piece():
        seen.append(threading.current_thread().name)
        meeting.wait()

    with suppress(KeyError), library.own_threads(2):
        assert library.thread_count() == 2
        with library.own_threads(5):
            assert library.thread_count() == 5
        library.run([piece] * 2, library.thread_count())
        raise KeyError
    assert library.thread_count() == 3
    assert sum("ThreadPool" in name for name in seen) == 1


@pytest.mark.usefixtures("threads_of")
def test_an_error_of_a_piece_comes_out_when_no_other_works_any_more():
    meeting, over = threading.Barrier(2, timeout=30), []

    def wrong() -> None:
        meeting.wait()
        raise ValueError("of a piece")

    def slow() -> None:
        meeting.wait()
        np.linalg.svd(np.random.default_rng(0).random((200, 200)))
        over.append(True)

    for pieces in ([wrong, slow], [slow, wrong]):
        with pytest.raises(ValueError, match="of a piece"):
            library.run(pieces, 2)
        assert over.pop()


def arguments() -> dict[str, np.ndarray]:
    """Two classes of 3x4 to 6x8."""
    return {
        "logits": np.zeros((2, 3, 4), np.float32),
        "mask": np.zeros((6, 8), np.uint8),
        "rows": np.array([0, 0, 0, 1, 1, 2], np.int32),
        "row_shares": np.zeros(6, np.float32),
        "columns": np.array([0, 0, 0, 1, 1, 2, 2, 3], np.int32),
        "column_shares": np.zeros(8, np.float32),
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": np.array([0, 0, 0, 1, 1, 3], np.int32)},
        {"rows": np.array([0, 0, 0, 1, 1, -1], np.int32)},
        {"columns": np.array([0, 0, 0, 1, 1, 2, 2, 4], np.int32)},
        {"columns": np.array([0, 0, 0, 1, 1, 2, 2, -(2**31)], np.int32)},
        {"rows": np.zeros(5, np.int32)},
        {"rows": np.zeros(6, np.int64)},
        {"row_shares": np.full(6, np.nan, np.float32)},
        {"column_shares": np.full(8, 2, np.float32)},
        {"column_shares": np.zeros(7, np.float32)},
        {"logits": np.zeros((2, 3, 4))},
        {"logits": np.zeros((3, 4), np.float32)},
        {"logits": np.zeros((0, 3, 4), np.float32)},
        {"logits": np.zeros((257, 3, 4), np.float32)},
        {"logits": np.frombuffer(bytes(100), np.float32, 24, 1).reshape(2, 3, 4)},
        {"mask": np.zeros((6, 9), np.uint8)},
        {"mask": np.zeros((6, 8), np.int8)},
    ],
)
def test_the_extension_refuses_what_does_not_fit(extension, wrong):
    assert extension.upsample_argmax(*arguments().values())
    with pytest.raises(ValueError, match=r"expected|fit"):
        extension.upsample_argmax(*(arguments() | wrong).values())


def test_the_extension_writes_into_no_read_only_mask_and_no_gaps(extension):
    fixed = np.zeros((6, 8), np.uint8)
    fixed.setflags(write=False)
    for mask in (fixed, np.zeros((6, 16), np.uint8)[:, ::2]):
        with pytest.raises((ValueError, BufferError)):
            extension.upsample_argmax(*(arguments() | {"mask": mask}).values())


def test_the_extension_counts_only_what_fits(extension):
    four, table = np.zeros(4, np.uint8), np.zeros((6, 6), np.int64)
    assert not extension.joint_counts(four, four, table, 5, 255)
    for wrong in (
        (four, np.zeros(5, np.uint8), table, 5, 255),
        (four, four, table[:5], 5, 255),
        (four, four, table, 6, 255),
        (four, four, np.zeros(0, np.int64), 0, 255),
        (four, four, np.zeros((256, 256), np.int64), 257, 255),
        (four, four, table, 5, 256),
        (four, four, table, 5, -1),
    ):
        with pytest.raises(ValueError, match="fit"):
            extension.joint_counts(*wrong)
    with pytest.raises((ValueError, BufferError)):
        extension.joint_counts(four[::2], four[::2], table, 5, 255)


def relation_arguments() -> dict[str, object]:
    """One head, a window of 3, a map of 2x3."""
    return {
        "query": np.zeros((2, 4, 6), np.float32),
        "key": np.zeros((2, 2, 3), np.float32),
        "value": np.zeros((5, 2, 3), np.float32),
        "context": np.zeros((5, 4, 6), np.float32),
        "prior": np.zeros((1, 4, 9), np.float32),
        "scale": 1.0,
        "squared": False,
        "first": 0,
        "stop": 2,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"query": np.zeros((3, 4, 6), np.float32)},
        {"query": np.zeros((2, 5, 6), np.float32)},
        {"query": np.zeros((2, 4, 7), np.float32)},
        {"query": np.zeros((2, 4, 6))},
        {"key": np.zeros((2, 3, 3), np.float32)},
        {"key": np.zeros((2, 2, 3, 1), np.float32)},
        {"key": np.frombuffer(bytes(50), np.float32, 12, 1).reshape(2, 2, 3)},
        {"value": np.zeros((5, 1, 3), np.float32)},
        {"value": np.zeros((4, 2, 3), np.float32)},
        {"context": np.zeros((5, 4, 5), np.float32)},
        {"context": np.zeros((5, 4, 0), np.float32)},
        {"prior": np.zeros((2, 4, 9), np.float32)},  # five channels of values for two heads
        {"prior": np.zeros((3, 4, 9), np.float32)},
        {"prior": np.zeros((1, 3, 9), np.float32)},
        {"prior": np.zeros((1, 4, 8), np.float32)},
        {"prior": np.zeros((1, 4, 4), np.float32)},
        {"prior": np.zeros((1, 4, 121), np.float32)},
        {"first": -1},
        {"first": 2, "stop": 1},
        {"stop": 3},
    ],
)
def test_the_extension_relates_only_what_fits(extension, wrong):
    assert extension.pixel_to_region(*relation_arguments().values()) is None
    with pytest.raises(ValueError, match=r"expected|fit"):
        extension.pixel_to_region(*(relation_arguments() | wrong).values())


def test_the_extension_writes_no_context_that_is_read_only(extension):
    fixed = np.zeros((5, 4, 6), np.float32)
    fixed.setflags(write=False)
    with pytest.raises((ValueError, BufferError)):
        extension.pixel_to_region(*(relation_arguments() | {"context": fixed}).values())


def loss_arguments() -> dict[str, object]:
    """Two classes of 3x4, labels of the 4x8 whose source row is 0 or 1."""
    return {
        "logits": np.zeros((2, 3, 4), np.float32),
        "labels": np.zeros((4, 8), np.int64),
        "rows": np.array([0, 0, 1, 1], np.int32),
        "row_shares": np.zeros(4, np.float32),
        "columns": np.array([0, 0, 0, 1, 1, 2, 2, 3], np.int32),
        "column_shares": np.zeros(8, np.float32),
        "weights": np.ones(2, np.float32),
        "scales": np.ones((4, 8), np.float32),
        "losses": np.zeros((4, 8), np.float32),
        "gradient": np.zeros((2, 3, 4), np.float32),
        "edge": np.zeros((2, 4), np.float32),
        "last": 2,
        "ignored": 255,
        "smoothing": 0.1,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"logits": np.zeros((2, 1, 4), np.float32)},
        {"logits": np.zeros((2, 3, 4))},
        {"logits": np.frombuffer(bytes(100), np.float32, 24, 1).reshape(2, 3, 4)},
        {"labels": np.zeros((4, 8), np.int32)},
        {"labels": np.zeros((4, 8))},
        {"labels": np.zeros((4, 7), np.uint8)},
        {"labels": np.zeros((5, 8), np.uint8)},
        {"rows": np.array([0, 0, 1, 2], np.int32)},
        {"rows": np.array([-1, 0, 1, 1], np.int32)},
        {"rows": np.zeros(4, np.int64)},
        {"row_shares": np.full(4, np.nan, np.float32)},
        {"columns": np.full(8, 4, np.int32)},
        {"column_shares": np.full(8, 2, np.float32)},
        {"column_shares": np.zeros(7, np.float32)},
        {"weights": np.ones(3, np.float32)},
        {"scales": np.ones((4, 7), np.float32)},
        {"losses": np.zeros((3, 8), np.float32)},
        {"gradient": np.zeros((2, 3, 5), np.float32)},
        {"gradient": np.zeros((1, 3, 4), np.float32)},
        {"gradient": None},
        {"edge": np.zeros((2, 3), np.float32)},
        {"edge": None},
        {"last": 0},
        {"last": 4},
        {"smoothing": -0.1},
        {"smoothing": float("nan")},
    ],
)
def test_the_extension_takes_only_losses_that_fit(extension, wrong):
    assert extension.upsample_cross_entropy(*loss_arguments().values())[0] is False
    with pytest.raises(ValueError, match=r"expected|fit"):
        extension.upsample_cross_entropy(*(loss_arguments() | wrong).values())


def test_the_extension_finds_labels_outside_before_it_reads_by_them(extension):
    for value in (2, -1, 2**62, -(2**63)):
        labels = np.full((4, 8), 255)
        labels[3, 7] = value
        given = loss_arguments() | {"labels": labels}
        assert extension.upsample_cross_entropy(*given.values()) == (True, 0.0, 0.0)


@pytest.mark.parametrize("name", ["losses", "gradient", "edge"])
def test_the_extension_writes_no_losses_that_are_read_only(extension, name):
    given = loss_arguments()
    given[name].setflags(write=False)
    with pytest.raises((ValueError, BufferError)):
        extension.upsample_cross_entropy(*given.values())


def depthwise_arguments() -> dict[str, object]:
    """Return arguments for 3x3, stride 2, a map of 5x6, 3 channels; lines of the second image."""
    return {
        "x": np.zeros((2, 5, 6, 3), np.float32),
        "pull": np.zeros((2, 3, 3, 3), np.float32),
        "weight": np.zeros((3, 3, 3), np.float32),
        "to_x": np.zeros((2, 5, 6, 3), np.float32),
        "to_weight": np.zeros((3, 3, 3), np.float32),
        "to_bias": np.zeros(3, np.float32),
        "stride": (2, 2),
        "padding": (1, 1),
        "dilation": (1, 1),
        "first": 5,
        "stop": 10,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": np.zeros((2, 5, 6, 3), np.int16)},
        {"x": np.zeros((2, 5, 6, 3))},
        {"x": np.zeros((2, 5, 6, 4), np.float32)},
        {"x": np.zeros((2, 5, 0, 3), np.float32)},
        {"pull": np.zeros((2, 3, 3, 3), np.int16)},
        {"pull": np.zeros((1, 3, 3, 3), np.float32)},
        {"pull": np.zeros((2, 3, 3, 2), np.float32)},
        {"pull": np.zeros((2, 4, 3, 3), np.float32)},  # a fourth line would start below the map
        {"weight": np.zeros((3, 3, 4), np.float32)},
        {"weight": np.zeros((65, 3, 3), np.float32), "to_weight": np.zeros((65, 3, 3), np.float32)},
        {"to_x": np.zeros((2, 5, 5, 3), np.float32)},
        {"to_x": np.zeros((2, 5, 6, 3), np.int16)},
        {"to_weight": np.zeros((3, 2, 3), np.float32)},
        {"to_bias": np.zeros(2, np.float32)},
        {"stride": (0, 2)},
        {"stride": (2, 65)},
        {"padding": (3, 1)},
        {"padding": (1, -1)},
        {"dilation": (0, 1)},
        {"dilation": (1, 2)},
        {"first": -1},
        {"first": 8, "stop": 7},
        {"stop": 11},
    ],
)
def test_the_extension_takes_gradients_only_of_what_fits(extension, wrong):
    assert extension.depthwise_backward(*depthwise_arguments().values()) is None
    assert (
        extension.depthwise_backward(*(depthwise_arguments() | {"to_bias": None}).values()) is None
    )
    with pytest.raises(ValueError, match=r"expected|fit"):
        extension.depthwise_backward(*(depthwise_arguments() | wrong).values())


@pytest.mark.parametrize("name", ["to_x", "to_weight", "to_bias"])
def test_the_extension_writes_no_gradients_that_are_read_only(extension, name):
    arguments = depthwise_arguments()
    arguments[name].setflags(write=False)
    with pytest.raises((ValueError, BufferError)):
        extension.depthwise_backward(*arguments.values())


def norm_arguments() -> dict[str, object]:
    """Two and a half rows of 32 values, backward."""
    return {
        "x": np.zeros(80, np.float32),
        "pull": np.zeros(80, np.float32),
        "table": np.zeros((3, 32), np.float32),
        "sums": np.zeros((2, 32)),
        "low": 0.0,
        "high": 6.0,
        "first": 0,
        "stop": 3,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": np.zeros(80, np.int16)},
        {"x": np.zeros(80)},
        {"x": np.zeros(0, np.float32)},
        {"x": np.zeros((2, 40), np.float32)},
        {"pull": np.zeros(79, np.float32)},
        {"pull": None},  # as many rows as backward needs
        {"table": np.zeros((4, 32), np.float32)},
        {"table": np.zeros((3, 48), np.float32)},
        {"table": np.zeros((3, 64), np.float32)},  # sums of 32
        {"sums": np.zeros((2, 64))},
        {"sums": np.zeros((2, 32), np.float32)},
        {"first": -1},
        {"first": 3, "stop": 2},
        {"stop": 4},
    ],
)
def test_the_extension_normalises_only_what_fits(extension, wrong):
    assert extension.norm_sums(*norm_arguments().values()) is None
    with pytest.raises(ValueError, match=r"expected|fit"):
        extension.norm_sums(*(norm_arguments() | wrong).values())


@pytest.mark.parametrize(
    "out", [np.zeros(81, np.float32), np.zeros(80, np.int16), np.zeros((2, 40), np.float32)]
)
def test_the_extension_writes_normalised_values_only_where_they_fit(extension, out):
    arguments = list((norm_arguments() | {"table": np.zeros((4, 32), np.float32)}).values())
    arguments[3] = np.ones(80, np.float32)
    assert extension.norm_apply(*arguments) is None
    assert not arguments[3].any()
    arguments[3] = out
    with pytest.raises(ValueError, match=r"expected|fit"):
        extension.norm_apply(*arguments)


def resize_arguments() -> dict[str, object]:
    """The gradient of 3x2 from 2x2, five channels."""
    return {
        "pull": np.zeros((3, 2, 5), np.float32),
        "out": np.ones((2, 2, 5), np.float32),
        "rows": np.array([0, 0, 1], np.int32),
        "row_shares": np.zeros(3, np.float32),
        "columns": np.array([0, 1], np.int32),
        "column_shares": np.zeros(2, np.float32),
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"pull": np.zeros((3, 2, 5))},
        {"pull": np.zeros((3, 2, 5), np.int16)},
        {"pull": np.zeros((3, 2, 4), np.float32)},
        {"pull": np.zeros((2, 2, 5), np.float32)},
        {"pull": np.zeros((3, 2, 10), np.float32)[:, :, ::2]},
        {"out": np.zeros((2, 2, 10), np.float32)[:, :, ::2]},
        {"out": np.zeros((2, 1, 5), np.float32)},
        {"out": np.zeros((0, 2, 5), np.float32)},
        {"rows": np.array([0, 0, 2], np.int32)},
        {"rows": np.array([0, -1, 0], np.int32)},
        {"rows": np.zeros(3, np.int64)},
        {"columns": np.zeros(3, np.int32)},
        {"row_shares": np.zeros(2, np.float32)},
        {"column_shares": np.zeros(3, np.float32)},
    ],
)
def test_the_extension_resizes_back_only_what_fits(extension, wrong):
    assert extension.resize_backward(*resize_arguments().values()) is None
    with pytest.raises(ValueError, match=r"expected|fit"):
        extension.resize_backward(*(resize_arguments() | wrong).values())


def relation_gradients() -> dict[str, object]:
    """One head with queries of width 2 and values of width 3, a window of 3, a map of 2x16."""
    planes = {
        "query": (2, 4, 2, 16),
        "key": (2, 4, 18),
        "value": (3, 4, 18),
        "pull": (3, 4, 2, 16),
        "prior": (4, 9),
    }
    planes |= {
        "outside": (4, 18),
        "to_query": (2, 4, 2, 16),
        "to_key": (2, 4, 18),
        "to_value": (3, 4, 18),
    }
    arrays = {name: np.zeros(shape, np.float32) for name, shape in planes.items()}
    return arrays | {"to_prior": np.zeros((4, 9)), "scale": 1.0, "difference": False}


@pytest.mark.parametrize(
    "wrong",
    [
        {"query": (2, 3, 2, 16)},
        {"query": (2, 4, 2, 15)},
        {"query": (3, 4, 2, 16)},
        {"key": (2, 4, 17)},
        {"key": (2, 3, 18)},
        {"value": (3, 5, 18)},
        {"value": (3, 4, 20)},
        {"pull": (2, 4, 2, 16)},
        {"pull": (3, 4, 3, 16)},
        {"prior": (4, 8)},
        {"prior": (4, 16)},
        {"prior": (4, 121)},
        {"outside": (4, 16)},
        {"to_query": (2, 4, 1, 16)},
        {"to_key": (1, 4, 18)},
        {"to_value": (3, 4, 17)},
        {"to_prior": (4, 9)},  # of float32
    ],
)
def test_the_extension_takes_gradients_of_relations_only_where_all_fits(extension, wrong):
    assert extension.pixel_to_region_backward(*relation_gradients().values()) is None
    arrays = {name: np.zeros(shape, np.float32) for name, shape in wrong.items()}
    with pytest.raises(ValueError, match=r"expected|fit"):
        extension.pixel_to_region_backward(*(relation_gradients() | arrays).values())


class Buffer(ctypes.Structure):
    """Python's Py_buffer."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.POINTER(ctypes.c_ssize_t)),
        ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


@pytest.fixture
def lettered():
    """A function: the values of an array as a buffer whose type has another letter."""
    kept = []

    def buffer(array: np.ndarray, letter: bytes) -> memoryview:
        sizes = ctypes.c_ssize_t * array.ndim
        places = (sizes(*array.shape), sizes(*array.strides), None, None)
        fields = (array.nbytes, array.itemsize, False, array.ndim, letter, *places)
        kept.append((array, Buffer(array.ctypes.data, None, *fields)))
        view = ctypes.pythonapi.PyMemoryView_FromBuffer
        view.restype = ctypes.py_object
        return view(ctypes.byref(kept[-1][1]))

    return buffer


def test_types_are_compared_by_kind_and_size_because_letters_differ_between_systems(
    extension, lettered
):
    for function, given in (
        (extension.upsample_argmax, arguments()),
        (extension.upsample_cross_entropy, loss_arguments()),
        (extension.resize_backward, resize_arguments()),
    ):
        on_windows = {key: lettered(given[key], b"l") for key in ("rows", "columns")}
        if "labels" in given:
            on_windows["labels"] = lettered(given["labels"], b"q")
        assert (on_windows["rows"].format, on_windows["rows"].itemsize) == ("l", 4)
        function(*(given | on_windows).values())
        for letter in (b"L", b"I", b"f", b"q?"):
            wrong = {"rows": lettered(given["rows"], letter)}
            with pytest.raises(ValueError, match="expected 1 dimensions"):
                function(*(given | wrong).values())
