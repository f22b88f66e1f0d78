"""The reference numbers of the official networks, by the checker that comes with them."""

import subprocess
import sys
from pathlib import Path

import pytest

ADAPTER = Path(__file__).parents[1] / "parity_adapter.py"


@pytest.mark.parametrize("name", ["van_b1"])
@pytest.mark.parametrize("precision", [[], ["--fp64"]], ids=["fp32", "fp64"])
def test_stages_equal_those_of_the_official_network(shared, name, precision):
    checker = shared / "reference/parity/check.py"
    command = [sys.executable, str(checker), f"{ADAPTER}:factory", "--only", name, *precision]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " 0 failed" in run.stdout
    assert "case1 stage4" in run.stdout
