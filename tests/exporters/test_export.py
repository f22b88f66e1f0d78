"""What `export` refuses, and that a failure loses nothing, on models of one layer."""

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from support.models.three_layer_run import three_layer_run
from torch import Tensor, nn

from featherseg.core.errors import (
    ConfigError,
    ExportError,
    FeathersegError,
    MissingExtra,
    UnknownName,
)
from featherseg.core.types import ClassInfo, SegOutput
from featherseg.exporters import EXPORTERS, ExportSettings, export, export_formats, pipeline
from featherseg.exporters.calibration import LabelledSplit
from featherseg.exporters.onnx import to_onnx
from featherseg.exporters.quiet import quiet
from featherseg.inference.runtimes import open_runtime
from featherseg.layers.model import SegmentationModel

pytestmark = pytest.mark.usefixtures("quick_export")


class OneLayer(SegmentationModel):
    """The least that is a model here: a convolution, with what every model states about itself."""

    classes = 3
    mean, std = (127.0, 127.0), (64.0, 64.0)  # two channels
    align_corners, size_divisor, minimum_size = False, 1, 1

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, self.classes, 3, padding=1)

    def forward(self, images: Tensor) -> SegOutput:
        size = (images.shape[2], images.shape[3])
        return SegOutput(self.change(self.conv(images)), size, size, self.align_corners)

    def change(self, logits: Tensor) -> Tensor:
        return logits


class OtherWhenExported(OneLayer):
    def change(self, logits: Tensor) -> Tensor:
        return logits + 0.01 if torch.compiler.is_exporting() else logits


class FixedSize(OneLayer):
    def change(self, logits: Tensor) -> Tensor:
        return logits + torch.zeros(160, 224, device=logits.device)


@pytest.mark.seconds
def test_a_bare_model_gets_numbered_classes_in_colours_that_differ(tmp_path):
    report = export(OneLayer(), path=tmp_path / "new" / "a.onnx")
    runtime = open_runtime(report.path, "cpu")
    assert [row.name for row in runtime.classes] == ["class_0", "class_1", "class_2"]
    assert len({row.color for row in runtime.classes}) == 3
    assert (runtime.channels, runtime.mean, runtime.std) == (2, (127.0, 127.0), (64.0, 64.0))


@pytest.mark.seconds
def test_named_classes_are_written(tmp_path):
    classes = [ClassInfo(name, (9, 9, 9)) for name in "abc"]
    report = export(OneLayer(), path=str(tmp_path / "a.onnx"), classes=classes)
    assert open_runtime(report.path, "cpu").classes == tuple(classes)


@pytest.mark.seconds
def test_the_model_given_is_left_as_it_was(tmp_path):
    model = OneLayer().double().train()
    export(model, path=tmp_path / "a.onnx")
    assert model.training
    assert model.conv.weight.dtype == torch.float64


def test_a_run_keeps_the_report(exported):
    kept = json.loads((exported.run.path / "parity.json").read_text())
    weights = {"weights_sha256": exported.run.weights_sha256}
    assert kept == {"onnx": json.loads(json.dumps(exported.report.as_dict())) | weights}
    assert kept["onnx"]["parity"]["ok"]


