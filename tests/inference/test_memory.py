"""Memory: what is foretold without running is what a run needs."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from featherseg import Predictor, models
from featherseg.core.types import ClassInfo
from featherseg.inference import memory
from featherseg.inference.memory import LiveBytes, peak_bytes, peak_bytes_per_pixel
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.inference.tiling import process_bytes

CLASSES = tuple(ClassInfo(f"c{i}", (i, i, i)) for i in range(3))


class Chain(nn.Module):
    """Three layers of which at most two maps are alive at a time."""

    mean = (0.0, 0.0, 0.0)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 2, 1))

    def forward(self, x):
        return self.layers(x)


def test_a_chain_of_layers_costs_its_two_widest_neighbours_and_the_input():
    assert peak_bytes_per_pixel(Chain()) == 4 * (8 + 16) + 4 * 3  # float32


def test_views_cost_nothing_and_freed_maps_are_given_back():
    with torch.inference_mode(), LiveBytes() as live:
        x = torch.zeros(10, 10)
        y = x.view(100)[:50]
        assert (live.now, live.peak) == (400, 400)
        del x
        assert live.now == 400  # y still holds it
        del y
        assert live.now == 0
        torch.ones(2)
    assert live.peak == 400


@pytest.mark.seconds
def test_nothing_is_computed_and_the_model_is_left_as_it_is():
    model = models.build("frm-lite0", 3).train()
    peak_bytes_per_pixel(model)
    assert model.training
    assert all(p.device.type == "cpu" for p in model.parameters())


@pytest.mark.seconds
def test_the_cost_of_a_pixel_hardly_depends_on_the_size(monkeypatch):
    model = models.build("frm-lite0", 3)
    found = []
    for size in ((256, 256), (1024, 2048)):
        monkeypatch.setattr(memory, "SIZE", size)
        found.append(peak_bytes_per_pixel(model))
    assert abs(found[0] / found[1] - 1) < 0.02


@pytest.mark.seconds
def test_live_bytes_on_real_tensors_are_those_foretold(monkeypatch):
    monkeypatch.setattr(memory, "SIZE", (64, 96))
    model = models.build("frm-lite0", 3).eval()
    images = torch.zeros(1, 3, 64, 96)
    with torch.inference_mode(), LiveBytes() as live:
        model(images)
    assert live.peak / (64 * 96) + 12 == pytest.approx(peak_bytes_per_pixel(model))


@pytest.mark.seconds
def test_the_bound_of_a_small_image_holds_for_larger_ones_and_spares_small_ones_the_measuring():
    runtime = TorchRuntime(models.build("segformer-b0", 3), CLASSES, device="cpu")
    Predictor(runtime)(np.zeros((100, 120, 3), np.uint8))
    assert "peak_bytes_per_pixel" not in vars(runtime)
    for height, width in ((96, 128), (97, 300), (256, 256)):
        area = height * width
        assert peak_bytes(
            runtime, torch.zeros(1, 3, height, width)
        ) <= area * runtime.most_bytes_per_pixel(area)
    assert runtime.peak_bytes_per_pixel == runtime.most_bytes_per_pixel(
        10**9
    )  # what is measured needs no bound


TWELVE_MEGAPIXELS = r"""
import re, sys
from pathlib import Path
import numpy as np, torch
from featherseg import Predictor, models
from featherseg.core.types import ClassInfo
from featherseg.inference.runtimes.pytorch import TorchRuntime

classes = tuple(ClassInfo(f"c{i}", (i, i, i)) for i in range(19))
runtime = TorchRuntime(models.build("frm-lite0", 19), classes, device="cpu")
result = Predictor(runtime, memory_gb=float(sys.argv[1]))(np.zeros((3000, 4000, 3), dtype=np.uint8))
result.overlay(legend=True)
peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]
print(1024 * int(peak), result.how)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="reads /proc: ru_maxrss holds the peak of the parent as well"
)
@pytest.mark.parametrize(
    ("gigabytes", "how"), [(3.4, "whole"), (1.4, "tiles")]
)  # beside the process itself
def test_twelve_megapixels_stay_within_the_memory_that_was_allowed(gigabytes, how):
    gigabytes += process_bytes() / 1e9
    command = [sys.executable, "-c", TWELVE_MEGAPIXELS, str(gigabytes)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    peak, words = done.stdout.split(maxsplit=1)
    assert int(peak) <= gigabytes * 1e9
    assert how in words
