"""A full disk ends an export with a message: no traceback or partial file, old files kept."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.models.export_job import job_of
from support.models.three_layers import FACTS, three_layers

from featherseg.core.errors import FeathersegError
from featherseg.exporters import EXPORTERS, onnx_int8
from featherseg.exporters.pipeline import move
from featherseg.exporters.quiet import quiet

resource = pytest.importorskip("resource", reason="this system bounds no file sizes")

LIMITS = {"onnx": 4_000, "openvino": 30_000, "torch-export": 30_000, "ncnn": 10_000}
"""{target: size limit of a written file}; OpenVINO's own ONNX draft passes, its files do not."""

EXPORTS = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support.models.three_layers import three_layers
from featherseg.core.errors import ExportError
from featherseg.exporters import export
model, out, said = three_layers(), Path(sys.argv[2]), {}
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
for target, limit in json.loads(sys.argv[3]).items():
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        export(model, target, out)
    except ExportError as error:
        said[target] = str(error)
print(json.dumps(said))
"""


@pytest.mark.slow
def test_a_disk_that_refuses_ends_every_export_in_a_message(tmp_path):
    for package in ("onnxscript", "openvino", "pnnx"):
        pytest.importorskip(package)
    command = [
        sys.executable,
        "-c",
        EXPORTS,
        str(Path(__file__).parents[1]),
        str(tmp_path / "out"),
        json.dumps(LIMITS),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (
        done.stderr
    )  # torch would end the process where a file of its own is cut short
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["openvino"].startswith("OpenVINO cannot write model.xml")
    for target in ("onnx", "torch-export", "ncnn"):
        assert f"{target}: cannot write to" in said[target]
        assert "File too large" in said[target]
    assert not (tmp_path / "out").exists()


@pytest.mark.seconds
def test_a_disk_that_refuses_the_quantiser_is_not_taken_for_the_model(tmp_path):
    """`export` tells an OSError as what it is, with the folder."""
    job = job_of(three_layers(), FACTS, tmp_path, [torch.rand(1, 3, 48, 64)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            onnx_int8.write(job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_files_that_belong_together_stay_together_where_the_second_is_refused(tmp_path):
    draft, out = tmp_path / "draft", tmp_path / "out"
    for folder, content in ((draft, "new"), (out, "old")):
        folder.mkdir()
        (folder / "model.bin").write_text(content)
        (folder / "model.xml").write_text(content)
    (draft / "model.xml").write_text("new" * 1000)  # it comes last, as it is what is opened
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(FeathersegError, match=r"cannot write .*model\.xml: File too large"):
            move(draft, EXPORTERS["openvino"], out / "model.xml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {file.name: file.read_text() for file in out.iterdir()} == {
        "model.bin": "old",
        "model.xml": "old",
    }


def test_a_folder_stays_where_the_new_one_is_refused(tmp_path):
    draft, out = tmp_path / "draft", tmp_path / "out"
    for folder, content in ((draft, "new" * 1000), (out, "old")):
        (folder / "web").mkdir(parents=True)
        (folder / "web/index.html").write_text(content)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(
            FeathersegError,
            match=r"cannot write .*web: File too large\. What was there is unchanged",
        ):
            move(draft, EXPORTERS["web"], out / "web")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.name for file in out.iterdir()] == ["web"]
    assert (out / "web/index.html").read_text() == "old"


def test_an_interrupt_that_a_converter_makes_a_failure_of_stays_one():
    failure = RuntimeError("Failed to export the model")
    failure.__cause__ = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt), quiet("torch cannot write this model"):
        raise failure
