"""What can stand behind the service, and under which name."""

from pathlib import Path

import numpy as np
import pytest
from support.models.color_model import CLASSES, image
from support.models.small_run import small_info
from support.models.three_layers import FACTS, three_layers

from featherseg import models
from featherseg.core.errors import ConfigError, ExportError, RunError
from featherseg.exporters.onnx import to_onnx
from featherseg.inference.predictor import Predictor
from featherseg.runs.run import save_weights, write_info
from featherseg.serving.models import open_models


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder: an untrained panoptic model."""
    folder = tmp_path_factory.mktemp("a") / "yard"
    folder.mkdir()
    write_info(folder, small_info(CLASSES, model="rsp-lite0-panoptic"))
    save_weights(folder, models.build("rsp-lite0-panoptic", len(CLASSES)).state_dict())
    return folder


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """An exported model."""
    path = tmp_path_factory.mktemp("b") / "model.onnx"
    path.write_bytes(to_onnx(three_layers(), FACTS))
    return path


def test_runs_and_files_answer_as_their_predictor_does(run, file):
    for model, path in zip(open_models([run, file], "cpu"), (run, file), strict=True):
        expected = Predictor(path, "cpu")(image())
        np.testing.assert_array_equal(model.predictor(image()).mask, expected.mask)
        assert (model.name, model.licence) == (path.name, "Apache-2.0")
        assert model.classes == expected.classes
        assert model.panoptic == (path == run)


@pytest.mark.seconds
def test_what_a_pixel_takes_is_known_before_the_first_request(run):
    (model,) = open_models([run], "cpu")
    assert "peak_bytes_per_pixel" in vars(
        model.predictor.runtime
    )  # torch imports its compiler for it


def test_names_are_unique(file):
    names = [model.name for model in open_models([file] * 3, "cpu")]
    assert names == ["model.onnx", "model.onnx-2", "model.onnx-3"]


@pytest.mark.seconds
def test_what_cannot_be_served_is_refused_before_anything_is(tmp_path, file):
    masks = tmp_path / "masks.onnx"
    masks.write_bytes(to_onnx(three_layers(), FACTS, masks=True))
    with pytest.raises(ExportError, match="returns masks"):
        open_models([masks], "cpu")
    with pytest.raises(RunError, match="no run folder"):
        open_models([tmp_path / "missing"], "cpu")
    with pytest.raises(ConfigError, match="batch = 0"):
        open_models([file], "cpu", batch=0)
    with pytest.raises(ConfigError, match="too little for an image"):
        open_models([file], "cpu", memory_gb=0.1)
