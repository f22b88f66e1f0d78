"""What a candidate takes: the device in words, the process that times a file."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from featherseg import models
from featherseg.core.errors import RunError
from featherseg.core.types import ClassInfo
from featherseg.costs import latency as engine
from featherseg.costs.latency import FEW, FIT
from featherseg.fitting import latency
from featherseg.fitting.latency import here, time_file, write_untrained
from featherseg.layers.model import merge_paths


def test_the_device_is_told_with_its_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu = SimpleNamespace(name="NVIDIA H200", total_memory=2**37)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: gpu)
    device, threads = here()
    assert device.endswith("NVIDIA H200, NVIDIA H200")
    assert threads == torch.get_num_threads()


@pytest.mark.parametrize(("max_ms", "passes"), [("100", FEW - 1), ("inf", FIT.least)])
def test_the_process_answers_with_the_times_of_predictor_on_its_threads(
    tmp_path, monkeypatch, capfd, max_ms, passes
):
    now = [0.0]

    class Predictor:
        """Takes 0.5 s for a mask, and prints."""

        def __init__(self, *given, **how):
            os.write(1, b"a library says hello\n")

        def __call__(self, image):
            now[0] += 0.5

    monkeypatch.setattr("featherseg.inference.predictor.Predictor", Predictor)
    clock = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0])
    monkeypatch.setattr(engine, "time", clock)
    np.save(tmp_path / "image.npy", np.zeros((4, 4, 3), np.uint8))
    monkeypatch.setattr(
        sys, "argv", ["latency", "model.onnx", str(tmp_path / "image.npy"), max_ms, "3"]
    )
    threads, stdout = torch.get_num_threads(), os.dup(1)
    try:
        latency.main()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
        os.dup2(stdout, 1)
        os.close(stdout)
    assert json.loads(capfd.readouterr().out)["ms"] == [500.0] * passes


def test_a_process_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "HANGS", 0.01)
    with pytest.raises(
        RunError, match=r"frm-lite0 at 1 as onnx could not be timed: .* not ended after 0\.01 s"
    ):
        time_file(
            tmp_path / "model.onnx", np.zeros((4, 4, 3), np.uint8), ("frm-lite0", 1.0, "onnx")
        )


@pytest.mark.seconds
def test_the_process_takes_the_threads_that_are_told_and_no_file_of_the_folder_we_stand_in(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random.py").write_text("raise ImportError('a file of the user')")
    words, run = [], subprocess.run

    def seen(command, **how):
        words.extend(command)
        return run(command, **how)

    monkeypatch.setattr(engine.subprocess, "run", seen)
    monkeypatch.setattr(latency, "default_threads", lambda: 3)
    with pytest.raises(RunError, match=r"could not be timed: model\.onnx") as refused:
        time_file(Path("model.onnx"), np.zeros((4, 4, 3), np.uint8), ("frm-lite0", 1.0, "onnx"))
    assert words[-1] == str(here()[1]) == "3"
    assert "a file of the user" not in str(refused.value)


@pytest.mark.slow
def test_blocks_of_several_paths_are_timed_as_the_one_layer_that_exports_have(tmp_path):
    classes = (ClassInfo("road", (0, 0, 0)), ClassInfo("car", (1, 1, 1)))
    image = np.zeros((64, 96, 3), np.uint8)
    file = write_untrained(("gcnet-s", 1.0, "onnx"), classes, None, image, (), tmp_path)
    model = models.build("gcnet-s", 2)
    merge_paths(model)
    layers = [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Conv2d)]
    used = [name for name in layers if not name.startswith("aux_heads.")]
    assert sum(node.op_type == "Conv" for node in onnx.load(file).graph.node) == len(used)
