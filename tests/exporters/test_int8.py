"""Int8: masks agree, files shrink, first and worst layers stay out, large losses are refused."""

import json
import subprocess
import sys
from types import SimpleNamespace

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from openvino import Core
from support.models.export_job import job_of
from support.models.three_layers import FACTS, ThreeLayers, three_layers
from torch import nn

from featherseg.core.errors import ExportError
from featherseg.exporters import onnx_int8, openvino, openvino_int8
from featherseg.exporters.int8 import first_layers, layer_nodes, quantise
from featherseg.exporters.onnx import to_onnx
from featherseg.inference.runtimes import open_runtime

pytestmark = pytest.mark.usefixtures("quick_export")

WRITERS = {"model.int8.onnx": onnx_int8.write, "model.int8.xml": openvino_int8.write}
IMAGES = [torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(i)) for i in range(4)]
WIDTH = 96  # its weights are the most of the file


@pytest.fixture(scope="module")
def graph():
    content = to_onnx(three_layers(WIDTH), FACTS)
    return lambda: content


def job(folder, graph, **options):
    return job_of(three_layers(WIDTH), FACTS, folder, IMAGES, graph=graph, **options)


@pytest.mark.seconds
@pytest.mark.parametrize("name", WRITERS)
def test_masks_mostly_agree_and_weights_take_a_quarter(tmp_path, graph, name):
    assert WRITERS[name](job(tmp_path, graph)).kept == ("stem",)  # which reads the image
    model, runtime = three_layers(WIDTH), open_runtime(tmp_path / name, "cpu")
    assert runtime.classes == FACTS.classes
    for shape in ((1, 3, 48, 64), (2, 3, 33, 71)):
        images = torch.randn(shape)
        with torch.no_grad():
            expected = model(images).logits
        found = torch.from_numpy(runtime(images.numpy()).logits)
        assert 0 < (found - expected).abs().max() < 0.1 * (expected.max() - expected.min())
        assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.95
    fp32 = sum(p.numel() for p in model.parameters()) * 4
    weights = tmp_path / name.replace(".xml", ".bin")
    assert weights.stat().st_size < 0.5 * fp32


@pytest.mark.seconds
@pytest.mark.parametrize("name", WRITERS)
def test_layers_that_are_kept_compute_as_before(tmp_path, graph, name):
    scores = iter([0.5, 0.6])  # too low with the first layer alone left out
    quantised = WRITERS[name](job(tmp_path, graph, score=lambda file: next(scores), floor=0.6))
    assert (len(quantised.kept), quantised.kept[0]) == (2, "stem")
    assert (quantised.miou, quantised.tried) == (0.6, ((1, 0.5), (2, 0.6)))
    content = (tmp_path / name.replace(".xml", ".bin")).read_bytes()
    found = {
        path
        for path in ("stem", "body.1", "head")
        if three_layers(WIDTH).get_submodule(path).weight.detach().numpy().tobytes() in content
    }
    assert found == set(quantised.kept)


def test_candidates_keep_1_2_4_layers_beside_the_first_until_one_is_good_enough(
    tmp_path, monkeypatch
):
    noisy = {f"layer{i}": float(i) for i in range(20)}
    nodes = {
        name: [f"node of {name}"] for name in noisy if name != "layer1"
    }  # which was computed away
    names = ("pad", "node of layer3", "node of layer0")
    chain = [
        SimpleNamespace(name=name, op_type="any", input=[str(place)], output=[str(place + 1)])
        for place, name in enumerate(names)
    ]
    graph = SimpleNamespace(input=[SimpleNamespace(name="0")], node=chain)
    monkeypatch.setattr("featherseg.exporters.int8.layer_noise", lambda model, images: noisy)
    monkeypatch.setattr("featherseg.exporters.int8.layer_nodes", lambda graph, model: nodes)
    written = []

    def write(layers, kept):
        written.append(list(kept))
        return tmp_path

    found = quantise(
        job(tmp_path, None, score=lambda file: 0.1 * len(written), floor=0.35), graph, write
    )
    assert [len(kept) for kept in written] == [1, 2, 3, 5]
    assert found.kept == ("layer3", "layer0", "layer2", "layer4", "layer5")
    assert written[-1] == [f"node of {path}" for path in found.kept]


