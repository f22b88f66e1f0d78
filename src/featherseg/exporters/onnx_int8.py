"""onnx-int8: the ONNX graph with int8 convolutions and products, by onnxruntime's static quantisation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.core.errors import require
from featherseg.exporters.int8 import quantise
from featherseg.exporters.job import Job, Quantised
from featherseg.exporters.quiet import quiet

OPERATORS = ["Conv", "MatMul", "Gemm", "Relu", "Clip"]
"""What is quantised, products where one factor is a weight; the rest stays in fp32. Activations are in the list so that
the range behind a convolution is the one that the activation leaves: in front of it, it is many times as wide."""


def write(job: Job) -> Quantised:
    """model.int8.onnx in the job's folder; see `int8.quantise`. Raises MissingExtra, ExportError."""
    package: Any = require("onnx", "export", "ONNX export")
    source = package.load_from_string(job.graph())
    products = _products_of_maps(source.graph)
    path = job.folder / "model.int8.onnx"

    def candidate(layers: Sequence[str], nodes: Sequence[str]) -> Path:
        proto = package.load_from_string(job.graph())  # anew: the quantiser changes it
        _quantise(proto, job, [*nodes, *products], path)
        written = package.load(path)
        _part_from_int8(written.graph, package.helper)
        package.helper.set_model_props(written, {**job.metadata, "kept": json.dumps(list(layers))})
        path.write_bytes(written.SerializeToString())
        return path

    return quantise(job, source.graph, candidate)


def _quantise(proto: Any, job: Job, left: Sequence[str], path: Path) -> None:
    """Write `path`: weights in int8 by output channel, activations in uint8 by tensor, as QuantizeLinear pairs.

    Weights reach to 64 alone: processors with AVX2 or AVX-512 and without VNNI add two products in 16 bits, which clip.
    Those of depthwise convolutions, whose products are not added so, reach to 127.
    `left` are nodes that stay in fp32. Ranges are the least and the greatest value seen in calibration.
    """
    tool: Any = require("onnxruntime.quantization", "export", "int8 for ONNX")
    with quiet("onnxruntime cannot quantise this model", ""):
        tool.quantize_static(
            proto,
            path,
            _Reader(job),
            quant_format=tool.QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
            per_channel=True,
            reduce_range=True,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
            nodes_to_exclude=list(left),
            calibrate_method=tool.CalibrationMethod.MinMax,
            extra_options={
                "CalibMovingAverage": False,
                "TensorQuantOverrides": {
                    name: [{"axis": 0, "reduce_range": False}] for name in _depthwise(proto.graph)
                },
            },
        )


def _part_from_int8(graph: Any, helper: Any) -> None:
    """Put a Clip without bounds, which changes nothing, before each convolution that reads int8 and has a float weight.

    Without it ONNX Runtime, which sees int8 on both sides, makes that weight int8 as well, in one range for all of its
    channels (WeightBiasQuantization, since 1.21).
    """
    int8 = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    weights = {item.name for item in graph.initializer}
    for place, node in reversed(list(enumerate(graph.node))):
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and node.input[0] in int8 and node.input[1] in weights:
            source, node.input[0] = node.input[0], f"{node.input[0]}_for_{node.name}"
            graph.node.insert(place, helper.make_node("Clip", [source], [node.input[0]], name=node.input[0]))


def _products_of_maps(graph: Any) -> list[str]:
    """Products of two activations, as in attention: no weight is in them."""
    weights = {item.name for item in graph.initializer}
    return [n.name for n in graph.node if n.op_type == "MatMul" and not weights.intersection(n.input)]


def _depthwise(graph: Any) -> list[str]:
    """The weights of convolutions each of whose outputs has one input channel."""
    weights = {item.name: item for item in graph.initializer}
    kernels = [node.input[1] for node in graph.node if node.op_type == "Conv" and node.input[1] in weights]
    return [name for name in kernels if weights[name].dims[0] > 1 == weights[name].dims[1]]


class _Reader:
    """The calibration images as onnxruntime asks for them: a dictionary each, then None."""

    def __init__(self, job: Job) -> None:
        self._images = iter(job.calibration)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {"images": image.numpy()}
