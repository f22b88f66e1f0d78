"""Stages: module outputs by name and in order, which do not enlarge an exported graph."""

import onnx
import pytest
import torch
from support.models.shared_exports import small_graph
from support.models.small_model import small_model
from torch import nn

from featherseg.exporters.stages import (
    PREFIX,
    Stages,
    run_tensors,
    signal_to_noise_db,
    tensor_names,
)

ORDER = (
    "input",
    "backbone.stages.0",
    "backbone.stages.1",
    "backbone.stages.2",
    "context.pool",
    "context.conv",
    "context",
    "up",
    "fuse.0",
    "fuse.1",
    "fuse.2",
    "classifier",
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("stages") / "model.onnx"
    path.write_bytes(small_graph(tmp_path_factory))
    return path


def test_stages_are_noted_in_the_order_of_execution():
    model = small_model()
    with torch.no_grad(), Stages(model) as stages:
        out = model(torch.randn(1, 3, 33, 35))
    assert tuple(stages.values) == ORDER
    assert stages.values["input"].shape == (1, 3, 40, 40)
    assert stages.values["classifier"] is out.logits


def test_a_module_that_is_called_again_has_a_number_and_one_that_passes_on_has_no_stage():
    twice = nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 2), twice, nn.Identity(), nn.Dropout(), twice).eval()
    with Stages(model) as stages:
        model(torch.randn(1, 2))
    assert list(stages.values) == ["input", "0", "1", "1/1"]


def test_no_hook_stays():
    model = small_model()
    with Stages(model) as stages:
        model(torch.randn(1, 3, 8, 8))
    stages.clear()
    model(torch.randn(1, 3, 8, 8))
    assert stages.values == {}


def test_a_file_names_its_stages_and_holds_nothing_for_them(file):
    graph = onnx.load(file).graph
    assert [output.name for output in graph.output] == ["logits"]
    named = [name.removeprefix(PREFIX) for name in tensor_names(file) if name.startswith(PREFIX)]
    assert named == [
        stage for stage in ORDER if stage not in ("fuse.0", "classifier")
    ]  # folded; called "logits"
    read = {name for node in graph.node for name in node.input}
    assert all(PREFIX + stage in read for stage in named)
    assert not {"Identity", "BatchNormalization"} & {node.op_type for node in graph.node}


def test_tensors_of_a_file_are_those_of_its_model(file):
    model, images = small_model(), torch.randn(2, 3, 41, 30)
    with torch.no_grad(), Stages(model) as stages:
        model(images)
    found = run_tensors(file, images.numpy(), ["stage/context", "stage/input"])
    assert list(found) == ["stage/context", "stage/input"]
    for name, value in found.items():
        assert (
            signal_to_noise_db(torch.from_numpy(value), stages.values[name.removeprefix(PREFIX)])
            > 100
        )


def test_a_decibel_is_a_tenth_of_a_power_of_ten():
    signal = torch.full((10,), 2.0)
    assert signal_to_noise_db(signal + 0.2, signal) == pytest.approx(20, abs=1e-5)
    assert signal_to_noise_db(signal, signal) == float("inf")
    assert not signal_to_noise_db(signal * float("nan"), signal) >= 0
