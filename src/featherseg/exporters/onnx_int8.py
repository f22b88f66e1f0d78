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
        package.helper.set_model_props(written, {**job.metadata, "kept": json.dumps(list(layers))})
        path.write_bytes(written.SerializeToString())
        return path

    return quantise(job, source.graph, candidate)


def _quantise(proto: Any, job: Job, left: Sequence[str], path: Path) -> None:
    """Write `path`: weights in int8 by output channel, activations in uint8 by tensor, as QuantizeLinear pairs.

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
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
            nodes_to_exclude=list(left),
            calibrate_method=tool.CalibrationMethod.MinMax,
            extra_options={"CalibMovingAverage": False},
        )


def _products_of_maps(graph: Any) -> list[str]:
    """Products of two activations, as in attention: no weight is in them."""
    weights = {item.name for item in graph.initializer}
    return [n.name for n in graph.node if n.op_type == "MatMul" and not weights.intersection(n.input)]


class _Reader:
    """The calibration images as onnxruntime asks for them: a dictionary each, then None."""

    def __init__(self, job: Job) -> None:
        self._images = iter(job.calibration)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {"images": image.numpy()}
