"""TensorRT does not run here: written files say so, and their parts are checked if possible."""

import ast
import json
from dataclasses import replace

from support.models.export_job import job_of
from support.models.small_model import FACTS, small_model

from featherseg.exporters import EXPORTERS, tensorrt


def test_it_is_marked_as_not_verified():
    assert not EXPORTERS["tensorrt"].verified
    assert "Untested" in (tensorrt.write.__doc__ or "")


def test_the_tensorrt_folder_holds_graph_facts_script_and_note(tmp_path):
    tensorrt.write(job_of(small_model(), FACTS, tmp_path, graph=lambda: b"graph"))
    folder = tmp_path / "tensorrt"
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.txt",
        "build_engine.py",
        "model.json",
        "model.onnx",
    ]
    assert (folder / "model.onnx").read_bytes() == b"graph"
    assert json.loads(json.loads((folder / "model.json").read_text())["mean"]) == list(
        small_model().mean
    )
    note, script = (folder / "README.txt").read_text(), (folder / "build_engine.py").read_text()
    assert "UNTESTED" in note
    assert "--height 96 --width 128" in note
    assert "UNTESTED" in (ast.get_docstring(ast.parse(script)) or "")


def test_the_name_of_a_run_steers_nothing_in_the_note_and_is_in_no_source(tmp_path):
    facts = replace(
        FACTS,
        name='a\x1b[2J\n"; print(1)',
        classes=[replace(row, name="\nprint(2)") for row in FACTS.classes],
    )
    tensorrt.write(job_of(small_model(), facts, tmp_path, graph=lambda: b"graph"))
    folder = tmp_path / "tensorrt"
    assert (folder / "README.txt").read_text().startswith('a\\x1b[2J\\n"; print(1) for TensorRT.')
    assert "print(" not in (folder / "build_engine.py").read_text()
