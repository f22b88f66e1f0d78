"""The kernels' tests once more, on a build that watches every address and every operation."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_no_kernel_reads_or_writes_beside_its_arrays():
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("needs gcc and its sanitizers")
    run = subprocess.run(
        [ROOT / "scripts" / "sanitize_kernels.sh"],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert " passed" in run.stdout
