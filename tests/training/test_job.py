import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from support.models.fit_plans import write_yard
from support.models.small_training import SMALL, Silent, equal_state, request, trained

import featherseg
from featherseg.core.errors import (
    ConfigError,
    DataError,
    DeviceError,
    FeathersegError,
    RunError,
    UnknownName,
    WeightsError,
)
from featherseg.data import open_dataset
from featherseg.data.checks.check import check_data
from featherseg.evaluation.scoring import evaluate
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.settings import InferenceSettings
from featherseg.runs.run import load_run, open_run
from featherseg.training import Request, train
from featherseg.training.finish import overfitting

pytestmark = pytest.mark.usefixtures("tiny")


def test_a_run_folder_holds_what_it_should(small_run):
    names = {p.name for p in small_run.path.iterdir()}
    assert {
        "recipe.toml",
        "resolved.json",
        "weights.safetensors",
        "last.ckpt",
        "metrics.jsonl",
        "environment.json",
        "card.md",
        "curve.svg",
    } <= names
    assert sorted(small_run.metrics()) == [1, 2, 3, 4]
    assert small_run.metrics()[4].keys() >= {
        "step",
        "loss",
        "lr",
        "val_miou",
        "val_iou",
        "val_pixel_accuracy",
    }
    assert "`tiny`" in (small_run.path / "card.md").read_text()


def test_scoring_the_run_again_gives_the_logged_figure_to_the_bit(small_run):
    logged = [r for r in small_run.metrics().values() if r.get("val_miou") is not None]
    best = max(logged, key=lambda r: r["val_miou"])
    run = load_run(small_run.path)
    scores = evaluate(open_runtime(run), open_dataset("shapes", "val", size=2))
    assert scores.miou == best["val_miou"]
    assert [None if np.isnan(v) else float(v) for v in scores.iou] == best["val_iou"]


@pytest.mark.slow
def test_validation_looks_at_the_recipe_s_test_size_and_so_does_whoever_scores_the_run(tmp_path):
    settings = (
        "model.name=frm-lite0",
        "augment.photometric=true",
        "loss.mean=all",
        "train.epochs=1",
    )
    run = trained(
        tmp_path / "run", *settings, "augment.resize=[80, 120]", "data.test_resize=[48, 200]"
    )
    (logged,) = (r["val_miou"] for r in run.metrics().values() if r.get("val_miou") is not None)
    runtime, data = open_runtime(run), open_dataset("shapes", "val", size=2)
    assert runtime.test_resize == (48, 200)
    assert (
        evaluate(runtime, data).miou
        == evaluate(runtime, data, InferenceSettings(resize=(48, 200))).miou
        == logged
    )
    assert evaluate(runtime, data, InferenceSettings()).miou != logged


@pytest.mark.seconds
def test_where_images_are_resized_the_crop_that_is_left_open_is_of_what_they_become(tmp_path):
    small = [text for text in SMALL if "crop" not in text]
    settings = (
        "model.name=tiny",
        *small,
        "train.epochs=1",
        "augment.resize=[60, 200]",
        "data.test_resize=[60, 200]",
    )
    run = train(
        Request("frm-lite0", overrides=settings), tmp_path / "run", Silent()
    )  # images of 256x512
    assert run.recipe.augment.crop == (60, 120)


@pytest.mark.seconds
def test_training_on_smaller_images_than_it_validates_is_told(tmp_path):
    sizes = {
        "both": ("[60,200]", "[60,200]"),
        "one": ("[60,200]", None),
        "same": ("[256,512]", None),
    }
    told = {}
    for name, (train_size, test_size) in sizes.items():
        settings = [
            f"augment.resize={train_size}",
            *([f"data.test_resize={test_size}"] if test_size else []),
        ]
        trained(tmp_path / name, "train.epochs=1", *settings, reporter=(said := Silent()))
        told[name] = [text for text in said.messages if "test_resize" in text]
    assert told == {
        "both": [],
        "one": [
            "trains on images of 60x120 (augment.resize), but validates and predicts at 256x512: "
            "for one size set "
            "data.test_resize=[60,200] too"
        ],
        "same": [],
    }


