"""What runs ncnn files says what is wrong with them, before ncnn sees them."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from support.models.export_job import job_of
from support.models.small_model import FACTS, small_model

from featherseg.core.errors import DataError, DataNotFound, DeviceError, ExportError
from featherseg.exporters import ncnn
from featherseg.exporters.parity import as_tensors
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.runtimes.ncnn import NcnnRuntime, read_pair_hash

pytest.importorskip("pnnx")
pytest.importorskip("ncnn")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The three files of a small model, for images of 96 x 128."""
    folder = tmp_path_factory.mktemp("ncnn")
    ncnn.write(job_of(small_model(), FACTS, folder))
    return folder


@pytest.fixture
def graph(written, tmp_path):
    """model.ncnn.param with its companions, in a folder that a test may spoil."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path / "model.ncnn.param"


def test_a_batch_comes_out_as_the_model_gives_it(graph):
    images = torch.randn(3, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = small_model()(images)
    found = as_tensors(open_runtime(graph, "cpu")(images.numpy()))
    assert (found.logits - expected.logits).abs().max() <= 1e-5 * (
        expected.logits.max() - expected.logits.min()
    )
    assert (found.image_size, found.padded_size) == (expected.image_size, expected.padded_size)


def test_an_image_of_another_size_is_refused_with_both_sizes(graph):
    with pytest.raises(DataError, match=r"takes images of 96x128 .* only, not of 97x128"):
        NcnnRuntime(graph)(np.zeros((1, 3, 97, 128), np.float32))


@pytest.mark.parametrize("ending", ["param", "bin", "json"])
def test_a_missing_file_is_named(graph, ending):
    graph.with_name(f"model.ncnn.{ending}").unlink()
    with pytest.raises(
        DataNotFound, match=rf"model\.ncnn\.{ending} does not exist; ncnn needs three files"
    ):
        NcnnRuntime(graph)


def test_weights_of_another_export_are_refused(graph):
    weights = graph.with_suffix(".bin")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ExportError, match=r"do not match .*: export again"):
        NcnnRuntime(graph)


def spoil_header(lines):
    return ["7767518", *lines[1:]]


def drop_a_layer(lines):
    return lines[:-1]


def claim_more_blobs(lines):
    kind, name, inputs, _, *rest = lines[-1].split()
    return [*lines[:-1], " ".join([kind, name, inputs, "1000", *rest])]


@pytest.mark.parametrize("spoil", [spoil_header, drop_a_layer, claim_more_blobs])
def test_a_graph_of_another_form_never_reaches_ncnn(graph, spoil):
    graph.write_text("\n".join(spoil(graph.read_text().splitlines())) + "\n")
    facts = graph.with_suffix(".json")
    texts = json.loads(facts.read_text())
    texts["sha256"] = json.dumps(read_pair_hash(graph, graph.with_suffix(".bin")))
    facts.write_text(json.dumps(texts))
    with pytest.raises(ExportError, match=r"not an ncnn graph, or is damaged"):
        NcnnRuntime(graph)


@pytest.mark.parametrize("content", ["{", "[]", '{"classes": 3}'])
def test_facts_that_are_none_are_refused(graph, content):
    graph.with_suffix(".json").write_text(content)
    with pytest.raises(ExportError, match="not written by featherseg"):
        NcnnRuntime(graph)


def test_it_runs_on_the_cpu_alone(graph):
    with pytest.raises(DeviceError, match="'cuda'"):
        NcnnRuntime(graph, "cuda")


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\x9bm", "a\u202eb", "a\rb"])
def test_names_that_would_steer_the_terminal_are_refused_before_ncnn_tells_them(graph, capfd, name):
    first = graph.read_text().splitlines()[2].split()
    graph.write_text(graph.read_text().replace(f" {first[1]} ", f" {name} ", 1), newline="")
    facts = json.loads(graph.with_name("model.ncnn.json").read_text())
    facts["sha256"] = json.dumps(read_pair_hash(graph, graph.with_suffix(".bin")))
    graph.with_name("model.ncnn.json").write_text(json.dumps(facts))
    with pytest.raises(ExportError, match="where ncnn has only plain letters"):
        NcnnRuntime(graph)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r" 6=\d+", " 6=2000000000"),  # of a convolution: its weights, 8 GB
        (r" 0=\d+", " 0=2000000000"),
        (r" 0=\d+", " +0=+2000000000"),
        (r" 0=\d+", " 0=-2000000000"),
        (r" 0=\d+", " 0=" + 20 * "2"),
        (r" 0=\d+", r"\g<0> -23309=1500000000,1.0"),  # an array of so many numbers
        (r"Input( +\S+ +0 1 in0).*", r"MemoryData\1 0=-100000 1=-100000"),
        (r"Input( +\S+ +0 1 in0).*", r"MemoryData\1 0=100000 1=100000"),
    ],
)
def test_a_layer_that_asks_for_more_weights_than_there_are_is_refused(graph, old, new):
    text, changed = re.subn(old, new, graph.read_text(), count=1)
    assert changed
    graph.write_text(text)
    with pytest.raises(ExportError, match="needs more weights than the file has"):
        NcnnRuntime(graph)
