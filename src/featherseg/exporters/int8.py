"""Int8 with accuracy control: all layers but the first ones; where the score falls too far, the worst stay out too."""

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
"""Calibration images that tell which layers are worst."""

MOST_KEPT = 0.5
"""Share of the layers beyond which keeping more is given up: the file would be int8 in name only."""


Write = Callable[[Sequence[str], Sequence[str]], Path]
"""Writes a candidate in which these layers (paths of modules), which are these nodes of the graph, stay out of int8."""


def quantise(job: Job, graph: Any, write: Write) -> Quantised:
    """Let `write(layers, nodes)` write candidates until one scores job.floor or more; -> what was kept, and its score.

    `graph` is the model's onnx.GraphProto. The layers that read the image stay out: with three channels they are
    little of the work, and their error goes through everything (benchmarks/tables). Then the 1, 2, 4, ... layers that
    cost the logits most (`layer_noise`). The last candidate is what stays in the job's folder; without job.score the
    first one. Raises ExportError where leaving out MOST_KEPT of the layers is not enough.
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
        worst = worst or [path for path in layer_noise(job.model, job.calibration[:NOISE_IMAGES]) if path in others]
        more = max(1, 2 * (len(kept) - len(first)))
        if more > MOST_KEPT * len(worst):
            raise ExportError(_too_far(job, miou, len(kept), len(first) + len(worst)))
        kept = [*first, *worst[:more]]
        miou = job.score(candidate(kept))
        tried.append((len(kept), miou))
    return Quantised(tuple(kept), miou, tuple(tried))


def first_layers(graph: Any, nodes: dict[str, list[str]]) -> list[str]:
    """The layers of an onnx.GraphProto that read the image, at whatever size, in the order of the work.

    A model at half of the image's size that adds details has two. Raises ExportError where there is none.
    """
    owner = {name: path for path, names in nodes.items() for name in names}
    images, behind, found = {item.name for item in graph.input}, set[str](), list[str]()
    for node in graph.node:
        if not behind.isdisjoint(node.input):
            behind.update(node.output)
        elif not images.isdisjoint(node.input) and node.op_type != "Shape":
            if node.name in owner:
                found.append(owner[node.name])
                behind.update(node.output)
            else:
                images.update(node.output)
    if not found:
        raise ExportError("int8 is for models with convolutions or linear layers, and none was found in this one.")
    return list(dict.fromkeys(found))


def check_calibration(job: Job) -> None:
    """Raises ExportError where there are no images to calibrate with."""
    if not job.calibration:
        raise ExportError(
            "int8 needs calibration images, which it takes from a run's training data: export a run, not a bare model."
        )


def layer_nodes(graph: Any, model: nn.Module) -> dict[str, list[str]]:
    """The nodes of an onnx.GraphProto that hold a layer's weight, by the path of its module; only of what it still has.

    The exporter names a weight after its module ("inner.model.decoder.fuse.0.weight"). That of a linear layer it
    turns around and names anew: it is known by its values.
    """
    to_array = require("onnx.numpy_helper", "export", "int8").to_array
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, WEIGHTED)}
    turned = {_key(layer.weight.detach().T.numpy()): path for path, layer in layers.items() if layer.weight.dim() == 2}
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
    """What two arrays share that are equal."""
    return values.shape, sha256(np.ascontiguousarray(values).tobytes()).digest()


def _too_far(job: Job, miou: float, kept: int, layers: int) -> str:
    return (
        f"in int8 the model scores {100 * miou:.2f} mIoU even with {kept} of its {counted(layers, 'layer')} left out; "
        f"{100 * job.floor:.2f} is the minimum allowed. Nothing was written. Allow a larger drop with --max-drop, or "
        "calibrate with more images (--calibration)."
    )
