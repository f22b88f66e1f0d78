"""Shared fixtures. Real data lies beside the repository, never in it; tests that need it skip visibly elsewhere."""

import copy
import gc
import os
import sys
from dataclasses import replace
from functools import cache, lru_cache, wraps
from itertools import repeat
from pathlib import Path

import hypothesis
import pytest

import featherseg  # noqa: F401 - before any test imports onnxruntime, whose telemetry it switches off

SHARED = Path(__file__).parents[2] / "shared"

hypothesis.settings.register_profile("fixed seeds", derandomize=True, deadline=None)  # a busy machine fails none
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
    if "typer.testing" in sys.modules:
        remember_command_lines()
    if "torch" in sys.modules:
        leave_shapes_undrawn()


def remember_estimates():
    """Estimate memory and time of trainings alike once: it takes five small steps, and hundreds of tests train."""
    from featherseg import models
    from featherseg.training import job, length, memory, prepare

    known, of_train = (
        {},
        {"precision", "optimizer", "momentum", "ema", "accumulate", "devices", "checkpoint_activations"},
    )
    tables = {"model": True, "augment": {"crop"}, "loss": True, "data": {"test_resize"}, "train": of_train}

    def estimate(model, recipe, size, *, own_loss=False):
        if own_loss or recipe.model.name not in models.MODELS:
            return memory.estimate_memory(model, recipe, size, own_loss=own_loss)
        key = (type(model), model.classes, len(model.mean), recipe.model_dump_json(include=tables), size)
        key += (memory.available_memory,)  # which a test may have replaced
        if key not in known:
            known[key] = memory.estimate_memory(model, recipe, size)
        return known[key]

    def time_batch(model, recipe, batches, class_weights, objects, seconds):
        if objects.loss or not isinstance(batches, repeat) or recipe.model.name not in models.MODELS:
            return timed(model, recipe, batches, class_weights, objects, seconds)
        more = tables | {"teacher": True, "train": of_train | {"batch_size", "clip_norm", "ema_share"}}
        key = (type(model), model.classes, len(model.mean), recipe.model_dump_json(include=more), seconds)
        if key not in known:
            known[key] = timed(model, recipe, batches, class_weights, objects, seconds)
        return known[key]

    length.TRIAL_SECONDS = 0.0  # three batches tell enough here
    timed, length.time_batch = length.time_batch, time_batch
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
    """Let torch's exporter read the source of its 500 ONNX operators once: half of the export of a small model.

    And look for the composite operators of each of its 27 namespaces once, not twice an export: a quarter of the rest.
    """
    from torch._export import utils
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))
    utils._materialize_cpp_cia_ops = cache(utils._materialize_cpp_cia_ops)


def remember_command_lines():
    """Make the parser of the same verbs once: it takes 25 ms, nearly all that a refused call costs."""
    import typer.testing

    make, known = typer.main.get_command, {}

    def get_command(app):
        key = (type(app), app.registered_callback and app.registered_callback.callback)
        key += tuple((command.name, command.callback) for command in app.registered_commands)
        if key not in known:
            known[key] = make(app)
        return known[key]

    typer.main.get_command = typer.testing._get_command = get_command


def leave_shapes_undrawn():
    """Draw no weights on the meta device, which holds none: half of the time in which a model is built there."""
    from torch.nn import init

    def where_there_is_memory(fill):
        return wraps(fill)(lambda tensor, *args, **more: tensor if tensor.is_meta else fill(tensor, *args, **more))

    for name in ("uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "ones_", "zeros_"):
        setattr(init, name, where_there_is_memory(getattr(init, name)))


@pytest.fixture
def light_models(monkeypatch):
    """frm-lite0 and efficientvit-seg-b0 are tiny: what a verb does with a model asks for none of its layers."""
    from support.models.small_training import Tiny, TinyConfig

    from featherseg.costs.cost import cost
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
