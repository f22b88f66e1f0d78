"""Whether an exported file may be opened: files of others are data, and must not reach beyond.

Refused are tensors in other files, operators that are not of the standard, links, and sizes for
which the file has too few bytes. What a permitted graph computes is not checked: it may need much
time or memory. An .onnx file is read as protobuf, by the field numbers of onnx.proto: onnxruntime
runs such a file without the onnx package. What protobuf allows and no writer does (groups, fields
of another type) is refused. Both values of a repeated field are checked, because the runtime may
use either.
"""

import re
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from featherseg.core.errors import ExportError

MAXIMUM_BYTES = 2**31
"""Most bytes of an .onnx file: no protobuf message may be larger."""

MAXIMUM_XML_BYTES = 2**28
"""Most bytes of an OpenVINO .xml file."""

MAXIMUM_DEPTH = 64
"""Most levels of messages or elements inside each other."""

MAXIMUM_FIELDS = 2_000_000
"""Most fields of an .onnx file; our largest has a twentieth."""

DOMAINS = (b"", b"ai.onnx")
"""The two names of the standard operators."""

OPSET = re.compile(r"opset\d+")
"""The version of a layer that is OpenVINO's own."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types: how protobuf writes a field."""

MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "TensorProto": {},
    "SparseTensorProto": {},
}
"""Message -> number of a field -> its message, for all that can contain a tensor or a node."""

NODE_DOMAIN = 7
TENSOR_DIMS, TENSOR_EXTERNAL_DATA, TENSOR_LOCATION = 1, 13, 14


class Refused(Exception):
    """Why a file is not opened; the text follows "it holds"."""


def model_files(path: Path) -> tuple[Path, ...]:
    """Return an exported file, and for OpenVINO and ncnn the .bin with its weights."""
    graph = next((ending for ending in (".xml", ".param") if path.name.endswith(ending)), None)
    return (
        (path,) if graph is None else (path, path.with_name(path.name.removesuffix(graph) + ".bin"))
    )


def check_file(path: Path) -> None:
    """Raise ExportError for an unsafe .onnx or OpenVINO .xml file; other endings pass."""
    check = next((check for ending, check in CHECKS.items() if path.name.endswith(ending)), None)
    if check is None:
        return
    try:
        check(path)
    except Refused as reason:
        raise ExportError(
            f"{path} is not opened: it holds {reason}. Files that `featherseg export` writes stand "
            "alone and hold standard operators only; export the model again, or ask for it in that "
            "form."
        ) from None


def _check_onnx(path: Path) -> None:
    _check_place(path, MAXIMUM_BYTES)
    walk_onnx(path.read_bytes())


def _check_openvino(path: Path) -> None:
    _, weights = model_files(path)
    _check_place(path, MAXIMUM_XML_BYTES)
    _check_place(weights)
    walk_openvino(path.read_bytes(), weights.stat().st_size)


CHECKS: dict[str, Callable[[Path], None]] = {".onnx": _check_onnx, ".xml": _check_openvino}
"""Ending of a file -> its check."""


def _check_place(path: Path, maximum: int | None = None) -> None:
    """Raise ExportError for a link, a folder, or a file that is too large."""
    if path.is_symlink():
        raise ExportError(
            f"{path} is a link, and links are not followed: name the file that it leads to."
        )
    if not path.is_file():
        raise ExportError(f"{path} is no file. Expected an exported model.")
    size = path.stat().st_size
    if maximum is not None and size > maximum:
        raise ExportError(
            f"{path} has {size:,} bytes; no exported model has more than {maximum:,}."
        )


def walk_onnx(content: bytes) -> None:
    """Raise Refused for the content of an unsafe .onnx file."""
    budget = iter(range(MAXIMUM_FIELDS))
    waiting = [("ModelProto", memoryview(content), 1)]
    while waiting:
        message, view, depth = waiting.pop()
        if depth > MAXIMUM_DEPTH:
            raise Refused(f"graphs inside each other, {depth} deep")
        for number, wire, value in _fields(view, budget):
            inner = MESSAGES[message].get(number)
            if inner is not None:
                waiting.append((inner, _bytes(wire, value), depth + 1))
            elif message == "NodeProto" and number == NODE_DOMAIN:
                _check_domain(_bytes(wire, value))
        if message == "TensorProto":
            _check_tensor(view)
        if message == "SparseTensorProto":
            raise Refused("a sparse tensor, whose size does not follow from its bytes")


