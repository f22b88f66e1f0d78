"""One matrix of a MATLAB file of version 5 to 7.2 ("Level 5 MAT-file format", The MathWorks).

Masks of COCO-Stuff are such files. A file is a header of 128 bytes and a list of elements; an
element is its type, its length and its bytes. Only numbers are read; nothing in the file is run.
"""

import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from featherseg.core.errors import DataError, DataNotFound
from featherseg.core.wording import size_text

_HEADER = 128
_START = 512  # bytes at the start of a matrix that contain its size and name
_COMPRESSED, _MATRIX = 15, 14  # element types miCOMPRESSED, miMATRIX
_NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_FIRST_NUMERIC, _LAST_NUMERIC = 6, 15  # array classes mxDOUBLE_CLASS .. mxUINT64_CLASS
_COMPLEX = 0x0800


def read_matrix(path: Path, name: str, max_pixels: int) -> np.ndarray:
    """Return the matrix `name` of a MATLAB file: (H, W) uint8, uint16 or int64.

    Raises:
        DataNotFound: The file is missing.
        DataError: It is damaged or of another version, or has no matrix `name` of at most
            `max_pixels` whole numbers.
    """
    try:
        if path.stat().st_size > _HEADER + _START + 16 * max_pixels:
            raise ValueError(f"it is too large for a map of {max_pixels:,} pixels, the limit")
        data = path.read_bytes()
        order = _byte_order(data, path)
        for kind, body in _elements(data[_HEADER:], order):
            if kind == _COMPRESSED:
                kind, body = next(
                    _elements(_unpack(body, order, name, max_pixels), order), (0, b"")
                )
            if kind == _MATRIX and (matrix := _matrix(body, order, name)) is not None:
                return _whole_numbers(matrix, max_pixels)
    except FileNotFoundError:
        raise DataNotFound(f"{path} does not exist.") from None
    except (OSError, ValueError, KeyError, StopIteration, struct.error, zlib.error) as error:
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{path} cannot be read: {reason}. Expected a MATLAB file with the label map {name}; "
            "replace it."
        ) from error
    raise DataError(
        f"{path} holds no matrix {name}. Expected a file with the label map {name} of the image."
    )


def _byte_order(data: bytes, path: Path) -> str:
    """Return `<` or `>`, by the mark at the end of the header."""
    if data.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise DataError(
            f"{path} is a MATLAB file of version 7.3. Save it again with: save(file, '-v7')."
        )
    order = {b"IM": "<", b"MI": ">"}.get(data[_HEADER - 2 : _HEADER])
    if order is None:
        raise DataError(
            f"{path} is no MATLAB file of version 5 to 7.2. Expected one as saved by "
            "save(file, '-v7')."
        )
    return order


def _unpack(body: bytes, order: str, name: str, max_pixels: int) -> bytes:
    """Return the element within a compressed one, as long as its size says; b"" for other names."""
    unpacking = zlib.decompressobj()
    start = unpacking.decompress(body, _START)
    parts = list(islice(_elements(start[8:], order), 3))  # flags, size, name; then the numbers
    if (
        start[:4] != struct.pack(f"{order}I", _MATRIX)
        or len(parts) < 3
        or parts[2][1] != name.encode()
    ):
        return b""
    rows, columns = struct.unpack(f"{order}2I", parts[1][1][:8])
    if rows * columns > max_pixels:
        raise ValueError(f"{rows}x{columns} is more than the limit of {max_pixels:,} pixels")
    return start + unpacking.decompress(unpacking.unconsumed_tail, 8 * rows * columns + _START)


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield (type, bytes) of every element. Up to four bytes are within its tag, above the type."""
    at = 0
    while at + 8 <= len(data):
        kind, length = struct.unpack_from(f"{order}II", data, at)
        start, step = at + 8, 8 + length
        if kind >> 16:
            kind, length, start, step = kind & 0xFFFF, kind >> 16, at + 4, 8
        if start + length > len(data):
            raise ValueError(
                f"an element of {length} bytes begins {len(data) - start} bytes before the end"
            )
        yield kind, data[start : start + length]
        at += step if kind == _COMPRESSED else -(-step // 8) * 8  # padded if not compressed


def _matrix(body: bytes, order: str, name: str) -> np.ndarray | None:
    """Return the array (H, W) of a matrix element; None for another name. Raises ValueError."""
    parts = list(islice(_elements(body, order), 4))
    if len(parts) < 3 or parts[2][1] != name.encode():
        return None
    flags, shape = (np.frombuffer(part, f"{order}i4") for _, part in parts[:2])
    numeric = (
        flags.size > 0
        and _FIRST_NUMERIC <= flags[0] & 0xFF <= _LAST_NUMERIC
        and not flags[0] & _COMPLEX
    )
    if not numeric or shape.size != 2 or len(parts) < 4:
        raise ValueError(f"{name} is no matrix of real numbers")
    kind, numbers = parts[3]  # the stored type may be smaller than that of the matrix
    stored = np.frombuffer(numbers, order + _NUMBERS[kind])
    return stored.reshape(shape, order="F")  # (H, W), stored by columns


def _whole_numbers(stored: np.ndarray, max_pixels: int) -> np.ndarray:
    """Return the same numbers as uint8, uint16 or int64 in this machine's byte order."""
    if stored.size > max_pixels:
        raise ValueError(
            f"{size_text(stored.shape)} is more than the limit of {max_pixels:,} pixels"
        )
    with np.errstate(invalid="ignore"):  # not a number
        integers = stored.astype(np.int64, order="C")
    if not np.array_equal(integers, stored):
        raise ValueError("it holds numbers that are not whole")
    for kind in (np.uint8, np.uint16):
        if integers.min(initial=0) >= 0 and integers.max(initial=0) <= np.iinfo(kind).max:
            return integers.astype(kind)
    return integers
