"""What could run code from inside a .pt2 file is found before torch opens it."""

import functools
import json
import zipfile
from contextlib import suppress

import pytest
import torch
from export_job import job_of
from three_layers import FACTS, three_layers

from featherseg.core.errors import ExportError
from featherseg.exporters import pt2 as torch_export
from featherseg.inference.runtimes.pt2 import TorchExportRuntime
from featherseg.inference.runtimes.pt2_check import check_pt2

GRAPH = "models/model.json"
CODE = "x=print(1)"
WEIGHTS = "data/weights/model_weights_config.json"


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """The members of a sound file: {name: content}, without the folder that they lie in."""
    folder = tmp_path_factory.mktemp("pt2")
    torch_export.write(job_of(three_layers(), FACTS, folder))
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def pack(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)
    return path


def replaced(members, name, old, new):
    content = members[name].decode()
    assert old in content
    return {**members, name: content.replace(old, new, 1).encode()}


def test_a_file_that_was_packed_again_is_opened(members, tmp_path):
    assert TorchExportRuntime(pack(tmp_path / "a.pt2", members)).classes == FACTS.classes


def test_code_in_an_expression_of_sizes_is_never_run(members, tmp_path):
    mark = tmp_path / "ran"
    graph = json.loads(members[GRAPH])
    evil = f"__import__('pathlib').Path('{mark}').touch()"

    def spoil(tree):
        if isinstance(tree, dict):
            if "expr_str" in tree:
                tree["expr_str"] = evil
            for value in tree.values():
                spoil(value)
        elif isinstance(tree, list):
            for value in tree:
                spoil(value)

    spoil(graph)
    path = pack(tmp_path / "a.pt2", {**members, GRAPH: json.dumps(graph).encode()})
    with pytest.raises(ExportError, match=r"could run code.*the expression"):
        TorchExportRuntime(path)
    assert not mark.exists()
    with suppress(Exception):  # torch itself runs it, which is why there is a check
        torch.export.load(path)
    assert mark.exists()


