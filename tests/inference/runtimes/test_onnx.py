"""An .onnx file brings its facts and its logits, or a sentence says why it cannot."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.models.small_onnx import WEIGHT, write_onnx
from torch.testing import assert_close

from featherseg import FeathersegError
from featherseg.exporters.parity import as_tensors
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.runtimes.file_metadata import FORMAT_VERSION
from featherseg.inference.runtimes.onnx import OnnxRuntime


def test_an_onnx_file_brings_its_facts_and_its_logits(tmp_path):
    runtime = open_runtime(write_onnx(tmp_path / "net.onnx"), "cpu")
    assert [(c.name, c.color, c.thing) for c in runtime.classes] == [
        ("road", (128, 64, 128), False),
        ("sky", (70, 130, 180), True),
    ]
    assert (runtime.mean, runtime.std, runtime.channels) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 3)
    assert (runtime.licence, runtime.peak_bytes_per_pixel, runtime.image_size) == (
        "Apache-2.0",
        20.0,
        None,
    )
    assert runtime.test_resize is None
    assert open_runtime(
        write_onnx(tmp_path / "net.onnx", test_resize=[512, 2048]), "cpu"
    ).test_resize == (512, 2048)
    images = torch.randn(2, 3, 70, 33)
    out = as_tensors(runtime(images.numpy()))
    assert_close(
        out.logits,
        torch.nn.functional.conv2d(images, torch.from_numpy(WEIGHT)),
        atol=1e-5,
        rtol=1e-5,
    )
    assert (out.image_size, out.padded_size, out.align_corners) == ((70, 33), (96, 64), True)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"classes": None, "std": None}, "lacks the metadata classes, std"),
        ({"format_version": FORMAT_VERSION + 1}, f"format {FORMAT_VERSION + 1}"),
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
    path.write_bytes(b"\xff\xd8 no model")
    with pytest.raises(FeathersegError, match=r"photo\.onnx is not opened"):
        open_runtime(path, "cpu")
    with pytest.raises(FeathersegError, match=r"none\.onnx does not exist"):
        open_runtime(tmp_path / "none.onnx")


def test_a_graph_that_onnxruntime_cannot_run_is_refused_by_name(tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.node[0].op_type = "Nonsense"
    onnx.save(model, path)
    with pytest.raises(FeathersegError, match=r"net\.onnx cannot be run by onnxruntime"):
        open_runtime(path, "cpu")


def test_it_runs_on_as_many_threads_as_torch(tmp_path):
    session = OnnxRuntime(write_onnx(tmp_path / "net.onnx"))._session
    assert session.get_session_options().intra_op_num_threads == torch.get_num_threads()


def test_weights_in_another_file_are_refused(tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    onnx.save(
        onnx.load(path), path, save_as_external_data=True, location="net.weights", size_threshold=0
    )
    with pytest.raises(FeathersegError, match="a tensor that lies in another file"):
        open_runtime(path, "cpu")


@pytest.mark.parametrize(
    "device", ["tpu", "mps", "cpu:x", "cpu:1", "cuda:x", "cuda:-1", "auto:one", "auto:1"]
)
def test_a_device_that_onnxruntime_does_not_have_is_refused(tmp_path, device):
    with pytest.raises(FeathersegError, match=device):
        open_runtime(write_onnx(tmp_path / "net.onnx"), device)


@pytest.mark.parametrize("where", ["node", "input", "operator"])
def test_names_in_the_file_reach_the_terminal_in_no_way(tmp_path, capfd, where):
    """onnxruntime would log them, as they are, besides raising its error."""
    path, name = write_onnx(tmp_path / "net.onnx"), "\x1b[2J\x1b]0;owned\x07"
    model = onnx.load(path)
    node = model.graph.node[0]
    if where == "node":
        node.name = name  # fails when it runs: the image has other channels than the weight
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = name
        model.graph.initializer[0].CopyFrom(
            numpy_helper.from_array(np.zeros((2, 4, 1, 1), np.float32), "weight")
        )
    elif where == "input":
        node.input[0] = name  # no such value
    else:
        node.op_type = name
    onnx.save(model, path)
    with pytest.raises(FeathersegError, match="cannot be run by onnxruntime") as refused:
        open_runtime(path, "cpu")(torch.zeros(1, 3, 64, 64))
    assert "\x1b" not in str(refused.value)
    assert capfd.readouterr() == ("", "")
