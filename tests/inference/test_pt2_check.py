"""What could run code from inside a .pt2 file is found before torch opens it."""

import json
import zipfile
from contextlib import suppress

import pytest
import torch
from three_layers import FACTS, three_layers

from featherseg.core.errors import ExportError
from featherseg.export import torch_export
from featherseg.export.job import Job
from featherseg.inference.pt2_check import check_pt2
from featherseg.inference.torch_export_runtime import TorchExportRuntime

GRAPH = "models/model.json"


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """The members of a sound file: {name: content}, without the folder that they lie in."""
    folder = tmp_path_factory.mktemp("pt2")
    torch_export.write(Job(three_layers(), FACTS, folder))
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


@pytest.mark.parametrize(
    ("name", "old", "new", "named"),
    [
        (GRAPH, '"torch.ops.aten.relu.default"', '"torch.os.system"', "the operator 'torch.os.system'"),
        (GRAPH, '"torch.ops.aten.relu.default"', '"torch.ops.aten.from_file.default"', "from_file"),
        (GRAPH, '"guards_code": []', '"guards_code": ["print(1)"]', "guards_code"),
        ("data/weights/model_weights_config.json", '"use_pickle": false', '"use_pickle": true', "pickled weights"),
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
    with pytest.raises(ExportError, match=f"the member {name}"):
        check_pt2(pack(tmp_path / "a.pt2", {**members, name: b"x"}))


def test_a_pickled_example_is_refused(members, tmp_path):
    with pytest.raises(ExportError, match="a pickled example input"):
        check_pt2(pack(tmp_path / "a.pt2", {**members, "data/sample_inputs/model.pt": b"x"}))
