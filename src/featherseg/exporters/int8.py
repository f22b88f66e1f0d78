"""Int8 with accuracy control: if the score drops too far, the most sensitive layers stay in fp32.

The first layers always stay in fp32.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from featherseg.core.errors import ExportError, require
from featherseg.core.wording import counted
from featherseg.exporters.job import Job, Quantised
from featherseg.exporters.layer_noise import WEIGHTED, layer_noise

NOISE_IMAGES = 2
"""Number of calibration images used to find the most sensitive layers."""

MOST_KEPT = 0.5
"""Largest share of layers kept in fp32; beyond it the file would be int8 only in name."""


Write = Callable[[Sequence[str], Sequence[str]], Path]
"""Writes a candidate with these layers (module paths) and their graph nodes kept in fp32."""


def quantise(job: Job, graph: Any, write: Write) -> Quantised:
    """Let `write(layers, nodes)` write candidates until one scores at least job.floor.

    Returns the layers kept in fp32, and the score. `graph` is the model's onnx.GraphProto. The
    layers that read the image stay in fp32: with three channels they are little work, and their
    error reaches everything (docs/performance.md). Then the 1, 2, 4, ... layers that harm the
    logits most are added (`layer_noise`). The last candidate stays in the job's folder; without
    job.score it is the first. Raises ExportError if keeping MOST_KEPT of the layers is not enough.
    """
    check_calibration(job)
    nodes = layer_nodes(graph, job.model)
    first = first_layers(graph, nodes)
    others = nodes.keys() - set(first)

    def candidate(kept: Sequence[str]) -> Path:
        return write(kept, [node for path in kept for node in nodes[path]])

    kept = first
    file = candidate(kept)
    if job.score is None:
        return Quantised(tuple(kept))
    miou = job.score(file)
    tried = [(len(kept), miou)]
    worst: list[str] = []
    while not miou >= job.floor:
        worst = worst or [
            path
            for path in layer_noise(job.model, job.calibration[:NOISE_IMAGES])
            if path in others
        ]
        more = max(1, 2 * (len(kept) - len(first)))
        if more > MOST_KEPT * len(worst):
            raise ExportError(_too_far(job, miou, len(kept), len(first) + len(worst)))
        kept = [*first, *worst[:more]]
        miou = job.score(candidate(kept))
        tried.append((len(kept), miou))
    return Quantised(tuple(kept), miou, tuple(tried))


def first_layers(graph: Any, nodes: dict[str, list[str]]) -> list[str]:
    """Return the layers of an onnx.GraphProto that read the image at any size, in execution order.

    A model that works at half resolution and adds details has two. Raises ExportError if there are
    none.
    """
    owner = {name: path for path, names in nodes.items() for name in names}
    images, behind, layers = {item.name for item in graph.input}, set[str](), list[str]()
    for node in graph.node:
        if not behind.isdisjoint(node.input):
            behind.update(node.output)
        elif not images.isdisjoint(node.input) and node.op_type != "Shape":
            if node.name in owner:
                layers.append(owner[node.name])
                behind.update(node.output)
            else:
                images.update(node.output)
    if not layers:
        raise ExportError(
            "int8 is for models with convolutions or linear layers, and none was found in this one."
        )
    return list(dict.fromkeys(layers))


def check_calibration(job: Job) -> None:
    """Raise ExportError if there are no images to calibrate with."""
    if not job.calibration:
        raise ExportError(
            "int8 needs calibration images, which it takes from a run's training data: export a "
            "run, not a bare model."
        )


def layer_nodes(graph: Any, model: nn.Module) -> dict[str, list[str]]:
    """Return module path -> the nodes of an onnx.GraphProto that use its weight.

    Layers that are not in the graph any more are missing. The exporter names a weight after its
    module ("inner.model.decoder.fuse.0.weight"). It transposes and renames the weight of a linear
    layer, which is therefore recognised by its values.
    """
    to_array = require("onnx.numpy_helper", "export", "int8").to_array
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, WEIGHTED)}
    turned = {
        _key(layer.weight.detach().T.numpy()): path
        for path, layer in layers.items()
        if layer.weight.dim() == 2
    }
    named = {f"model.{path}.weight": path for path in layers}
    owner = {}
    for item in graph.initializer:
        path = named.get("model." + item.name.rpartition("model.")[2])
        if path is None and len(item.dims) == 2:
            path = turned.get(_key(to_array(item)))
        if path is not None:
            owner[item.name] = path
    nodes: dict[str, list[str]] = {}
    for node in graph.node:
        for path in {owner[name] for name in node.input if name in owner}:
            nodes.setdefault(path, []).append(node.name)
    return nodes


def _key(values: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    """Return a key that is equal for equal arrays."""
    return values.shape, sha256(np.ascontiguousarray(values).tobytes()).digest()


def _too_far(job: Job, miou: float, kept: int, layers: int) -> str:
    return (
        f"in int8 the model scores {100 * miou:.2f} mIoU even with {kept} of its "
        f"{counted(layers, 'layer')} in fp32; {100 * job.floor:.2f} is the minimum allowed. "
        "Nothing was written. Allow a larger drop with --max-drop, or calibrate with more images "
        "(--calibration)."
    )