@pytest.mark.seconds
def test_the_same_recipe_gives_the_same_weights_whatever_the_workers(small_run, tmp_path):
    again = trained(tmp_path / "again", "data.workers=2")
    assert equal_state(dict(again.model.state_dict()), dict(small_run.model.state_dict()))
    assert again.metrics() == small_run.metrics()


def test_another_seed_gives_other_weights(small_run, tmp_path):
    other = trained(tmp_path / "other", "train.seed=1")
    assert not equal_state(dict(other.model.state_dict()), dict(small_run.model.state_dict()))


@pytest.mark.seconds
def test_it_is_told_that_the_compiled_loops_are_missing(tmp_path, monkeypatch):
    for loops, told in ((None, 1), ("avx2", 0)):
        monkeypatch.setattr("featherseg.training.run.native", lambda loops=loops: loops)
        trained(tmp_path / str(told), "train.epochs=1", reporter=(said := Silent()))
        assert sum("compiled loops" in text for text in said.messages) == told


def test_a_finished_run_says_so_when_it_is_resumed(small_run, reporter):
    before = (small_run.path / "metrics.jsonl").read_bytes()
    train(request(), small_run.path, reporter, resume=True)
    assert "finished: 4 steps" in reporter.messages[0]
    assert (small_run.path / "metrics.jsonl").read_bytes() == before


def test_an_existing_folder_is_never_overwritten(small_run, tmp_path):
    with pytest.raises(RunError, match="--resume"):
        train(request(), small_run.path, Silent())
    (tmp_path / "thesis.txt").write_text("all my work")
    with pytest.raises(RunError, match="already exists"):
        train(request(), tmp_path, Silent())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("slip", "error", "sentence"),
    [
        ({"overrides": ("train.epoch=3",)}, ConfigError, "Did you mean 'epochs'"),
        ({"recipe": "frm-lite9"}, UnknownName, "Did you mean 'frm-lite0'"),
        ({"overrides": ("model.name=frm-lite",)}, UnknownName, "Did you mean 'frm-lite0'"),
        ({"data": "shape"}, UnknownName, "Did you mean 'shapes'"),
        ({"data": "camvid"}, FeathersegError, "--data-root"),
        ({"overrides": ("train.device=cuda:7",)}, DeviceError, "cuda:7"),
        ({"overrides": ("train.device=cpu", "train.precision=fp16")}, ConfigError, "needs a GPU"),
        (
            {"overrides": ("train.devices=2", "train.batch_size=3", "train.device=cpu")},
            ConfigError,
            "multiple of 2",
        ),
        ({"overrides": ("loss.class_weights=[1.0, 2.0]",)}, ConfigError, "8 classes"),
        (
            {"overrides": ("data.split_by=image",)},
            ConfigError,
            "data.split_by: shapes has no splits by fraction",
        ),
        (
            {"overrides": ("train.groups=mmseg",)},
            ConfigError,
            "EfficientNetLite. Use train.groups = 'structure'",
        ),
        ({"overrides": ("data.train_split=training",)}, FeathersegError, "Did you mean 'train'"),
        ({"init": "no/such/run"}, RunError, "no run folder"),
        ({"init": "no/such/weights.pth"}, FeathersegError, "no weights at"),
    ],
)
def test_a_slip_is_told_before_anything_is_written(tmp_path, slip, error, sentence):
    wrong = Request(**{"recipe": "frm-lite0", "overrides": SMALL} | slip)
    with pytest.raises(error) as told:
        train(wrong, tmp_path / "run", Silent())
    assert sentence in str(told.value)
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_keeps_its_settings(small_run):
    with pytest.raises(ConfigError, match=r"train\.epochs is 2 in the run and 5 now"):
        train(request("train.epochs=5"), small_run.path, Silent(), resume=True)
    with pytest.raises(ConfigError, match=r"model\.channels is 16 in the run and 8 now"):
        train(request("model.channels=8"), small_run.path, Silent(), resume=True)


