"""Runtimes: a torch network and an .onnx file answer alike, and say in a sentence why they cannot."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.testing import assert_close

from featherseg import FeathersegError, models
from featherseg.inference.runtimes import ONNX_FORMAT_VERSION, OnnxRuntime, TorchRuntime, open_runtime

METADATA = {
    "format_version": ONNX_FORMAT_VERSION,
    "model": "pixelwise",
    "classes": ["road", "sky"],
    "colors": [[128, 64, 128], [70, 130, 180]],
    "things": [False, True],
    "mean": [1.0, 2.0, 3.0],
    "std": [4.0, 5.0, 6.0],
    "channels": 3,
    "size_divisor": 32,
    "minimum_size": 64,
    "align_corners": True,
    "licence": "Apache-2.0",
    "peak_bytes_per_pixel": 20.0,
}
WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1)


def write_onnx(path, **changes):
    """A 1x1 convolution with WEIGHT; `changes` replace metadata, None removes one."""
    shape = ["batch", 3, "height", "width"]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "weight"], ["logits"])],
        "pixelwise",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2, "height", "width"])],
        [numpy_helper.from_array(WEIGHT, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    values = {key: value for key, value in {**METADATA, **changes}.items() if value is not None}
    helper.set_model_props(model, {key: json.dumps(value) for key, value in values.items()})
    onnx.save(model, path)
    return path


def test_the_network_given_is_left_as_it_is(classes):
    model = models.build("frm-lite0", 3).to(torch.bfloat16).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    runtime = TorchRuntime(model, classes, device="cpu")
    runtime(torch.randn(1, 3, 64, 64))
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert {p.dtype for p in runtime.model.parameters()} == {torch.float32}


def test_a_torch_runtime_gives_the_networks_logits_in_fp32_whatever_autocast_says(classes):
    torch.manual_seed(0)
    model = models.build("frm-lite0", 3).eval()
    images = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        expected = model(images).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = TorchRuntime(model, classes, device="cpu")(images)
    assert found.logits.dtype == torch.float32
    assert not found.logits.requires_grad
    assert_close(found.logits, expected, atol=1e-4, rtol=1e-4)


def test_running_again_gives_the_same_bits(classes):
    torch.manual_seed(0)
    model, images = models.build("frm-lite0", 3), torch.randn(1, 3, 64, 96)
    first, second = (TorchRuntime(model, classes, device="cpu")(images).logits for _ in range(2))
    assert torch.equal(first, second)


def test_an_onnx_file_brings_its_facts_and_its_logits(tmp_path):
    runtime = open_runtime(write_onnx(tmp_path / "net.onnx"), "cpu")
    assert [(c.name, c.color, c.thing) for c in runtime.classes] == [
        ("road", (128, 64, 128), False),
        ("sky", (70, 130, 180), True),
    ]
    assert (runtime.mean, runtime.std, runtime.channels) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 3)
    assert (runtime.licence, runtime.peak_bytes_per_pixel, runtime.image_size) == ("Apache-2.0", 20.0, None)
    assert runtime.test_fit is None
    assert open_runtime(write_onnx(tmp_path / "net.onnx", test_fit=[512, 2048]), "cpu").test_fit == (512, 2048)
    images = torch.randn(2, 3, 70, 33)
    out = runtime(images)
    assert_close(out.logits, torch.nn.functional.conv2d(images, torch.from_numpy(WEIGHT)), atol=1e-5, rtol=1e-5)
    assert (out.image_size, out.padded_size, out.align_corners) == ((70, 33), (96, 64), True)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"classes": None, "std": None}, "lacks the metadata classes, std"),
        ({"format_version": ONNX_FORMAT_VERSION + 1}, "format 2"),
    ],
)
def test_an_onnx_file_of_others_or_of_later_is_refused(tmp_path, changes, named):
    with pytest.raises(FeathersegError, match=named):
        OnnxRuntime(write_onnx(tmp_path / "net.onnx", **changes))


def test_metadata_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(FeathersegError, match=r"net\.onnx"):
        OnnxRuntime(write_onnx(tmp_path / "net.onnx", colors=[[1, 2, 3]]))


def test_what_is_no_onnx_file_is_refused_by_name(tmp_path):
    path = tmp_path / "photo.onnx"
    path.write_bytes(b"\xff\xd8 no network")
    with pytest.raises(FeathersegError, match=r"photo\.onnx cannot be run"):
        open_runtime(path, "cpu")
    with pytest.raises(FeathersegError, match=r"none\.onnx does not exist"):
        open_runtime(tmp_path / "none.onnx")


@pytest.mark.parametrize("device", ["tpu", "mps"])
def test_a_device_that_onnxruntime_does_not_have_is_refused(tmp_path, device):
    with pytest.raises(FeathersegError, match=device):
        open_runtime(write_onnx(tmp_path / "net.onnx"), device)


def test_a_run_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(FeathersegError, match="nowhere"):
        open_runtime(tmp_path / "nowhere")