def _fields(
    view: memoryview, budget: Iterator[int] | None = None
) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yield (number, wire type, value) of a message's fields; fixed values are bytes."""
    at = 0
    while at < len(view):
        if budget is not None and next(budget, None) is None:
            raise Refused(f"more than {MAXIMUM_FIELDS:,} fields")
        key, at = _varint(view, at)
        number, wire = key >> 3, key & 7
        value: int | memoryview
        if wire == VARINT:
            value, at = _varint(view, at)
        elif wire in (FIXED64, FIXED32, BYTES):
            length, at = _varint(view, at) if wire == BYTES else (8 if wire == FIXED64 else 4, at)
            value, at = view[at : at + length], at + length
        else:
            _damaged()
        if number == 0 or at > len(view):
            _damaged()
        yield number, wire, value


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """Return an integer of seven bits per byte, and the place after it."""
    value = 0
    for i, byte in enumerate(view[at : at + 10]):
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, at + i + 1
    _damaged()


def _bytes(wire: int, value: int | memoryview) -> memoryview:
    if wire != BYTES or isinstance(value, int):
        _damaged()
    return value


def _damaged() -> NoReturn:
    raise Refused("bytes that are no model: it is damaged, or of another kind than its name says")


def _check_domain(name: memoryview) -> None:
    if bytes(name[:100]) not in DOMAINS:
        text = bytes(name[:100]).decode(errors="replace")
        raise Refused(f"operators of {text!r}, which are not of the ONNX standard")


def _check_tensor(view: memoryview) -> None:
    """Refuse a tensor in another file, or with more elements than two per byte."""
    dims: list[int] = []
    for number, wire, value in _fields(view):
        if number == TENSOR_EXTERNAL_DATA or (number == TENSOR_LOCATION and value != 0):
            raise Refused("a tensor that lies in another file")
        if number == TENSOR_DIMS:
            dims += [value] if isinstance(value, int) else _packed(_bytes(wire, value))
    if prod(dims) > 2 * len(view):
        raise Refused(
            f"a tensor of {len(dims)} dimensions that claims more elements than it has bytes for"
        )


def _packed(view: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(view):
        value, at = _varint(view, at)
        values.append(value)
    return values


def walk_openvino(content: bytes, weights_bytes: int) -> None:
    """Raise Refused for the content of an unsafe OpenVINO .xml file; weights_bytes: of its .bin."""
    depth = 0

    # Called by expat as it reads: nothing is built from the file
    def doctype(*_: object) -> None:
        raise Refused("a document type, which can define entities")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAXIMUM_DEPTH:
            raise Refused(f"elements inside each other, {depth} deep")
        if depth == 1 and tag != "net":
            _damaged()
        if tag == "layer" and not OPSET.fullmatch(attributes.get("version", "")):
            raise Refused(
                f"layers of {attributes.get('version', '')[:100]!r}, which are not OpenVINO's own"
            )
        if "offset" in attributes and "size" in attributes:
            _check_extent(attributes, weights_bytes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1

    parser = expat.ParserCreate("UTF-8")
    parser.StartDoctypeDeclHandler, parser.StartElementHandler, parser.EndElementHandler = (
        doctype,
        start,
        end,
    )
    try:
        parser.Parse(content, True)
    except expat.ExpatError:
        _damaged()


def _check_extent(attributes: dict[str, str], weights_bytes: int) -> None:
    """Refuse a constant outside of the weights, or with more than eight elements per byte."""
    try:
        offset, size = int(attributes["offset"]), int(attributes["size"])
        elements = prod(
            int(side) for side in attributes.get("shape", "").split(",") if side.strip()
        )
    except ValueError:
        _damaged()
    if offset < 0 or size < 0 or offset + size > weights_bytes:
        raise Refused(
            f"a constant at bytes {offset} to {offset + size} of {weights_bytes} bytes of weights"
        )
    if elements > 8 * size:
        raise Refused("a constant that claims more elements than it has bytes for")
