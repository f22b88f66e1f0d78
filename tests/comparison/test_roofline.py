"""What a machine allows: work counted by hand, and rates that cannot be other than they are."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from featherseg import models
from featherseg.comparison import roofline
from featherseg.comparison.roofline import Limits, Work, measure_limits, work_of
from featherseg.core.types import SegOutput
from featherseg.costs.cost import cost_of

LIMITS = Limits(
    "cpu", 1, {"fp32": {"matmul": 50.0, "conv3x3": 100.0}, "int8": {}}, {"copy": 10.0, "read": 20.0}
)


class TwoLayers(nn.Module):
    """A 3x3 convolution of 3 -> 4 channels and a 1x1 one, 4 -> 2, with a ReLU that fuses away."""

    mean = (0.0, 0.0, 0.0)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.second = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 2, 1, bias=False),
        )

    def forward(self, images: torch.Tensor) -> SegOutput:
        logits = self.second(self.act(self.first(images)))
        return SegOutput(logits, (5, 7), (5, 7), False)


def test_work_is_the_macs_and_what_each_convolution_reads_and_writes():
    work = work_of(TwoLayers(), (5, 7), batch=2)
    pixels = 2 * 5 * 7
    assert work.macs == pixels * (3 * 4 * 9 + 4 * 2)
    weights = (3 * 4 * 9 + 4) + 4 * 2
    assert work.elements == pixels * (3 + 4) + pixels * (4 + 2) + weights
    assert work.intensity("fp32") == pytest.approx(2 * work.macs / (4 * work.elements))
    assert work.intensity("int8") == 4 * work.intensity("fp32")


@pytest.mark.seconds
def test_macs_are_those_of_cost():
    model = models.build("frm-lite0", 5)
    assert work_of(model, (64, 96)).macs == cost_of(model, "frm-lite0", (64, 96)).macs["macs"]


def test_the_limit_is_arithmetic_at_the_best_rate_or_memory_whichever_is_longer():
    busy, idle = Work(macs=10**9, elements=10**3), Work(macs=10**3, elements=10**9)
    assert busy.limit_ms(LIMITS, "fp32") == pytest.approx(2e9 / 100e9 * 1000)
    assert idle.limit_ms(LIMITS, "fp32") == pytest.approx(4e9 / 20e9 * 1000)
    assert busy.limit_ms(LIMITS, "int8") is None
    assert busy.limit_ms(LIMITS, "bf16") is None


def test_measured_limits_are_rates_of_this_machine(monkeypatch):
    monkeypatch.setattr(roofline, "KERNEL", replace(roofline.KERNEL, seconds=0.0))
    monkeypatch.setattr(roofline, "COPIED", {"cpu": 2**18})
    monkeypatch.setattr(roofline, "MATRIX", {"cpu": 64})
    monkeypatch.setattr(roofline, "CONVOLUTION", {"cpu": (1, 8, 16, 16)})
    found = measure_limits(torch.device("cpu"))
    assert found.threads == torch.get_num_threads()
    assert found.peak("fp32") > 0.001
    assert set(found.memory) == {"copy", "triad", "read"}
    assert found.bandwidth == max(found.memory.values())
    assert Limits(**found.as_json()) == found


def test_a_kernel_that_torch_does_not_have_here_is_left_out():
    def missing() -> None:
        raise RuntimeError("not implemented")

    assert roofline._rate(missing, 1, torch.device("cpu")) is None
