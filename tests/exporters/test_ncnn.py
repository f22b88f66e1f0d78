"""ncnn: parity at the file's size, three files that belong together, messages on missing layers."""

import json
import os

import pytest
import torch
from support.models.export_job import job_of
from support.models.quick_exports import ONE_OF_EACH
from support.models.small_model import FACTS, small_model

from featherseg import models
from featherseg.core.errors import ExportError
from featherseg.costs.catalogue import latencies
from featherseg.exporters import export, ncnn
from featherseg.exporters.job import Facts
from featherseg.exporters.parity import perturb, verify
from featherseg.fitting import candidates
from featherseg.inference.runtimes import open_file
from featherseg.layers.model import merge_paths
from featherseg.layers.position_bias import resize_matrix
from featherseg.runs.run import IN_REPOSITORY, STARTER, load_run

pnnx = pytest.importorskip("pnnx")
pytest.importorskip("ncnn")

LIGHT_MS = 100
"""Models that `featherseg models` lists with a lower latency are light."""

LIGHT = {name for name, ms in latencies()["ms"].items() if ms < LIGHT_MS}

REFUSED = "pfnet-r50-small"


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


def test_pfnet_is_refused_before_any_work(tmp_path):
    with torch.device("meta"):  # which has no weights that could be exported
        model = models.build(REFUSED, classes=len(FACTS.classes))
    with pytest.raises(ExportError, match="ncnn has no layer for topk, gather and scatter"):
        ncnn.write(job_of(model, FACTS, tmp_path))


@pytest.mark.seconds
def test_divisions_bicubic_resizes_and_selections_are_written_by_layers_that_ncnn_has(tmp_path):
    """As in EfficientViT, where the divisor and what it divides are 0 together, and in IFA."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        total = x[:, :1].relu()
        assert torch.compiler.is_exporting() or 0 < (total == 0).float().mean() < 1
        shares = (x * total) / torch.where(total > 0, total, 1.0)
        size = (2 * x.shape[2], 3 * x.shape[3])
        finer = resize_matrix(shares.flatten(0, 1), size).reshape(*x.shape[:2], *size)
        coarser = torch.nn.functional.avg_pool2d(finer, (2, 3))
        rows, columns = (torch.arange(side) // 2 for side in x.shape[2:])
        return coarser[:, :, rows][:, :, :, columns]

    model = small_model()
    model.context.forward = forward
    ncnn.write(job_of(model, FACTS, tmp_path))
    report = verify(model, tmp_path / "model.ncnn.param", facts=FACTS)
    assert report.ok, report
    graph = (tmp_path / "model.ncnn.param").read_text()
    assert graph.count("MatMul") == 3  # one an axis of the resize, and one that selects rows


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for pnnx")
@pytest.mark.seconds
def test_pnnx_is_started_again_if_it_crashes(tmp_path, monkeypatch):
    """It uses freed memory, and about one in six conversions of some models crashes."""
    starts, program = tmp_path / "starts", tmp_path / "pnnx"
    program.write_text(
        f"#!/bin/sh\necho >> {starts}\n"
        f"[ $(wc -l < {starts}) -lt 3 ] && kill -SEGV $$\n"
        f'exec {pnnx.EXEC_PATH} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(pnnx, "EXEC_PATH", str(program))
    out = tmp_path / "out"
    out.mkdir()
    ncnn.write(job_of(small_model(), FACTS, out))
    assert len(starts.read_text()) == 3
    assert verify(small_model(), out / "model.ncnn.param", facts=FACTS).ok


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for pnnx")
@pytest.mark.seconds
def test_a_pnnx_that_always_crashes_is_reported_with_its_signal(tmp_path, monkeypatch):
    program = tmp_path / "pnnx"
    program.write_text("#!/bin/sh\nkill -SEGV $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(pnnx, "EXEC_PATH", str(program))
    with pytest.raises(ExportError, match="its process was ended by signal 11"):
        ncnn.write(job_of(small_model(), FACTS, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", [STARTER, *IN_REPOSITORY])
def test_a_shipped_run_passes_at_the_size_of_its_training_images(name, tmp_path):
    report = export(name, "ncnn", tmp_path)
    assert report.parity.ok
    run = load_run(name)
    assert tuple(open_file(report.path, "cpu").fixed_size) == run.info.image_size


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*LIGHT, *candidates.MODELS, *ONE_OF_EACH} - {REFUSED}))
def test_light_models_and_one_of_each_architecture_pass_at_a_size_that_they_pad(name, tmp_path):
    model = perturb(models.build(name, classes=len(FACTS.classes)))
    merge_paths(model)  # as export does
    facts = Facts(name, FACTS.classes, "MIT", image_size=(90, 131))
    ncnn.write(job_of(model, facts, tmp_path))
    report = verify(model, tmp_path / "model.ncnn.param", facts=facts)
    assert report.ok, report
