"""The timing scripts start, and what they measure with is right; nothing here measures a speed."""

import ast
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import count, product
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from support.models.simulated_scores import training_runs

from featherseg.core.machine import usable_cores
from featherseg.core.types import Sample
from featherseg.costs.catalogue import SCORES
from featherseg.data import open_dataset
from featherseg.evaluation.bootstrap import compare_variants
from featherseg.evaluation.clusters import clusters_of
from featherseg.recipe.reading import parse_recipe, read_recipe

pytestmark = pytest.mark.usefixtures("quick_training")

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(FOLDER.glob("*.py"))


@pytest.fixture
def load(monkeypatch):
    """A script of benchmarks/ as a module; it does nothing until it is run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)

    def by_name(name):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look it up
        spec.loader.exec_module(module)
        return module

    yield by_name
    for name in set(sys.modules) - before:
        if name.startswith("benchmark_") or name in {file.stem for file in SCRIPTS}:
            del sys.modules[name]


def alone(monkeypatch, cores):
    """As on a machine where no other program has taken a core."""
    monkeypatch.setattr(cores, "take_cores", lambda jobs: list(range(jobs)))
    monkeypatch.setattr(cores, "pin", lambda core: None)


@pytest.mark.seconds
def test_neu_segs_lists_are_fixed_and_no_image_is_in_two(load, shared, tmp_path):
    """300 of its stems stand in both folders, three images twice in the published training part."""
    toml = load("neu_seg").write(shared / "data" / "neu", tmp_path)
    splits = {split: open_dataset(str(toml), split) for split in ("train", "val", "test")}
    assert [len(data) for data in splits.values()] == [3267, 363, 840]
    folders = {split: {key.split("/")[0] for key in data.keys} for split, data in splits.items()}
    assert folders == {"train": {"training"}, "val": {"training"}, "test": {"test"}}
    contents = [{pair.files[0].read_bytes() for pair in data.pairs} for data in splits.values()]
    assert sum(map(len, contents)) == len(set.union(*contents)) == 4466
    assert set(np.unique(splits["val"].label(0))) <= {0, 1, 2, 3}
    assert len(open_dataset(str(toml), "train+val")) == 3630


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.stem)
def test_every_script_can_be_imported_and_says_how_it_is_run(script, load):
    module = load(script.stem)
    assert module.__doc__
    runs = '__name__ == "__main__"' in script.read_text()
    assert not runs or f"python benchmarks/{script.name}" in module.__doc__


def test_ratios_are_medians_of_rounds_and_their_interval_holds_them(load):
    paired = load("paired")
    rounds = np.random.default_rng(1).normal(3.0, 0.2, size=(2, 40))
    found = paired.ratio(rounds)
    assert found.value == np.median(rounds)
    assert 2.8 < found.low < found.value < found.high < 3.2
    assert paired.ratio(np.full((1, 9), 2.0)) == paired.Ratio(2.0, 2.0, 2.0)


def test_an_ablation_s_table_claims_nothing_by_three_signs(load, capsys):
    ablations, rng = load("ablations"), np.random.default_rng(0)
    base = training_runs(rng, 3, 72, spread=0.1, noise=0.05)
    lower, far = base.copy(), base.copy()
    lower[:, :, 1] = np.round(
        lower[:, :, 1] * np.array([0.998, 0.99, 0.97])[:, None, None]
    )  # with every seed
    far[:, :, 1] = np.round(0.7 * far[:, :, 1])
    ablations.print_table(
        {"whole": base, "lower": lower, "far": far}, [f"drive_{i:03d}" for i in range(72)]
    )
    _, whole, lower, far = capsys.readouterr().out.splitlines()
    assert whole.split()[0] == "whole"
    assert lower.endswith("no difference between lower and whole is shown")
    assert far.endswith("whole is better than far")


def test_functions_take_turns_in_an_order_that_moves_on(load):
    paired, calls = load("paired"), []
    table = paired.compare(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=4
    )
    assert "".join(calls[-8:]) == "abbaabba"
    assert table.wall_ms.shape == table.cpu_ms.shape == (1, 4, 2)
    assert (table.wall_ms >= 0).all()


def test_extra_memory_is_what_the_call_takes(load):
    paired = load("paired")
    assert 60 < paired.extra_mib(lambda: np.ones(8 * 2**20)) < 80  # 64 MiB


@pytest.mark.slow
def test_processes_are_timed_and_tell_their_facts_whatever_they_print(load, tmp_path):
    paired = load("paired")
    script = tmp_path / "worker.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(FOLDER)!r})\nimport paired\nprint('noise')\n"
        "paired.serve(lambda: print('more'), {'word': sys.argv[1]})\n"
    )
    table = paired.processes(
        {"x": [str(script), "one"], "y": [str(script), "two"]}, rounds=3, starts=2
    )
    assert table.facts == {"x": {"word": "one"}, "y": {"word": "two"}}
    assert table.wall_ms.shape == (2, 3, 2)
    assert all(mib > 5 for mib in table.memory_mib.values())


@pytest.mark.slow
def test_of_many_passes_a_turn_the_first_does_not_count(load, tmp_path):
    paired = load("paired")
    script = tmp_path / "worker.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(FOLDER)!r})\nimport paired\n"
        "done = []\n"
        "def step():\n"
        "    done.append(1)\n"
        "    until = paired.process_time() + (0.05 if len(done) % 5 == 1 else 0)\n"
        "    while paired.process_time() < until: pass\n"
        "paired.serve(step, passes=5)\n"
    )
    table = paired.processes({"x": [str(script)]}, rounds=3)
    assert table.cpu_ms.max() < 25


def test_a_process_that_fails_ends_the_benchmark_with_its_command(load, tmp_path):
    paired = load("paired")
    script = tmp_path / "worker.py"
    script.write_text("raise SystemExit(3)")
    with pytest.raises(SystemExit, match=r"worker\.py x` ended with 3"):
        paired.processes({"x": [str(script), "x"]}, rounds=1)


def test_the_usual_contrast_is_ours_on_the_same_pixels(load):
    import torch

    bench = load("pixel_contrast")
    torch.manual_seed(0)
    embedded = torch.nn.functional.normalize(
        torch.randn(2, 6, 8, 8, dtype=torch.float64), dim=1
    ).requires_grad_()
    index = torch.randperm(128)[:60]
    classes = index % 3
    ours = bench.contrast(bench.pick(embedded, index), classes, bench.TEMPERATURE)
    usual = bench.usual_loss(embedded, bench.as_drawn(index, classes, 64))
    torch.testing.assert_close(ours, usual, check_dtype=False)
    gradients = [torch.autograd.grad(value, embedded)[0] for value in (ours, usual)]
    torch.testing.assert_close(*gradients)


class Halves:
    """Images of 64 x 64, dark class left, bright class right, each divided elsewhere."""

    classes, channels = range(2), 3

    def __len__(self):
        return 8

    def label(self, index):
        return np.tile((np.arange(64) > 10 + 6 * index).astype(np.uint8), (64, 1))

    def __getitem__(self, index):
        return Sample(
            str(index),
            np.repeat(40 + 150 * self.label(index)[:, :, None], 3, axis=2),
            self.label(index),
        )


@pytest.mark.slow
def test_the_plain_loop_learns_and_ends_in_its_time(load, monkeypatch):
    loop, data = load("plain_loop"), Halves()
    clock = count(step=0.1)  # seconds; it looks at the clock three times a step
    monkeypatch.setattr(loop, "time", SimpleNamespace(time=lambda: next(clock)))
    settings = loop.Settings(batch_size=4, class_weights="median", length=0.5)
    model, log = loop.train(data, settings, 12, seed=0, began=0, pretrained=False)
    losses = log["losses"]
    assert len(losses) == log["steps"]
    assert 5.6 < next(clock) < 6.3  # half of the 12 s
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    mask = loop.predict(model, data[0].image)
    assert mask.shape == data[0].label.shape
    assert mask.dtype == np.uint8


def test_crops_of_the_plain_loop_keep_image_and_label_together(load):
    loop = load("plain_loop")
    crops = loop.Crops(Halves(), loop.Settings(), seed=0)
    crops.size = (160, 160)
    label = (
        torch.arange(7, dtype=torch.uint8).repeat_interleave(30)[:, None].repeat(1, 100)
    )  # 210 x 100, in stripes
    image = 30.0 * label[None]
    for _ in range(20):
        crop, mask = crops.crop(image, label)
        assert crop.shape == (1, *mask.shape) == (1, 160, 160)
        known = mask != 255
        assert (crop[0][~known] == 127).all()
        assert ((crop[0] - 30 * mask)[known].abs() <= 30).all()  # interpolated at borders
        assert ((crop[0] - 30 * mask)[known] == 0).float().mean() > 0.8


@pytest.fixture
def against(load, monkeypatch):
    """against_plain.py with trainings that only record settings; small rates give better masks."""
    bench = load("against_plain")
    bench.started = []

    def train(task, source, folder):
        bench.started.append(task)
        (folder / "task.json").write_text(json.dumps(asdict(task)))

    def open_side(source, folder):
        task = json.loads((folder / "task.json").read_text())
        wrong = round(1e4 * task["settings"].get("lr", 3e-4)) + 50 * (
            task["settings"].get("area") == "crop"
        )

        data = source.open(task["scored_on"])
        labels = {data[i].image.tobytes(): data.label(i) for i in range(len(data))}

        def mask_of(image):
            mask = labels[image.tobytes()].copy()
            mask[: wrong + task["seed"]] = 0
            return mask

        return mask_of, {"steps": 7}

    monkeypatch.setattr(bench, "TRAIN", dict.fromkeys(bench.TRAIN, train))
    monkeypatch.setattr(bench, "OPEN", dict.fromkeys(bench.OPEN, open_side))
    alone(monkeypatch, bench.cores)
    return bench


@pytest.mark.slow
def test_the_plain_loop_is_tuned_first_and_the_same_command_does_only_what_is_missing(
    against, tmp_path, capsys
):
    toml = against.write_shapes(tmp_path / "data", {"train": 1, "val": 2, "test": 2})
    source, table = against.Source("toy-scenes", str(toml)), tmp_path / "tables" / "rows.jsonl"

    def run(minutes=0.1, seeds=against.SEEDS):
        against.started.clear()
        bench = against.Bench([source], minutes, tmp_path / "out", table, 1)
        bench.seeds = seeds
        bench.run()
        return against.started

    assert (
        len(run()) == 3 + 4 * 1 + 2 * 3
    )  # learning rates, the other value of four factors, both sides by three seeds
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    last = [row for row in rows if row["side"] == "plain" and row["scored_on"] == "test"]
    assert [(row["settings"]["lr"], row["settings"]["area"]) for row in last] == [
        (3e-4, "whole")
    ] * 3
    assert sorted(row["look"] for row in rows if row["look"]) == [1, 2, 3, 4, 5, 6]

    # Equal masks have equal scores, and no difference
    ours = [row for row in rows if row["side"] == "featherseg"]
    scores, theirs = (
        {row["seed"]: (row["score"], row["iou"]) for row in side} for side in (ours, last)
    )
    assert scores == theirs
    assert len({score for score, _ in scores.values()}) == 3
    against.print_table(source, 0.1, table)
    printed = capsys.readouterr().out
    assert "no difference between featherseg and plain is shown" in printed
    assert "two looks" not in printed

    # Its settings were chosen on the validation images; CamVid's are between training images
    tuned = [
        (row["trained_on"], row["scored_on"]) for row in rows if row not in last and row not in ours
    ]
    assert tuned == [source.tuning] * 7 == [("train", "val")] * 7
    assert against.Source("camvid", "camvid").tuning == ("subtrain", "dev")

    # Nothing, one row that is missing, and other minutes, which are never pooled
    assert run() == []
    table.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not last[1]))
    assert run() == []  # its training stands, so that it is scored alone
    assert len(table.read_text().splitlines()) == len(rows)
    table.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not last[1]))
    shutil.rmtree(
        against.Task(**{k: last[1][k] for k in against.Task.__dataclass_fields__}).folder(
            tmp_path / "out"
        )
    )
    assert [(task.side, task.seed) for task in run()] == [("plain", last[1]["seed"])]
    assert {(task.side, task.seed) for task in run(seeds=range(4))} == {
        ("plain", 3),
        ("featherseg", 3),
    }
    against.print_table(source, 0.1, table)
    assert "corrected for two looks" in capsys.readouterr().out
    assert len(run(minutes=0.2)) == 13
    against.print_table(source, 0.3, table)
    assert "an interval needs 3" in capsys.readouterr().out


@pytest.mark.seconds
def test_a_killed_training_goes_on_with_the_seconds_it_had_and_stops_no_other(
    against, tmp_path, monkeypatch, capsys
):
    toml = against.write_shapes(tmp_path / "data", {"train": 1, "val": 2, "test": 2})
    source, table = against.Source("toy-scenes", str(toml)), tmp_path / "tables" / "rows.jsonl"
    whole, kills = against.TRAIN["featherseg"], [1]

    def killed(task, source, folder):
        (folder / "log.txt").write_text("step 3\n")
        if task.seed == 1 and kills:
            (folder / "run").mkdir()
            (folder / "run" / "resolved.json").touch()
            os.utime(folder / "log.txt", (time.time() + 40,) * 2)  # so long it trained
            raise RuntimeError(f"killed {kills.pop()}")
        whole(task, source, folder)
        (folder / "run" / "resolved.json").unlink(missing_ok=True)

    monkeypatch.setattr(against, "TRAIN", against.TRAIN | {"featherseg": killed})
    bench = against.Bench([source], 0.1, tmp_path / "out", table, 1)
    with pytest.raises(SystemExit, match="1 failed; the same command tries them again"):
        bench.run()
    assert "failed: killed 1" in capsys.readouterr().err
    assert len(table.read_text().splitlines()) == 12  # all but this one
    against.Bench([source], 0.1, tmp_path / "out", table, 1).run()
    (row,) = (
        r
        for r in map(json.loads, table.read_text().splitlines())
        if (r["side"], r["seed"]) == ("featherseg", 1)
    )
    assert 39 < row["seconds"] < 60


def test_a_recipe_is_known_by_what_it_says(load, tmp_path):
    bench, path = load("against_plain"), tmp_path / "a.toml"
    text = read_recipe("frm-lite0").text
    path.write_text(f"# Other words\n{text}")
    first = bench.recipe_digest(str(path))
    path.write_text(text)
    assert bench.recipe_digest(str(path)) == first
    path.write_text(text.replace("lovasz = 0.5", "lovasz = 0.4"))
    assert bench.recipe_digest(str(path)) != first


@pytest.mark.seconds
def test_every_number_of_minutes_has_a_row_of_its_own(load, tmp_path, monkeypatch, capsys):
    minutes, plain = load("minutes"), load("against_plain")
    source = minutes.Source(
        "toy-scenes", str(plain.write_shapes(tmp_path / "data", {"train": 1, "val": 2, "test": 2}))
    )
    started, table = [], tmp_path / "tables" / "rows.jsonl"

    def start(folder, *command, cache, gpus):
        assert gpus == ("--minutes" not in command)
        started.append(command)

    monkeypatch.setattr(minutes.plain, "start", start)
    alone(monkeypatch, minutes.plain.cores)
    empty = (lambda image: np.zeros(image.shape[:2], np.uint8)), {"steps": 5}
    monkeypatch.setattr(minutes.Bench, "open", lambda *_: empty)

    def finish(split, *overrides):
        started.clear()
        bench = minutes.Bench([source], 0.0, tmp_path / "out", table, 1)
        runs = [(source, m, seed) for seed in (0, 1) for m in (1.0, 2.0)]
        bench.finish([minutes.task_of("frm-lite0", overrides, split, *run) for run in runs])
        return [" ".join(command) for command in started]

    found = finish("test")
    assert len(found) == 4
    assert all(
        '--set data.train_split="train"' in command and "val_split" not in command
        for command in found
    )
    assert [command.split("--minutes ")[1].split()[0] for command in found] == [
        "1.0",
        "2.0",
        "1.0",
        "2.0",
    ]
    assert finish("test") == []
    assert len(finish("test", "augment.progressive=true")) == 4
    assert all('data.val_split="val"' in command for command in finish("val"))
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert [row["look"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8, None, None, None, None]
    minutes.print_table(rows, "toy-scenes")
    assert capsys.readouterr().out.count("5 5 steps") == 6

    # None at all: as long as the recipe says
    bench = minutes.Bench([source], 0.0, tmp_path / "out", table, 1)
    started.clear()
    bench.finish([minutes.task_of("frm-lite0", (), "test", source, 0.0, 0)])
    assert len(started) == 1


@pytest.mark.seconds
def test_rows_say_what_their_recipe_leaves_open(load, tmp_path):
    minutes, both, plain = load("minutes"), load("against_ultralytics"), load("against_plain")
    toml = plain.write_shapes(tmp_path / "data", {"train": 1, "val": 1, "test": 1})
    keys = (tmp_path / "data" / "train.txt").read_text().split() + [
        f"train/copy-{number}" for number in range(69)
    ]
    (tmp_path / "data" / "train.txt").write_text("\n".join(keys))  # to draw as many takes seconds
    for part, key in product(("images", "masks"), keys[1:]):
        shutil.copy(
            tmp_path / "data" / part / f"{keys[0]}.png", tmp_path / "data" / part / f"{key}.png"
        )
    source, scratch = minutes.Source("toy-scenes", str(toml)), ("model.pretrained=false",)
    alone = {"backbone_lr": None, "optimizer": "muon"}
    assert (
        alone.items()
        <= minutes.task_of("frm-lite0", scratch, "val", source, 1.0, 0).settings.items()
    )
    own = minutes.task_of(
        "frm-lite0", (*scratch, "train.optimizer=adamw"), "val", source, 1.0, 0
    ).settings
    assert not alone.keys() & (
        own.keys() | minutes.task_of("frm-lite0", (), "val", source, 1.0, 0).settings.keys()
    )
    bench = SimpleNamespace(models=["frm-lite0"], scratch=["frm-lite0", "efficientvit-seg-b0"])
    first, second, third = (settings for _, settings in both.Bench.sides(bench, source))
    assert (first["optimizer"], second["optimizer"]) == ("muon", "adamw")
    assert third == {"pretrained": True, "sha256": first["sha256"]}
    for file in (tmp_path / "data").rglob("*.png"):
        Image.open(file).resize((200, 200), Image.Resampling.NEAREST).save(file)
    small = [settings.get("batch_size") for _, settings in both.Bench.sides(bench, source)]
    assert small == [16, None, 16], "from-scratch.toml has 8"
    assert (
        both.settings_of("frm-lite0 at 0.5", source).items()
        >= {"resize": [100, 100], "batch_size": 16}.items()
    )
    assert both.settings_of("frm-lite0 at 1", source) == both.settings_of("frm-lite0", source)
    assert minutes.task_of("frm-lite0", (), "val", source, 1.0, 0).settings["batch_size"] == 16


def test_a_model_at_a_scale_trains_and_is_validated_there(load, tmp_path, monkeypatch):
    both, started = load("against_ultralytics"), []
    monkeypatch.setattr(both.plain, "start", lambda folder, *command, **_: started.append(command))
    source, name = both.Source("shapes", "shapes"), "frm-lite0 at 0.5"
    task = both.Task("shapes", name, both.settings_of(name, source), 0, 30.0, "train", "test")
    both.train_ours(task, source, tmp_path)
    assert started[0][:4] == ("-m", "featherseg", "train", "frm-lite0")
    assert {"augment.resize=[128, 256]", "data.test_resize=[128, 256]"} <= set(started[0])
    assert task.folder(tmp_path).name.startswith("frm-lite0-at-0.5-test-0-")


def test_a_row_of_the_table_of_fit_goes_from_rung_to_rung_until_it_gains_no_more(
    load, tmp_path, monkeypatch
):
    table, calls = load("fit_table"), []

    class Runs:
        """Its score halves its distance to 50 % every 200 steps; over `last` steps it is killed."""

        last = 10_000

        @classmethod
        def train(cls, model, data, *, out, settings, resume, report, progress):
            if settings["train.steps"] > cls.last:
                raise KeyboardInterrupt
            calls.append((out.name, settings["train.steps"], settings["train.decay_steps"], resume))
            out.mkdir(parents=True, exist_ok=True)
            (out / "steps").write_text(str(settings["train.steps"]))

        @staticmethod
        def load_run(out):
            steps = int((out / "steps").read_text())
            seen = sorted({*range(0, steps + 1, max(1, steps // 5)), steps})
            recipe = parse_recipe(read_recipe("frm-lite0"), ["train.precision=bf16"])
            metrics = {s: {"val_miou": 0.5 - 0.5 ** (1 + s / 200)} for s in seen}
            return SimpleNamespace(metrics=lambda: metrics, recipe=recipe)

    monkeypatch.setattr(table, "featherseg", Runs)
    monkeypatch.setattr(table, "score", lambda run, data: float((run / "steps").read_text()))
    source = SimpleNamespace(data="there", root=None, open=lambda split: None)
    row, pace = (
        ("shapes-60", "frm-lite0", 0.5, 3),
        {"step_seconds": 0.5, "val_seconds": 2.0, "images": 7, "recipe": "r"},
    )
    Runs.last = 400
    with pytest.raises(KeyboardInterrupt):
        table.record(row, source, pace, tmp_path / "row")
    assert [call[:2] for call in calls] == [
        ("run", 150),
        ("branch", 188),
        ("run", 300),
        ("branch", 375),
    ]
    Runs.last, calls[:] = 10_000, []
    found = table.record(row, source, pace, tmp_path / "row")

    # It went on behind the rung before, and at 600 s it had gained 1.1 in the last fifth
    rungs = [(rung["seconds"], rung["steps"]) for rung in found["rungs"]]
    assert rungs == [(75, 150), (150, 300), (300, 600), (600, 1200), (1200, 2400)]
    assert calls[:3] == [("run", 600, 0, True), ("branch", 750, 150, True), ("run", 1200, 0, True)]
    expected = {
        "val": 50 - 100 * 0.5 ** (1 + 150 / 200),
        "val_decayed": 50 - 100 * 0.5 ** (1 + 188 / 200),
    }
    assert found["rungs"][0] == pytest.approx(
        found["rungs"][0] | expected | {"test_decayed": 188.0}, abs=1e-3
    )
    assert (found["step_seconds"], found["images"], found["precision"]) == (0.5, 7, "bf16")
    calls.clear()
    assert table.record(row, source, pace, tmp_path / "row") == found
    assert not calls

    # Steps of another machine's pace begin anew
    shutil.copytree(tmp_path / "row", tmp_path / "other")
    kept = json.loads((tmp_path / "other" / "rungs.json").read_text())
    (tmp_path / "other" / "rungs.json").write_text(json.dumps(kept | {"rungs": kept["rungs"][:-1]}))
    table.record(row, source, pace | {"step_seconds": 2.0}, tmp_path / "other")
    assert calls[0] == ("run", 38, 0, False)

    # Of scores that rise evenly over the logarithm of the time, what the last fifth brought
    rising = [
        {"ended": ended, "val_decayed": 50 + 2 * math.log(ended)} for ended in (375, 750, 1600)
    ]
    assert table.gained(rising) == pytest.approx(2 * math.log(1600) - 2 * math.log(0.8 * 1600))

    # A row without an end is taken further, and the longer one counts
    digest = table.recipe_digest("frm-lite0")
    began = found | {"recipe": digest, "rungs": found["rungs"][:4]}
    (tmp_path / "rows.jsonl").write_text(
        f"{json.dumps(began)}\n{json.dumps(found | {'recipe': digest})}\n"
    )
    assert [table.is_over(one) for one in (began, found)] == [False, True]
    assert table.read_table(tmp_path / "rows.jsonl") == {row: found | {"recipe": digest}}

    source = SimpleNamespace(root=Path("there"))
    found = table.settings_of(("camvid-180x240", "frm-lite0", 0.5, 3), source)
    assert (found["augment.resize"], found["augment.crop"], found["data.root"]) == (
        [90, 120],
        [90, 120],
        "there",
    )


def test_candidates_of_the_table_of_fit_are_timed_in_turns(load, tmp_path, monkeypatch):
    table, timed = load("fit_table"), []

    def time_file(file, image, name):
        assert file.read_text() == f"{name[0]} as {name[2]}"
        timed.append(name)
        slow = 1.5 if len(timed) <= 4 else 1.0  # the machine, in the first two turns of five
        p50 = slow * {"small": 2.0, "large": 3.0}[name[0]]
        return SimpleNamespace(p50=p50, p95=2 * p50)

    def write_untrained(name, classes, resize, image, calibration, folder):
        assert (classes, resize, len(calibration)) == (("a", "b"), None, 1)
        (folder / "model").write_text(f"{name[0]} as {name[2]}")
        return folder / "model"

    monkeypatch.setattr(table, "CANDIDATES", (("small", 1.0), ("large", 1.0)))
    monkeypatch.setattr(table, "image_of", lambda data, size: np.zeros((*size, 3), np.uint8))
    monkeypatch.setattr(table, "write_untrained", write_untrained)
    monkeypatch.setattr(table, "time_file", time_file)
    source = SimpleNamespace(open=lambda split: SimpleNamespace(classes=("a", "b")))
    monkeypatch.setattr(table, "source_of", lambda label, places: source)
    rows = tmp_path / "rows.jsonl"
    table.time_missing(["neu"], {}, ["onnx"], rows)
    assert [name[0] for name in timed] == ["small", "large"] * 5
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [(row["model"], row["p50_ms"], row["p95_ms"], row["turns"]) for row in found] == [
        ("small", 2.0, 4.0, [3.0, 3.0, 2.0, 2.0, 2.0]),
        ("large", 3.0, 6.0, [4.5, 4.5, 3.0, 3.0, 3.0]),
    ]

    # The same command does what is missing, and all of it on another processor
    rows.write_text(json.dumps(found[0]) + "\n")
    table.time_missing(["neu"], {}, ["onnx"], rows)
    assert [name[0] for name in timed[10:]] == ["large"] * 5
    assert len(rows.read_text().splitlines()) == 2
    monkeypatch.setattr(table, "machine_name", lambda: "another")
    table.time_missing(["neu"], {}, ["onnx"], rows)
    assert [name[0] for name in timed[15:]] == ["small", "large"] * 5


def test_a_pace_of_the_table_of_fit_is_that_of_a_step_and_of_the_validation(
    load, tmp_path, monkeypatch
):
    table, times = load("fit_table"), iter([100.0, 102.4])
    clock = SimpleNamespace(process_time=lambda: next(times))

    def train(model, data, *, out, settings, report, progress):
        progress.ends.extend(
            [0.5 * step + (9 if step > 8 else 0) for step in range(settings["train.steps"])]
        )

    monkeypatch.setattr(table, "featherseg", SimpleNamespace(train=train))
    monkeypatch.setattr(table, "score", lambda run, data: 0.0)
    monkeypatch.setattr(table, "time", clock)
    monkeypatch.setattr(table, "open_dataset", lambda data, split, root, few: "v" * few)
    source = SimpleNamespace(
        data="there",
        root=None,
        open=lambda split: {"train": "a" * 99, "val": "b" * 7}.get(split, "c"),
    )
    found = table.time_pace(("shapes-60", "frm-lite0", 0.5, 3), source, tmp_path / "out")
    assert (found["step_seconds"], found["val_seconds"], found["images"]) == (0.5, 0.7, 60 + 7 + 1)


def fit_rows(ends, digest, seeds=(0, 1)):
    """Return rows and latencies of candidates that halve the distance to their ends every 120 s."""
    models = (
        "frm-lite0-half-light-w32",
        "frm-lite0-half-light",
        "frm-lite0-light",
        "frm-lite2-light",
    )
    rows, times = [], []
    for dataset, seed, (number, model) in product(ends, seeds, enumerate(models)):
        rungs = []
        for seconds in (60, 120, 240, 480, 960):
            reached = ends[dataset][number] * (1 - 0.5 ** (1 + seconds / 120))
            rung = {
                "seconds": seconds,
                "steps": seconds * 10,
                "ended": seconds * 12.5,
                "val": reached,
            }
            rungs.append(rung | {"val_decayed": reached, "test_decayed": reached})
        key = {"dataset": dataset, "model": model, "scale": 1.0}
        row = key | {
            "seed": seed,
            "step_seconds": 0.1,
            "val_seconds": 0.5,
            "rungs": rungs,
            "images": 200,
        }
        rows.append(row | {"recipe": digest(model)})
        time = {"format": "onnx", "p50_ms": 10.0 * (number + 1), "image_size": [180, 240]}
        times.append(key | time | {"processor": "here", "threads": 2})
    return rows, times


@pytest.mark.slow
def test_the_regret_of_fit_is_that_of_the_model_it_would_have_chosen(
    load, tmp_path, capsys, monkeypatch
):
    regret = load("fit_regret")
    ends = {"larger is better": (50, 55, 60, 65), "middle is best": (50, 70, 60, 65)}
    recorded, times = fit_rows(ends, regret.read_table.__globals__["recipe_digest"])
    rungs = recorded[0][
        "rungs"
    ]  # the first of a third seed, which has come to its end; three of the four of a fourth
    recorded.append(
        recorded[0] | {"seed": 7, "rungs": [*rungs[:-1], rungs[-1] | {"val_decayed": 0.0}]}
    )
    recorded += [
        row | {"seed": 8}
        for row in recorded
        if (row["dataset"], row["seed"]) == ("middle is best", 0)
    ][:3]
    for name, rows in (("rows", recorded), ("times", times)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = regret.load(tmp_path / "rows.jsonl", tmp_path / "times.jsonl")
    assert sorted(found) == [(dataset, seed) for dataset in ends for seed in (0, 1)]
    told = capsys.readouterr().out
    assert "larger is better with seed 7 is skipped: it has 1 of 4 candidates" in told
    assert "middle is best with seed 8 is skipped: it has 3 of 4 candidates" in told
    order = regret.by_macs
    ways = {
        "fit": regret.fit(0.0, order),
        "most MACs": regret.most_macs,
        "asha": regret.fit(0.0, order, anew=True),
    }
    rows = regret.regrets(found, ways)
    assert len(rows) == 2 * 2 * regret.LIMITS * len(regret.SHARES)
    assert min(row[way] for row in rows for way in ways) >= -1e-9

    # All keep the last limit: the last has most MACs, 5 points below the best if the middle is best
    half = {
        row["dataset"]: row
        for row in rows
        if (row["limit"], row["share"], row["seed"]) == (40.0, 0.5, 0)
    }
    seconds = 0.5 * 4 * 960 * 1.25
    assert half["larger is better"]["most MACs"] == pytest.approx(0.0, abs=0.3)
    assert half["middle is best"]["most MACs"] == pytest.approx(
        70 * (1 - 0.5**9) - 65 * (1 - 0.5**9), abs=0.3
    )
    assert half["middle is best"]["fit"] == pytest.approx(0.0, abs=0.3)
    assert all(
        row["asha"] >= row["fit"] - 1e-9 for row in rows
    )  # what started anew was trained for less
    chosen, trained = regret.fit(0.0, order)(found["middle is best", 0], seconds, None)
    assert chosen.candidate.model == "frm-lite0-half-light"
    assert 0.5 * seconds <= trained <= seconds

    # The largest model, by either, is not the one at a larger scale, nor the slowest
    one = found["larger is better", 0][-1]
    scales = [
        replace(one, candidate=replace(one.candidate, scale=scale))
        for scale in (0.5, 2.0, 1.0, 1.5)
    ]
    for largest in (regret.most_parameters, regret.most_macs):
        assert largest([*found["larger is better", 0][:-1], *scales], seconds, None)[0] is scales[2]
    _, slim, wide, _ = found[
        "larger is better", 0
    ]  # 3.62 and 3.60 million parameters, 1.6 and 4.8 billion MACs
    assert regret.most_parameters([wide, slim], seconds, None)[0] is slim
    assert regret.most_macs([slim, wide], seconds, None)[0] is wide

    # A learned order is that of the scores for any dataset level, also if one score is missing
    learnt = regret.learnt_from(
        {k: v[1:] if k == ("larger is better", 0) else v for k, v in found.items()}
    )
    assert [one.candidate.latency_ms for one in learnt(found["middle is best", 0])][:2] == [40, 20]
    only = regret.learnt_from(
        {key: own for key, own in found.items() if key[0] == "middle is best"}
    )
    assert [one.candidate.latency_ms for one in only(found["larger is better", 0])] == [
        20,
        40,
        30,
        10,
    ]

    files = ["--rows", f"{tmp_path}/rows.jsonl", "--latencies", f"{tmp_path}/times.jsonl"]
    monkeypatch.setattr(sys, "argv", ["fit_regret", *files])
    regret.main()
    told = capsys.readouterr().out
    assert (
        "frm-lite2-light at 1 on middle is best with seed 1 still gained 0.6 points "
        "in its last fifth of 960 s" in told
    )
    assert "with seed 7 still" not in told
    assert "larger is better: judged with the margin 0, chosen on middle is best" in told
    assert "most MACs less fit: +" in told
    assert (
        "learnt from all of them: frm-lite2-light at 1, frm-lite0-half-light at 1, "
        "frm-lite0-light at 1" in told
    )

    # Timed again elsewhere: the last latency of each counts, of one device
    again = [row | {"processor": "there", "p50_ms": 2 * row["p50_ms"]} for row in times]
    (tmp_path / "times.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in times + again[:1])
    )
    with pytest.raises(SystemExit, match="several devices"):
        regret.load(tmp_path / "rows.jsonl", tmp_path / "times.jsonl")
    (tmp_path / "times.jsonl").write_text("".join(json.dumps(row) + "\n" for row in times + again))
    found = regret.load(tmp_path / "rows.jsonl", tmp_path / "times.jsonl")
    assert [one.candidate.latency_ms for one in found["middle is best", 0]] == [20, 40, 60, 80]

    assert regret.split_in_halves(["camvid-180x240", "neu", "shapes-1000", "shapes-60"]) == (
        ["shapes-1000", "shapes-60"],
        ["camvid-180x240", "neu"],
    )


@pytest.mark.seconds
def test_fit_and_the_default_are_timed_again_behind_both_and_rows_are_kept(
    load, tmp_path, monkeypatch, capsys
):
    script = load("fit_default")
    plain, verbs, times = script.open_source.__globals__, [], iter(range(100))
    toml = plain["write_shapes"](tmp_path / "data", {"train": 2, "val": 2, "test": 2})

    def run_verb(*words):
        verbs.append(words[0])
        out = Path(words[words.index("--out") + 1]) if "--out" in words else Path(words[1])
        (out / "export").mkdir(parents=True, exist_ok=True)
        if words[0] == "fit":
            chosen = {
                "model": "frm-lite0",
                "scale": 0.5,
                "miou_val": 0.5,
                "miou_test": 0.4,
                "interval": None,
            }
            facts = {
                "chosen": chosen,
                "limit_ms": 15.0,
                "seconds": 60.0,
                "file": "export/model.onnx",
            }
            (out / "fit.json").write_text(json.dumps(facts))
        (out / "export" / "model.onnx").touch()

    monkeypatch.setattr(script, "run_verb", run_verb)
    monkeypatch.setattr(script, "time_file", lambda *_: SimpleNamespace(p50=float(next(times))))
    monkeypatch.setattr(
        script, "featherseg", SimpleNamespace(evaluate=lambda run, split: SimpleNamespace(miou=0.3))
    )
    limits = [(script.limit_of(p50), p50) for p50 in np.linspace(1, 60, 997)]
    assert all(
        0.9 * limit >= 1.02 * p50 - 1e-9 and 0.9 * limit < 1.02 * p50 + 0.01
        for limit, p50 in limits
    )
    words = [
        "fit_default",
        str(toml),
        "--max-ms",
        "15",
        "--out",
        str(tmp_path / "o"),
        "--rows",
        str(tmp_path / "r.jsonl"),
    ]
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    assert verbs == ["fit", "train", "export"]
    row = json.loads((tmp_path / "r.jsonl").read_text())
    assert row["fit"]["p50_ms"] == [float(n) for n in range(0, 20, 2)]
    assert row["over"] == 2  # 16 and 18 ms
    assert "over the limit in 2 of 10 later timings" in capsys.readouterr().out
    script.main()
    assert verbs == ["fit", "train", "export"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no process")
def test_two_programs_never_share_a_core(load, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first, second, usable = load("cores"), load("cores"), sorted(os.sched_getaffinity(0))
    assert first.take_cores(1) == usable[:1]
    with pytest.raises(SystemExit, match=f"{len(usable) - 1} cores are free"):
        second.take_cores(len(usable))
    for file in first._held + second._held:
        file.close()


@pytest.mark.seconds
def test_a_side_that_ends_by_the_clock_and_lost_its_core_is_trained_again(against, tmp_path):
    toml = against.write_shapes(tmp_path / "data", {"train": 1, "val": 2, "test": 2})
    source, table = against.Source("toy-scenes", str(toml)), tmp_path / "tables" / "rows.jsonl"
    bench = against.Bench([source], 0.1, tmp_path / "out", table, 1)
    task = bench.final("toy-scenes", "plain", {"lr": 3e-4}, 0)
    folder = task.folder(tmp_path / "out")
    for share, disturbed in ((0.5, True), (0.99, False)):
        assert not (folder / "trained.json").exists()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "task.json").write_text(json.dumps(asdict(task)))
        (folder / "trained.json").write_text(json.dumps({"seconds": 6.0, "commit": "x"}))
        (folder / "processor.json").write_text(json.dumps({"seconds": 6.0 * share}))
        row = bench.do(task)
        assert row.get("disturbed", False) is disturbed
        rows = [json.loads(line) for line in table.read_text().splitlines()]
        assert (task.find(rows) is None) is disturbed


@pytest.mark.seconds
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no process")
def test_a_side_runs_on_one_core_with_all_that_it_starts(load, tmp_path):
    bench, core = load("against_plain"), max(os.sched_getaffinity(0))
    code = "import os; print(os.sched_getaffinity(0), os.environ['OMP_NUM_THREADS'], "
    code += "os.environ['FEATHERSEG_CACHE'])"
    with ThreadPoolExecutor(1, initializer=lambda: bench.cores.pin(core)) as pool:
        pool.submit(bench.start, tmp_path, "-c", code).result()
        assert (tmp_path / "log.txt").read_text().split() == [f"{{{core}}}", "1", "off"]
        assert 0 < json.loads((tmp_path / "processor.json").read_text())["seconds"] < 60
        with pytest.raises(RuntimeError, match=r"ended with 3; .*\n.*\nsaid"):
            pool.submit(bench.start, tmp_path, "-c", "print('said'); raise SystemExit(3)").result()


def red_is_the_class(images):
    """A file of the peer's that calls every pixel what its red channel holds."""
    return (images[:, 0] * 255).round().astype(np.uint8)


