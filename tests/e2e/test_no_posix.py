"""What Windows lacks is needed nowhere: a run's life with it blocked for featherseg's own modules (see no_posix.py)."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("form", "package", "file"),
    [
        ("ncnn", "pnnx", "model.ncnn.param"),
        pytest.param(
            "onnx", "onnxscript", "model.onnx", marks=pytest.mark.slow
        ),  # torch's exporter takes half a minute
    ],
)
def test_train_resume_predict_evaluate_export_and_report_need_no_posix(tmp_path, form, package, file):
    pytest.importorskip(package)
    command = [sys.executable, TESTS / "no_posix.py", tmp_path, form]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert '"resumed_from": 9' in (tmp_path / "run" / "metrics.jsonl").read_text()
    left = ("run/weights.safetensors", "predictions/image_mask.png", "run/scores.json", f"run/export/{file}")
    assert [name for name in (*left, "run/report.html") if not (tmp_path / name).is_file()] == []
