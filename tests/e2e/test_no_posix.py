"""A run's life without what Windows lacks, hidden from featherseg's modules (no_posix.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def check(folder: Path, *form: str) -> None:
    command = [sys.executable, TESTS / "support/processes/no_posix.py", folder, *form]
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert '"resumed_from": 3' in (folder / "run" / "metrics.jsonl").read_text()
    left = (
        "run/weights.safetensors",
        "predictions/image_mask.png",
        "run/scores.json",
        "run/report.html",
    )
    assert [name for name in left if not (folder / name).is_file()] == []


@pytest.mark.slow
def test_train_resume_predict_evaluate_and_report_need_no_posix(tmp_path):
    check(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "package", "file"),
    [("ncnn", "pnnx", "model.ncnn.param"), ("onnx", "onnxscript", "model.onnx")],
)
def test_export_needs_no_posix_either(tmp_path, form, package, file):
    """The same life with an export in it, which takes half a minute."""
    pytest.importorskip(package)
    check(tmp_path, form)
    assert (tmp_path / "run" / "export" / file).is_file()
