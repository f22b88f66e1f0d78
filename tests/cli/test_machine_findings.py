"""What the doctor says of the machine."""

import shutil

import pytest

from featherseg.cli import machine_findings as doctor
from featherseg.cli.machine_findings import loader_bytes, system
from featherseg.kernels import library, portable
from featherseg.training import batches


def of(name):
    return next(finding for finding in system() if finding.name == name)


def test_the_loader_of_a_recipe_takes_what_its_batches_weigh(monkeypatch):
    monkeypatch.setattr(batches, "loader_workers", lambda recipe: 2)
    assert loader_bytes("rsp-lite0-panoptic_shapes") == 2 * 4 * 8 * 128 * 256 * (3 + 1)


@pytest.mark.parametrize(("mebibytes", "state"), [(64, "warning"), (1 << 20, "ok")])
def test_a_small_shared_memory_is_worth_a_warning(tmp_path, monkeypatch, mebibytes, state):
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        doctor.shutil, "disk_usage", lambda path: usage._replace(total=mebibytes << 20)
    )
    found = of(str(tmp_path))
    assert found.state == state
    assert ("--set data.workers=0" in (found.remedy or "")) == (state == "warning")


def test_a_section_that_fails_is_a_finding_and_the_others_are_there(monkeypatch):
    monkeypatch.setattr("featherseg.core.machine.processor", lambda: 1 / 0)
    found = {finding.name: finding for finding in system()}
    assert found["machine"].state == "broken"
    assert "ZeroDivisionError" in found["machine"].found
    assert "cpu" in found


def test_runs_that_are_found_by_name_are_named(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "resolved.json").write_text("{}")
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    assert "mine" in of("runs by name").found


def test_the_allocator_says_who_left_it_alone(monkeypatch):
    monkeypatch.setenv("FEATHERSEG_ALLOCATOR", "off")
    assert "FEATHERSEG_ALLOCATOR=off" in of("allocator").found


def test_loops_that_were_not_compiled_come_with_the_compilers_first_error(tmp_path, monkeypatch):
    monkeypatch.delenv("FEATHERSEG_NO_EXT", raising=False)
    monkeypatch.setattr(library, "kernels", portable)
    monkeypatch.setattr(doctor, "NOT_COMPILED", tmp_path / "not_compiled.txt")
    (tmp_path / "not_compiled.txt").write_text("_norm.c:1:2: error: no such vector")
    assert of("compiled loops").found.endswith("not compiled, _norm.c:1:2: error: no such vector")
    assert of("compiled loops").state == "warning"


def test_without_torch_it_says_that_an_exported_file_and_its_runtime_are_enough(monkeypatch):
    monkeypatch.setattr(doctor, "HAS_TORCH", False)
    rows = {finding.name: finding for finding in system()}
    assert "an exported file and onnxruntime, or ncnn, are enough" in rows["torch"].found
    assert {"cores", "compiled loops", "disk: here"} <= rows.keys()
    assert not {"ImageNet weights", "/dev/shm", "cpu"} & rows.keys()
    assert all(finding.state != "broken" for finding in rows.values())
