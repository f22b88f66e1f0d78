"""What `export` refuses, and that nothing is lost when it fails; on networks of one layer, to be quick."""

import json
import logging

import pytest
import torch
from torch import Tensor, nn

from featherseg.core.errors import ExportError, UnknownName
from featherseg.core.types import ClassInfo, SegOutput
from featherseg.export import export
from featherseg.inference.runtimes import open_runtime
from featherseg.layers.network import SegmentationNetwork


class OneLayer(SegmentationNetwork):
    """The least that is a network here: a convolution, with what every network states about itself."""

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


def test_a_bare_network_gets_numbered_classes_in_colours_that_differ(tmp_path):
    report = export(OneLayer(), path=tmp_path / "new" / "a.onnx")
    runtime = open_runtime(report.path, "cpu")
    assert [row.name for row in runtime.classes] == ["class_0", "class_1", "class_2"]
    assert len({row.color for row in runtime.classes}) == 3
    assert (runtime.channels, runtime.mean, runtime.std) == (2, (127.0, 127.0), (64.0, 64.0))


def test_named_classes_are_written(tmp_path):
    classes = [ClassInfo(name, (9, 9, 9)) for name in "abc"]
    report = export(OneLayer(), path=str(tmp_path / "a.onnx"), classes=classes)
    assert open_runtime(report.path, "cpu").classes == tuple(classes)


def test_the_network_given_is_left_as_it_was(tmp_path):
    network = OneLayer().double().train()
    export(network, path=tmp_path / "a.onnx")
    assert network.training
    assert network.conv.weight.dtype == torch.float64


def test_a_run_keeps_the_report(exported):
    kept = json.loads((exported.run.path / "parity.json").read_text())
    assert kept == exported.report.as_json()
    assert kept["parity"]["ok"]


def test_nothing_is_printed_logged_or_warned(tmp_path, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        export(OneLayer(), path=tmp_path / "a.onnx")
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


@pytest.mark.parametrize("there", [True, False])
def test_where_parity_fails_the_old_file_stays(tmp_path, there):
    path = tmp_path / "a.onnx"
    if there:
        path.write_bytes(b"old")
    with pytest.raises(ExportError, match=r"off by .* of their range"):
        export(OtherWhenExported(), path=path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([b"old"] if there else [])


def test_a_layer_that_fixes_the_size_is_refused(tmp_path):
    with pytest.raises(ExportError, match="any height and width"):
        export(FixedSize(), path=tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_an_unknown_target_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(UnknownName, match=r"unknown export target 'onxn'. Did you mean 'onnx'\?"):
        export(OneLayer(), "onxn", tmp_path / "a.onnx")


def test_a_bare_network_needs_a_path():
    with pytest.raises(ExportError, match="name the file"):
        export(OneLayer())


def test_a_folder_or_a_place_below_a_file_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ExportError, match=r"is a folder.*model\.onnx"):
        export(OneLayer(), path=tmp_path)
    with pytest.raises(ExportError, match="is no folder"):
        export(OneLayer(), path=tmp_path / "file" / "a.onnx")


def test_the_wrong_number_of_classes_is_refused(tmp_path):
    with pytest.raises(ExportError, match="1 classes were named, but the network tells 3 apart"):
        export(OneLayer(), path=tmp_path / "a.onnx", classes=[ClassInfo("a", (0, 0, 0))])
