"""Work that hundreds of tests repeat, done once: estimates of trainings, scenes, ONNX operators."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from itertools import repeat
from typing import Any

import pytest

ESTIMATES: dict[tuple, Any] = {}
"""Memory and seconds of a step by what they depend on, for all tests of this process."""


@contextmanager
def quick_training() -> Iterator[None]:
    """Estimate equal trainings once, from three batches, and draw a synthetic scene once."""
    from featherseg import models
    from featherseg.data import shapes
    from featherseg.training import job, memory, timing

    switches = {"precision", "optimizer", "momentum", "ema", "accumulate", "devices"}
    switches |= {"checkpoint_activations"}
    tables = {"model": True, "augment": {"crop"}, "loss": True, "data": {"test_resize"}}
    tables |= {"train": switches}

    def estimate_memory(model, recipe, size, *, own_loss=False):
        if own_loss or recipe.model.name not in models.MODELS:
            return memory.estimate_memory(model, recipe, size, own_loss=own_loss)
        key = (*kind(model), recipe.model_dump_json(include=tables), size)
        key += (memory.available_memory,)  # a test may have replaced it
        if key not in ESTIMATES:
            ESTIMATES[key] = memory.estimate_memory(model, recipe, size)
        return ESTIMATES[key]

    time_batch = timing.time_batch

    def time_batch_once(model, recipe, batches, *given):
        _, objects, seconds = given  # after the class weights
        known = recipe.model.name in models.MODELS and not objects.loss
        if not known or not isinstance(batches, repeat):
            return time_batch(model, recipe, batches, *given)
        more = tables | {"train": switches | {"batch_size", "clip_norm", "ema_share"}}
        key = (*kind(model), recipe.model_dump_json(include=more), seconds)
        if key not in ESTIMATES:
            ESTIMATES[key] = time_batch(model, recipe, batches, *given)
        return ESTIMATES[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(timing, "TRIAL_SECONDS", 0.0)
        patched.setattr(timing, "time_batch", time_batch_once)
        patched.setattr(job, "estimate_memory", estimate_memory)
        scene, label = drawn_once()
        patched.setattr(shapes, "draw_scene", lambda *which: copy.deepcopy(scene(*which)))
        own_label = lambda self, index: label(*self._scene(index)).copy()  # noqa: E731
        patched.setattr(shapes.Shapes, "label", own_label)
        yield


def kind(model) -> tuple:
    """What the estimates depend on beside the recipe."""
    return type(model), model.classes, len(model.mean)


@cache
def drawn_once():
    """Functions that draw a scene, and its label, by split and number, and keep 64 MB of them."""
    from featherseg.data import shapes

    draw_label = shapes.Shapes.label

    def label(split, number):
        return draw_label(shapes.Shapes(split, number + 1), number)

    return lru_cache(64)(shapes.draw_scene), lru_cache(256)(label)


@contextmanager
def quick_export() -> Iterator[None]:
    """Let torch's exporter read the source of its 500 ONNX operators once."""
    from torch._export import utils
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patched:
        from_torchlib, composite_operators = operators_once()
        patched.setattr(ONNXRegistry, "from_torchlib", staticmethod(from_torchlib))
        patched.setattr(utils, "_materialize_cpp_cia_ops", composite_operators)
        yield


@cache
def operators_once():
    """Look up torch's ONNX operators, and the composite ones of a namespace, only once."""
    from torch._export import utils
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    return cache(ONNXRegistry.from_torchlib), cache(utils._materialize_cpp_cia_ops)
