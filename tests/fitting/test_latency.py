"""What a candidate takes: the device in words, the process that times a file."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from featherseg.core.errors import RunError
from featherseg.fitting import latency
from featherseg.fitting.latency import FEW, PASSES, here, time_file


def test_the_device_is_told_with_its_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu = SimpleNamespace(name="NVIDIA H200", total_memory=2**37)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: gpu)
    device, threads = here()
    assert device.endswith("NVIDIA H200, NVIDIA H200")
    assert threads == torch.get_num_threads()


@pytest.mark.parametrize(("max_ms", "passes"), [("100", FEW - 1), ("300", PASSES), ("inf", PASSES)])
def test_few_passes_tell_that_a_file_is_far_over_the_limit(
    tmp_path, monkeypatch, capsys, max_ms, passes
):
    now = [0.0]

    class Predictor:
        """Takes 0.5 s for a mask, more for the first."""

        def __init__(self, *given, **how):
            now[0] += 1.0

        def __call__(self, image):
            now[0] += 0.5 if now[0] > 1 else 3.0

    monkeypatch.setattr("featherseg.inference.predictor.Predictor", Predictor)
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    np.save(tmp_path / "image.npy", np.zeros((4, 4, 3), np.uint8))
    monkeypatch.setattr(
        sys, "argv", ["latency", "model.onnx", str(tmp_path / "image.npy"), max_ms, "1"]
    )
    threads = torch.get_num_threads()
    try:
        latency.main()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert json.loads(capsys.readouterr().out)["ms"] == [500.0] * passes


def test_a_process_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "HANGS", 0.01)
    with pytest.raises(
        RunError, match=r"frm-lite0 at 1 as onnx could not be timed: .* not ended after 0\.01 s"
    ):
        time_file(
            tmp_path / "model.onnx", np.zeros((4, 4, 3), np.uint8), ("frm-lite0", 1.0, "onnx")
        )


def test_the_process_takes_the_threads_that_are_told_and_no_file_of_the_folder_we_stand_in(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random.py").write_text("raise ImportError('a file of the user')")
    words, run = [], subprocess.run

    def seen(command, **how):
        words.extend(command)
        return run(command, **how)

    monkeypatch.setattr(latency.subprocess, "run", seen)
    monkeypatch.setattr(latency, "default_threads", lambda: 3)
    with pytest.raises(RunError, match=r"could not be timed: model\.onnx") as refused:
        time_file(Path("model.onnx"), np.zeros((4, 4, 3), np.uint8), ("frm-lite0", 1.0, "onnx"))
    assert words[-1] == str(here()[1]) == "3"
    assert "a file of the user" not in str(refused.value)
