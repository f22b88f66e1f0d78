"""An OpenVINO pair brings its facts and its logits, or a sentence says why it cannot."""

import re
import shutil

import numpy as np
import pytest
import torch
from openvino import Core
from support.models.export_job import job_of
from support.models.three_layers import CLASSES, FACTS, three_layers
from torch.testing import assert_close

from featherseg.core.errors import DataNotFound, DeviceError, ExportError
from featherseg.exporters import openvino, openvino_int8
from featherseg.exporters.parity import as_tensors
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.runtimes.openvino import OpenvinoRuntime

pytestmark = pytest.mark.usefixtures("quick_export")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """model.xml and model.bin of a model."""
    folder = tmp_path_factory.mktemp("openvino")
    openvino.write(job_of(three_layers(), FACTS, folder))
    return folder / "model.xml"


@pytest.fixture
def pair(written, tmp_path):
    """A copy that may be spoilt."""
    for file in written.parent.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path / "model.xml"


def test_a_pair_brings_its_facts_and_its_logits_at_any_size(written):
    runtime, model = open_runtime(written, "cpu"), three_layers()
    assert (runtime.classes, runtime.licence, runtime.image_size) == (
        CLASSES,
        "Apache-2.0",
        (48, 64),
    )
    assert (runtime.mean, runtime.size_divisor, runtime.minimum_size) == (model.mean, 8, 16)
    for shape in ((1, 3, 48, 64), (3, 3, 33, 71), (1, 3, 5, 90)):
        images = torch.randn(shape)
        with torch.no_grad():
            expected = model(images)
        found = as_tensors(runtime(images.numpy()))
        assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
        assert (found.image_size, found.padded_size) == (expected.image_size, expected.padded_size)


def test_it_runs_in_fp32_on_as_many_threads_as_torch(written):
    compiled = OpenvinoRuntime(written)._compiled
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads()


@pytest.mark.seconds
def test_what_is_not_in_int8_runs_in_bf16_where_the_processor_has_it(tmp_path):
    images = [
        torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(i)) for i in range(2)
    ]
    openvino_int8.write(job_of(three_layers(), FACTS, tmp_path, images))
    compiled = OpenvinoRuntime(tmp_path / "model.int8.xml")._compiled
    able = "BF16" in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == (
        "bf16" if able else "f32"
    )


def test_weights_of_another_export_are_refused(pair):
    weights = pair.with_suffix(".bin")
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ExportError, match=r"model\.bin does not contain the weights"):
        OpenvinoRuntime(pair)


def test_a_pair_that_is_half_there_is_refused(pair):
    pair.with_suffix(".bin").unlink()
    with pytest.raises(
        DataNotFound, match=r"model\.bin does not exist; an OpenVINO file is a pair"
    ):
        OpenvinoRuntime(pair)


def test_what_is_no_openvino_file_is_refused(pair):
    pair.write_text("<xml>nothing</xml>")
    with pytest.raises(ExportError, match=r"model\.xml is not opened"):
        OpenvinoRuntime(pair)
    pair.write_text("<net name='empty' version='11'></net>")
    with pytest.raises(ExportError, match=r"model\.xml (cannot be run|lacks)"):
        OpenvinoRuntime(pair)


def test_a_file_of_others_is_refused(pair):
    text = pair.read_text(encoding="utf-8")
    pair.write_text(
        text.replace("<featherseg>", "<other>").replace("</featherseg>", "</other>"),
        encoding="utf-8",
    )
    with pytest.raises(ExportError, match="lacks the metadata"):
        OpenvinoRuntime(pair)


@pytest.mark.parametrize("device", ["cuda", "mps", "tpu"])
def test_another_device_is_refused(written, device):
    with pytest.raises(DeviceError, match=device):
        OpenvinoRuntime(written, device)


def test_names_in_the_file_reach_the_terminal_through_our_message_alone(pair, capfd):
    """XML holds no control characters; direction marks go through what shows messages."""
    text = pair.read_text(encoding="utf-8")
    hostile = re.sub(
        r'name="[^"]*"( type=)"Convolution"', 'name="a\u202eb"\\1"Non\u202esense"', text
    )
    assert hostile != text
    pair.write_text(hostile, encoding="utf-8")
    with pytest.raises(ExportError, match="cannot be run by OpenVINO"):
        OpenvinoRuntime(pair)
    assert capfd.readouterr() == ("", "")
    pair.write_text(text.replace('name="', 'name="\x1b[2J', 1), encoding="utf-8")
    with pytest.raises(ExportError, match="is not opened"):
        OpenvinoRuntime(pair)


@pytest.mark.seconds
def test_a_pair_whose_names_are_endings_alone_is_the_same(pair):
    plain = OpenvinoRuntime(pair).run(np.ones((1, 3, 48, 64), np.float32))
    for ending in (".xml", ".bin"):
        pair.with_suffix(ending).rename(pair.with_name(ending))
    found = OpenvinoRuntime(pair.with_name(".xml")).run(np.ones((1, 3, 48, 64), np.float32))
    np.testing.assert_array_equal(found[0], plain[0])