def test_two_processes_cannot_train_in_one_folder(small_run):
    hold = "import filelock, sys; a = filelock.FileLock(sys.argv[1]); a.acquire(); "
    hold += "print(1, flush=True); input()"
    command = [sys.executable, "-c", hold, str(small_run.path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"1\n"
        with pytest.raises(RunError, match="another process"):
            train(request(), small_run.path, Silent(), resume=True)
        other.communicate(b"\n")


def test_a_damaged_checkpoint_gets_a_sentence(small_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(small_run.path, copy)
    (copy / "last.ckpt").write_bytes(b"half a file")
    with pytest.raises(RunError, match=r"last\.ckpt cannot be read"):
        train(request(), copy, Silent(), resume=True)


@pytest.mark.seconds
def test_patience_ends_a_run_early(tmp_path):
    run = trained(tmp_path / "run", "train.epochs=5", "train.lr=1e-12", "train.patience=2")
    assert max(run.metrics()) < 10
    reporter = Silent()
    train(
        request("train.epochs=5", "train.lr=1e-12", "train.patience=2"),
        run.path,
        reporter,
        resume=True,
    )
    assert "finished" in reporter.messages[0]


@pytest.mark.seconds
def test_keep_last_holds_the_last_weights_and_average_differs_from_them(tmp_path):
    run = trained(tmp_path / "run", "train.keep=last", "train.ema=0.9")
    checkpoint = torch.load(run.path / "last.ckpt", weights_only=True)
    own = run.model.state_dict()
    assert all(torch.equal(own[k], checkpoint["average"][k]) for k in own)
    assert not all(torch.equal(own[k], checkpoint["state_dict"][f"model.{k}"]) for k in own)


@pytest.mark.seconds
def test_the_automatic_batch_size_is_written_into_the_run_and_the_rates_follow_it(tmp_path):
    said = Silent()
    run = train(
        request(
            "train.batch_size=auto", "train.epochs=1", "train.schedule=stable", "data.train_size=80"
        ),
        tmp_path / "run",
        said,
    )
    assert (run.recipe.train.batch_size, run.recipe.train.lr_batch_size) == (16, 4)
    assert run.metrics()[1]["lr"] == pytest.approx(2 * run.recipe.train.lr)
    assert any(
        f"steps have 16 images: the rate is 2 times train.lr = {run.recipe.train.lr:g}" in m
        for m in said.messages
    )


@pytest.mark.seconds
def test_precision_bf16_and_accumulation_train(tmp_path):
    run = trained(
        tmp_path / "run",
        "train.precision=bf16",
        "train.accumulate=2",
        "train.optimizer=sgd",
        "train.epochs=1",
    )
    assert sorted(run.metrics()) == [1]
    assert np.isfinite(run.metrics()[1]["loss"])


@pytest.mark.seconds
def test_tensorboard_files_are_written_on_request(tmp_path):
    run = trained(tmp_path / "run", 'train.loggers=["tensorboard"]', "train.epochs=1")
    assert list((run.path / "tensorboard").glob("events*"))


def test_a_folder_of_a_newer_version_gets_a_sentence(small_run, tmp_path):
    values = json.loads((small_run.path / "resolved.json").read_text())
    for broken, sentence in [
        (json.dumps(values | {"format_version": 99}), "Update featherseg"),
        ("{", "not valid JSON"),
        ("{}", "not written by featherseg"),
        (json.dumps(values | {"classes": 3}), "classes"),
    ]:
        (tmp_path / "resolved.json").write_text(broken)
        with pytest.raises(FeathersegError, match=sentence):
            open_run(tmp_path)
    with pytest.raises(RunError, match="no run folder at"):
        open_run(tmp_path / "missing")


def test_weights_of_other_classes_are_refused(small_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(small_run.path, copy)
    values = json.loads((copy / "resolved.json").read_text())
    (copy / "resolved.json").write_text(json.dumps(values | {"classes": values["classes"][:3]}))
    with pytest.raises(
        WeightsError, match=r"classifier.weight: found \(8, 16, 1, 1\), expected \(3, 16, 1, 1\)"
    ):
        _ = load_run(copy).model


def test_a_run_is_found_by_name(small_run, monkeypatch):
    monkeypatch.setenv("FEATHERSEG_HOME", str(small_run.path.parent))
    assert load_run("small").path == small_run.path
    monkeypatch.setenv("FEATHERSEG_HOME", os.devnull)
    with pytest.raises(RunError, match="no run folder 'small'"):
        load_run("small")


def test_masks_with_a_single_class_are_refused_as_there_is_nothing_to_learn(tmp_path):
    toml = write_yard(tmp_path / "yard", 4, "train = 0.5\nval = 0.5")
    text = (
        toml.read_text().replace('"ground", "box"', '"box"').replace('0 = "ground"', '0 = "ignore"')
    )
    toml.write_text(text)
    sentence = r"yard has one class, box, which every pixel then is. "
    sentence += ".* class of their own, such as background"
    with pytest.raises(ConfigError, match=sentence):
        train(request(data=str(toml)), tmp_path / "run", Silent())
    with pytest.raises(ConfigError, match=sentence):
        featherseg.fit(toml, 20.0, out=tmp_path / "fit")
    report = check_data(str(toml))
    assert "box is the only class" in report.notes[0]
    assert not report.clean


@pytest.mark.parametrize("workers", [0, 1])
def test_a_wrong_mask_value_met_while_training_is_one_sentence(tmp_path, workers):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for index in range(12):  # 3 is not among the images that are looked at before training
            Image.new("L", (96, 64), 78 * (index == 3)).save(tmp_path / folder / f"{index:02d}.png")
    toml = tmp_path / "dataset.toml"
    toml.write_text(
        'name = "x"\nimages = "images"\nmasks = "masks"\n'
        'classes = ["a", "b"]\n[splits]\ntrain = 1.0\n'
        '[map]\n0 = "a"\n1 = "b"\n'
    )
    settings = (f"data.workers={workers}", "data.train_size=12", "data.val_split=train")
    with pytest.raises(DataError) as told:
        train(request(*settings, data=str(toml)), tmp_path / "run", Silent())
    assert "78 (6144 pixels)" in str(told.value)
    assert "Traceback" not in str(told.value)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ((0.3, 0.5, 0.495), None),
        ((0.3, 0.5, 0.48), r"50\.00 % at step 20 and 48\.00 % at the end"),
        ((None, 0.4), None),
        ((), None),
    ],
)
def test_a_validation_that_fell_is_told_with_what_helps(scores, said):
    metrics = {10 * n: {"loss": 1.0, "val_miou": score} for n, score in enumerate(scores, 1)} | {
        35: {"loss": 0.1}
    }
    found = overfitting(metrics, "best")
    assert (found is None) == (said is None)
    if said:
        assert re.search(said, found)
        assert "may be overfitting" in found
        assert "the weights of the best were kept" in found
        assert "train.keep=best" in overfitting(metrics, "last")


def test_a_panoptic_run_is_judged_by_pq_as_its_weights_are():
    metrics = {
        n: {"val_miou": miou, "val_pq": pq} for n, (miou, pq) in enumerate([(0.6, 0.3), (0.5, 0.4)])
    }
    assert overfitting(metrics, "best") is None
    metrics[2] = {"val_miou": 0.7, "val_pq": 0.2}
    assert "validation PQ was 40.00 % at step 1 and 20.00 % at the end" in overfitting(
        metrics, "best"
    )
