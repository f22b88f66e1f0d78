"""LiteRT: one file that gives the model's logits at its size, with the facts inside."""

import json
import zipfile

import pytest
import torch
from support.models.export_job import job_of
from support.models.small_model import FACTS, small_model

from featherseg import models
from featherseg.core.errors import ExportError
from featherseg.exporters import litert
from featherseg.exporters.job import Facts
from featherseg.exporters.parity import perturb, verify

pytest.importorskip("litert_torch")
pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # of the converter's own insides, when it is imported first


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The file of a small model, for images of 96 x 128."""
    folder = tmp_path_factory.mktemp("litert")
    litert.write(job_of(small_model(), FACTS, folder))
    return folder / "model.tflite"


def test_one_file_gives_the_models_logits(written):
    assert [file.name for file in written.parent.iterdir()] == ["model.tflite"]
    report = verify(small_model(), written, facts=FACTS)
    assert report.ok, report
    assert {(row.batch, row.height, row.width) for row in report.rows} == {
        (1, 96, 128),
        (3, 96, 128),
    }


def test_the_facts_lie_in_the_archive_at_its_end(written):
    with zipfile.ZipFile(written) as archive:
        assert archive.namelist() == ["featherseg.json"]
        texts = json.loads(archive.read("featherseg.json"))
    assert json.loads(texts["fixed_size"]) == [96, 128]
    assert json.loads(texts["licence"]) == "MIT"


def test_other_weights_are_seen(written):
    other = small_model()
    with torch.no_grad():
        other.classifier.weight.mul_(1.01)
    assert not verify(other, written, facts=FACTS).ok


def test_an_operation_that_is_not_known_is_refused_with_a_sentence(tmp_path):
    model = small_model()
    model.context.forward = lambda x: torch.special.bessel_j0(x)
    with pytest.raises(ExportError, match="litert-torch cannot write this model"):
        litert.write(job_of(model, FACTS, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frm-lite0", "cgrseg-lite0", "rsp-lite0"])
def test_every_system_passes_at_a_size_that_it_pads(name, tmp_path):
    model = perturb(models.build(name, classes=len(FACTS.classes)))
    facts = Facts(name, FACTS.classes, "MIT", image_size=(90, 131))
    litert.write(job_of(model, facts, tmp_path))
    report = verify(model, tmp_path / "model.tflite", facts=facts)
    assert report.ok, report
