"""Foreign files that refer to others are refused; onnx's own reader is the oracle."""

import os
from contextlib import suppress

import numpy as np
import onnx
import pytest
from google.protobuf.descriptor import Descriptor
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from featherseg.core.errors import ExportError
from featherseg.inference.runtimes import file_check, open_file
from featherseg.inference.runtimes.file_check import (
    MESSAGES,
    Refused,
    check_file,
    walk_onnx,
    walk_openvino,
)

WEIGHT = np.arange(24, dtype=np.float32).reshape(2, 12)
XML = '<?xml version="1.0"?><net name="n" version="11"><layers>{}</layers></net>'
CONSTANT = (
    '<layer id="0" type="Const" version="opset1">'
    '<data element_type="f32" shape="{}" offset="{}" size="{}"/></layer>'
)


def model(*nodes, tensors=(), **fields):
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 12])],
        [numpy_helper.from_array(WEIGHT, "weight"), *tensors],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], **fields)


def external(name="away"):
    tensor = TensorProto(
        name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def constant(tensor):
    return helper.make_node("Constant", [], ["c"], value=tensor)


def inside(*nodes):
    """A node with a graph in it."""
    graph = helper.make_graph(list(nodes), "inner", [], [])
    return helper.make_node("If", ["x"], ["z"], then_branch=graph, else_branch=graph)


def function(*nodes):
    return helper.make_function("", "f", ["a"], ["b"], list(nodes), [helper.make_opsetid("", 18)])


def sparse():
    return helper.make_sparse_tensor(
        numpy_helper.from_array(np.float32([1]), "values"),
        numpy_helper.from_array(np.int64([0]), "indices"),
        [1 << 50],
    )


def huge():
    return TensorProto(
        name="huge", data_type=TensorProto.FLOAT, dims=[1 << 40, 1 << 40], raw_data=b"1234"
    )


def with_sparse():
    found = model()
    found.graph.sparse_initializer.append(sparse())
    return found


CUSTOM = helper.make_node("Evil", ["x"], ["z"], domain="evil.ops")

FOREIGN = {
    "an initial value elsewhere": (model(tensors=[external()]), "another file"),
    "a constant elsewhere": (model(constant(external())), "another file"),
    "a constant elsewhere, in a branch": (
        model(inside(inside(constant(external())))),
        "another file",
    ),
    "a constant elsewhere, in a function": (
        model(functions=[function(constant(external()))]),
        "another file",
    ),
    "a custom operator": (model(CUSTOM), "'evil.ops'"),
    "a custom operator in a branch": (model(inside(CUSTOM)), "'evil.ops'"),
    "a custom operator in a function": (model(functions=[function(CUSTOM)]), "'evil.ops'"),
    "a runtime's own operator": (
        model(helper.make_node("EPContext", [], ["z"], domain="com.microsoft")),
        "microsoft",
    ),
    "an absurd tensor": (model(tensors=[huge()]), "more elements than it has bytes for"),
    "a sparse tensor": (with_sparse(), "sparse"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_reaches_beyond_the_file_is_refused(name, tmp_path):
    foreign, why = FOREIGN[name]
    path = tmp_path / "net.onnx"
    path.write_bytes(foreign.SerializeToString())
    with pytest.raises(ExportError, match=rf"net\.onnx is not opened: it holds .*{why}"):
        check_file(path)


@pytest.mark.parametrize("cleared", ["external_data", "data_location"])
def test_either_sign_of_data_elsewhere_is_enough(cleared):
    tensor = external()
    tensor.ClearField(cleared)
    with pytest.raises(Refused, match="another file"):
        walk_onnx(model(tensors=[tensor]).SerializeToString())


@pytest.mark.parametrize("cut", [1, 2, 9, 40])
def test_a_file_that_was_cut_off_is_refused(cut):
    with pytest.raises(Refused, match="damaged"):
        walk_onnx(model().SerializeToString()[:-cut])


def test_plain_models_pass(tmp_path):
    plain = model(constant(numpy_helper.from_array(WEIGHT)), inside(), functions=[function()])
    plain.graph.initializer.append(
        helper.make_tensor("packed", TensorProto.INT4, [5], [1, 2, 3, 4, 5])
    )
    plain.graph.initializer.append(
        helper.make_tensor("unpacked", TensorProto.FLOAT, [3], [1, 2, 3])
    )
    plain.graph.initializer.append(numpy_helper.from_array(np.float32(1), "scalar"))
    plain.graph.initializer.append(numpy_helper.from_array(np.zeros((0, 7)), "empty"))
    path = tmp_path / "net.onnx"
    path.write_bytes(plain.SerializeToString())
    check_file(path)


def test_no_message_of_onnx_that_can_hold_a_node_or_a_tensor_is_missing_in_the_table():
    kinds = {name: getattr(onnx, name).DESCRIPTOR for name in MESSAGES}
    for name, descriptor in kinds.items():
        inner = {
            field.number: field.message_type.name
            for field in fields(descriptor)
            if reaches(field.message_type)
        }
        assert MESSAGES[name] == (
            {} if name == "SparseTensorProto" else inner
        )  # which is refused as it is
    assert kinds["NodeProto"].fields_by_name["domain"].number == file_check.NODE_DOMAIN
    numbers = {field.name: field.number for field in kinds["TensorProto"].fields}
    assert numbers["dims"] == file_check.TENSOR_DIMS
    assert numbers["external_data"] == file_check.TENSOR_EXTERNAL_DATA
    assert numbers["data_location"] == file_check.TENSOR_LOCATION


def fields(descriptor: Descriptor):
    return [field for field in descriptor.fields if field.message_type is not None]


def reaches(descriptor: Descriptor, seen: frozenset[str] = frozenset()) -> bool:
    """Whether a node or a tensor can stand in this message, at any depth."""
    if descriptor.name in ("NodeProto", "TensorProto"):
        return True
    inner = [field.message_type for field in fields(descriptor) if descriptor.name not in seen]
    return any(reaches(message, seen | {descriptor.name}) for message in inner)


def holds_foreign(proto) -> bool:
    """Whether onnx sees a tensor elsewhere or a custom operator, in any message."""
    if isinstance(proto, onnx.TensorProto) and (proto.external_data or proto.data_location != 0):
        return True
    if isinstance(proto, onnx.NodeProto) and proto.domain not in ("", "ai.onnx"):
        return True
    for field, value in proto.ListFields():
        if field.message_type is not None:
            values = [value] if hasattr(value, "ListFields") else value
            if any(holds_foreign(item) for item in values):
                return True
    return False


SEEDS = [foreign.SerializeToString() for foreign, _ in FOREIGN.values()] + [
    model().SerializeToString()
]


@pytest.mark.seconds
@settings(max_examples=300)
@given(seed=st.sampled_from(SEEDS), data=st.data())
def test_what_passes_is_plain_as_onnx_reads_it(seed, data):
    content = bytearray(seed)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        walk_onnx(bytes(content))
    except Refused:
        return
    try:
        read = onnx.load_from_string(bytes(content))
    except Exception:  # protobuf's own kinds
        return
    assert not holds_foreign(read)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_pass_or_are_refused(content):
    for walk in (walk_onnx, lambda xml: walk_openvino(xml, 8)):
        with suppress(Refused):
            walk(content)


def test_graphs_without_end_are_refused():
    node = helper.make_node("Relu", ["x"], ["y"])
    for _ in range(25):  # three messages each
        node = inside(node)
        del node.attribute[1:]
    with pytest.raises(Refused, match="inside each other"):
        walk_onnx(model(node).SerializeToString())


def test_fields_without_end_are_refused(monkeypatch):
    monkeypatch.setattr(file_check, "MAXIMUM_FIELDS", 100)
    with pytest.raises(Refused, match="more than 100 fields"):
        walk_onnx(b"\x08\x01" * 101)


def test_a_file_that_is_too_large_is_refused(tmp_path):
    path = tmp_path / "net.onnx"
    with open(path, "wb") as file:
        file.truncate(file_check.MAXIMUM_BYTES + 1)  # sparse: takes no room
    with pytest.raises(ExportError, match=r"net\.onnx has 2,147,483,649 bytes"):
        check_file(path)


def write_pair(folder, xml, weights=bytes(96)):
    (folder / "net.xml").write_text(xml)
    (folder / "net.bin").write_bytes(weights)
    return folder / "net.xml"


def test_a_plain_openvino_pair_passes(tmp_path):
    check_file(write_pair(tmp_path, XML.format(CONSTANT.format("2, 12", 0, 96))))


BILLION = '<!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
FOREIGN_XML = {
    "a layer of a library": (
        XML.format('<layer type="Evil" version="extension"/>'),
        "layers of 'extension'",
    ),
    "a layer of nearly its own": (
        XML.format('<layer type="Evil" version="opset1 and more"/>'),
        "layers of 'opset1 and",
    ),
    "a layer without a version": (XML.format('<layer type="Evil"/>'), "layers of ''"),
    "a layer in a branch": (
        XML.format('<layer version="opset1"><body><layer version="x"/></body></layer>'),
        "'x'",
    ),
    "entities": (XML.format("").replace("<net", BILLION + "<net"), "document type"),
    "a document type of elsewhere": (
        '<!DOCTYPE net SYSTEM "file:///etc/passwd"><net/>',
        "document type",
    ),
    "a constant behind the weights": (
        XML.format(CONSTANT.format("2, 12", 4, 96)),
        "bytes 4 to 100 of 96",
    ),
    "a constant before them": (XML.format(CONSTANT.format("2, 12", -8, 96)), "bytes -8"),
    "a constant that is absurd": (
        XML.format(CONSTANT.format("1000000, 1000000", 0, 96)),
        "more elements",
    ),
    "no numbers": (XML.format(CONSTANT.format("2", "zero", 96)), "no model"),
    "another document": ("<html></html>", "no model"),
    "an unfinished document": ("<net>", "no model"),
    "elements without end": (XML.format("<a>" * 80 + "</a>" * 80), "inside each other"),
}


@pytest.mark.parametrize("name", FOREIGN_XML)
def test_an_openvino_file_that_reaches_beyond_itself_is_refused(name, tmp_path):
    xml, why = FOREIGN_XML[name]
    with pytest.raises(ExportError, match=rf"net\.xml is not opened: it holds .*{why}"):
        check_file(write_pair(tmp_path, xml))


@pytest.mark.parametrize("linked", ["net.onnx", "net.xml", "net.bin"])
def test_links_are_refused(linked, tmp_path):
    folder = tmp_path / "downloaded"
    folder.mkdir()
    (folder / "net.onnx").write_bytes(model().SerializeToString())
    write_pair(folder, XML.format(""))
    (folder / linked).rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", folder / linked)
    with pytest.raises(ExportError, match=f"{linked} is a link"):
        check_file(folder / ("net.onnx" if linked == "net.onnx" else "net.xml"))


@pytest.mark.parametrize("missing", ["net.onnx", "net.xml"])
def test_what_is_no_file_is_refused(missing, tmp_path):
    (tmp_path / missing).mkdir()
    with pytest.raises(ExportError, match="is no file"):
        check_file(tmp_path / missing)


def test_weights_must_lie_beside_their_graph(tmp_path):
    write_pair(tmp_path, XML.format("")).with_suffix(".bin").unlink()
    with pytest.raises(ExportError, match=r"net\.bin is no file"):
        check_file(tmp_path / "net.xml")


def test_other_endings_are_not_judged(tmp_path):
    check_file(tmp_path / "net.pt2")


def test_a_name_that_is_an_ending_alone_is_judged_as_it_is_opened(tmp_path):
    (tmp_path / ".onnx").write_bytes(model(CUSTOM).SerializeToString())
    (tmp_path / ".xml").write_text(XML.format(CONSTANT.format("2, 12", 0, 97)))
    (tmp_path / ".bin").write_bytes(bytes(96))
    for name in (".onnx", ".xml"):
        with pytest.raises(ExportError, match=rf"\{name} is not opened: it holds"):
            open_file(tmp_path / name, "cpu")