@pytest.mark.parametrize("size", [(36, 48), (32, 64), (64, 64), (18, 24), (90, 120)])
def test_the_peer_s_border_is_taken_off_its_mask(load, size):
    peer = load("against_ultralytics")
    image = np.full((*size, 3), 7, np.uint8)
    image[: size[0] // 2, : size[1] // 2, 0] = 200
    mask = peer.peer_mask(red_is_the_class, (64, 64))(image)
    assert mask.shape == size
    assert (mask == image[..., 0]).mean() > 0.85  # all but where two values are mixed
    assert mask[0, 0] == 200
    assert (mask[-1] == 7).all()


def test_the_front_is_of_mean_scores_int8_less_what_its_file_lost(
    load, tmp_path, monkeypatch, capsys
):
    front, plain, table = load("pareto"), load("against_plain"), tmp_path / "rows.jsonl"
    for name in ("FILES", "LATENCIES"):
        monkeypatch.setattr(front, name, tmp_path / f"{name}.jsonl")
    models = {"a": (10.0, (50, 52, 54)), "b": (20.0, (51, 52, 53)), "c": (30.0, (60, 61, 62))}
    models["a at 0.5"] = 6.0, (40, 41, 42)
    models["yolo26n-sem"] = 25.0, (40,)
    runs = iter(training_runs(np.random.default_rng(0), 25, 72, spread=0.1, noise=0.05))
    for name, (ms, scores) in models.items():
        for seed, score in enumerate(scores):
            for pretrained in (False,) if name.startswith("yolo") else (False, True):
                task = plain.Task(
                    "camvid", name, {"pretrained": pretrained}, seed, 30.0, "train", "test"
                )
                shown = score / 100 if pretrained or name.startswith("yolo") else 0.01
                plain.append_line(table, asdict(task) | {"score": shown, "processor": "here"})
                counts = task.counts(table)
                counts.parent.mkdir(exist_ok=True)
                np.savez(counts, counts=next(runs), keys=[f"d_{i:03d}" for i in range(72)])
        for format, quicker in (("onnx", 1), ("onnx-int8", 2)):
            row = {
                "dataset": "camvid",
                "model": name,
                "format": format,
                "threads": 1,
                "p50_ms": ms / quicker,
            }
            row |= {"processor": "here", "size": [360, 480]}
            if not (name.startswith("yolo") and quicker == 2):
                plain.append_line(front.LATENCIES, row)
            if quicker == 1:
                plain.append_line(front.LATENCIES, row | {"processor": "there", "p50_ms": 2 * ms})
        for minutes, lost in ((30.0, -0.5), (120.0, -9.0)):
            row = {
                "dataset": "camvid",
                "model": name,
                "minutes": minutes,
                "onnx-int8": {"points": [lost, -1, 0]},
            }
            plain.append_line(front.FILES, row)
    front.print_front("camvid", 30.0, table, tmp_path / "front")
    printed = capsys.readouterr().out.splitlines()
    assert sum("(runs: 13 on here)" in line for line in printed) == 3
    (there,) = (place for place, line in enumerate(printed) if " there," in line)
    del printed[there : there + 7]
    lines = [line.replace(" at ", "@") for line in printed if line[:2] in ("* ", "  ")]
    assert [line.split()[:4] for line in lines] == [
        ["*", "a@0.5", "6.0", "41.00"],
        ["*", "a", "10.0", "52.00"],
        ["b", "20.0", "52.00", "less"],
        ["yolo26n-sem", "25.0", "40.00"],
        ["*", "c", "30.0", "61.00"],
        ["*", "a@0.5", "3.0", "40.50"],
        ["*", "a", "5.0", "51.50"],
        ["b", "10.0", "51.50"],
        ["*", "c", "15.0", "60.50"],
    ]
    assert "c: mIoU 61.00 %, 30 ms, on the front" in (tmp_path / "front-camvid.svg").read_text()

    # `featherseg models` hears of those with weights and three seeds of every dataset
    lines = table.read_text().splitlines()
    other = [
        line.replace('"camvid"', '"other"')
        for line in lines
        if '"side": "b"' not in line or '"seed": 2' not in line
    ]
    table.write_text("\n".join([*lines, *other]) + "\n")
    front.mark_front(["camvid", "other"], 30.0, table, tmp_path / "scores.json")
    marked = json.loads((tmp_path / "scores.json").read_text())
    assert marked["miou"] == {data: {"a": 0.52, "c": 0.61} for data in ("camvid", "other")}
    assert (marked["minutes"], marked["seeds"]) == (30, 3)


def test_what_models_marks_is_what_the_committed_rows_say(load, tmp_path):
    front, marked = load("pareto"), json.loads(SCORES.read_text())
    front.mark_front(
        [*marked["miou"]], marked["minutes"], front.both.TABLE, tmp_path / "scores.json"
    )
    again = json.loads((tmp_path / "scores.json").read_text())
    assert again == marked, "benchmarks/pareto.py camvid NEU/dataset.toml --data-root PATH --mark"


def test_a_peer_is_compared_by_all_seeds_that_both_have(load, tmp_path, capsys):
    both, plain = load("against_ultralytics"), load("against_plain")
    peer, alone = ("yolo26n-sem", False), ("a", False)
    seeds = {peer: 5, ("a", True): 5, alone: 4, ("b", True): 5}
    runs = training_runs(np.random.default_rng(0), sum(seeds.values()), 72, spread=0.1, noise=0.05)
    of = dict(zip(seeds, np.split(runs, np.cumsum([*seeds.values()])[:-1]), strict=True))
    keys, table = [f"d_{i:03d}" for i in range(72)], tmp_path / "rows.jsonl"
    for (name, pretrained), own in of.items():
        for seed, counts in enumerate(own):
            task = plain.Task(
                "camvid", name, {"pretrained": pretrained}, seed, 30.0, "train", "test"
            )
            plain.append_line(table, asdict(task) | {"score": 0.5})
            task.counts(table).parent.mkdir(exist_ok=True)
            np.savez(task.counts(table), counts=counts, keys=keys)
    both.print_table(plain.Source("camvid", "camvid"), 30.0, table)
    told = [
        line.strip().split(": ")
        for line in capsys.readouterr().out.splitlines()
        if " less " in line
    ]
    assert [who for who, *_ in told] == [
        f"{side} less yolo26n-sem" for side in ("a (ImageNet)", "b (ImageNet)", "a (scratch)")
    ]
    among = ["95 % for these 2 together, over images and 5 seeds"] * 2 + [
        "95 %, over images and 4 seeds"
    ]
    assert [text.split("(")[-1] for *_, text in told] == [f"{text})" for text in among]
    found = both.read_table("camvid", 30.0, table)
    expected = compare_variants([of[peer][:4], of[alone]], clusters_of(keys))
    assert both.compare_sides(found[peer], [found[alone]], table) == expected


def front_of_shapes(load, tmp_path, monkeypatch):
    """pareto.py, a bench of one model on two images, and its table."""
    front, plain = load("pareto"), load("against_plain")
    alone(monkeypatch, plain.cores)
    toml = plain.write_shapes(tmp_path / "data", {"train": 2, "val": 2, "test": 2})
    source, table = plain.Source("toy-scenes", str(toml)), tmp_path / "rows.jsonl"
    return (
        front,
        front.Bench(["seaformer-tiny"], (), (0,), [source], 1.0, tmp_path / "out", table, 1),
        source,
        table,
    )


@pytest.mark.seconds
def test_the_front_names_runs_that_lie_elsewhere(load, tmp_path, monkeypatch, capsys):
    front, bench, source, table = front_of_shapes(load, tmp_path, monkeypatch)
    front.write_files(bench, source, table)
    assert "toy-scenes: no run of seaformer-tiny under" in capsys.readouterr().out
    assert not table.exists()

    # of several seeds the first that lies here
    ((name, settings),) = bench.sides(source)
    bench.seeds, opened = (0, 1, 2), []
    for seed in (1, 2):
        run = bench.final(source.label, name, settings, seed).folder(bench.out) / "run"
        run.mkdir(parents=True)
        (run / "weights.safetensors").touch()
    monkeypatch.setattr(front, "load_run", lambda path: opened.append(path) or sys.exit())
    with pytest.raises(SystemExit):
        front.write_files(bench, source, table)
    assert opened == [str(bench.final(source.label, name, settings, 1).folder(bench.out) / "run")]


@pytest.mark.slow
def test_the_front_times_untrained_models_once(load, tmp_path, monkeypatch):
    front, bench, source, table = front_of_shapes(load, tmp_path, monkeypatch)
    monkeypatch.setattr(front, "FORMATS", ("onnx",))
    monkeypatch.setattr(front, "ROUNDS", 2)
    for _ in range(2):
        front.time_models(bench, source, 1, table)
    (row,) = [json.loads(line) for line in table.read_text().splitlines()]
    assert (row["model"], row["format"], row["size"]) == ("seaformer-tiny", "onnx", [256, 512])
    assert 0 < row["processor_ms"] < 5000


def test_the_front_is_timed_with_as_many_threads_as_there_are_cores(load, monkeypatch, capsys):
    front, cores = load("pareto"), usable_cores()
    monkeypatch.setattr(
        sys, "argv", ["pareto", "shapes", "--latencies", "--threads", str(cores + 1)]
    )
    with pytest.raises(SystemExit):
        front.main()
    assert f"--threads {cores + 1}: this process may use {cores} cores" in capsys.readouterr().err


def test_the_front_is_timed_by_a_process_for_each_number_of_threads_that_finds_its_core_free(
    load, monkeypatch
):
    front, started = load("pareto"), []
    monkeypatch.setattr(sys, "argv", ["pareto", "shapes", "--latencies"])
    monkeypatch.setattr(front.subprocess, "run", lambda words, check: started.append(words[-2:]))
    monkeypatch.setattr(
        front.both.plain.cores, "take_cores", lambda jobs: pytest.fail("takes a core that it needs")
    )
    front.main()
    assert started == [["--threads", str(n)] for n in dict.fromkeys((1, usable_cores()))]


def test_scripts_that_time_do_it_by_turns(load):
    # these compare nothing with anything, or take turns of minutes
    alone = {
        "paired",
        "train_step",
        "serve_load",
        "plain_loop",
        "against_plain",
        "recipe_changes",
        "fit_table",
        "fit_default",
        "cores",
    }
    alone |= {"paper_recipes", "paper_regime", "cluster_throughput", "few_masks"}
    for file in SCRIPTS:
        tree = ast.parse(file.read_text())
        names = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert file.stem in alone or not names & {"time", "timeit"}, file.name


def test_a_change_is_trained_where_no_row_has_its_settings(load, tmp_path, monkeypatch, capsys):
    changes, table, trained = load("recipe_changes"), tmp_path / "tables" / "rows.jsonl", []

    class Scored:
        counts = training_runs(np.random.default_rng(0), 1, 72, spread=0.1, noise=0.05)[0]
        per_image = {f"d_{i:03d}": 0.5 for i in range(72)}

        def __init__(self, folder, **how):
            self.miou = 0.5 if "recipe" in folder.name else 0.625
            folder.mkdir(parents=True)

    def train(threads, verb, *words):
        trained.append(" ".join(words))
        if "dice" in trained[-1] and "seed=1" in trained[-1]:
            raise SystemExit("it failed")

    monkeypatch.setattr(changes, "featherseg", train)
    monkeypatch.setattr(changes, "evaluate", Scored)
    data, out = (
        {"camvid": ("--data-root", "there"), "neu": ("--data", "lists.toml")},
        tmp_path / "out",
    )
    runs = [(d, c, seed) for d in data for c in ("recipe", "dice") for seed in (0, 1)]
    changes.train_missing(runs, data, out, table, 2)
    assert len(trained) == 8
    done = changes.finished(table)
    assert set(done) == {run for run in runs if run[1:] != ("dice", 1)}
    assert "loss.dice=0.5" in done["neu", "dice", 0]["settings"]
    assert done["neu", "dice", 0]["score"] == 62.5
    changes.train_missing(runs, data, out, table, 1)
    assert len(trained) == 10  # those that failed
    changes.print_tables(["neu"], [0], table)
    assert (
        "dice                       62.50  62.50                 +12.50 points, no interval"
        in capsys.readouterr().out
    )
    monkeypatch.setitem(changes.CHANGES, "dice", ("loss.dice=1.0",))
    assert set(changes.finished(table)) == {run for run in runs if run[1] == "recipe"}


def test_intervals_of_differences_are_student_s(load):
    from scipy.stats import ttest_1samp

    interval, differences = load("fit_regret").interval, np.array([1.0, 2.5, 0.5, 3.0, 1.5])
    expected = ttest_1samp(differences, 0).confidence_interval(0.95)
    assert interval(differences) == pytest.approx((differences.mean(), *expected))
    assert np.isnan(interval(differences[:2])[1])


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["tests", "kernels", "latency", "training", "papers", "ddp"])
def test_every_stage_for_a_gpu_runs_small_on_a_cpu_and_once(stage, tmp_path):
    command = [str(FOLDER.parent / "scripts" / "gpu.sh"), stage, "--dry"]
    environment = os.environ | {
        "GPU_FOLDER": str(tmp_path / "gpu"),
        "PYTHON": sys.executable,
        "OUT": str(tmp_path),
    }
    first, again = (
        subprocess.run(command, env=environment, capture_output=True, text=True) for _ in range(2)
    )
    assert first.returncode == again.returncode == 0, first.stdout + first.stderr
    assert (tmp_path / f"{stage}.md").read_text().startswith("| ")
    rows = (tmp_path / "gpu-dry" / f"{stage}.md").read_text().splitlines()
    assert len(rows) > 2 or stage == "tests"  # which all need a GPU
    assert (
        again.stdout == f"gpu: {stage} is done: {tmp_path}/gpu-dry/{stage}.md\n" or stage == "tests"
    )


