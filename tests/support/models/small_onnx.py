"""An .onnx file of one layer, as if it had been exported."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from support.models.file_metadata import METADATA

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1)


def write_onnx(path, **changes):
    """A 1x1 convolution with WEIGHT; `changes` replace metadata, None removes one."""
    shape = ["batch", 3, "height", "width"]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "weight"], ["logits"])],
        "pixelwise",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(
                "logits", TensorProto.FLOAT, ["batch", 2, "height", "width"]
            )
        ],
        [numpy_helper.from_array(WEIGHT, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    values = {key: value for key, value in {**METADATA, **changes}.items() if value is not None}
    helper.set_model_props(model, {key: json.dumps(value) for key, value in values.items()})
    onnx.save(model, path)
    return path
