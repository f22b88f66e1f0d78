"""A .pt2 file brings its facts and its logits, or a sentence says why it cannot."""

import pytest
import torch
from support.models.export_job import job_of
from support.models.three_layers import CLASSES, FACTS, three_layers
from torch.testing import assert_close

from featherseg.core.errors import DataNotFound, DeviceError, ExportError
from featherseg.exporters import pt2 as torch_export
from featherseg.exporters.parity import as_tensors
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.runtimes.pt2 import TorchExportRuntime


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pt2")
    torch_export.write(job_of(three_layers(), FACTS, folder))
    return folder / "model.pt2"


def test_a_file_brings_its_facts_and_its_logits_at_any_size(written):
    runtime, model = open_runtime(written, "cpu", trust=True), three_layers()
    assert (runtime.classes, runtime.licence, runtime.image_size) == (
        CLASSES,
        "Apache-2.0",
        (48, 64),
    )
    for shape in ((1, 3, 48, 64), (3, 3, 33, 71), (1, 3, 5, 90), (1, 3, 1, 1)):
        images = torch.randn(shape)
        with torch.no_grad():
            expected = model(images)
        found = as_tensors(runtime(images.numpy()))
        assert_close(found.logits, expected.logits, atol=1e-6, rtol=1e-6)
        assert (found.image_size, found.padded_size) == (expected.image_size, expected.padded_size)


def test_it_runs_in_fp32_whatever_autocast_says(written):
    images = torch.randn(1, 3, 48, 64)
    runtime = TorchExportRuntime(written)
    expected = runtime(images.numpy()).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (runtime(images.numpy()).logits == expected).all()


def test_nothing_of_this_machine_is_in_the_file(written):
    content = written.read_bytes()
    assert b"site-packages" not in content
    assert b"three_layers.py" not in content


def test_what_is_no_pt2_file_is_refused(tmp_path):
    (tmp_path / "a.pt2").write_bytes(b"no archive")
    with pytest.raises(ExportError, match=r"a\.pt2 cannot be run by torch"):
        TorchExportRuntime(tmp_path / "a.pt2")
    with pytest.raises(DataNotFound, match=r"b\.pt2 does not exist"):
        TorchExportRuntime(tmp_path / "b.pt2")


def test_another_device_is_refused(written):
    with pytest.raises(DeviceError, match="cuda"):
        TorchExportRuntime(written, "cuda")
