"""Other packages' usage reports are off before their import, unless the user has set otherwise."""

import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
from packaging.version import Version

from featherseg.core.telemetry import OFF
from featherseg.exporters.onnx import HEAD
from featherseg.fitting.bundle import SCRIPTS

MEASURE = "import sys; sys.path.insert(0, FOLDER); import measure, onnxruntime, openvino.tools.ovc"
ENVIRONMENT = "import json, os; print(json.dumps(dict(os.environ)))"


@pytest.fixture
def run_fresh(tmp_path):
    """Return a function (code, variables) -> (output of a process with a new HOME, files left)."""

    def run(code, **variables):
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        environment = kept | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)} | variables
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout, [path.name for path in tmp_path.rglob("*") if path.is_file()]

    return run


def test_reports_are_off_but_those_that_the_user_sets(run_fresh):
    code = f"import featherseg; {ENVIRONMENT}"
    assert OFF.items() <= json.loads(run_fresh(code)[0]).items()
    told = dict.fromkeys(OFF, "0") | {"WANDB_ERROR_REPORTING": ""}
    assert told.items() <= json.loads(run_fresh(code, **told)[0]).items()


@pytest.mark.skipif(
    Version(version("onnxruntime")) < Version("1.31"), reason="older ones leave none"
)
def test_onnxruntime_leaves_a_device_id_where_the_user_lets_it(run_fresh):
    """If this fails, the variable has another name now and the tests below hold nothing."""
    assert "deviceid" in run_fresh("import featherseg, onnxruntime", ORT_DISABLE_TELEMETRY="0")[1]


@pytest.mark.parametrize(
    "code",
    [
        "import featherseg, onnxruntime, onnxruntime.quantization",
        "import featherseg, openvino.tools.ovc",
        MEASURE,
        HEAD.split("\nsession")[0],
    ],
    ids=["onnxruntime", "openvino", "measure.py", "printed code"],
)
def test_importing_them_leaves_no_file(run_fresh, tmp_path_factory, code):
    folder = tmp_path_factory.mktemp("bundle")
    for script in SCRIPTS:
        (folder / script.name).write_bytes(script.read_bytes())
    assert run_fresh(code.replace("FOLDER", repr(str(folder)))) == ("", [])


def test_onnxruntime_prints_nothing_where_home_cannot_be_written(run_fresh):
    """It would print in colour that its device id cannot be kept, as on a read-only root."""
    assert run_fresh("import featherseg, onnxruntime", HOME="/proc/none", TMPDIR="/proc/none") == (
        "",
        [],
    )
