"""The .pt2 file: parity of every architecture, and what is refused."""

import pytest
import torch
from support.models.export_job import job_of
from support.models.quick_exports import ONE_OF_EACH
from support.models.three_layers import FACTS, ThreeLayers, three_layers

from featherseg import models
from featherseg.core.errors import ExportError
from featherseg.exporters import pt2 as torch_export
from featherseg.exporters.job import Facts
from featherseg.exporters.parity import perturb, verify


class FixedSize(ThreeLayers):
    def forward(self, images):
        out = super().forward(images)
        return out._replace(logits=out.logits + torch.zeros(40, 56))


class FixedBatch(ThreeLayers):
    def forward(self, images):
        out = super().forward(images)
        return out._replace(
            logits=out.logits.reshape(len(images), 3, *out.logits.shape[2:])
        )  # len gives an int


@pytest.mark.seconds
def test_a_file_gives_its_models_logits_at_sizes_it_was_not_exported_at(tmp_path):
    torch_export.write(job_of(three_layers(), FACTS, tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    report = verify(three_layers(), tmp_path / "model.pt2", facts=FACTS)
    assert report.ok, report


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_architecture_passes_at_sizes_it_was_not_exported_at(name, tmp_path):
    model = perturb(models.build(name, classes=len(FACTS.classes)))
    facts = Facts(name, FACTS.classes, "MIT")
    torch_export.write(job_of(model, facts, tmp_path))
    report = verify(model, tmp_path / "model.pt2", facts=facts)
    assert report.ok, report


@pytest.mark.seconds
def test_a_model_that_enlarges_by_transposed_convolutions_can_be_written(tmp_path):
    class Enlarging(ThreeLayers):
        def __init__(self):
            super().__init__()
            classes = len(FACTS.classes)
            self.enlarge = torch.nn.ConvTranspose2d(classes, classes, 2, stride=2)

        def forward(self, images):
            out = super().forward(images)
            return out._replace(logits=self.enlarge(out.logits))

    torch.manual_seed(0)
    model = Enlarging().eval()
    torch_export.write(job_of(model, FACTS, tmp_path))
    assert verify(model, tmp_path / "model.pt2", facts=FACTS).ok


@pytest.mark.seconds
@pytest.mark.parametrize("model", [FixedSize, FixedBatch])
def test_a_layer_that_fixes_the_size_or_the_batch_is_refused(model, tmp_path):
    with pytest.raises(ExportError, match="any batch, height and width"):
        torch_export.write(job_of(model().eval(), FACTS, tmp_path))
