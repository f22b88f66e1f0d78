import pytest
import torch

from featherseg import models
from featherseg.losses import PixelContrast
from featherseg.recipe import TrainTable
from featherseg.training.optimisers import build_optimizer, poly_schedule


def test_groups_hold_every_parameter_once_with_its_own_rate_and_decay():
    net, loss = models.build("frm-lite0", 3), PixelContrast(64, 3)
    optimizer = build_optimizer(net, loss, TrainTable(epochs=1, lr=2.0, backbone_lr=1.0, weight_decay=0.5))
    seen = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(seen) == sorted(id(p) for part in (net, loss) for p in part.parameters())
    backbone = {id(p) for p in net.backbone.parameters()}
    for group in optimizer.param_groups:
        for p in group["params"]:
            assert group["lr"] == (1.0 if id(p) in backbone else 2.0)
            assert group["weight_decay"] == (0.5 if p.ndim > 1 else 0.0)


def test_the_schedule_is_warm_up_times_poly():
    settings = TrainTable(epochs=1, optimizer="sgd", lr=1.0, power=0.9, warmup_steps=4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = poly_schedule(optimizer, settings, steps=10)
    for step in range(10):
        expected = min(1, (step + 1) / 4) * (1 - step / 10) ** 0.9
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        optimizer.step()
        schedule.step()
