"""Run folders that somebody edited, cut short or damaged: a model and a report, or a sentence."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from support.models.small_run import small_info
from support.processes.fuzzing import BUDGETS, change_bytes, change_json, fuzz, mutations, told
from typer.testing import CliRunner

from featherseg import models
from featherseg.cli import build_app
from featherseg.core.errors import FeathersegError
from featherseg.core.files import append_line, write_json
from featherseg.data.shapes import Shapes
from featherseg.inference.predictor import Predictor
from featherseg.reports.run_report import gather, report_html
from featherseg.runs.run import open_run, save_weights, write_info
from featherseg.training.pictures import count_labels

MODEL = "seaformer-tiny"
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
READ_BY = {
    "resolved.json": "all",
    "weights.safetensors": "model",
    "metrics.jsonl": "report",
    "scores.json": "report",
    "evaluations.jsonl": "report",
    "environment.json": "report",
    "parity.json": "report",
    "examples/examples.json": "report",
    "labels.json": "report",
}
"""The files that are mutated, and what reads them."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that was trained, scored, drawn and exported, as far as its files tell."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    run.mkdir()
    torch.manual_seed(0)
    save_weights(run, models.build(MODEL, len(Shapes.classes)).state_dict())
    data = {"name": "shapes", "val_size": 1}
    write_info(run, small_info(Shapes.classes, model=MODEL, data=data, image_size=(64, 96)))
    write_json(run / "labels.json", count_labels(Shapes("val", 1)))
    append_line(run / "metrics.jsonl", {"step": 1, "loss": 2.0, "lr": 0.1})
    append_line(run / "metrics.jsonl", {"step": 2, "loss": 1.0, "lr": 0.1, "val_miou": 0.4})
    scored = CliRunner().invoke(
        build_app(), ["evaluate", str(run), "--split", "val"], catch_exceptions=False
    )
    assert scored.exit_code == 0
    row = {
        "batch": 1,
        "height": 97,
        "width": 131,
        "max_error": 2e-5,
        "relative_error": 3e-6,
        "same_class": 1.0,
    }
    parity = {"tolerance": 1e-4, "ok": True, "rows": [row]}
    write_json(
        run / "parity.json",
        {"path": "a.onnx", "target": "onnx", "bytes": 15_000_000, "parity": parity},
    )
    write_json(run / "environment.json", {"torch": "2.13.0", "host": {"cpus": 2}})
    report_html(gather(open_run(run)))  # the first of a process imports for seconds
    return run


@pytest.mark.seconds
def test_the_folder_that_is_mutated_is_sound(whole):
    assert "onnx" in report_html(gather(open_run(whole)))
    assert Predictor(whole)(IMAGE).mask.shape == (32, 48)
    assert all((whole / file).is_file() for file in READ_BY)


@pytest.mark.seconds
@BUDGETS
def test_any_run_folder_is_used_or_refused_in_a_sentence(whole, tmp_path, seconds, seed):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)

    def target(case):
        file, mutate = case
        sound = (whole / file).read_bytes()
        (folder / file).write_bytes(mutate(sound))
        try:
            run = open_run(folder)
            if READ_BY[file] != "model":
                assert "<script" not in report_html(gather(run))
            if READ_BY[file] != "report":
                mask = Predictor(run, device="cpu")(IMAGE).mask
                assert mask.shape == (32, 48)
                assert mask.max() < len(run.classes)
        except FeathersegError as error:
            told(error)
        finally:
            (folder / file).write_bytes(sound)

    changed = mutations(change_json, change_json, change_bytes)
    fuzz(target, st.tuples(st.sampled_from(list(READ_BY)), changed), seconds, seed)
