"""An .onnx file of one layer, as if it had been exported."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from support.models.file_metadata import METADATA

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1)

OBJECTS = {
    "centers": np.array([[0.2, -0.1, 0.3]], np.float32).reshape(1, 3, 1, 1),
    "offsets": np.array([[3, 1, -2], [-1, 2, 4]], np.float32).reshape(2, 3, 1, 1),
}
"""Weights of the further outputs of a panoptic file."""


def write_onnx(path, **changes):
    """1x1 convolutions with WEIGHT, and with OBJECTS if panoptic is among the changes.

    `changes` replace metadata, None removes one.
    """
    weights = {"logits": WEIGHT} | (OBJECTS if changes.get("panoptic") else {})
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", f"{name}.weight"], [name]) for name in weights],
        "pixelwise",
        [_maps("images", 3)],
        [_maps(name, len(weight)) for name, weight in weights.items()],
        [numpy_helper.from_array(weight, f"{name}.weight") for name, weight in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    values = {key: value for key, value in {**METADATA, **changes}.items() if value is not None}
    helper.set_model_props(model, {key: json.dumps(value) for key, value in values.items()})
    onnx.save(model, path)
    return path


def _maps(name, channels):
    shape = ["batch", channels, "height", "width"]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
