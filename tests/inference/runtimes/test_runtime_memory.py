"""What a runtime takes, beside what the plan counts for it; each in a process of its own."""

import json
import subprocess
import sys

import pytest
import torch
from support.models.export_job import job_of
from support.models.three_layers import FACTS

from featherseg import models
from featherseg.exporters import onnx, openvino
from featherseg.inference.tiling import process_bytes

MEASURE = """
import json, re, sys, torch
torch.set_num_threads(1)
from featherseg.inference.predictor import Predictor
import numpy as np

def resident(kind):
    return 1024 * int(re.search(kind + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

predictor = Predictor(sys.argv[1], "cpu", memory_gb=float(sys.argv[2]))
predictor(np.zeros((64, 64, 3), np.uint8))
before = resident("VmRSS")
for _ in range(2):  # the second beside what the first left
    predictor(np.zeros((1000, 1200, 3), np.uint8))
print(json.dumps([before, resident("VmHWM"), resident("VmRSS")]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(
    ("write", "file"), [(onnx.write, "model.onnx"), (openvino.write, "model.xml")]
)
def test_an_exported_file_keeps_the_memory_that_was_allowed_and_gives_it_back(
    tmp_path, write, file
):
    """onnxruntime once kept twice the estimate; OpenVINO takes twice, which is now counted."""
    torch.manual_seed(0)
    model = models.build("frm-lite0", classes=3).eval()
    write(job_of(model, FACTS, tmp_path))
    command = [sys.executable, "-c", MEASURE, tmp_path / file, str(process_bytes() / 1e9 + 0.4)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    before, peak, after = json.loads(found.stdout.splitlines()[-1])
    assert peak < process_bytes() + 0.5e9
    assert after - before < 0.15e9