@pytest.mark.seconds
def test_photographs_of_a_road_or_a_building_lie_in_one_list(load, shared, tmp_path):
    script = load("photographs")
    script.write_roads(shared / "data/road", tmp_path)
    lists = {
        name: (tmp_path / name / f"{split}.txt").read_text().split()
        for name, split in (("road", "train"), ("road-same", "test"), ("road-all", "train"))
    }
    test = (tmp_path / "road/test.txt").read_text().split()
    sections = {name: {key.split("_")[3] for key in keys} for name, keys in lists.items()}
    assert sections["road-all"].isdisjoint({key.split("_")[3] for key in test})
    assert sections["road"] == sections["road-same"]
    assert set(lists["road"]).isdisjoint(lists["road-same"])
    for section in sections["road"]:  # the held-out part follows the other

        def positions(name, section=section):
            return [int(key.split("_")[-1]) for key in lists[name] if f"_{section}_" in key]

        assert max(positions("road")) < min(positions("road-same"))
    roads = open_dataset(str(tmp_path / "road/dataset.toml"), "test")
    assert [info.name for info in roads.classes] == ["background", "lane", "crack", "pothole"]
    assert len(roads) == len(test) == 259

    script.write_corridors(shared / "data", tmp_path)
    walk = open_dataset(str(tmp_path / "indoor/dataset.toml"), "train")
    other = open_dataset(str(tmp_path / "indoor-other/dataset.toml"), "test")
    assert (len(walk), len(other)) == (432, 322)
    both = (tmp_path / "indoor-all/train.txt").read_text().split()
    of_examples = {"indoor/0498", "indoor/0564", "indoor2/0448", "indoor2/0494"}
    assert of_examples.isdisjoint(both)
    assert of_examples <= set((tmp_path / "indoor-all/test.txt").read_text().split())
    assert set(np.unique(walk.label(0))) <= {*range(len(walk.classes)), 255}
    kinds = [set(mapping) for mapping in script.BUILDINGS.values()]
    assert kinds == [set(script.INDOOR_CLASSES)] * 2


