"""The gate on licences refuses what it should, and sees every package that an extra brings."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "supply_chain.py"


@pytest.fixture(scope="module")
def gate():
    spec = importlib.util.spec_from_file_location("supply_chain", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "licence",
    [
        "GPL-3.0-only",
        "AGPL-3.0-or-later",
        "GNU General Public License v3 (GPLv3)",
        "GNU Affero General Public License v3",
    ],
)
def test_gpl_and_agpl_are_refused(gate, monkeypatch, licence):
    monkeypatch.setattr(gate, "licence", lambda name: licence)
    assert (
        gate.refused("thing")
        == f"thing: {licence}. Nothing under the GPL or AGPL in core, train, export or serve."
    )


@pytest.mark.parametrize(
    "licence",
    ["MIT", "LGPL-2.1-only", "GNU Lesser General Public License v3 (LGPLv3)", "GPL-2.0 OR MIT"],
)
def test_others_pass(gate, monkeypatch, licence):
    monkeypatch.setattr(gate, "licence", lambda name: licence)
    assert gate.refused("thing") is None


@pytest.mark.parametrize("licence", ["", "UNKNOWN"])
def test_a_package_that_states_no_licence_is_refused(gate, monkeypatch, licence):
    monkeypatch.setattr(gate, "licence", lambda name: licence)
    assert "name no licence" in gate.refused("thing")


def test_what_torch_s_cuda_build_brings_passes_and_is_named_with_its_terms(gate, monkeypatch):
    said = {
        "cuda-toolkit": "",
        "nvidia-cublas": "LicenseRef-NVIDIA-Proprietary",
        "nvidia-nccl-cu13": "Proprietary",
    }
    monkeypatch.setattr(gate, "licence", lambda name: said.get(name, "MIT"))
    assert [gate.refused(name) for name in said] == [None] * 3
    head, *terms = gate.proprietary([*said, "numpy"])
    assert head.startswith("proprietary: 3 packages")
    assert [line.partition(":")[0].strip() for line in terms] == list(said)
    assert gate.proprietary(["numpy", "torch"]) == []


@pytest.mark.parametrize(
    "licence", ["LicenseRef-NVIDIA-Proprietary", "Other/Proprietary License", "Some EULA"]
)
def test_anything_else_that_is_proprietary_is_refused(gate, monkeypatch, licence):
    monkeypatch.setattr(gate, "licence", lambda name: licence)
    assert f"nvidia-tensorrt: {licence}. Nothing proprietary" in gate.refused("nvidia-tensorrt")


def test_nvidia_s_packages_are_not_excused_from_the_gpl(gate, monkeypatch):
    monkeypatch.setattr(gate, "licence", lambda name: "AGPL-3.0-only")
    assert "GPL" in gate.refused("nvidia-cublas")


@pytest.mark.seconds
def test_what_an_extra_brings_is_seen_and_what_another_brings_is_not(gate):
    # pydantic needs typing-extensions, torch sympy, and starlette anyio
    assert {"pillow", "typing-extensions"} <= gate.needed(("",))
    assert not {"torch", "starlette"} & gate.needed(("",))
    assert {"starlette", "anyio"} <= gate.needed(("", "serve"))
    assert {"torch", "sympy"} <= gate.needed(("", "train")) & gate.needed(gate.GATED)
    assert "av" not in gate.needed(gate.GATED)


def test_nothing_that_is_needed_here_is_refused(gate):
    assert [
        gate.refused(name) for name in sorted(gate.needed(gate.GATED)) if gate.refused(name)
    ] == []
