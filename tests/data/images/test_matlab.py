import base64
import struct
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest
from support.data.matlab_file import write_matrix

from featherseg.core.errors import DataError, DataNotFound
from featherseg.data.images.decoding import read_mask
from featherseg.data.images.matlab import read_matrix

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
LIMIT = 10_000
# Written by savemat, without the header: names (a cell array of "a" and "bc") and
# S ([[0, 1, 2], [182, 181, 91]]).
BY_SCIPY = {
    "uint16, plain": (
        "DgAAAKAAAAAGAAAACAAAAAEAAAAAAAAABQAAAAgAAAABAAAAAgAAAAEAAAAFAAAA"
        "bmFtZXMAAAAOAAAAMAAAAAYAAAAIAAAABAAAAAAAAAAFAAAACAAAAAEAAAABAAAA"
        "AQAAAAAAAAAQAAEAYQAAAA4AAAAwAAAABgAAAAgAAAAEAAAAAAAAAAUAAAAIAAAA"
        "AQAAAAIAAAABAAAAAAAAABAAAgBiYwAADgAAAEAAAAAGAAAACAAAAAsAAAAAAAAA"
        "BQAAAAgAAAACAAAAAwAAAAEAAQBTAAAABAAAAAwAAAAAALYAAQC1AAIAWwAAAAAA"
    ),
    "doubles, compressed": (
        "DwAAAEAAAAB4nONjYGBYAMRsQMwBxIwMEMCKxGeC0iCxvMTc1GIgzQfEBkj6WLDo"
        "Y0QyTwDISiRSHxOKPiaGpGQGBgDRGATyDwAAADkAAAB4nONjYGBIAGI2IOaA0iDA"
        "CuUzATEzEDMCYTCQ5gRiAwY0cCDNAcL4YA+mFsD4DBD6QJgDAMMJBpQ="
    ),
}


@pytest.mark.parametrize("kind", BY_SCIPY)
def test_files_of_scipy_read_as_they_were_written(tmp_path, kind):
    path = tmp_path / "a.mat"
    path.write_bytes(HEADER + base64.b64decode(BY_SCIPY[kind]))
    found = read_matrix(path, "S", LIMIT)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, [[0, 1, 2], [182, 181, 91]])


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("compress", [True, False], ids=["compressed", "plain"])
@pytest.mark.parametrize("kind", ["u1", "u2", "f8"])
@pytest.mark.parametrize("shape", [(3, 5), (1, 2), (7, 1)])
def test_every_form_of_numbers_reads_row_by_row(tmp_path, order, compress, kind, shape):
    values = np.random.default_rng(0).integers(0, 256, shape).astype(kind)
    path = write_matrix(tmp_path / "a.mat", values, order=order, compress=compress)
    np.testing.assert_array_equal(read_matrix(path, "S", LIMIT), values)


def test_large_numbers_take_the_smallest_type_that_holds_them(tmp_path):
    for value, kind in ((255, np.uint8), (256, np.uint16), (70_000, np.int64), (-1, np.int64)):
        found = read_matrix(
            write_matrix(tmp_path / "a.mat", np.full((2, 3), float(value))), "S", LIMIT
        )
        assert (found.dtype, found[0, 0]) == (kind, value)


def test_a_mask_may_be_a_matlab_file_with_the_matrix_s(tmp_path):
    values = np.array([[3, 0], [4, 182]], np.uint16)
    np.testing.assert_array_equal(read_mask(write_matrix(tmp_path / "a.mat", values)), values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.array([[0.5, 1.0]]), "numbers that are not whole"),
        (np.array([[np.nan, 1.0]]), "numbers that are not whole"),
        (np.zeros((2, 2, 2)), "no matrix of real numbers"),
        (np.zeros((100, 101), np.uint8), "100x101 is more than the limit of 10,000 pixels"),
    ],
)
def test_matrices_that_are_no_label_map_are_refused(tmp_path, values, sentence):
    path = write_matrix(tmp_path / "a.mat", values, compress=False)
    with pytest.raises(
        DataError,
        match=rf"a\.mat cannot be read: .*{sentence}.*Expected a MATLAB file with the label",
    ):
        read_matrix(path, "S", LIMIT)


def test_a_packed_matrix_is_not_unpacked_beyond_the_limit(tmp_path):
    path = write_matrix(tmp_path / "a.mat", np.zeros((1000, 1000), np.uint8))
    with pytest.raises(DataError, match="1000x1000 is more than the limit"):
        read_matrix(path, "S", LIMIT)


@pytest.mark.parametrize("name", ["S", "other"])
def test_a_packed_matrix_takes_no_more_memory_than_its_size_says(tmp_path, name):
    path = write_matrix(tmp_path / "a.mat", np.zeros((6000, 1000), np.uint8), name)
    content = path.read_bytes()
    place = content.rindex(b"\x78\x9c")
    matrix = zlib.decompress(content[place:]).replace(
        struct.pack("<2i", 6000, 1000), struct.pack("<2i", 1, 2)
    )
    packed = zlib.compress(matrix)
    path.write_bytes(content[: place - 4] + struct.pack("<I", len(packed)) + packed)
    tracemalloc.start()
    with pytest.raises(DataError):
        read_matrix(path, "S", LIMIT**2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_files_that_are_none_are_refused_with_what_to_do(tmp_path):
    path = tmp_path / "a.mat"
    with pytest.raises(DataNotFound, match="does not exist"):
        read_matrix(path, "S", LIMIT)
    for content, sentence in (
        (b"", "no MATLAB file of version 5"),
        (b"\x89PNG".ljust(200), "no MATLAB file of version 5"),
        (b"MATLAB 7.3 MAT-file".ljust(200), r"version 7\.3\. Save it again"),
        (HEADER, "holds no matrix S"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=sentence):
            read_matrix(path, "S", LIMIT)


@pytest.mark.parametrize("compress", [True, False])
def test_a_spoiled_file_is_a_sentence_wherever_it_is_cut_or_changed(tmp_path, compress):
    path = write_matrix(
        tmp_path / "a.mat", np.arange(40, dtype=np.uint8).reshape(5, 8), compress=compress
    )
    content, random = path.read_bytes(), np.random.default_rng(0)
    for at in range(0, len(content), 3):
        path.write_bytes(content[:at])
        with pytest.raises(DataError):
            read_matrix(path, "S", LIMIT)
    for at in range(128, len(content)):
        path.write_bytes(
            content[:at] + bytes([content[at] ^ random.integers(1, 256)]) + content[at + 1 :]
        )
        with suppress(DataError):  # it may also read: some bytes say nothing
            read_matrix(path, "S", LIMIT)
