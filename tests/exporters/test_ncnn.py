"""ncnn: parity at the file's size, three files that belong together, messages on missing layers."""

import json

import pytest
import torch
from support.models.export_job import job_of
from support.models.small_model import FACTS, small_model

from featherseg import models
from featherseg.core.errors import ExportError
from featherseg.exporters import ncnn
from featherseg.exporters.job import Facts
from featherseg.exporters.parity import perturb, verify
from featherseg.layers.position_bias import resize_matrix

pytest.importorskip("pnnx")
pytest.importorskip("ncnn")

SYSTEMS = (
    "frm-lite0",
    "frm-lite0-half-light-w32",  # with the three below on the front of `featherseg models`
    "frm-lite0-half-light",
    "frm-lite0-half16-light",
    "frm-mobilenet-v2-light",
    "seaformer-tiny",
    "efficientvit-seg-b0",
    "ddrnet-23-slim",
    "deeplabv3-lite0",
    "cgrseg-lite0",
    "cgrseg-t",
    "rsp-lite0",
    "rsp-lite0-panoptic",
)


@pytest.mark.seconds
def test_three_files_give_the_models_logits(tmp_path):
    ncnn.write(job_of(small_model(), FACTS, tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "model.ncnn.bin",
        "model.ncnn.json",
        "model.ncnn.param",
    ]
    report = verify(small_model(), tmp_path / "model.ncnn.param", facts=FACTS)
    assert report.ok, report
    assert {(row.batch, row.height, row.width) for row in report.rows} == {
        (1, 96, 128),
        (3, 96, 128),
    }


@pytest.mark.seconds
def test_the_facts_lie_beside_and_name_the_size(tmp_path):
    ncnn.write(job_of(small_model(), FACTS, tmp_path))
    texts = json.loads((tmp_path / "model.ncnn.json").read_text())
    assert json.loads(texts["fixed_size"]) == [96, 128]
    assert json.loads(texts["classes"]) == [row.name for row in FACTS.classes]


@pytest.mark.seconds
def test_other_weights_are_seen(tmp_path):
    ncnn.write(job_of(small_model(), FACTS, tmp_path))
    other = small_model()
    with torch.no_grad():
        other.classifier.weight.mul_(1.01)
    assert not verify(other, tmp_path / "model.ncnn.param", facts=FACTS).ok


@pytest.mark.seconds
def test_a_layer_that_ncnn_lacks_is_named(tmp_path):
    model = small_model()
    model.context.forward = lambda x: torch.special.bessel_j0(x)
    with pytest.raises(ExportError, match=r"ncnn has no layer for .*bessel"):
        ncnn.write(job_of(model, FACTS, tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.seconds
def test_a_guarded_division_and_a_bicubic_resize_are_written_by_layers_that_ncnn_has(tmp_path):
    """As in EfficientViT: sums of no key are 0, and then what is divided by them is 0 too."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        total = x[:, :1].relu()
        assert torch.compiler.is_exporting() or 0 < (total == 0).float().mean() < 1
        shares = (x * total) / torch.where(total > 0, total, 1.0)
        size = (2 * x.shape[2], 3 * x.shape[3])
        finer = resize_matrix(shares.flatten(0, 1), size).reshape(*x.shape[:2], *size)
        return torch.nn.functional.avg_pool2d(finer, (2, 3))

    model = small_model()
    model.context.forward = forward
    ncnn.write(job_of(model, FACTS, tmp_path))
    report = verify(model, tmp_path / "model.ncnn.param", facts=FACTS)
    assert report.ok, report
    graph = (tmp_path / "model.ncnn.param").read_text()
    assert graph.count("MatMul") == 2  # one an axis


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_passes_at_a_size_that_it_pads(name, tmp_path):
    model = perturb(models.build(name, classes=len(FACTS.classes)))
    facts = Facts(name, FACTS.classes, "MIT", image_size=(90, 131))
    ncnn.write(job_of(model, facts, tmp_path))
    report = verify(model, tmp_path / "model.ncnn.param", facts=facts)
    assert report.ok, report
