"""Write a matrix as a MATLAB file, after "Level 5 MAT-file format" (The MathWorks)."""

import struct
import zlib
from pathlib import Path

import numpy as np

CLASSES = {"f8": 6, "u1": 9, "u2": 11}
TYPES = {"u1": 2, "u2": 4, "f8": 9}


def write_matrix(
    path: Path, values: np.ndarray, name: str = "S", *, order: str = "<", compress: bool = True
) -> Path:
    """Write a matrix of bytes, 16-bit numbers or doubles after `first`, which readers must skip."""
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}HH", 0x0100, 0x4D49)
    body = b"".join(
        _variable(*part, order, compress) for part in (("first", np.eye(2)), (name, values))
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + body)
    return path


def _variable(name: str, values: np.ndarray, order: str, compress: bool) -> bytes:
    kind = values.dtype.str[1:]
    numbers = values.astype(order + kind).tobytes(order="F")
    parts = [
        _element(6, struct.pack(f"{order}II", CLASSES[kind], 0), order),
        _element(5, struct.pack(f"{order}{values.ndim}i", *values.shape), order),
        _element(1, name.encode(), order),
        _element(TYPES[kind], numbers, order),
    ]
    matrix = _element(14, b"".join(parts), order)
    packed = zlib.compress(matrix)
    return struct.pack(f"{order}II", 15, len(packed)) + packed if compress else matrix


def _element(kind: int, content: bytes, order: str) -> bytes:
    """Tag and content, padded to eight bytes; one of at most four bytes lies within the tag."""
    if len(content) <= 4:
        return struct.pack(f"{order}I", len(content) << 16 | kind) + content.ljust(4, b"\0")
    return struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)
