"""The OpenVINO pair: parity, and that nothing else is written."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.models.export_job import job_of
from support.models.three_layers import FACTS, three_layers

from featherseg import models
from featherseg.exporters import export_formats, openvino
from featherseg.exporters.parity import perturb, verify
from featherseg.inference.runtimes import open_file

pytestmark = pytest.mark.usefixtures("quick_export")


@pytest.mark.seconds
def test_a_pair_gives_its_models_logits_at_sizes_it_was_not_exported_at(tmp_path):
    openvino.write(job_of(three_layers(), FACTS, tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    report = verify(three_layers(), tmp_path / "model.xml", facts=FACTS)
    assert report.ok, report


@pytest.mark.seconds
def test_weights_are_written_in_fp32(tmp_path):
    model = three_layers()
    openvino.write(job_of(model, FACTS, tmp_path))
    assert model.stem.weight.detach().numpy().tobytes() in (tmp_path / "model.bin").read_bytes()


@pytest.mark.seconds
def test_a_graph_that_was_made_already_is_not_made_again(tmp_path):
    from featherseg.exporters.onnx import to_onnx

    calls = []

    def graph() -> bytes:
        calls.append(1)
        return to_onnx(three_layers(), FACTS)

    openvino.write(job_of(three_layers(), FACTS, tmp_path, graph=graph))
    assert calls == [1]


ARCHITECTURES = (
    "frm-van-t",
    "cgrseg-t",
    "rsp-lite0-panoptic",
    "deeplabv3-lite0",
    "sfnet-r18",
    "ddrnet-23-slim",
    "pidnet-s",
    "segformer-b0",
    "efficientvit-seg-b0",
    "seaformer-tiny",
    "segnext-t",
    "rtformer-slim",
    "sctnet-s",
    "bialignnet-df1",
    "gcnet-s",
    "hanet-r50",
    "ifa-r50",
    "nrd-r50",
    "pfnet-r50",
)
"""One variant of each file of models/."""


@pytest.mark.seconds
def test_no_architecture_is_left_out():
    files = {type(models.build(name, classes=3)).__module__ for name in ARCHITECTURES}
    assert files == {
        f"featherseg.models.{path.stem}" for path in Path(models.__file__).parent.glob("[a-z]*.py")
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_variant_of_every_architecture_passes_the_check(name, tmp_path):
    model = perturb(models.build(name, classes=3)).eval()
    reports, errors = export_formats(model, ["onnx", "openvino"], tmp_path)
    assert not errors
    assert [report.parity.ok for report in reports] == [True, True]


@pytest.mark.seconds
def test_names_of_classes_are_text_in_the_xml(tmp_path):
    names = ['"/></net><net><layer version="evil"/>', "<!DOCTYPE a><![CDATA[", "\x1b[2J\n&lt;"]
    facts = replace(
        FACTS,
        classes=[replace(row, name=name) for row, name in zip(FACTS.classes, names, strict=False)],
    )
    openvino.write(job_of(three_layers(), facts, tmp_path))
    found = [row.name for row in open_file(tmp_path / "model.xml", "cpu").classes]
    assert found == [row.name for row in facts.classes]