class Detailed(ThreeLayers):
    """At half of the image's size, with details from all of it."""

    def __init__(self):
        super().__init__()
        self.detail = nn.Conv2d(3, 3, 3, padding=1, stride=8)

    def forward(self, images):
        out = super().forward(F.interpolate(images, scale_factor=0.5, mode="bilinear"))
        details = F.interpolate(self.detail(images), size=out.logits.shape[2:])
        return out._replace(logits=out.logits + details)


@pytest.mark.seconds
def test_all_layers_that_read_the_image_stay_out_at_whatever_size_they_do(tmp_path):
    model = Detailed().eval()
    assert set(onnx_int8.write(job_of(model, FACTS, tmp_path, IMAGES)).kept) == {"stem", "detail"}


@pytest.mark.parametrize("miou", [0.2, float("nan")])
def test_a_loss_that_no_layer_mends_is_refused(tmp_path, graph, miou):
    proto = onnx.load_from_string(graph())
    with pytest.raises(
        ExportError, match=r"mIoU even with 2 of its 3 layers in fp32; 50\.00 is the minimum"
    ):
        quantise(
            job(tmp_path, None, score=lambda file: miou, floor=0.5),
            proto.graph,
            lambda *kept: tmp_path,
        )


def test_without_labelled_images_the_first_candidate_stays(tmp_path, graph):
    found = quantise(
        job(tmp_path, None), onnx.load_from_string(graph()).graph, lambda *kept: tmp_path
    )
    assert (found.kept, found.miou, found.tried) == (("stem",), None, ())


@pytest.mark.seconds
def test_without_images_int8_is_refused(tmp_path):
    with pytest.raises(ExportError, match="export a run, not a bare model"):
        openvino_int8.write(job_of(three_layers(), FACTS, tmp_path))


def test_the_nodes_of_a_layer_are_found_by_its_weight(graph):
    proto = onnx.load_from_string(graph())
    found = layer_nodes(proto.graph, three_layers(WIDTH))
    kinds = {node.name: node.op_type for node in proto.graph.node}
    assert {path: [kinds[name] for name in names] for path, names in found.items()} == {
        "stem": ["Conv"],
        "body.1": ["Conv"],
        "head": ["Conv"],
    }
    assert len({name for names in found.values() for name in names}) == 3


