"""Times by operator: every node that a runtime ran is in them, once."""

import time
from dataclasses import replace

import onnx
import onnxruntime
import pytest
from openvino import Core
from support.models.export_job import job_of
from support.models.shared_exports import small_graph
from support.models.three_layers import FACTS, three_layers
from typer.testing import CliRunner

from featherseg.cli import build_app
from featherseg.comparison import operators
from featherseg.comparison.operators import OperatorTimes, Timed, time_operators
from featherseg.core.errors import ConfigError
from featherseg.exporters import openvino
from featherseg.exporters.onnx import to_onnx
from featherseg.inference.runtimes.openvino import OpenvinoRuntime

pytestmark = pytest.mark.usefixtures("quick_export")


@pytest.fixture
def graph(tmp_path, tmp_path_factory):
    path = tmp_path / "small.onnx"
    path.write_bytes(small_graph(tmp_path_factory))
    return path


@pytest.mark.slow
def test_the_nodes_are_those_of_the_optimised_graph_and_take_no_longer_than_the_passes(
    graph, tmp_path
):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(graph, options)
    nodes = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    began = time.perf_counter()
    (found,) = time_operators(
        str(graph), [(40, 56)], [2], [1], passes=1
    )  # warm-up passes would count
    elapsed = 1000 * (time.perf_counter() - began)
    counts = {row.kind: row.nodes for row in found.operators}
    assert counts == {kind: nodes.count(kind) for kind in counts}
    assert {"Conv"} <= set(counts)
    assert 0 < found.ms < elapsed
    assert found.ms == pytest.approx(sum(row.ms for row in found.operators))
    assert sum(row.share for row in found.operators) == pytest.approx(1)
    assert (found.size, found.batch, found.threads, found.runtime) == (
        (40, 56),
        2,
        1,
        "ONNX Runtime",
    )


@pytest.mark.slow
def test_a_file_with_masks_is_given_images(tmp_path, tmp_path_factory):
    path = tmp_path / "masks.onnx"
    path.write_bytes(to_onnx(three_layers(), FACTS, masks=True))
    (found,) = time_operators(str(path), [(40, 56)], [2], [1], passes=1)
    assert found.ms > 0


def test_a_node_is_its_median_and_nodes_of_one_name_are_all_counted(graph, monkeypatch):
    timed = [Timed("Conv", "a", ms) for ms in (1.0, 9.0, 2.0)]
    timed += [Timed("Reorder", "same", ms) for ms in (3.0, 5.0) * 3] + [Timed("Conv", "b", 4.0)] * 3
    monkeypatch.setitem(
        operators.PROFILES, ".onnx", (*operators.PROFILES[".onnx"][:2], lambda *_: timed)
    )
    (found,) = time_operators(str(graph), passes=3)
    rows = [(row.kind, row.nodes, row.ms, row.slowest, row.slowest_ms) for row in found.operators]
    assert rows == [("Reorder", 2, 8.0, "same", 4.0), ("Conv", 2, 6.0, "b", 4.0)]
    assert (found.ms, found.operators[1].share) == (14.0, pytest.approx(6 / 14))


@pytest.mark.seconds
def test_openvino_tells_of_its_own(tmp_path):
    openvino.write(job_of(three_layers(), FACTS, tmp_path))
    (found,) = time_operators(str(tmp_path / "model.xml"), [(40, 56)], threads=[1], passes=2)
    assert found.runtime == "OpenVINO"
    assert any("Conv" in row.kind for row in found.operators)


@pytest.mark.seconds
def test_openvino_is_timed_in_the_precision_that_its_runtime_chose(tmp_path, monkeypatch):
    class InBf16(OpenvinoRuntime):
        def __init__(self, *given):
            super().__init__(*given)
            self.settings["INFERENCE_PRECISION_HINT"] = "bf16"

    openvino.write(job_of(three_layers(), FACTS, tmp_path))
    asked, compile_model = [], Core.compile_model
    monkeypatch.setattr(
        Core, "compile_model", lambda *given: asked.append(given[-1]) or compile_model(*given)
    )
    monkeypatch.setitem(
        operators.PROFILES, ".xml", ("OpenVINO", InBf16, operators.PROFILES[".xml"][2])
    )
    time_operators(str(tmp_path / "model.xml"), [(40, 56)], threads=[1], passes=1)
    assert asked[-1]["INFERENCE_PRECISION_HINT"] == "bf16"


@pytest.mark.seconds
@pytest.mark.parametrize("masks", [False, True])
def test_a_file_sees_images_of_the_size_that_its_model_was_validated_at(
    tmp_path, monkeypatch, masks
):
    shapes, path = [], tmp_path / "resized.onnx"
    path.write_bytes(to_onnx(three_layers(), replace(FACTS, test_resize=(20, 28)), masks=masks))

    def profile(path, runtime, images, *_):
        shapes.append(images.shape)
        return [Timed("Conv", "a", 1.0)]

    monkeypatch.setitem(operators.PROFILES, ".onnx", (*operators.PROFILES[".onnx"][:2], profile))
    (found,) = time_operators(str(path), [(40, 56)], [2])
    assert shapes == [(2, 20, 28, 3) if masks else (2, 3, 20, 28)]
    assert found.size == (40, 56)


def test_the_verb_prints_a_table_and_refuses_what_has_no_effect(graph, monkeypatch):
    rows = (
        operators.Operator("Conv", 3, 4.0, 0.8, "stem[0]", 2.0),
        operators.Operator("Cast", 1, 0.01, 0.002, "x", 0.01),
    )
    times = OperatorTimes("small.onnx", "ONNX Runtime", (40, 56), 1, 1, 5.0, rows)
    monkeypatch.setattr(operators, "time_operators", lambda *_: [times])
    text = CliRunner().invoke(build_app(), ["benchmark", str(graph), "--operators"]).stdout
    assert "small.onnx, batch 1, 40x56, 1 thread, ONNX Runtime: 5.0 ms in its operators" in text
    assert "80.0 %" in text
    assert "stem[0]" in text
    assert "Cast" not in text  # less than a hundredth
    words = ["benchmark", str(graph), "--operators", "--split", "val", "--calibrate"]
    error = CliRunner().invoke(build_app(), words).exception
    assert isinstance(error, ConfigError)
    assert str(error).startswith("--split, --calibrate has no effect with --operators")


@pytest.mark.parametrize("asked", [{"sizes": [(0, 8)]}, {"passes": 0}, {"threads": [-1]}])
def test_what_cannot_be_timed_is_refused(graph, asked):
    with pytest.raises(ConfigError, match="at least 1"):
        time_operators(str(graph), **asked)


def test_a_file_without_a_profile_is_refused(tmp_path):
    (tmp_path / "a.pt2").touch()
    with pytest.raises(ConfigError, match=r"operators are timed of \.onnx and \.xml files"):
        time_operators(str(tmp_path / "a.pt2"))
