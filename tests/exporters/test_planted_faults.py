"""The verifier verified: faults planted in exported files are detected and located."""

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from openvino import Core
from support.models.shared_exports import small_graph
from support.models.small_model import FACTS, SmallModel, small_model

from featherseg.exporters import openvino
from featherseg.exporters.job import metadata
from featherseg.exporters.onnx import EXAMPLE, to_onnx
from featherseg.exporters.parity import ParityReport, verify


class Graph:
    """An exported file, to be changed."""

    def __init__(self, content: bytes) -> None:
        self.proto = onnx.load_from_string(content)
        self.nodes = self.proto.graph.node

    def giving(self, tensor: str) -> Any:
        """The node that gives a tensor."""
        return next(node for node in self.nodes if tensor in node.output)

    def change_after(self, tensor: str, op: str, *others: np.ndarray, **attributes: Any) -> None:
        """Let all that read `tensor` read op(tensor, *others) instead, which takes its name."""
        node, before = self.giving(tensor), f"{tensor}, before {op}"
        node.output[:] = [before if name == tensor else name for name in node.output]
        self._add(list(self.nodes).index(node) + 1, op, before, tensor, others, attributes)

    def change_input(
        self, node: Any, index: int, op: str, *others: np.ndarray, **attributes: Any
    ) -> None:
        """Give a node op(x, *others) for its input x."""
        before = node.input[index]
        node.input[index] = f"{before}, for {node.name}"
        self._add(list(self.nodes).index(node), op, before, node.input[index], others, attributes)

    def _add(
        self, place: int, op: str, x: str, y: str, others: tuple[np.ndarray, ...], attributes: Any
    ) -> None:
        names = [f"{y}, {i}" for i in range(len(others))]
        self.proto.graph.initializer.extend(map(numpy_helper.from_array, others, names))
        self.nodes.insert(place, helper.make_node(op, [x, *names], [y], **attributes))

    def set_attribute(self, tensor: str, **attributes: str) -> None:
        """Attributes of the node that gives `tensor`."""
        node = self.giving(tensor)
        for key, value in attributes.items():
            next(
                attribute for attribute in node.attribute if attribute.name == key
            ).s = value.encode()

    def set_weights(
        self, tensor: str, index: int, change: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        """What the node that gives `tensor` multiplies with (index 1) or adds (index 2)."""
        name = self.giving(tensor).input[index]
        held = next(value for value in self.proto.graph.initializer if value.name == name)
        value = numpy_helper.to_array(held)
        held.CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(change(value), dtype=value.dtype), name)
        )

    def set_metadata(self, **values: Any) -> None:
        texts = {prop.key: prop.value for prop in self.proto.metadata_props}
        helper.set_model_props(
            self.proto, texts | {key: json.dumps(value) for key, value in values.items()}
        )


def flipped_in_the_metadata(graph):
    graph.set_metadata(align_corners=True)


def flipped_in_the_graph(graph):
    graph.set_attribute("stage/upsample", coordinate_transformation_mode="align_corners")