@pytest.mark.seconds
def test_a_linear_layer_whose_weight_was_turned_around_is_found_too():
    class Linear(ThreeLayers):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(3, 3)

        def forward(self, images):
            out = super().forward(images)
            return out._replace(logits=self.mix(out.logits.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    model = Linear().eval()
    proto = onnx.load_from_string(to_onnx(model, FACTS))
    (name,) = layer_nodes(proto.graph, model)["mix"]
    (node,) = (n for n in proto.graph.node if n.name == name)
    assert node.op_type == "MatMul"


class Scaled(ThreeLayers):
    """A GELU and a layer scale, which exporters write as several operations each."""

    def __init__(self):
        super().__init__()
        self.mix, self.scale = (
            nn.Conv2d(3, 3, 1, bias=False),
            nn.Parameter(torch.tensor([2.0, 3.0, 4.0]).view(3, 1, 1)),
        )

    def forward(self, images):
        out = super().forward(images)
        return out._replace(logits=out.logits + self.scale * self.mix(F.gelu(out.logits)))


@pytest.mark.seconds
def test_what_openvino_fuses_is_fused_before_int8_and_is_known_by_its_old_names(tmp_path):
    model = Scaled().eval()
    fused = openvino_int8.fused(openvino.convert(job_of(model, FACTS, tmp_path)))
    kinds = [operation.get_type_name() for operation in fused.get_ops()]
    assert (kinds.count("Gelu"), kinds.count("Erf"), kinds.count("Convolution")) == (1, 0, 4)
    nodes = layer_nodes(onnx.load_from_string(to_onnx(model, FACTS)).graph, model)
    assert set(nodes) == {"stem", "body.1", "head", "mix"}
    convolutions = [op for op in fused.get_ops() if op.get_type_name() == "Convolution"]
    for names in nodes.values():
        assert sum(bool(openvino_int8.origins(op) & set(names)) for op in convolutions) == 1
    (scaled,) = (op for op in convolutions if openvino_int8.origins(op) & set(nodes["mix"]))
    assert "mul" in scaled.get_friendly_name()


class Windowed(ThreeLayers):
    """The sum over 3x3 windows of a convolution's output, sliced as RSP slices keys and values."""

    def __init__(self):
        super().__init__()
        self.key = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        out = super().forward(images)
        batch, classes, height, width = out.logits.shape
        windows = F.unfold(self.key(out.logits), 3, padding=1).view(
            batch, classes, 9, height, width
        )
        return out._replace(logits=out.logits + windows.sum(2))


@pytest.mark.slow
def test_a_model_that_cuts_windows_out_opens_in_int8(tmp_path):
    torch.manual_seed(0)
    model = Windowed().eval()
    openvino_int8.write(job_of(model, FACTS, tmp_path, IMAGES))
    with torch.no_grad():
        expected = model(IMAGES[0]).logits
    found = open_runtime(tmp_path / "model.int8.xml", "cpu")(IMAGES[0]).logits
    assert (found - expected).abs().max() < 0.1 * (expected.max() - expected.min())
    assert model.key.weight.detach().numpy().tobytes() in (tmp_path / "model.int8.bin").read_bytes()


class Inverted(ThreeLayers):
    """Inverted bottlenecks: what their 1x1 convolutions take is of both signs, or from zero on."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(), *[layer for _ in range(3) for layer in self.bottleneck(16, 64)]
        )

    def bottleneck(self, width, inner):
        depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        return (
            nn.Conv2d(width, inner, 1),
            nn.ReLU6(),
            depthwise,
            nn.ReLU6(),
            nn.Conv2d(inner, width, 1),
        )


@pytest.mark.slow
def test_onnxruntime_leaves_in_float_what_stays_in_float_between_int8(tmp_path, monkeypatch):
    model, scores = Inverted().eval(), iter([0.5, 0.6])
    monkeypatch.setattr(
        "featherseg.exporters.int8.layer_noise", lambda model, images: {"body.3": 0.0, "head": 1.0}
    )
    found = onnx_int8.write(
        job_of(model, FACTS, tmp_path, IMAGES, score=lambda file: next(scores), floor=0.6)
    )
    assert found.kept == ("stem", "body.3")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.int8.onnx", options)
    for path in found.kept:
        weight = model.get_submodule(path).weight.detach().numpy().tobytes()
        assert weight in (tmp_path / "optimised.onnx").read_bytes()

    # And they change nothing else
    with torch.no_grad():
        expected = model(IMAGES[0]).logits
    logits = torch.from_numpy(session.run(None, {"images": IMAGES[0].numpy()})[0])
    assert (logits - expected).abs().max() < 0.05 * (expected.max() - expected.min())


RUN = """
import sys, numpy as np, openvino
model = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_NUM_THREADS": 1})
for height, width in (449, 333), (349, 480), (350, 256), (101, 99):
    model(np.ones((1, 3, height, width), np.float32))
"""


@pytest.mark.slow
def test_zero_is_0_in_int8_so_that_the_file_runs_at_every_size_on_processors_with_amx(tmp_path):
    openvino_int8.write(job_of(Inverted().eval(), FACTS, tmp_path, IMAGES))
    model = Core().read_model(tmp_path / "model.int8.xml")
    ranges = [
        [entry.get_node().get_data().item() for entry in operation.input_values()[1:3]]
        for operation in model.get_ops()
        if operation.get_type_name() == "FakeQuantize"
        and operation.input_value(1).get_shape() in ([], [1, 1, 1, 1])
    ]
    signed = [(low, high) for low, high in ranges if low < 0]
    assert len(ranges) > len(signed) >= 3  # the outputs of three bottlenecks
    assert all(high / -low == pytest.approx(127 / 128) for low, high in signed)
    assert all(low == 0 for low, high in ranges if low >= 0)
    assert (
        subprocess.run(
            [sys.executable, "-c", RUN, tmp_path / "model.int8.xml"], check=False
        ).returncode
        == 0
    )


def test_the_file_tells_what_was_kept(tmp_path, graph):
    scores = iter([0.5, 0.6])
    kept = onnx_int8.write(job(tmp_path, graph, score=lambda file: next(scores), floor=0.6)).kept
    proto = onnx.load(tmp_path / "model.int8.onnx")
    texts = {item.key: item.value for item in proto.metadata_props}
    assert json.loads(texts["kept"]) == list(kept)


@pytest.mark.seconds
def test_every_output_channel_has_steps_of_its_own(tmp_path, graph):
    onnx_int8.write(job(tmp_path, graph))
    openvino_int8.write(job(tmp_path, graph))
    proto = onnx.load(tmp_path / "model.int8.onnx")
    dims = {item.name: list(item.dims) for item in proto.graph.initializer}
    weights = [
        node
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and "weight" in node.input[0]
    ]
    assert sorted(dims[node.input[1]] for node in weights) == [
        [3],
        [WIDTH],
    ]  # the scales; the stem has none
    text = (tmp_path / "model.int8.xml").read_text(encoding="utf-8")
    assert f'shape="{WIDTH}, 1, 1, 1"' in text


def int8_weights(file):
    """The weights of a file that are int8, biases and first layer apart."""
    if file.suffix == ".xml":
        constants = [
            op for op in Core().read_model(file).get_ops() if op.get_type_name() == "Constant"
        ]
        arrays = [op.data for op in constants if op.get_element_type().to_string() == "i8"]
    else:
        arrays = [
            onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer
        ]
    return [array for array in arrays if array.dtype == "int8" and array.ndim == 4]


@pytest.mark.seconds
@pytest.mark.parametrize("name", WRITERS)
def test_two_products_of_weights_and_values_stay_within_16_bits(tmp_path, graph, name):
    WRITERS[name](job(tmp_path, graph))
    weights = int8_weights(tmp_path / name)
    assert len(weights) == 2  # all but the stem's
    for array in weights:
        assert (
            2 * 255 * abs(array.astype(int)).max() < 2**15
        )  # processors without VNNI add two and clip the sum
        assert abs(array.astype(int)).max() > 55  # and no more is given away


def test_depthwise_weights_of_an_onnx_file_keep_their_8_bits(tmp_path):
    model = three_layers(16)
    model.body[1] = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    content = to_onnx(model, FACTS)
    onnx_int8.write(job_of(model, FACTS, tmp_path, IMAGES, graph=lambda: content))
    reach = {
        array.shape: abs(array.astype(int)).max()
        for array in int8_weights(tmp_path / "model.int8.onnx")
    }
    assert reach[16, 1, 3, 3] == 127
    assert reach[3, 16, 1, 1] <= 64


@pytest.mark.seconds
def test_nothing_is_printed(tmp_path, graph, capfd):
    onnx_int8.write(job(tmp_path, graph))
    openvino_int8.write(job(tmp_path, graph))
    openvino.write(job(tmp_path, graph))
    assert capfd.readouterr() == ("", "")


def test_a_model_without_a_layer_for_int8_is_refused_with_a_sentence():
    with pytest.raises(ExportError, match="none was found in this one"):
        first_layers(SimpleNamespace(input=[], node=[SimpleNamespace(name="pool", input=[])]), {})
