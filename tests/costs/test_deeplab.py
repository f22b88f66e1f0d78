import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from featherseg import models
from featherseg.costs.cost import cost
from featherseg.costs.deeplab import beside_deeplabv3, deeplabs


@pytest.mark.slow
def test_every_deeplabv3_is_counted_at_the_other_model_s_image_and_classes():
    other = cost("frm-lite0", (97, 131), 5)
    rows = {row.name: row for row in beside_deeplabv3(other)}
    assert list(rows) == list(deeplabs())
    for name in ("deeplabv3-lite0", "deeplabv3-r50-mmseg"):
        with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
            network, options = deeplabs()[name]
            model = models.build(network, 5, options=options).eval()
            model(torch.empty(1, 3, 97, 131))
        row, macs = (
            rows[name],
            counter.get_total_flops() // 2,
        )  # it counts a multiply-accumulate as two
        assert (row.params, row.macs) == (sum(p.numel() for p in model.parameters()), macs)
        assert row.ratio == pytest.approx(other.macs["macs"] / macs)
