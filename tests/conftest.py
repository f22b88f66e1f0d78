"""Shared fixtures. Real data lies beside the repository, never in it; tests that need it skip visibly elsewhere."""

import gc
import sys
from pathlib import Path

import hypothesis
import pytest

SHARED = Path(__file__).parents[2] / "shared"

hypothesis.settings.register_profile("fixed seeds", derandomize=True)
hypothesis.settings.load_profile("fixed seeds")


gc.disable()  # until all is imported: it would look through the same million objects again and again


def pytest_collection_finish():
    """Let the garbage collector pass over what is imported by now: a fifth of the time of all tests went there."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
    if "featherseg.training.prepare" in sys.modules:
        remember_estimates()


def remember_estimates():
    """Estimate the memory of trainings alike once: it takes two small steps, and hundreds of tests train."""
    from featherseg import models
    from featherseg.training import job, length, memory, prepare

    known, of_train = (
        {},
        {"precision", "optimizer", "momentum", "ema", "accumulate", "devices", "checkpoint_activations"},
    )
    tables = {"model": True, "augment": {"crop"}, "loss": True, "data": {"test_resize"}, "train": of_train}

    def estimate(net, recipe, size, *, own_loss=False):
        if own_loss or recipe.model.name not in models.MODELS:
            return memory.estimate_memory(net, recipe, size, own_loss=own_loss)
        key = (net.classes, len(net.mean), recipe.model_dump_json(include=tables), size)
        key += (memory.available_memory,)  # which a test may have replaced
        if key not in known:
            known[key] = memory.estimate_memory(net, recipe, size)
        return known[key]

    length.TRIAL_SECONDS = 0.0  # three batches tell enough here
    job.estimate_memory = prepare.estimate_memory = estimate


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, papers and reference numbers, `../shared` beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared")
    return SHARED
