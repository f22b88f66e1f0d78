"""`make setup`: the Python of .venv, when it is made anew, torch's source; installs nothing."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PYTHON = """#!/bin/sh
# A stand-in for Python NAME: answers setup.sh, makes a .venv that is a copy of itself.
case "$*" in
    *sys.base_prefix*) echo "NAME in /opt/NAME" ;;
    *version_info*) exit USELESS ;;
    "-m venv"*) rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *torch_source.py*) echo "setup: torch is chosen" >&2 ;;
    *"pip install"*) echo "$@" >>installed ;;
    *) echo "Python NAME" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A folder with setup.sh, the files it reads, and stand-ins for Pythons 3.11.2 and 3.13.0."""
    if os.name != "posix":
        pytest.skip("make and bash are not here")
    for name in (
        "scripts/setup.sh",
        "scripts/torch_source.py",
        "pyproject.toml",
        "constraints.txt",
        "setup.py",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    kernels = tmp_path / "src/featherseg/kernels"
    kernels.mkdir(parents=True)
    (kernels / "a.c").touch()
    (kernels / "a.h").touch()
    for name, useless in (("3.11.2", "0"), ("3.13.0", "0"), ("3.9.1", "1")):
        path = tmp_path / f"python{name}"
        path.write_text(PYTHON.replace("NAME", name).replace("USELESS", useless))
        path.chmod(0o755)
    return tmp_path


def run_setup(checkout, **variables):
    """-> (exit code, what was said)."""
    environment = {"PATH": f"{checkout}/.venv/bin:{os.environ['PATH']}", **variables}
    command = ["bash", "scripts/setup.sh"]
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def installations(checkout):
    """How often the package was installed with what it requires."""
    return sum(" -e " in line for line in (checkout / "installed").read_text().splitlines())


def test_the_python_that_is_named_makes_the_environment(checkout):
    assert "making .venv with Python 3.13.0" in run_setup(checkout, PYTHON="./python3.13.0")[1]
    assert run_setup(checkout, PYTHON="./python3.13.0") == (0, "")
    assert run_setup(checkout) == (0, "")  # what is there stays where none is named
    assert installations(checkout) == 1


def test_an_environment_of_another_python_is_made_anew(checkout):
    run_setup(checkout, PYTHON="./python3.13.0")
    code, told = run_setup(checkout, PYTHON="./python3.11.2")
    assert code == 0
    assert (
        ".venv is of Python 3.13.0 in /opt/3.13.0 "
        "and is made anew with Python 3.11.2 in /opt/3.11.2" in told
    )
    assert installations(checkout) == 2
    assert run_setup(checkout, PYTHON="./python3.11.2") == (0, "")


@pytest.mark.parametrize("name", ["./python3.9.1", "./python4"])
def test_a_named_python_that_is_too_old_or_not_there_is_told(checkout, name):
    code, told = run_setup(checkout, PYTHON=name)
    assert code == 1
    assert f"PYTHON={name} is no Python 3.11 or newer" in told
    assert not (checkout / ".venv").exists()


def test_an_environment_with_cuda_is_made_anew_for_cpu_1_only(checkout):
    run_setup(checkout, PYTHON="./python3.11.2")
    version = checkout / ".venv/lib/python3.11/site-packages/torch/version.py"
    version.parent.mkdir(parents=True)
    version.write_text("cuda: Optional[str] = None\n")
    assert run_setup(checkout, CPU="1") == (0, "")
    version.write_text("cuda: Optional[str] = '13.0'\n")
    assert run_setup(checkout) == (0, "")
    assert "torch's CUDA build" in run_setup(checkout, PYTHON="./python3.11.2", CPU="1")[1]


def test_changed_requirements_are_installed_into_the_environment_that_is_there(checkout):
    run_setup(checkout, PYTHON="./python3.11.2")
    with open(checkout / "constraints.txt", "a") as file:
        file.write("# another line\n")
    code, told = run_setup(checkout)
    assert code == 0
    assert "making" not in told
    assert installations(checkout) == 2


@pytest.fixture
def torch_source():
    spec = importlib.util.spec_from_file_location("torch_source", ROOT / "scripts/torch_source.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def source(torch_source, monkeypatch):
    """scripts/torch_source.py on a Linux without a device, a wheel at hand or a network."""
    monkeypatch.setattr(sys, "platform", "linux")
    for name, answer in (("at_hand", None), ("nvidia_device", False), ("reachable", False)):
        monkeypatch.setattr(torch_source, name, lambda *_, answer=answer: answer)
    return torch_source


@pytest.mark.parametrize(
    ("there", "forced", "index", "told"),
    [
        ({"reachable": True}, False, True, "no NVIDIA device here: torch's CPU build"),
        (
            {},
            False,
            False,
            "cannot be reached: going on with PyPI's torch, which brings CUDA, about 3.2 GB",
        ),
        ({"nvidia_device": True, "reachable": True}, False, False, "an NVIDIA device is here"),
        ({"nvidia_device": True, "reachable": True}, True, True, "CPU=1: torch's CPU build"),
        ({"at_hand": "cpu", "reachable": True}, True, False, "for CPU is at hand"),
        ({"at_hand": "cuda", "reachable": True}, False, False, "for CUDA is at hand"),
        ({"at_hand": "cuda", "reachable": True}, True, True, "CPU=1: torch's CPU build"),
    ],
)
def test_where_torch_is_taken_from(source, monkeypatch, there, forced, index, told):
    for name, answer in there.items():
        monkeypatch.setattr(source, name, lambda *_, answer=answer: answer)
    found, sentence = source.choose("2.13.0", forced)
    assert (found == source.CPU_INDEX) == index
    assert told in sentence


def test_cpu_1_never_ends_in_cuda(source):
    with pytest.raises(
        SystemExit, match="cannot be reached, and pip has no other source of torch's CPU build"
    ):
        source.choose("2.13.0", forced=True)


def test_on_macos_pypi_s_torch_is_taken_without_asking_any_index(source, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert source.choose("2.13.0", forced=True)[0] is None


@pytest.mark.seconds
def test_a_wheel_that_pip_finds_without_an_index_is_at_hand(torch_source, tmp_path, monkeypatch):
    for version, line in (("99.1+cpu", ""), ("99.2", "Requires-Dist: nvidia-cublas\n")):
        with zipfile.ZipFile(tmp_path / f"torch-{version}-py3-none-any.whl", "w") as wheel:
            folder = f"torch-{version}.dist-info"
            wheel.writestr(
                f"{folder}/METADATA",
                f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n{line}",
            )
            wheel.writestr(
                f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{folder}/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv(
        "PIP_CONFIG_FILE", os.devnull
    )  # where a machine may keep newer releases of torch away
    assert [torch_source.at_hand(version) for version in ("99.1", "99.2", "99.3")] == [
        "cpu",
        "cuda",
        None,
    ]
