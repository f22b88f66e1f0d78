"""The .pt2 file: parity, and what is refused."""

import pytest
import torch
from three_layers import FACTS, ThreeLayers, three_layers

from featherseg.core.errors import ExportError
from featherseg.export import torch_export
from featherseg.export.job import Job
from featherseg.export.parity import verify


class FixedSize(ThreeLayers):
    def forward(self, images):
        out = super().forward(images)
        return out._replace(logits=out.logits + torch.zeros(40, 56))


def test_a_file_gives_its_networks_logits_at_sizes_it_was_not_exported_at(tmp_path):
    torch_export.write(Job(three_layers(), FACTS, tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    report = verify(three_layers(), tmp_path / "model.pt2", facts=FACTS)
    assert report.ok, report


def test_a_layer_that_fixes_the_size_is_refused(tmp_path):
    with pytest.raises(ExportError, match="any height and width"):
        torch_export.write(Job(FixedSize().eval(), FACTS, tmp_path))
