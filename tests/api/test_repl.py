"""What a user meets in a REPL: dir(), help() and the repr of each result."""

import ast
import inspect
import re
from dataclasses import is_dataclass
from pathlib import Path

import numpy as np
import pytest

import featherseg
from featherseg.auditing.audit import Audit
from featherseg.comparison.benchmark_results import Benchmark, Plan
from featherseg.comparison.compare_results import Comparison
from featherseg.comparison.sweep import Sweep
from featherseg.converters.dataset import Conversion
from featherseg.core.types import Sample
from featherseg.core.wording import counted
from featherseg.costs.cost import Cost
from featherseg.data.checks.report import CheckReport
from featherseg.data.shapes import CLASSES, Shapes
from featherseg.evaluation.scoring import Scores
from featherseg.exporters import ExportReport
from featherseg.fitting.results import FitResult
from featherseg.inference.folder import PredictedFolder
from featherseg.reports.run_report import Report
from featherseg.runs.run import STARTER, Run

RESULTS = (
    *(Audit, Benchmark, CheckReport, Comparison, Conversion, Cost, ExportReport, FitResult),
    *(PredictedFolder, featherseg.Prediction, Report, Run, Sample, Scores, Sweep),
)
VERBS = [
    name
    for name in featherseg.__all__
    if name == "Predictor" or inspect.isfunction(getattr(featherseg, name))
]


def test_dir_offers_the_public_names():
    assert dir(featherseg) == sorted(featherseg.__all__)
    assert all(hasattr(featherseg, name) for name in dir(featherseg))


@pytest.mark.parametrize("name", VERBS)
def test_help_shows_an_example_that_fits_the_signature(name):
    text = inspect.getdoc(getattr(featherseg, name))
    example = inspect.cleandoc(
        "\n" + "\n".join(re.findall("^    .*$", re.split("Args:|Returns:", text)[0], re.M))
    )
    calls = [
        node
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"featherseg.{name}"
    ]
    assert calls, text
    for call in calls:
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        inspect.signature(getattr(featherseg, name)).bind(*call.args, **keywords)


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.__name__)
def test_no_result_shows_all_of_its_fields(result):
    assert is_dataclass(result)
    shown = inspect.getsource(result.__repr__)  # a generated one has no source
    assert "brief(" in shown


@pytest.mark.seconds
def test_reprs_are_one_line_with_what_a_user_looks_for():
    predictor, scene = featherseg.Predictor(STARTER, "cpu"), Shapes("val", 1)[0]
    assert repr(predictor) == f"Predictor({STARTER}, 8 classes, 256x512, cpu)"
    assert repr(featherseg.load_run(STARTER)) == f"Run({STARTER}, efficientvit-seg-b0, 8 classes)"
    assert repr(scene) == "Sample(val/000000, 256x512x3, uint8)"

    prediction = predictor(scene.image)
    largest = np.bincount(prediction.mask.ravel()).argmax()
    share = (prediction.mask == largest).mean()
    assert repr(prediction).startswith(
        f"Prediction(image, 256x512, {CLASSES[largest].name} {share:.0%}, "
    )
    assert "\n" not in repr(prediction)

    cost = featherseg.cost(STARTER.removesuffix("-shapes"), (512, 1024))
    assert repr(cost).startswith("Cost(efficientvit-seg-b0, 512x1024, ")
    assert f"{cost.params / 1e6:.2f} M" in repr(cost)


def test_reprs_of_written_results(tmp_path):
    conversion = Conversion("COCO", tmp_path, {"train": 4, "val": 1}, ["sky\n\x1b[2J"])
    assert repr(conversion) == f"Conversion(COCO, 5 images, 1 class, {tmp_path})"
    folder = PredictedFolder("out", ("a", "b"), ("c.png cannot be read.",))
    assert repr(folder) == "PredictedFolder(out, 2 images, 1 left out)"
    report = CheckReport("bad\x1b[2J\nname", (), {}, [])
    assert repr(report) == r"CheckReport(bad\x1b[2J\nname:  images: one class alone)"
    report = ExportReport(Path("a.onnx"), "onnx", 15_230_000, None)
    assert repr(report) == "ExportReport(a.onnx, onnx, 15.2 MB)"
    report = Report(Path("r/report.html"), "r", ("not exported: featherseg export r",))
    assert repr(report) == "Report(r/report.html, not exported: featherseg export r)"


def test_reprs_of_scores_and_comparisons():
    none, counts = np.zeros(2), np.zeros((1, 3, 2))
    scores = Scores(
        *(("a", "b"), 12, 0.6667, none, 0.9, 0.8, 0.5, none, np.zeros((2, 2)), none, {}, counts),
        data="yard",
        split="val",
        selected=True,
    )
    assert repr(scores) == "Scores(yard val, 12 images, mIoU 66.67 %, selected on these images)"
    comparison = Comparison(
        *("yard", "val", 12, ("a", "b"), "whole", "image", (8, 8), (), None, None, ())
    )
    assert repr(comparison) == "Comparison(yard val, 12 images)"
    assert repr(Sweep((Path("out/m-0"), Path("out/m-1")), comparison)) == "Sweep(m-0, m-1)"
    assert repr(Benchmark(Plan(), (), (), (), {}, None)) == "Benchmark(0 tables, 0 rows)"
    audit = Audit("yard", [("a.png", 0.9)], [], None, Path("audit.html"))
    assert repr(audit) == "Audit(yard, 1 image, audit.html)"
    latency = {"p50": 17.2, "p95": 18.0}
    chosen = {"model": "frm-lite0", "scale": 1, "format": "onnx", "latency_ms": latency}
    chosen |= {"miou_val": 0.7, "miou_test": 0.641, "interval": None}
    fitted = FitResult(Path("r"), {"chosen": chosen, "limit_ms": 20, "percentile": 50})
    assert repr(fitted).startswith("FitResult(r, frm-lite0 at 1 as onnx: 17.2 ms (limit 20), mIoU")


def test_plurals_of_nouns():
    assert [counted(1, "class"), counted(2, "class"), counted(0, "image")] == [
        *("1 class", "2 classes", "0 images")
    ]
