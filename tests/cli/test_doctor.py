import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from featherseg._version import __version__
from featherseg.cli import probes
from featherseg.cli.doctor import doctor as doctor_verb
from featherseg.core.installation import Finding, requirements, usable_extras


def doctor(
    *arguments: str, path: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The command, with a folder in front of all others where modules are looked for."""
    environment = {**os.environ, **variables, **({"PYTHONPATH": str(path)} if path else {})}
    command = [sys.executable, "-m", "featherseg", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict]:
    """By name; of an extra's package by "extra [x]/name"."""
    rows = json.loads(done.stdout)["findings"]
    return {
        f"{row['section']}/{row['name']}" if "extra" in row["section"] else row["name"]: row
        for row in rows
    }


@pytest.mark.slow
def test_where_all_works_it_says_so_and_names_what_is_missing_with_its_command():
    """Every extra is tried in a process of its own, which imports all of it."""
    done = doctor("--try-extras", "--json", FEATHERSEG_NO_EXT="1")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["healthy"] is True
    found = findings(done)
    assert found["featherseg"]["found"].startswith(__version__)
    assert found["extra [torch]/torch"]["found"].startswith(
        version("torch")
    )  # "2.13.0"; PyPI's build calls itself "2.13.0+cu130"
    assert found["cpu"]["found"].endswith("threads")
    assert ("cuda:0" in found) == torch.cuda.is_available()
    assert "FEATHERSEG_NO_EXT=1" in found["compiled loops"]["found"]
    assert "GiB free" in found["disk: here"]["found"]
    tried = [row["name"] for row in found.values() if row["section"] == "extras, tried"]
    assert tried == ["train", "export", "openvino", "serve", "video", "ncnn"], found
    missing = [row for row in found.values() if row["state"] == "missing"]
    assert all(row["remedy"].startswith("pip install 'featherseg[") for row in missing)


@pytest.mark.seconds
def test_a_package_of_several_extras_is_printed_once(monkeypatch, capsys):
    monkeypatch.setattr(probes, "findings", lambda extras, all_of_them: [])
    doctor_verb()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    names = [line[len(line[0]) == 1] for line in lines if line and line[-1] == "required"]
    assert "torch" in names
    assert len(names) == len(set(names))


@pytest.mark.seconds
def test_a_torch_that_cannot_be_imported_is_a_line_and_no_traceback(tmp_path):
    (tmp_path / "torch.py").write_text(
        "raise ImportError('libtorch_cpu.so: cannot open shared object file')"
    )
    done = doctor(path=tmp_path)
    assert done.returncode == 1
    assert (
        "cannot be imported: ImportError: libtorch_cpu.so: cannot open shared object file"
        in done.stdout
    )
    assert "pip install --force-reinstall --no-deps torch" in done.stdout
    assert "something is broken" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.seconds
def test_a_numpy_that_kills_its_process_is_a_line_too(tmp_path):
    (tmp_path / "numpy.py").write_text("import os\nos.abort()")
    done = doctor("--json", path=tmp_path)
    assert done.returncode == 1
    assert "died" in findings(done)["numpy"]["found"]
    assert done.stderr == ""


def pretend_installed(folder: Path, name: str, version: str) -> None:
    """Metadata of a package that stands in front of the one that is installed."""
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_an_old_torch_and_an_extra_in_a_version_that_cannot_be_used_are_broken(tmp_path):
    pretend_installed(tmp_path, "torch", "2.8.0")
    pretend_installed(tmp_path, "onnxscript", "0.1")
    done = doctor("--json", path=tmp_path)
    assert done.returncode == 1
    row = findings(done)["extra [torch]/torch"]
    (asked,) = (
        row.versions for row in requirements() if (row.extra, row.name) == ("torch", "torch")
    )
    assert (row["state"], row["remedy"]) == ("broken", f"pip install --upgrade 'torch{asked}'")
    assert row["found"] == f"2.8.0, but {asked} required"
    row = findings(done)["extra [export]/onnxscript"]
    (asked,) = (
        row.versions for row in requirements() if (row.extra, row.name) == ("export", "onnxscript")
    )
    assert (row["state"], row["remedy"]) == ("broken", f"pip install --upgrade 'onnxscript{asked}'")


@pytest.mark.seconds
def test_an_extra_whose_version_will_do_but_whose_calls_are_gone_is_broken(tmp_path, monkeypatch):
    """PyAV 19 was such a case: `predict clip.mp4` ended in a traceback, all imports worked."""
    pretend_installed(tmp_path, "av", "99.0")
    (tmp_path / "av.py").write_text("__version__ = '99.0'\nclass FFmpegError(Exception): pass\n")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    )
    (finding,) = probes.findings(["video"], all_of_them=False)
    assert finding.state == "broken"
    assert "AttributeError: module 'av' has no attribute 'open'" in finding.found
    (asked,) = (row.versions for row in requirements() if row.extra == "video")
    assert finding.remedy == f"pip install --force-reinstall --no-deps 'av{asked}'"


def test_extras_that_take_seconds_are_named_with_the_option_that_tries_them():
    """Exit code 0 would otherwise claim that they work."""
    (finding,) = probes.findings(["train", "openvino", "unknown"], all_of_them=False)
    assert finding.name == "train, openvino"
    assert finding.found == "installed, not tried: featherseg doctor --try-extras"


def test_an_extra_that_lacks_a_package_is_not_tried(monkeypatch):
    found = [Finding(f"extra [{extra}]", "a package", "") for extra in ("train", "video")]
    lacking = [*found, Finding("extra [video]", "av", "not installed", "missing")]
    assert {"train", "video"} <= set(usable_extras(found))
    assert "video" not in usable_extras(lacking)