def test_a_thin_class_is_found_where_it_is_a_few_pixels_away(load, capsys, monkeypatch):
    near = load("thin_classes").near
    line, beside, nothing = np.zeros((3, 20, 30), bool)
    line[10] = True
    beside[14, :15] = True
    assert near(beside, line, 4) == 15
    # the right end lies at 3 pixels to the side and 4 below: 5 in all
    assert (near(line, beside, 3.9), near(line, beside, 4), near(line, beside, 5)) == (0, 15, 18)
    assert (near(line, nothing, 5), near(nothing, line, 5)) == (0, 0)


def test_few_masks_are_drawn_from_all_parts_of_a_dataset(load):
    """Of 40 images one in four shows a rare class, and one in twenty a rarer one."""
    labels = [np.array([[0, 1 if i % 4 == 0 else 0, 2 if i % 20 == 0 else 255]]) for i in range(40)]
    stratified = load("few_masks").stratified
    for seed in range(5):
        chosen = stratified(labels, 10, seed)
        assert len(set(chosen)) == 10
        assert sum(i % 4 == 0 for i in chosen) in (2, 3)
    assert stratified(labels, 10, 0) != stratified(labels, 10, 1)
    assert stratified(labels, 40, 0) == list(range(40))


def test_every_way_to_learn_from_few_masks_is_a_recipe(load):
    ways = load("few_masks").WAYS
    default = parse_recipe(read_recipe(ways["default"].recipe), ways["default"].changes)
    for name, way in ways.items():
        changed = parse_recipe(read_recipe(way.recipe), way.changes) != default
        # a recipe of its own, a change, a run to begin with or images without masks: one at least
        assert changed or way.init or way.unlabelled or name == "default"
        assert changed == bool(way.changes or way.recipe != ways["default"].recipe)


