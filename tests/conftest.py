"""Shared fixtures; none changes the package unless a test names it.

Real data lies beside the repository, never in it; tests that need it skip visibly elsewhere.
"""

import gc
import os
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest
import torch
from packaging.version import Version
from support.models import quick_work

# Before any test imports onnxruntime, whose telemetry this import switches off.
import featherseg  # noqa: F401

SHARED = Path(__file__).parents[2] / "shared"

hypothesis.settings.register_profile(  # a busy or an emulated machine fails none
    "fixed seeds",
    derandomize=True,
    deadline=None,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
hypothesis.settings.load_profile("fixed seeds")


os.fsync = lambda descriptor: (
    os.fstat(descriptor) and None
)  # what tests write need not outlive a loss of power
# Until all is imported: it would look through the same million objects again and again.
gc.disable()


def pytest_collection_finish():
    """Exclude what is imported by now from garbage collection: it took a fifth of all test time."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="module")
def quick_training():
    """Make equal estimates and equal scenes once: small trainings take a third of the time."""
    with quick_work.quick_training():
        yield


@pytest.fixture(scope="module")
def quick_export():
    """ONNX exports of small models take half of the time: torch reads its operators once."""
    with quick_work.quick_export():
        yield


@pytest.fixture
def light_models(monkeypatch):
    """Make frm-lite0 and efficientvit-seg-b0 tiny: what verbs do with a model needs no layers."""
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


@pytest.fixture
def safe_torch(monkeypatch):
    """Let an older torch read checkpoints of others, which are refused there: CVE-2026-24747."""
    if Version(torch.__version__) < Version("2.10"):
        monkeypatch.setattr(torch, "__version__", "2.10.0")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, papers and reference numbers, `../shared` beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared")
    return SHARED
