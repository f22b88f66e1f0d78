"""An open precision is the device's; a run keeps it, and emulation is reported."""

import pytest
import torch
from support.models.small_training import (
    Killed,
    KilledAt,
    Silent,
    equal_state,
    outcome,
    request,
    trained,
)

from featherseg.core import machine
from featherseg.core.machine import computes_bf16
from featherseg.recipe.reading import parse_recipe, read_recipe, shipped_recipes
from featherseg.runs.run import load_run, write_info
from featherseg.training import job, train

pytestmark = pytest.mark.usefixtures("tiny")

OPEN = ("train.precision=auto", "train.epochs=1", "train.checkpoint_seconds=1e-9")


@pytest.fixture
def able(monkeypatch):
    """Makes of this device one that has instructions for bf16, or has none."""
    return lambda has: monkeypatch.setattr(job, "computes_bf16", lambda device: has)


@pytest.mark.seconds
@pytest.mark.parametrize(("has", "precision"), [(True, "bf16"), (False, "fp32")])
def test_an_open_precision_is_what_the_device_computes_in(tmp_path, able, has, precision):
    able(has)
    run = trained(tmp_path / "run", *OPEN, reporter=(said := Silent()))
    assert run.recipe.train.precision == precision
    assert "train.precision" in run.info.found
    assert [m for m in said.messages if "train.precision" in m] == (
        []
        if has
        else ["trains in fp32, because this cpu has no instructions for bf16 (train.precision)"]
    )
    asked = trained(tmp_path / "asked", *OPEN, f"train.precision={precision}")
    assert "train.precision" not in asked.info.found
    assert equal_state(outcome(run), outcome(asked))


def test_what_is_asked_for_and_emulated_is_said(tmp_path, able):
    able(False)
    run = trained(tmp_path / "run", *OPEN, "train.precision=bf16", reporter=(said := Silent()))
    assert run.recipe.train.precision == "bf16"
    assert [m.partition(":")[0] for m in said.messages if "emulated" in m] == [
        "train.precision = 'bf16' is emulated by this cpu"
    ]


@pytest.mark.seconds
def test_a_resumed_run_keeps_its_precision(tmp_path, able):
    able(True)
    with pytest.raises(Killed):
        train(request(*OPEN), tmp_path / "run", KilledAt(2))
    able(False)
    run = load_run(tmp_path / "run")
    found = [
        key for key in run.info.found if key != "train.precision"
    ]  # as runs have it that recipes gave bf16
    write_info(run.path, run.info.model_copy(update={"found": found}))
    run = trained(tmp_path / "run", *OPEN, resume=True, reporter=(said := Silent()))
    assert run.recipe.train.precision == "bf16"
    assert any("emulated by this cpu" in m for m in said.messages)


def test_no_recipe_of_ours_names_a_precision_that_devices_may_lack():
    for name in shipped_recipes():
        assert parse_recipe(read_recipe(name)).train.precision in ("auto", "fp32"), name


@pytest.mark.parametrize(
    ("flags", "has"), [({}, False), ({"avx2": True}, False), ({"avx512_bf16": True}, True)]
)
def test_a_cpu_computes_bf16_where_it_has_the_instructions(monkeypatch, flags, has):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert computes_bf16(torch.device("cpu")) is has
    assert not computes_bf16(torch.device("mps"))


@pytest.mark.parametrize(("flags", "has"), [(["avx2"], False), (["asimd", "bf16"], True)])
def test_the_system_names_the_instructions_where_torch_does_not(monkeypatch, flags, has):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # torch before 2.11
    monkeypatch.setattr(machine, "processor", lambda: {"flags": flags})
    assert computes_bf16(torch.device("cpu")) is has