def pooling_of_the_examples_size(graph):  # the sum, over the area that the traced image has at 1/8
    pool = graph.giving("stage/context.pool")
    pool.op_type = "ReduceSum"
    graph.change_after(
        "stage/context.pool", "Div", np.float32((EXAMPLE[1] // 8) * (EXAMPLE[2] // 8))
    )


def grid_of_the_examples_size(graph):  # crashes in the runtime, at every other size
    graph.change_after(
        "stage/up", "Add", np.zeros((1, 1, EXAMPLE[1] // 4, EXAMPLE[2] // 4), np.float32)
    )


def batch_norm_epsilon(model):
    model.backbone.stages[1][1].eps = 1e-3


def bgr(graph):
    images = graph.giving("stage/normalise").input[0]
    graph.change_after(graph.giving(images).input[0], "Gather", np.array([2, 1, 0]), axis=1)


def mean_of_bgr(graph):
    graph.set_metadata(mean=SmallModel.mean[::-1])


def unnormalised(graph):
    scaling = graph.giving("stage/normalise")
    graph.set_weights("stage/normalise", 1, np.ones_like)
    scaling.input[0] = graph.giving(scaling.input[0]).input[0]


def normalised_twice(graph):
    mean, std = (np.float32(x).reshape(1, 3, 1, 1) for x in (SmallModel.mean, SmallModel.std))
    graph.change_after("stage/normalise", "Sub", mean)
    graph.change_after("stage/normalise", "Div", std)


def normalised_in_a_graph_of_normalised(graph):
    graph.change_input(
        graph.giving("stage/input"), 0, "Sub", np.float32(SmallModel.mean).reshape(1, 3, 1, 1)
    )


def nearest_between_layers(graph):
    graph.set_attribute("stage/up", mode="nearest")


def nearest_at_the_end(graph):
    graph.set_attribute("stage/upsample", mode="nearest")


def padded_left_and_above(graph):  # pads are the four beginnings, then the four ends
    graph.change_input(
        graph.giving("stage/input"), 1, "Gather", np.array([4, 5, 6, 7, 0, 1, 2, 3]), axis=0
    )


def cropped_one_lower(graph):
    rows = graph.giving("stage/crop")
    graph.change_input(rows, 0, "Pad", np.array([0, 0, 0, 0, 0, 0, 1, 0]), mode="edge")
    graph.change_input(rows, 0, "Slice", np.array([1]), np.array([1 << 40]), np.array([2]))


def least_likely(graph):
    graph.giving(graph.giving("masks").input[0]).op_type = "ArgMin"


def columns_swapped(graph):
    for index in (1, 2):
        graph.set_weights("logits", index, lambda rows: rows[[0, 2, 1, 3, 4]])


def names_swapped(graph):
    graph.set_metadata(classes=["road", "car", "sky", "tree", "pole"])


def stale(graph):
    noise = np.random.default_rng(0)
    graph.set_weights(
        "stage/fuse.1",
        1,
        lambda kernels: kernels + noise.normal(0, 0.02, kernels.shape).astype("f"),
    )


def scale_clipped(tensor):
    """Cut off four fifths of the range by the scale that a quantiser and dequantiser share."""
    return lambda graph: graph.set_weights(
        f"{tensor}_QuantizeLinear_Output", 1, lambda scale: scale / 5
    )


class Fault(NamedTuple):
    """What is planted in which file, and the first stage that can differ."""

    plant: Callable[[Any], None]
    file: str
    where: str


FAULTS = {
    "align_corners flipped": Fault(flipped_in_the_metadata, "logits", "metadata: align_corners"),
    "align_corners flipped inside": Fault(flipped_in_the_graph, "masks", "upsample"),
    "pooling at the example's size": Fault(pooling_of_the_examples_size, "logits", "context.pool"),
    "grid at the example's size": Fault(grid_of_the_examples_size, "logits", "up"),
    "RGB and BGR": Fault(bgr, "masks", "normalise"),
    "RGB and BGR in the mean": Fault(mean_of_bgr, "logits", "metadata: mean"),
    "normalisation missing": Fault(unnormalised, "masks", "normalise"),
    "normalisation twice": Fault(normalised_twice, "masks", "normalise"),
    "normalisation of what is normalised": Fault(
        normalised_in_a_graph_of_normalised, "logits", "input"
    ),
    "nearest for bilinear": Fault(nearest_between_layers, "logits", "up"),
    "nearest for bilinear at the end": Fault(nearest_at_the_end, "masks", "upsample"),
    "pad on the wrong side": Fault(padded_left_and_above, "logits", "input"),
    "crop off by one": Fault(cropped_one_lower, "masks", "crop"),
    "the least likely class": Fault(least_likely, "masks", "masks"),
    "class columns swapped": Fault(columns_swapped, "logits", "classifier"),
    "class names swapped": Fault(names_swapped, "logits", "metadata: classes"),
    "stale weights": Fault(stale, "logits", "fuse.1"),
    "int8 scale clipped": Fault(
        scale_clipped("stage/backbone.stages.1"), "int8", "backbone.stages.1"
    ),
    "int8 scale of the input clipped": Fault(scale_clipped("stage/input"), "int8", "input"),
    "int8 scale of the logits clipped": Fault(scale_clipped("logits"), "int8", "classifier"),
}


class Noise(CalibrationDataReader):
    """Images to calibrate with: not those that SHAPES are filled with."""

    def __init__(self) -> None:
        self.left = [{"images": image.numpy()} for image in images(range(100, 108))]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def images(seeds):
    return [
        torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(seed)) for seed in seeds
    ]


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def files(model, tmp_path_factory) -> dict[str, bytes]:
    """The right files: "logits", "masks", "int8"."""
    folder = tmp_path_factory.mktemp("files")
    logits, masks = small_graph(tmp_path_factory), small_graph(tmp_path_factory, masks=True)
    (folder / "logits.onnx").write_bytes(logits)
    quantize_static(
        folder / "logits.onnx",
        folder / "int8.onnx",
        Noise(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=["Conv"],
    )
    return {"logits": logits, "masks": masks, "int8": (folder / "int8.onnx").read_bytes()}


def check(model, content: bytes, kind: str, folder) -> ParityReport:
    path = folder / "model.onnx"
    path.write_bytes(content)
    if kind == "int8":
        return verify(model, path, facts=FACTS, quantised=True, calibration=images(range(5)))
    return verify(model, path, facts=FACTS)


@pytest.mark.parametrize("kind", ["logits", "masks", "int8"])
def test_a_file_without_a_fault_passes(model, files, kind, tmp_path):
    report = check(model, files[kind], kind, tmp_path)
    assert report.ok
    assert report.first_difference is None


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_seen_and_located(model, files, name, tmp_path):
    fault = FAULTS[name]
    graph = Graph(files[fault.file])
    fault.plant(graph)
    report = check(model, graph.proto.SerializeToString(), fault.file, tmp_path)
    assert not report.ok
    assert report.first_difference == fault.where


@pytest.mark.seconds
@pytest.mark.parametrize(
    "name", ["pooling at the example's size", "nearest for bilinear", "stale weights"]
)
def test_a_planted_fault_is_located_in_an_openvino_file(model, files, name, tmp_path):
    fault = FAULTS[name]
    graph = Graph(files[fault.file])
    fault.plant(graph)
    (tmp_path / "source.onnx").write_bytes(graph.proto.SerializeToString())
    openvino.save(
        Core().read_model(tmp_path / "source.onnx"), tmp_path / "model.xml", metadata(model, FACTS)
    )
    report = verify(model, tmp_path / "model.xml", facts=FACTS)
    assert not report.ok
    assert report.first_difference == fault.where


@pytest.mark.seconds
def test_another_epsilon_of_a_batch_norm_is_seen_and_located(model, tmp_path):
    wrong = deepcopy(model)
    batch_norm_epsilon(wrong)
    report = check(model, to_onnx(wrong, FACTS), "logits", tmp_path)
    assert not report.ok
    assert report.first_difference == "backbone.stages.1"
