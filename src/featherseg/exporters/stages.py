"""Stages: outputs of a model's modules by name, in torch and in a file, to locate a difference.

A stage is named after its module ("backbone.stages.0"). Exported graphs keep it as a tensor named
"stage/backbone.stages.0" that is no output; a runtime that runs the file drops what it does not
need.
"""

from collections.abc import Sequence
from functools import partial
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from featherseg.core.errors import require

PREFIX = "stage/"
QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
"""The operations with which an int8 .onnx file rounds a tensor. OpenVINO has one, FakeQuantize."""
DEPTH = 2
"""Depth of calls at which modules are stages: called by the model, or by a module it calls."""


class Stages:
    """Collects in `values` the outputs of a model's modules by path, in order of execution.

    "input" is the input of the model's first module: the padded images. A module with several
    outputs, or called again, has "path", "path/1", "path/2", ... A tensor has only the name of the
    module that made it; modules that pass it on do not list it again. Models here change no tensor
    in place, so nothing is copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.values: dict[str, Tensor] = {}
        self._depth, self._called_first = 0, False
        self._handles: list[Any] = []

    def clear(self) -> None:
        """Forget the values before the model runs again."""
        self.values, self._depth, self._called_first = {}, 0, False

    def note(self, name: str, value: Tensor) -> None:
        """Add a stage that is no module's output."""
        if value.is_floating_point() and not any(value is known for known in self.values.values()):
            again = sum(key.partition("/")[0] == name for key in self.values)
            self.values[f"{name}/{again}" if again else name] = value

    def __enter__(self) -> Self:
        for path, module in self.model.named_modules():
            if path:
                self._handles.append(module.register_forward_pre_hook(self._called))
                self._handles.append(module.register_forward_hook(partial(self._returned, path)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _called(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not self._called_first:
            self.note("input", inputs[0])
        self._called_first = True
        self._depth += 1

    def _returned(self, path: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._depth -= 1
        if self._depth < DEPTH:
            for value in tree_leaves(output):
                if isinstance(value, Tensor):
                    self.note(path, value)


def tensor_names(file: Path) -> list[str]:
    """Return the tensor names of an .onnx or OpenVINO .xml file, unordered; else none."""
    if file.suffix == ".onnx":
        onnx = require("onnx", "export", f"looking into {file.name}")
        return [name for node in onnx.load(file).graph.node for name in node.output]
    if file.suffix == ".xml":
        openvino = require("openvino", "openvino", f"looking into {file.name}")
        model = openvino.Core().read_model(file)
        return [
            name
            for node in model.get_ops()
            for output in node.outputs()
            for name in output.get_names()
        ]
    return []


def run_tensors(file: Path, images: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the values of these tensors for the input `images`; without those that fail.

    A tensor that an int8 file rounds is read behind the rounding, as the next layer gets it. The
    file is not changed.
    """
    run = _run_onnx if file.suffix == ".onnx" else _run_openvino
    try:
        return run(file, images, names)
    except (
        Exception
    ):  # each runtime raises its own kinds: run the stages one by one, to skip the one that fails
        if len(names) == 1:
            return {}
    values: dict[str, np.ndarray] = {}
    for name in names:
        values |= run_tensors(file, images, [name])
    return values


def _run_onnx(file: Path, images: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    onnx: Any = require("onnx", "export", f"looking into {file.name}")
    ort: Any = require("onnxruntime", "export", f"looking into {file.name}")
    proto = onnx.load(file)
    del proto.graph.output[:]
    rounded = {
        node.input[0]: node.output[0] for node in proto.graph.node if node.op_type in QUANTISERS
    }
    tapped = [rounded.get(rounded.get(name, ""), name) for name in names]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tapped)
    _drop_what_comes_after(proto.graph)
    options = ort.SessionOptions()
    options.log_severity_level = 4  # failures are expected here
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: images}), strict=True))


def _drop_what_comes_after(graph: Any) -> None:
    """Keep only the nodes that the outputs need: a runtime would also run others, and may fail."""
    needed, kept = {output.name for output in graph.output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(
                node.input,
                *(inner.input for attribute in node.attribute for inner in attribute.g.node),
            )
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))


def _run_openvino(file: Path, images: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    openvino: Any = require("openvino", "openvino", f"looking into {file.name}")
    core = openvino.Core()
    model = core.read_model(file)
    outputs = [output for node in model.get_ops() for output in node.outputs()]
    by_name = {name: output for output in outputs for name in output.get_names()}
    tapped = openvino.Model(
        [_behind_rounding(by_name[name]) for name in names], model.get_parameters()
    )
    results = core.compile_model(tapped, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([images])
    return {name: results[i] for i, name in enumerate(names)}


def _behind_rounding(output: Any) -> Any:
    takers = [taker for taker in output.get_target_inputs() if taker.get_index() == 0]
    rounded = [
        taker.get_node() for taker in takers if taker.get_node().get_type_name() == "FakeQuantize"
    ]
    return rounded[0].output(0) if rounded else output


def signal_to_noise_db(actual: Tensor, expected: Tensor) -> float:
    """Return 10 log10(power of `expected` / power of the error); inf without error, nan for nan."""
    noise = (actual.double() - expected.double()).square().sum()
    return (
        (10 * torch.log10(expected.double().square().sum() / noise)).item() if noise != 0 else inf
    )


def relative_error(actual: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return (largest error, its share of the range, maximum - minimum, of `expected`)."""
    error = (actual - expected).abs().max().item()
    spread = (expected.max() - expected.min()).item()
    return error, error / spread if spread > 0 else (0.0 if error == 0 else inf)
