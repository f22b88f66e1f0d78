"""Shared fixtures. Real data lies beside the repository, never in it; tests that need it skip visibly elsewhere."""

import copy
import gc
import os
import sys
from dataclasses import replace
from functools import cache, lru_cache, wraps
from pathlib import Path

import hypothesis
import pytest

SHARED = Path(__file__).parents[2] / "shared"

hypothesis.settings.register_profile("fixed seeds", derandomize=True)
hypothesis.settings.load_profile("fixed seeds")


os.fsync = lambda descriptor: os.fstat(descriptor) and None  # what tests write need not outlive a loss of power
gc.disable()  # until all is imported: it would look through the same million objects again and again


def pytest_collection_finish():
    """Let the garbage collector pass over what is imported by now: a fifth of the time of all tests went there."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
    if "featherseg.training.prepare" in sys.modules:
        remember_estimates()
    if "featherseg.data.shapes" in sys.modules:
        remember_scenes()
    if "featherseg.exporters.onnx" in sys.modules:
        remember_operators()


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
        key = (type(net), net.classes, len(net.mean), recipe.model_dump_json(include=tables), size)
        key += (memory.available_memory,)  # which a test may have replaced
        if key not in known:
            known[key] = memory.estimate_memory(net, recipe, size)
        return known[key]

    length.TRIAL_SECONDS = 0.0  # three batches tell enough here
    job.estimate_memory = prepare.estimate_memory = estimate


def remember_scenes():
    """Draw a synthetic scene once, not for every test that trains on it: that was half of a small training."""
    from featherseg.data import shapes

    draw, draw_label = shapes.draw_scene, shapes.Shapes.label
    drawn = lru_cache(64)(draw)  # 64 MB
    label_of = lru_cache(256)(lambda split, number: draw_label(shapes.Shapes(split, number + 1), number))
    shapes.draw_scene = wraps(draw)(lambda split, number: copy.deepcopy(drawn(split, number)))
    shapes.Shapes.label = wraps(draw_label)(lambda self, index: label_of(*self._scene(index)).copy())


def remember_operators():
    """Let torch's exporter read the source of its 500 ONNX operators once: half of the export of a small model."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))


@pytest.fixture
def light_models(monkeypatch):
    """frm-lite0 and efficientvit-seg-b0 are tiny: what a verb does with a model asks for none of its layers."""
    from small_training import Tiny, TinyConfig

    from featherseg.counting.cost import cost
    from featherseg.models import MODELS

    cost.cache_clear()
    for name, config in (("frm-lite0", TinyConfig()), ("efficientvit-seg-b0", TinyConfig(channels=24))):
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
