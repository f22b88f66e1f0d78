"""The LiteRT runtime explains what is wrong with files, made by the converter if installed."""

import json
import zipfile

import numpy as np
import pytest
import torch
from support.models.export_job import job_of
from support.models.file_metadata import METADATA
from support.models.small_model import FACTS, small_model

from featherseg.core.errors import DataError, DataNotFound, DeviceError, ExportError
from featherseg.exporters import litert
from featherseg.exporters.parity import as_tensors
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.runtimes.litert import LitertRuntime

TEXTS = {key: json.dumps(value) for key, value in METADATA.items()}


def with_facts(path, texts):
    """A file that is no model, with `texts` in the archive at its end."""
    path.write_bytes(b"\0" * 64)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("featherseg.json", json.dumps(texts))
    return path


def test_a_file_without_facts_is_refused(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"TFL3" * 10)
    with pytest.raises(ExportError, match=r"lacks the metadata .* not written by featherseg"):
        LitertRuntime(path)


@pytest.mark.parametrize(
    ("place", "value"), [(6, 1), (8, 99)]
)  # it is encrypted, it is packed in an unknown way
def test_facts_that_cannot_be_unpacked_are_none(tmp_path, place, value):
    path = with_facts(tmp_path / "model.tflite", TEXTS)
    content = bytearray(path.read_bytes())
    for start in (
        content.index(b"PK\3\4"),
        content.index(b"PK\1\2") + 2,
    ):  # the entry, and its row in the directory
        content[start + place] = value
    path.write_bytes(content)
    with pytest.raises(ExportError, match="lacks the metadata"):
        LitertRuntime(path)


@pytest.mark.parametrize("texts", [[], {"classes": 3}, {**TEXTS, "classes": "["}])
def test_facts_that_are_none_are_refused(tmp_path, texts):
    with pytest.raises(ExportError):
        LitertRuntime(with_facts(tmp_path / "model.tflite", texts))


def test_a_missing_file_and_another_device_get_a_sentence(tmp_path):
    with pytest.raises(DataNotFound, match="--format litert"):
        LitertRuntime(tmp_path / "model.tflite")
    with pytest.raises(DeviceError, match="'cuda'"):
        LitertRuntime(tmp_path / "model.tflite", "cuda")


def test_a_damaged_model_is_refused(tmp_path):
    pytest.importorskip("ai_edge_litert")
    with pytest.raises(ExportError, match="cannot be run by LiteRT"):
        LitertRuntime(with_facts(tmp_path / "model.tflite", TEXTS))


@pytest.mark.filterwarnings("ignore")  # of the converter's own insides, when it is imported first
def test_a_batch_comes_out_as_the_model_gives_it_at_its_size_alone(tmp_path):
    pytest.importorskip("litert_torch")
    pytest.importorskip("ai_edge_litert")
    litert.write(job_of(small_model(), FACTS, tmp_path))
    runtime = open_runtime(tmp_path / "model.tflite", "cpu")
    images = torch.randn(3, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = small_model()(images)
    found = as_tensors(runtime(images.numpy()))
    assert (found.logits - expected.logits).abs().max() <= 1e-5 * (
        expected.logits.max() - expected.logits.min()
    )
    assert (found.image_size, found.padded_size) == (expected.image_size, expected.padded_size)
    with pytest.raises(DataError, match=r"takes images of 96x128 .* only, not of 64x64"):
        runtime(np.zeros((1, 3, 64, 64), np.float32))