def test_few_masks_are_written_under_the_names_that_tell_sequences(load, tmp_path):
    few_masks, plain = load("few_masks"), load("against_plain")
    counts = {"train": 9, "val": 2, "test": 2}
    toml = plain.write_shapes(tmp_path / "data", counts)
    source = plain.Source("toy", str(toml))
    written = few_masks.write_few(source, 2, 0, "test", tmp_path / "out")
    assert written.label == "toy-2-0"
    folder = Path(written.data).parent
    parts = {
        part: {path.stem for path in (folder / place).iterdir()}
        for part, place in (
            ("train", "images/train"),
            ("val", "images/val"),
            ("test", "images/test"),
            ("unlabelled", "unlabelled"),
        )
    }
    assert [len(parts[part]) for part in ("train", "val", "unlabelled")] == [2, 5, 2]
    own = {
        split: {key.replace("/", "_") for key in open_dataset(str(toml), split).keys}
        for split in ("train", "test")
    }
    assert parts["train"] | parts["val"] | parts["unlabelled"] == own["train"]
    assert parts["test"] == own["test"]
    assert {path.stem for path in (folder / "masks/train").iterdir()} == parts["train"]


def test_a_way_is_judged_by_its_gain_over_images_and_seeds(load, tmp_path, capsys):
    few_masks, plain, table = load("few_masks"), load("against_plain"), tmp_path / "rows.jsonl"
    runs = training_runs(np.random.default_rng(0), 3, 72, spread=0.1, noise=0.05)
    worse = runs.copy()
    worse[:, :, 1] = np.round(0.7 * worse[:, :, 1])  # of its hits three in ten are missing
    (tmp_path / "counts").mkdir()
    better = "images without masks, anew"
    for way, of_way, score in (("default", worse, 0.5), (better, runs, 0.6)):
        for seed in range(3):
            task = few_masks.task_of(way, plain.Source(f"toy-20-{seed}", "shapes"), 30.0, seed)
            plain.append_line(table, asdict(task) | {"score": score + seed / 100})
            keys = [f"test/drive_{number:03}" for number in range(72)]
            np.savez(task.counts(table), counts=of_way[seed], keys=keys)
    few_masks.print_table(table, [f"toy-20-{seed}" for seed in range(3)], "toy")
    _, title, default, unlabelled = capsys.readouterr().out.splitlines()
    assert title == "toy"
    assert default.split("default")[1].split() == ["51.00", "(50.00", "51.00", "52.00)"]
    gain, interval = unlabelled.split("(60.00  61.00  62.00) ")[1].split(", with its interval ")
    assert gain == "+10.00"
    low, high = map(float, re.findall(r"[-+]\d+\.\d+", interval)[1:])
    assert 0 < low < high

    few_masks.print_table(table, ["toy-20-0"], "one seed")
    assert "interval" not in capsys.readouterr().out


def test_the_curve_has_the_mean_of_the_seeds_by_masks(load, tmp_path):
    few_masks, plain, table = load("few_masks"), load("against_plain"), tmp_path / "rows.jsonl"
    for label, way, length, score in (
        ("toy-100-0", "default", 30.0, 0.75),
        ("toy-20-0", "default", 30.0, 0.5),
        ("toy-20-1", "default", 30.0, 0.6),
        ("toy-20-1", "CutMix", 30.0, 0.7),
        ("toy-20-2-val", "default", 30.0, 0.9),  # chosen by, not judged
        ("toy-20-2", "default", 15.0, 0.9),
    ):
        seed = int(label.split("-")[2])
        task = few_masks.task_of(way, plain.Source(label, "shapes"), length, seed)
        plain.append_line(table, asdict(task) | {"score": score})

    def lines(*ways):
        drawn = ElementTree.fromstring(few_masks.curve(table, ways, 30.0))
        return [node.text for node in drawn.iter() if "title" in node.tag][1:]

    assert lines("default") == ["toy: 55.0, 75.0"]
    assert lines("default", "CutMix") == ["toy, CutMix: 70.0", "toy: 60.0, 75.0"]  # seed 1 of both
