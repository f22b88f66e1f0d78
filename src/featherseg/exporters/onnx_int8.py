"""onnx-int8: the ONNX graph with int8 convolutions and products, by static quantisation."""

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
"""Quantised operations; of products, only those with a weight. The rest stays in fp32.

Activations are listed so that the range of a convolution's output is taken behind its activation:
in front of it, the range is many times as wide.
"""


def write(job: Job) -> Quantised:
    """Write model.int8.onnx into the job's folder; see `int8.quantise`.

    Raises MissingExtra, ExportError.
    """
    package: Any = require("onnx", "export", "ONNX export")
    source = package.load_from_string(job.graph())
    products = _products_of_maps(source.graph)
    path = job.folder / "model.int8.onnx"

    def candidate(layers: Sequence[str], nodes: Sequence[str]) -> Path:
        proto = package.load_from_string(job.graph())  # reloaded, because the quantiser changes it
        _quantise(proto, job, [*nodes, *products], path)
        written = package.load(path)
        _part_from_int8(written.graph, package.helper)
        package.helper.set_model_props(written, {**job.metadata, "kept": json.dumps(list(layers))})
        path.write_bytes(written.SerializeToString())
        return path

    return quantise(job, source.graph, candidate)


def _quantise(proto: Any, job: Job, fp32_nodes: Sequence[str], path: Path) -> None:
    """Write `path` with weights in int8 by output channel, activations in uint8 by tensor.

    The file has QuantizeLinear pairs. `fp32_nodes` stay in fp32. Ranges are the least and the
    greatest value in calibration. Weights use only -64..64: processors with AVX2 or AVX-512 but
    without VNNI add two products in 16 bits, which overflow. Depthwise convolutions add no such
    products; their weights use -127..127.
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
            nodes_to_exclude=list(fp32_nodes),
            calibrate_method=tool.CalibrationMethod.MinMax,
            extra_options={
                "CalibMovingAverage": False,
                "TensorQuantOverrides": {
                    name: [{"axis": 0, "reduce_range": False}] for name in _depthwise(proto.graph)
                },
            },
        )


def _part_from_int8(graph: Any, helper: Any) -> None:
    """Insert a Clip without bounds before each convolution that reads int8 and has a float weight.

    The Clip changes no value. Without it ONNX Runtime, which sees int8 on both sides, makes that
    weight int8 as well, in one range for all of its channels (WeightBiasQuantization, since 1.21).
    """
    int8 = {
        name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output
    }
    weights = {item.name for item in graph.initializer}
    for place, node in reversed(list(enumerate(graph.node))):
        if (
            node.op_type in ("Conv", "ConvTranspose", "Gemm")
            and node.input[0] in int8
            and node.input[1] in weights
        ):
            source, node.input[0] = node.input[0], f"{node.input[0]}_for_{node.name}"
            graph.node.insert(
                place, helper.make_node("Clip", [source], [node.input[0]], name=node.input[0])
            )


def _products_of_maps(graph: Any) -> list[str]:
    """Return the products of two activations, as in attention: they have no weight."""
    weights = {item.name for item in graph.initializer}
    return [
        n.name for n in graph.node if n.op_type == "MatMul" and not weights.intersection(n.input)
    ]


def _depthwise(graph: Any) -> list[str]:
    """Return the weights of convolutions whose outputs have one input channel each."""
    weights = {item.name: item for item in graph.initializer}
    kernels = [
        node.input[1] for node in graph.node if node.op_type == "Conv" and node.input[1] in weights
    ]
    return [name for name in kernels if weights[name].dims[0] > 1 == weights[name].dims[1]]


class _Reader:
    """Yields the calibration images for onnxruntime: one dictionary each, then None."""

    def __init__(self, job: Job) -> None:
        self._images = iter(job.calibration)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {"images": image.numpy()}