def in_a_forward_argument(graph, code):
    graph["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = ["images", f"more={code}"]


def in_the_keys_of_a_tree(graph, code):
    signature = graph["graph_module"]["module_call_graph"][0]["signature"]
    signature["forward_arg_names"] = []
    signature["in_spec"] = signature["in_spec"].replace('"[]"', json.dumps(json.dumps([f"x={code}"])))


def in_the_name_of_an_input(graph, code):
    old = graph["graph_module"]["graph"]["inputs"][-1]["as_tensor"]["name"]
    text = json.dumps(graph["graph_module"]).replace(json.dumps(old), json.dumps(f"{old}={code}"))
    graph["graph_module"] = json.loads(text)
    in_a_forward_argument(graph, code)


def in_the_name_of_a_value(graph, code):
    text = json.dumps(graph["graph_module"]).replace('"relu"', json.dumps(f"relu = {code}; relu"))
    graph["graph_module"] = json.loads(text)


def in_the_name_of_a_parameter(graph, code):
    text = json.dumps(graph["graph_module"]).replace('"model.stem.bias"', json.dumps(f'model.stem.b"+{code}+"'))
    graph["graph_module"] = json.loads(text)


@pytest.mark.parametrize(
    "spoil",
    [
        in_a_forward_argument,
        in_the_name_of_an_input,
        in_the_name_of_a_parameter,
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_code_in_a_name_is_never_run(members, tmp_path, spoil):
    mark = tmp_path / "ran"
    graph = json.loads(members[GRAPH])
    spoil(graph, f"open('{mark}','w').close()")
    changed = {**members, GRAPH: json.dumps(graph).encode()}
    if spoil is in_the_name_of_a_parameter:
        name = json.dumps(f"model.stem.b\"+open('{mark}','w').close()+\"")
        changed[WEIGHTS] = members[WEIGHTS].replace(b'"model.stem.bias"', name.encode())
    path = pack(tmp_path / "a.pt2", changed)
    with pytest.raises(ExportError, match="could run code"):
        TorchExportRuntime(path)
    assert not mark.exists()
    with suppress(Exception):  # torch itself runs it, which is why there is a check
        torch.export.load(path).module(check_guards=False)(torch.zeros(2, 3, 160, 224))
    if spoil is not in_the_name_of_a_parameter:  # torch runs that one on some machines, not on all
        assert mark.exists()


@pytest.mark.parametrize("spoil", [in_the_keys_of_a_tree, in_the_name_of_a_value])
def test_a_name_that_is_no_identifier_is_refused(members, tmp_path, spoil):
    graph = json.loads(members[GRAPH])
    spoil(graph, "print(1)")
    with pytest.raises(ExportError, match="could run code"):
        check_pt2(pack(tmp_path / "a.pt2", {**members, GRAPH: json.dumps(graph).encode()}))


TABLES = ("tensor_values", "sym_int_values", "range_constraints")
"""Objects whose keys the file names itself."""


def places(tree, path=()):
    """The ways to the texts in a JSON tree, and to the keys that the file names itself."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if path and path[-1] in TABLES:
                yield path, key
            yield from places(value, (*path, key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from places(value, (*path, number))
    elif isinstance(tree, str):
        yield path, None


def test_no_text_anywhere_in_the_graph_passes_as_source(members, tmp_path):
    """Each kind of place in which a file of ours holds a text or a name, once with code in it."""
    sound = members[GRAPH].decode()
    kinds = {
        (tuple(p for p in path if isinstance(p, str))[-3:], key is None): (path, key)
        for path, key in places(json.loads(sound))
    }
    found = {path[-1] for (path, is_text) in kinds if is_text} | {path[-1] for path, _ in kinds}
    assert found >= {*TABLES, "forward_arg_names", "parameter_name", "target", "name", "as_name", "in_spec", "expr_str"}
    spoiled = []
    for path, key in kinds.values():
        graph = json.loads(sound)
        inner = functools.reduce(lambda tree, part: tree[part], path if key else path[:-1], graph)
        if key:
            inner[CODE] = inner.pop(key)
        else:
            inner[path[-1]] = CODE
        spoiled.append(graph)
    for key in ("buffer_name", "tensor_constant_name", "fqn", "user_input_name", "class_fqn", "as_operator"):
        spoiled.append({**json.loads(sound), "graph_module": {**json.loads(sound)["graph_module"], key: CODE}})
    for number, graph in enumerate(spoiled):
        path = pack(tmp_path / f"{number}.pt2", {**members, GRAPH: json.dumps(graph).encode()})
        with pytest.raises(ExportError, match=r"could run code|can be read"):
            check_pt2(path)


@pytest.mark.parametrize("name", ["x=print(1)", "__class__", "a.__init__", "model.stem.b\n", "if", "a" * 300])
def test_a_parameter_s_name_is_a_plain_path(members, tmp_path, name):
    changed = members[WEIGHTS].replace(b'"model.stem.bias"', json.dumps(name).encode())
    with pytest.raises(ExportError, match="could run code"):
        check_pt2(pack(tmp_path / "a.pt2", {**members, WEIGHTS: changed}))


def test_an_archive_that_torch_fails_on_is_not_read_in_its_older_form(members, tmp_path, monkeypatch):
    """torch.export.load would open it with Python's zipfile, which may find other members than those checked."""
    monkeypatch.setattr(torch.export, "load", lambda *_args, **_options: pytest.fail("another reader"))
    path = pack(tmp_path / "a.pt2", {**members, "archive_version": b"7"})
    with pytest.raises(ExportError, match="archive version"):
        TorchExportRuntime(path)


def test_members_that_are_packed_are_refused(members, tmp_path):
    path = tmp_path / "a.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**members, "data/weights/weight_0": bytes(10_000_000)}.items():
            archive.writestr(f"model/{name}", content)
    with pytest.raises(ExportError, match="packed"):
        check_pt2(path)


@pytest.mark.parametrize(
    ("name", "old", "new", "named"),
    [
        (GRAPH, '"torch.ops.aten.relu.default"', '"torch.os.system"', "the operator 'torch.os.system'"),
        (GRAPH, '"torch.ops.aten.relu.default"', '"torch.ops.aten.from_file.default"', "from_file"),
        (GRAPH, '"torch.ops.aten.relu.default"', '"_operator.methodcaller"', "the operator '_operator.methodcaller'"),
        (GRAPH, '"torch.ops.aten.relu.default"', '"torch.ops.aten.set_.source_Storage"', "the operator"),
        (GRAPH, '"is_single_tensor_return"', '"something_new": 1, "is_single_tensor_return"', "unknown entry"),
        (GRAPH, '"torch_version"', '"torch_version": "1", "torch_version"', "a key stands twice"),
        (GRAPH, '"range_constraints": {', '"range_constraints": {"u999999999": {}, ', "the name 'u999999999'"),
        (GRAPH, '"expr_str": "', '"expr_str": "9**9**9**9 + ', "the expression"),
        (GRAPH, '"expr_str": "', '"expr_str": "Float(1, precision=10000000000) + ', "the expression"),
        (GRAPH, '"as_int": 4', '"as_int": 1' + "0" * 4000, "as_int = 1000"),
        (GRAPH, '"as_int": 4', '"as_int": ' + "[" * 100_000 + "]" * 100_000, "cannot|can be read"),
        (WEIGHTS, '"storage_offset": {"as_int": 0}', '"storage_offset": {"as_int": 9}', "beyond its bytes"),
        (WEIGHTS, '"strides": [{"as_int": 27}', '"strides": [{"as_int": 28}', "beyond its bytes"),
        (WEIGHTS, '"strides": [{"as_int": 27}', '"strides": [{"as_int": -27}', "foreign shape"),
        (WEIGHTS, '"path_name": "weight_0"', '"path_name": "../../etc"', "beyond its bytes"),
        (WEIGHTS, '"dtype": 7', '"dtype": 99', "can be read"),
        (GRAPH, '"guards_code": []', '"guards_code": ["print(1)"]', "guards_code"),
        (WEIGHTS, '"use_pickle": false', '"use_pickle": true', "pickled weights"),
    ],
)
def test_what_is_never_written_is_refused(members, tmp_path, name, old, new, named):
    with pytest.raises(ExportError, match=named):
        check_pt2(pack(tmp_path / "a.pt2", replaced(members, name, old, new)))


@pytest.mark.parametrize(
    "name",
    [
        "data/weights/model.pt",
        "data/constants/custom_obj_0",
        "data/aotinductor/model/x.so",
        "data/constants/opaque_obj_0",
    ],
)
def test_a_member_of_another_kind_is_refused(members, tmp_path, name):
    with pytest.raises(ExportError, match=f"the member '{name}'"):
        check_pt2(pack(tmp_path / "a.pt2", {**members, name: b"x"}))


def test_a_pickled_example_is_refused(members, tmp_path):
    with pytest.raises(ExportError, match="a pickled example input"):
        check_pt2(pack(tmp_path / "a.pt2", {**members, "data/sample_inputs/model.pt": b"x"}))
