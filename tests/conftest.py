"""Shared fixtures. Nothing here changes the package: what is patched is a fixture that a test names.

Real data lies beside the repository, never in it; tests that need it skip visibly elsewhere.
"""

import gc
import os
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest
from support.models import quick_work

import featherseg  # noqa: F401 - before any test imports onnxruntime, whose telemetry it switches off

SHARED = Path(__file__).parents[2] / "shared"

hypothesis.settings.register_profile(
    "fixed seeds", derandomize=True, deadline=None
)  # a busy machine fails none
hypothesis.settings.load_profile("fixed seeds")


os.fsync = lambda descriptor: (
    os.fstat(descriptor) and None
)  # what tests write need not outlive a loss of power
gc.disable()  # until all is imported: it would look through the same million objects again and again


def pytest_collection_finish():
    """Let the garbage collector pass over what is imported by now: a fifth of the time of all tests went there."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="module")
def quick_training():
    """Small trainings take a third of the time: equal estimates and equal synthetic scenes are made once."""
    with quick_work.quick_training():
        yield


@pytest.fixture(scope="module")
def quick_export():
    """ONNX exports of small models take half of the time: torch reads its operators once."""
    with quick_work.quick_export():
        yield


@pytest.fixture
def light_models(monkeypatch):
    """frm-lite0 and efficientvit-seg-b0 are tiny: what a verb does with a model asks for none of its layers."""
    from support.models.small_training import Tiny, TinyConfig

    from featherseg.costs.cost import cost
    from featherseg.models import MODELS

    cost.cache_clear()
    for name, config in (
        ("frm-lite0", TinyConfig()),
        ("efficientvit-seg-b0", TinyConfig(channels=24)),
    ):
        light = replace(MODELS[name], model=lambda _, classes, config=config: Tiny(config, classes))
        monkeypatch.setitem(MODELS, name, light)
    yield
    cost.cache_clear()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, papers and reference numbers, `../shared` beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared")
    return SHARED
