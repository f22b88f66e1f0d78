"""Stages: what a model's modules give, by name, in torch and inside an exported file, so that a fault can be located.

A stage is named after the module that gives it ("backbone.stages.0"); exported graphs keep it as a tensor named
"stage/backbone.stages.0", which is no output: a runtime that runs the file drops what it does not need.
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
"""How an int8 .onnx file rounds a tensor: the one after the other. OpenVINO has one operation, FakeQuantize."""
DEPTH = 2
"""A module is a stage where it is called by the model, or by a module that the model calls."""


class Stages:
    """While it is entered, `values` takes what the modules of a model give, by path, in order of execution.

    "input" is what the model's first module is given: the images, padded. A module that gives several maps, or is
    called again, has "path", "path/1", "path/2", ... A tensor has one name, that of the module that made it: what a
    module merely passes on is not listed again. Models here change no tensor in place, so nothing is copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.values: dict[str, Tensor] = {}
        self._depth, self._called_first = 0, False
        self._handles: list[Any] = []

    def clear(self) -> None:
        """Forget what was noted, before the model runs again."""
        self.values, self._depth, self._called_first = {}, 0, False

    def note(self, name: str, value: Tensor) -> None:
        """A stage that no module gives."""
        if value.is_floating_point() and not any(value is known for known in self.values.values()):
            again = sum(key.partition("/")[0] == name for key in self.values)
            self.values[f"{name}/{again}" if again else name] = value

    def __enter__(self) -> Self:
        for path, module in self.model.named_modules():
            if path:
                self._handles.append(module.register_forward_pre_hook(self._called))
                self._handles.append(module.register_forward_hook(partial(self._returned, path)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
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
    """What the tensors of an .onnx or an OpenVINO .xml file are called, in no order; none of a file of another kind."""
    if file.suffix == ".onnx":
        onnx = require("onnx", "export", f"looking into {file.name}")
        return [name for node in onnx.load(file).graph.node for name in node.output]
    if file.suffix == ".xml":
        openvino = require("openvino", "openvino", f"looking into {file.name}")
        model = openvino.Core().read_model(file)
        return [name for node in model.get_ops() for output in node.outputs() for name in output.get_names()]
    return []


def run_tensors(file: Path, images: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """What those tensors of a file are for its input `images`; -> only those that could be computed, if not all can.

    A tensor that a file of int8 rounds is taken as the next layer gets it: behind the rounding. The file is left as it
    is.
    """
    run = _run_onnx if file.suffix == ".onnx" else _run_openvino
    try:
        return run(file, images, names)
    except Exception:  # a runtime that fails inside one stage (each raises its own kinds): the others, one at a time
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
    rounded = {node.input[0]: node.output[0] for node in proto.graph.node if node.op_type in QUANTISERS}
    tapped = [rounded.get(rounded.get(name, ""), name) for name in names]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tapped)
    _drop_what_comes_after(proto.graph)
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what it fails at is what is looked for
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: images}), strict=True))


def _drop_what_comes_after(graph: Any) -> None:
    """Leave the nodes that the outputs need: a runtime would run, and could fail in, the others as well."""
    needed, kept = {output.name for output in graph.output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input, *(inner.input for attribute in node.attribute for inner in attribute.g.node))
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))


def _run_openvino(file: Path, images: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    openvino: Any = require("openvino", "openvino", f"looking into {file.name}")
    core = openvino.Core()
    model = core.read_model(file)
    outputs = [output for node in model.get_ops() for output in node.outputs()]
    by_name = {name: output for output in outputs for name in output.get_names()}
    tapped = openvino.Model([_behind_rounding(by_name[name]) for name in names], model.get_parameters())
    found = core.compile_model(tapped, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([images])
    return {name: found[i] for i, name in enumerate(names)}


def _behind_rounding(output: Any) -> Any:
    takers = [taker for taker in output.get_target_inputs() if taker.get_index() == 0]
    rounded = [taker.get_node() for taker in takers if taker.get_node().get_type_name() == "FakeQuantize"]
    return rounded[0].output(0) if rounded else output


def signal_to_noise_db(found: Tensor, expected: Tensor) -> float:
    """10 log10 of the power of `expected` over that of the error; infinite without error, nan where `found` has one."""
    noise = (found.double() - expected.double()).square().sum()
    return (10 * torch.log10(expected.double().square().sum() / noise)).item() if noise != 0 else inf


def relative_error(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """(largest error, its share of the range, maximum - minimum, of `expected`)."""
    error = (found - expected).abs().max().item()
    spread = (expected.max() - expected.min()).item()
    return error, error / spread if spread > 0 else (0.0 if error == 0 else inf)
