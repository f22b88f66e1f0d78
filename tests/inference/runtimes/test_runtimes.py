"""What is named decides what runs it."""

import json
from pathlib import Path

import pytest
import torch
from file_metadata import ChannelsFile
from three_layers import FACTS, three_layers

from featherseg import FeathersegError
from featherseg.core.errors import ExportError
from featherseg.exporters.job import metadata
from featherseg.inference.runtimes import open_file, open_runtime
from featherseg.inference.runtimes.file_metadata import read_facts


def test_a_run_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(FeathersegError, match="nowhere"):
        open_runtime(tmp_path / "nowhere")


def test_a_file_of_an_unknown_kind_is_answered_with_the_endings(tmp_path):
    with pytest.raises(FeathersegError, match=r"does not have the suffix of an exported file.*\.onnx"):
        open_file(tmp_path / "net.bin")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("channels", 10**9),
        ("channels", -1),
        ("size_divisor", 0),
        ("size_divisor", 10**400),
        ("minimum_size", 10**9),
        ("peak_bytes_per_pixel", float("nan")),
        ("image_size", [10**6, 10**6]),
        ("fixed_size", [10**9, 1]),
        ("test_resize", [1, 10**9]),
        ("std", [0.0, 1.0, 1.0]),
        ("classes", ["a"] * 256),
        ("panoptic", {"top_k": 10**9}),
        ("panoptic", {"kernel": 10**9 + 1}),
    ],
)
def test_every_number_of_an_export_s_metadata_is_bounded(key, value):
    sound = metadata(three_layers(), FACTS)
    assert read_facts(sound, Path("a.onnx")).channels == 3
    with pytest.raises(ExportError, match=rf"a\.onnx.*{key}"):
        read_facts({**sound, key: json.dumps(value)}, Path("a.onnx"))


def test_metadata_nested_without_end_are_refused():
    with pytest.raises(ExportError, match="nested too deep"):
        read_facts({**metadata(three_layers(), FACTS), "options": "[" * 100_000 + "]" * 100_000}, Path("a.onnx"))


@pytest.mark.parametrize("names", ["ab", "abcd"])
def test_logits_of_another_number_of_classes_than_the_file_names_are_refused(names):
    facts = {"classes": list(names), "colors": [[1, 2, 3]] * len(names), "things": [False] * len(names)}
    with pytest.raises(ExportError, match=rf"logits of shape \(1, 3, 8, 8\); expected {len(names)} channels"):
        ChannelsFile(**facts)(torch.zeros(1, 3, 8, 8))
    assert ChannelsFile()(torch.zeros(1, 3, 8, 8)).logits.shape == (1, 3, 8, 8)
