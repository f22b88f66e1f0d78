"""What is required, what is here: read from the metadata by plain Python."""

import tomllib
from email.message import Message
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from featherseg.core.errors import MissingExtra, require
from featherseg.core.installation import (
    CORE,
    import_faults,
    installation,
    requirements,
    satisfies,
    usable_extras,
)

VERSIONS = ("2.9.1", "2.10", "2.10.0", "2.13.0+cpu", "3.0", "0.1.0", "2026.4.1", "10")
SPECIFIERS = (
    ">=2.9",
    ">=2.6,<2.10",
    "==0.1.0",
    "==2.10",
    "!=2.13.0",
    "~=2.9",
    "~=2.9.0",
    "==2.*",
    "!=2.*",
    ">2.10",
    "",
)


@pytest.mark.parametrize("specifier", SPECIFIERS)
def test_versions_satisfy_what_they_satisfy_for_pip(specifier):
    for version in VERSIONS:
        plain = version.partition("+")[0]
        assert satisfies(version, specifier) == SpecifierSet(specifier).contains(plain), version


def test_the_requirements_are_those_of_the_package_with_extras_of_extras_resolved():
    rows = requirements()
    core = {row.name: row for row in rows if row.extra == CORE}
    assert core["pillow"].module == "PIL"
    assert "torch" not in core
    assert {row.name for row in rows if row.extra == "runtime"} == {"onnxruntime"}
    assert {"torch", "onnxruntime", "onnx", "openvino"} <= {
        row.name for row in rows if row.extra == "openvino"
    }
    assert "dev" not in {row.extra for row in rows}
    assert not any(row.name.startswith("featherseg") for row in rows)


@pytest.mark.parametrize(
    "installed",
    [
        "torch==2.9.1",
        "typer==0.16.0",
        "rich==13.9.0",
        "pillow==11.3.0",
        "onnxruntime==1.23.0",
        "numpy==1.26.0",
        "lightning==2.5.0",
    ],
)
def test_an_environment_that_people_have_keeps_its_versions(installed):
    name, version = installed.split("==")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    bounds = [line.specifier for line in map(Requirement, lines) if line.name == name]
    assert bounds
    assert all(version in bound for bound in bounds)


def test_a_package_that_raises_and_one_that_kills_its_process_are_told_from_those_that_import(
    tmp_path, monkeypatch
):
    (tmp_path / "raises_here.py").write_text("raise OSError('no such library')")
    (tmp_path / "dies_here.py").write_text("import os\nos.abort()")
    (tmp_path / "talks_here.py").write_text("print('hello')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    faults, _ = import_faults(
        ["json", "dies_here", "raises_here", "talks_here", "not_there_at_all"]
    )
    assert set(faults) == {"dies_here", "raises_here", "not_there_at_all"}
    assert faults["raises_here"] == "OSError: no such library"
    assert "died" in faults["dies_here"]
    assert "ModuleNotFoundError" in faults["not_there_at_all"]


@pytest.fixture
def on_arm(monkeypatch):
    """Metadata with an extra whose second package is not published for this system."""
    lines = [
        "numpy",
        'pillow; extra == "phone"',
        'no-such-converter>=2; platform_machine == "riscv32" and extra == "phone"',
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    facts = Message()
    facts["Provides-Extra"] = "phone"
    monkeypatch.setattr(metadata, "metadata", lambda name: facts)


@pytest.mark.usefixtures("on_arm")
def test_a_package_that_is_not_published_for_this_system_is_not_offered_for_installation():
    """As LiteRT's converter for ARM Linux."""
    rows = {(row.extra, row.name): row for row in requirements()}
    assert rows["phone", "pillow"].published
    assert not rows["phone", "no-such-converter"].published
    findings = [row for row in installation("json") if row.section == "extra [phone]"]
    assert [(row.name, row.state) for row in findings] == [
        ("pillow", "ok"),
        ("no-such-converter", "missing"),
    ]
    assert findings[1].found.startswith("not published for ")
    assert findings[1].remedy == "export on Linux on x86-64, and copy the file here"
    assert "phone" not in usable_extras(findings)
    with pytest.raises(MissingExtra, match=r"not published for .* copy the file here\.$"):
        require("no_such_converter.inner", "phone", "Phone export")
    with pytest.raises(MissingExtra, match="pip install 'featherseg\\[phone\\]'"):
        require("no_such_module", "phone", "Phone export")