@pytest.mark.seconds
def test_nothing_is_printed_logged_or_warned(tmp_path, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        export(OneLayer(), path=tmp_path / "a.onnx")
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


@pytest.mark.seconds
@pytest.mark.parametrize("there", [True, False])
def test_where_parity_fails_the_old_file_stays(tmp_path, there):
    path = tmp_path / "a.onnx"
    if there:
        path.write_bytes(b"old")
    with pytest.raises(ExportError, match=r"off by .* of the logits' range"):
        export(OtherWhenExported(), path=path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([b"old"] if there else [])


def test_a_layer_that_fixes_the_size_is_refused(tmp_path):
    with pytest.raises(ExportError, match="any batch, height and width"):
        export(FixedSize(), path=tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_an_unknown_target_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(UnknownName, match=r"unknown export format 'onxn'. Did you mean 'onnx'\?"):
        export(OneLayer(), "onxn", tmp_path / "a.onnx")


def test_a_bare_model_needs_a_path():
    with pytest.raises(ExportError, match="name the file"):
        export(OneLayer())


def test_a_place_below_a_file_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FeathersegError, match="is not a folder"):
        export(OneLayer(), path=tmp_path / "file" / "a.onnx")


def test_the_wrong_number_of_classes_is_refused(tmp_path):
    with pytest.raises(ExportError, match="1 classes were named, but the model has 3"):
        export(OneLayer(), path=tmp_path / "a.onnx", classes=[ClassInfo("a", (0, 0, 0))])


@pytest.mark.seconds
def test_several_targets_share_one_graph_and_land_side_by_side(tmp_path, monkeypatch):
    traced = []
    monkeypatch.setattr(pipeline, "to_onnx", lambda *args: traced.append(1) or to_onnx(*args))
    reports, errors = export_formats(OneLayer(), ["onnx", "openvino", "onnx"], tmp_path)
    assert ([report.format for report in reports], errors, traced) == (
        ["onnx", "openvino"],
        [],
        [1],
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "model.bin",
        "model.onnx",
        "model.xml",
    ]
    assert reports[1].bytes == sum(
        (tmp_path / name).stat().st_size for name in ("model.bin", "model.xml")
    )


class KnowsAForm(nn.ReLU):
    def for_graph(self, size_divisor: int, channels_last: bool) -> nn.Module:
        return self if channels_last else nn.Threshold(0.0, 0.0)


@pytest.mark.seconds
@pytest.mark.parametrize("other", ["openvino", "onnx-int8"])
def test_every_runtime_gets_the_layers_in_its_form_and_int8_those_of_the_model(
    other, tmp_path, monkeypatch
):
    model, seen = OneLayer(), []
    model.conv = nn.Sequential(model.conv, KnowsAForm())
    monkeypatch.setattr(
        pipeline, "to_onnx", lambda form, *args: seen.append(form.conv[1]) or to_onnx(form, *args)
    )
    export_formats(model, ["onnx", other], tmp_path)  # int8 is refused later, for want of images
    assert [type(layer) for layer in seen] == [nn.Threshold, KnowsAForm]
    assert type(model.conv[1]) is KnowsAForm


def test_one_bad_name_in_the_list_is_refused_before_any_work(tmp_path):
    with pytest.raises(UnknownName, match=r"'openvno'. Did you mean 'openvino'\?"):
        export_formats(OneLayer(), ["onnx", "openvno"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"pip install 'featherseg\[openvino\]'"):
        export_formats(OneLayer(), ["onnx", "openvino"], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.seconds
def test_a_target_that_fails_does_not_stop_the_others(tmp_path):
    reports, errors = export_formats(OtherWhenExported(), ["onnx", "onnx-int8"], tmp_path)
    assert (reports, len(errors)) == ([], 2)
    assert "the onnx file is off by" in str(errors[0])
    assert "int8 needs calibration images" in str(errors[1])


def test_what_is_stopped_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(b"old")

    def stopped(job):
        (job.folder / "model.onnx").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setitem(EXPORTERS, "onnx", replace(EXPORTERS["onnx"], write=stopped))
    with pytest.raises(KeyboardInterrupt):
        export(OneLayer(), path=tmp_path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_a_converter_that_misses_a_file_of_its_own_is_no_full_disk(tmp_path, monkeypatch):
    def write(job):
        with quiet("the converter cannot write this model"):
            raise FileNotFoundError(2, "No such file or directory", "libconverter.so")

    monkeypatch.setitem(EXPORTERS, "onnx", replace(EXPORTERS["onnx"], write=write))
    with pytest.raises(
        ExportError,
        match=r"the converter cannot write this model \(FileNotFoundError: .*libconverter",
    ):
        export(OneLayer(), path=tmp_path / "a.onnx")


def test_a_file_that_nothing_here_can_run_is_written_and_says_so(tmp_path, monkeypatch):
    def write(job):
        (job.folder / "model.onnx").write_bytes(b"x" * 7)

    monkeypatch.setitem(EXPORTERS, "onnx", replace(EXPORTERS["onnx"], write=write, verified=False))
    report = export(OneLayer(), path=tmp_path / "a.onnx")
    assert (report.parity, report.bytes, report.as_dict()["parity"]) == (None, 7, None)


def test_int8_of_a_run_is_scored_and_named_in_the_report(tmp_path):
    run = three_layer_run(tmp_path / "run")
    settings = ExportSettings(calibration=3, max_drop=100)
    reports, errors = export_formats(run, ["onnx-int8"], settings=settings)
    assert not errors
    (report,) = reports
    assert report.path == run.path / "export" / "model.int8.onnx"
    assert len(report.calibration) == 3
    assert report.parity.file_miou == pytest.approx(report.parity.model_miou, abs=0.02)
    assert report.quantised.tried == ((1, report.parity.file_miou),)
    assert json.loads((run.path / "parity.json").read_text())["onnx-int8"]["calibration"] == list(
        report.calibration
    )


@pytest.mark.seconds
def test_int8_that_loses_too_much_is_refused_and_the_old_file_stays(tmp_path, monkeypatch):
    run = three_layer_run(tmp_path / "run")
    (run.path / "export").mkdir()
    (run.path / "export" / "model.int8.onnx").write_bytes(b"old")
    scores = iter([0.5, 0.45, 0.45])  # the model, then two candidates
    monkeypatch.setattr(LabelledSplit, "score", lambda split, file: next(scores))
    with pytest.raises(
        ExportError, match=r"45\.00 mIoU even with 2 of its 3 layers in fp32; 49\.50 is"
    ):
        export(run, "onnx-int8", settings=ExportSettings(calibration=2, max_drop=0.5))
    assert [file.read_bytes() for file in (run.path / "export").iterdir()] == [b"old"]
    assert not (run.path / "parity.json").exists()


@pytest.mark.seconds
def test_records_of_other_targets_stay(tmp_path):
    run = three_layer_run(tmp_path / "run")
    (run.path / "parity.json").write_text(
        json.dumps({"target": "ncnn", "bytes": 5})
    )  # as of older exports
    export(run, "onnx")
    assert set(json.loads((run.path / "parity.json").read_text())) == {"ncnn", "onnx"}


@pytest.mark.seconds
def test_an_export_elsewhere_leaves_its_run_as_it_was(tmp_path):
    run = three_layer_run(tmp_path / "run")
    before = {file.name: file.read_bytes() for file in run.path.iterdir()}
    assert export(run, "onnx", tmp_path / "out").path.is_file()
    assert {file.name: file.read_bytes() for file in run.path.iterdir()} == before
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["model.onnx"]
    export(run, "onnx", run.path / "export/a.onnx")  # one that lies in the run is told of there
    assert json.loads((run.path / "parity.json").read_text())["onnx"]["path"].endswith("a.onnx")


def test_an_export_is_not_written_through_a_link_in_its_run(tmp_path):
    run = three_layer_run(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (run.path / "export").symlink_to(tmp_path / "elsewhere")
    for place in (None, run.path / "export", run.path / "export/a.onnx"):
        with pytest.raises(FeathersegError, match="run/export is a symbolic link"):
            export(run, "onnx", place)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.seconds
def test_a_link_beside_the_run_that_a_command_runs_in_is_no_matter(tmp_path, monkeypatch):
    run = three_layer_run(tmp_path / "run")
    (tmp_path / "data").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(run.path)
    export(run, "onnx", "../out")
    assert (tmp_path / "out" / "model.onnx").is_file()
    assert not Path("parity.json").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")
def test_a_place_that_takes_no_file_is_refused_before_the_export(tmp_path):
    with pytest.raises(FeathersegError, match="nothing can be written to /proc"):
        export(OneLayer(), path="/proc/model.onnx")


@pytest.mark.parametrize(
    ("values", "named"),
    [({"max_drop": -1}, "max_drop"), ({"calibration": 0}, "calibration"), ({"seed": -1}, "seed")],
)
def test_options_out_of_range_are_refused(values, named):
    with pytest.raises(ConfigError, match=named):
        ExportSettings(**values)


@pytest.mark.seconds
def test_gelu_is_one_operator_in_onnx_runtime(tmp_path):
    model = OneLayer()
    model.conv = nn.Sequential(model.conv, nn.GELU(), nn.Conv2d(3, 3, 1))
    path = export(model, path=tmp_path / "a.onnx").path
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert (kinds.count("Gelu"), kinds.count("Erf")) == (1, 0)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"masks": True, "score": True}, "--score"),
        ({"calibration": 3}, "--calibration"),
        ({"max_drop": 2}, "--max-drop"),
        ({"data_root": Path("data")}, "--data-root"),
        ({"score": True}, "score"),
    ],
)
def test_an_option_without_effect_is_refused(tmp_path, values, named):
    with pytest.raises(ConfigError, match=f"{named} has no effect"):
        export(OneLayer(), "onnx", tmp_path, settings=ExportSettings(**values))
    assert list(tmp_path.iterdir()) == []


def test_no_score_is_asked_of_formats_that_nothing_here_runs(tmp_path):
    with pytest.raises(ConfigError, match="--score has no effect: nothing here runs tensorrt"):
        export(
            three_layer_run(tmp_path / "run"),
            "tensorrt",
            tmp_path / "out",
            settings=ExportSettings(score=True),
        )
    assert not (tmp_path / "out").exists()
