"""What is named decides what runs it."""

import json
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models.file_metadata import ChannelsFile
from support.models.shared_exports import small_graph
from support.models.three_layers import FACTS, three_layers

from featherseg import FeathersegError, Predictor
from featherseg.core.errors import ConfigError, ExportError
from featherseg.exporters.job import metadata
from featherseg.inference.runtimes import open_file, open_runtime
from featherseg.inference.runtimes.file_metadata import open_as, read_facts


def test_a_run_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(FeathersegError, match="nowhere"):
        open_runtime(tmp_path / "nowhere")


def test_a_file_of_an_unknown_kind_is_answered_with_the_endings(tmp_path):
    with pytest.raises(
        FeathersegError, match=r"does not have the suffix of an exported file.*\.onnx"
    ):
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
        read_facts(
            {**metadata(three_layers(), FACTS), "options": "[" * 100_000 + "]" * 100_000},
            Path("a.onnx"),
        )


@pytest.mark.parametrize("names", ["ab", "abcd"])
def test_logits_of_another_number_of_classes_than_the_file_names_are_refused(names):
    facts = {
        "classes": list(names),
        "colors": [[1, 2, 3]] * len(names),
        "things": [False] * len(names),
    }
    with pytest.raises(
        ExportError, match=rf"logits of shape \(1, 3, 8, 8\); expected {len(names)} channels"
    ):
        ChannelsFile(**facts)(torch.zeros(1, 3, 8, 8))
    assert ChannelsFile()(torch.zeros(1, 3, 8, 8)).logits.shape == (1, 3, 8, 8)


@pytest.fixture
def graph(tmp_path, tmp_path_factory):
    """An .onnx file."""
    path = tmp_path / "a.onnx"
    path.write_bytes(small_graph(tmp_path_factory))
    return path


def test_every_kind_of_file_is_opened_and_every_model_run_on_the_threads_asked_for(
    graph, make_runtime, image
):
    runtime = open_as(lambda path, device, threads: Threads(threads), Path("a"), "auto", 3)
    assert (runtime.given, runtime.threads) == (3, 3)
    predictor = Predictor(graph, threads=3)
    assert predictor.runtime._session.get_session_options().intra_op_num_threads == 3
    runtime, seen = make_runtime(), []
    runtime.threads = 3
    runtime.model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    Predictor(runtime)(image)
    assert (seen[-1], torch.get_num_threads()) == (3, before)  # the first run measures memory
    for threads, match in ((0, "expected 1 to 4,096"), (5000, "expected 1 to 4,096")):
        with pytest.raises(ConfigError, match=match):
            Predictor(graph, threads=threads)
    with pytest.raises(ConfigError, match="threads = 2 would have no effect"):
        Predictor(runtime, threads=2)


class Threads:
    def __init__(self, given):
        self.given = given


@pytest.mark.seconds
def test_a_predictor_of_a_file_is_pickled_and_opens_its_file_again(graph, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    monkeypatch.chdir(graph.parent)
    predictor = Predictor("a.onnx", batch=2, max_side=32, threads=3)
    expected = predictor(image).mask
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(predictor))
    assert (again.batch, again.max_side, again.runtime.threads) == (2, 32, 3)
    assert again.runtime._session.get_session_options().intra_op_num_threads == 3
    assert (again(image).mask == expected).all()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert (pool.submit(predictor, image).result().mask == expected).all()
