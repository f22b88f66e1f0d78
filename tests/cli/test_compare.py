import json
import re
import shutil
from dataclasses import replace
from decimal import Decimal
from functools import cache
from io import StringIO
from itertools import combinations
from math import nan
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from support.models.three_layers import ThreeLayers
from support.processes.command import command
from typer.testing import CliRunner

import featherseg
from featherseg import models
from featherseg.cli.compare import compare
from featherseg.cli.comparison_tables import _print_differences
from featherseg.cli.paper import paper
from featherseg.cli.sweep import sweep
from featherseg.cli.terminal import Console
from featherseg.cli.train import train
from featherseg.comparison import compare as comparison
from featherseg.comparison import sweep as sweeps
from featherseg.comparison.side_by_side import SideBySide
from featherseg.core.errors import ConfigError, FeathersegError, RunError, UnknownName, WeightsError
from featherseg.costs import papers
from featherseg.costs.papers import Count
from featherseg.data import open_dataset
from featherseg.evaluation.bootstrap import Difference, Interval
from featherseg.exporters import export
from featherseg.recipe.panoptic import PanopticTable
from featherseg.runs.run import load_run, open_run, save_weights, write_info

pytestmark = pytest.mark.usefixtures("quick_training")

APP = typer.Typer()
for verb in (compare, sweep, paper):
    APP.command()(verb)

TRAINED = (
    "model.pretrained=false", "data.train_size=4", "data.val_size=2", "data.workers=0",
    "augment.crop=[64, 96]",
    "loss.class_weights=none", "train.epochs=1", "train.batch_size=2", "train.precision=fp32",
)  # fmt: skip


class TwoClasses(ThreeLayers):
    """For the lawn's classes."""

    classes = 2


def run(*arguments: object, verb: str = "compare"):
    return CliRunner().invoke(APP, [verb, *(str(argument) for argument in arguments)])


@cache
def weights(model: str, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return models.build(model, 2).state_dict()


@pytest.fixture
def field(lawn_run, tmp_path):
    """Three runs each of two light models, untrained: frm-lite0-0 ... efficientvit-seg-b0-2."""
    info, paths = open_run(lawn_run).info, []
    for model in ("frm-lite0", "efficientvit-seg-b0"):
        for seed in range(3):
            path = tmp_path / f"{model}-{seed}"
            path.mkdir()
            save_weights(path, weights(model, seed))
            train = info.recipe.train.model_copy(update={"seed": seed})
            named = info.recipe.model.model_copy(update={"name": model})
            recipe = info.recipe.model_copy(update={"model": named, "train": train})
            write_info(path, info.model_copy(update={"recipe": recipe}))
            paths.append(path)
    return paths


def test_one_run_each_says_nothing_about_the_models_but_about_the_files(field):
    found = json.loads(run(field[0], field[3], "--no-costs", "--json").stdout)
    (ranking,) = found["rankings"]
    assert ranking["reason"] == "one run each: says nothing about the models"
    assert (ranking["best"], ranking["differences"]) == (None, [])
    assert {n["name"] for n in ranking["models"]} == {"frm-lite0", "efficientvit-seg-b0"}
    (pair,) = found["files"]
    assert {pair["first"], pair["second"]} == {"frm-lite0-0", "efficientvit-seg-b0-0"}


def test_the_function_takes_data_of_one_s_own_and_its_result_shows_itself_escaped(field):
    hostile, steps = field[0].with_name("a<b>"), []
    field[0].rename(hostile)
    data = open_dataset(open_run(field[3]).recipe.data.name, "test")
    found = featherseg.compare(
        [hostile, open_run(field[3])], data, costs=False, progress=lambda *s: steps.append(s)
    )
    assert (found.images, found.split) == (2, "val")
    assert ("scoring a<b>", 2, 2) in steps
    assert json.loads(json.dumps(found.as_dict()))["files"][0]["message"].endswith("is shown")
    html = found._repr_html_()
    assert "a&lt;b&gt;" in html
    assert "<b>" not in html


def test_runs_with_a_model_of_one_s_own_are_compared_as_they_were_opened(field):
    for path in field[:2]:
        write_info(path, open_run(path).info.model_copy(update={"objects": ("model",)}))
    runs = [load_run(path, model=models.build("frm-lite0", 2)) for path in field[:2]]
    found = featherseg.compare(runs, costs=False)
    assert [one.files for one in found.rankings[0].results] == [("frm-lite0-0", "frm-lite0-1")]
    with pytest.raises(
        ConfigError, match=r"frm-lite0-0 has a model of your own, .* pass costs=False"
    ):
        featherseg.compare(runs)


def test_settings_that_a_panoptic_model_does_not_take_are_refused_before_any_is_scored(
    field, monkeypatch
):
    opened = comparison.open_candidates

    def last_one_panoptic(runs, device, trust):
        candidates = opened(runs, device, trust=trust)
        candidates[-1].runtime.panoptic = PanopticTable()
        return candidates

    class WithObjects:
        def __init__(self, data):
            self.data = data

        def __getattr__(self, name):
            return getattr(self.data, name)

        def __len__(self):
            return len(self.data)

        def __getitem__(self, index):
            sample = self.data[index]
            return replace(sample, instances=np.zeros(sample.label.shape, np.int32))

    monkeypatch.setattr(comparison, "open_candidates", last_one_panoptic)
    monkeypatch.setattr(comparison, "_score", lambda *_: pytest.fail("one was scored"))
    data = WithObjects(open_dataset(open_run(field[0]).recipe.data.name, "test"))
    with pytest.raises(ConfigError, match="a panoptic model runs once, on the whole image"):
        featherseg.compare([field[0], field[3]], data, costs=False, inference={"flip": True})


def test_a_name_that_breaks_lines_stands_in_one(field):
    odd = field[0].with_name("a\nb [bold]c")
    field[0].rename(odd)
    printed = run(odd, field[3], "--no-costs").stdout
    assert "a\\nb [bold]c" in printed
    assert not [line for line in printed.splitlines() if line.startswith("b ")]


@pytest.mark.seconds
def test_runs_that_differ_in_their_seed_are_runs_of_one_model(field):
    page = field[0].with_name("page.html")
    found = json.loads(run(*field, "--no-costs", "--json", "--split", "test", "-o", page).stdout)
    assert "Differences between these models" in page.read_text()
    assert "GMACs" in page.read_text()
    assert not any(heading in page.read_text() for heading in ("p50, ms", "p95, ms", "memory, MiB"))
    (ranking,) = found["rankings"]
    assert sorted(len(n["runs"]) for n in ranking["models"]) == [3, 3]
    assert ranking["models"][0]["miou"] >= ranking["models"][1]["miou"]
    assert (ranking["reason"], len(ranking["differences"]), found["files"]) == (None, 1, None)
    assert found["images"] == 2


def test_intervals_rest_on_the_groups_of_the_dataset(field, monkeypatch):
    toml, asked = Path(open_run(field[0]).recipe.data.name), []
    toml.write_text('groups = "patient[0-9]+"\n' + toml.read_text())
    clusters_of = comparison.clusters_of

    def noted(keys, groups=None):
        asked.append(groups)
        return clusters_of(keys, groups)

    monkeypatch.setattr(comparison, "clusters_of", noted)
    featherseg.compare(field[:2], costs=False)
    assert asked == ["patient[0-9]+"]


@pytest.mark.seconds
def test_other_starts_are_never_in_one_list(field):
    for path in field[:3]:
        info = open_run(path).info
        write_info(path, info.model_copy(update={"loaded": {"file": "lite0.pth"}}))
    found = json.loads(run(*field, "--no-costs", "--json").stdout)
    assert [(r["init"], [n["name"] for n in r["models"]]) for r in found["rankings"]] == [
        ("ImageNet weights", ["frm-lite0"]),
        ("from scratch", ["efficientvit-seg-b0"]),
    ]


def with_settings(path: Path, table: str, **settings: object) -> None:
    """Give a run other settings of a table of its recipe."""
    info = open_run(path).info
    changed = getattr(info.recipe, table).model_copy(update=settings)
    write_info(
        path, info.model_copy(update={"recipe": info.recipe.model_copy(update={table: changed})})
    )


@pytest.mark.seconds
def test_trainings_of_one_model_are_told_apart_by_the_setting_that_differs(field):
    for path, same in zip(field[3:], field[:3], strict=True):
        write_info(path, open_run(same).info)
        with_settings(path, "train", lr=0.5)
        save_weights(path, load_run(same).model.state_dict())
    found = json.loads(run(*field, "--no-costs", "--json").stdout)
    lr = open_run(field[0]).recipe.train.lr
    (ranking,) = found["rankings"]
    assert {n["name"] for n in ranking["models"]} == {
        f"frm-lite0 (train.lr={lr})",
        "frm-lite0 (train.lr=0.5)",
    }
    assert ranking["trained_unlike"] == ["train.lr"]


def test_a_copy_of_a_run_is_no_further_run_of_its_model(field):
    write_info(field[1], open_run(field[0]).info)
    save_weights(field[1], load_run(field[0]).model.state_dict())
    error = run(*field, "--no-costs").exception
    assert isinstance(error, ConfigError)
    assert "frm-lite0-0 and frm-lite0-1 have the same weights" in str(error)


@pytest.mark.seconds
def test_runs_of_one_seed_count_once_and_models_with_too_few_seeds_are_left_out(field, tmp_path):
    third = tmp_path / "third"
    shutil.copytree(field[0], third)
    with_settings(third, "train", lr=0.5)
    with_settings(field[5], "train", seed=0)
    found = json.loads(run(*field, third, "--no-costs", "--json").stdout)
    (ranking,) = found["rankings"]
    assert ranking["reason"].endswith("runs: says nothing about the models")
    assert sorted(n["seeds"] for n in ranking["models"]) == [1, 2, 3]
    assert any(
        "the 3 runs of efficientvit-seg-b0 have only 2 seeds" in caution
        for caution in found["cautions"]
    )
    of_runs = {path.name: featherseg.evaluate(path, device="cpu").miou for path in field[3:]}
    first, second, third_score = of_runs.values()
    (listed,) = [n for n in ranking["models"] if n["name"] == "efficientvit-seg-b0"]
    assert listed["runs"] == pytest.approx([(first + third_score) / 2, second])
    assert listed["miou"] == pytest.approx(((first + third_score) / 2 + second) / 2)
    with_settings(field[5], "train", seed=2)
    text = run(*field, third, "--no-costs").stdout
    assert "frm-lite0 (train.lr=0.5) is not compared: it has fewer than three seeds" in text
    assert "than every other model with three seeds" in text
    assert "trained differently, in: train.lr" in text


def test_images_that_a_run_learned_from_and_a_training_that_was_stopped_are_named_first(field):
    (field[3] / "last.ckpt").write_bytes(b"")
    goes_on = f"featherseg train --resume --out {field[3]} goes on"
    for path in field:
        with_settings(path, "data", train_split="val")
    found = json.loads(run(field[0], field[3], "--no-costs", "--json").stdout)
    assert found["images"] == 1
    assert found["cautions"][:3] == [
        f"efficientvit-seg-b0-0 is not finished: its training was stopped on the way; {goes_on}",
        "frm-lite0-0 was trained on 1 of these 1 image",
        "efficientvit-seg-b0-0 was trained on 1 of these 1 image",
    ]


def test_a_page_that_cannot_be_written_is_found_before_the_work(field, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "featherseg.comparison.compare.open_candidates", lambda *_: pytest.fail("began to work")
    )
    for target, message in (
        (tmp_path, "is a folder"),
        (field[0] / "weights.safetensors" / "page.html", "nothing can be"),
    ):
        error = run(field[0], field[3], "-o", target).exception
        assert isinstance(error, FeathersegError)
        assert message in str(error)


@pytest.mark.seconds
def test_choosing_on_the_validation_split_is_called_selected_and_test_is_the_last_look(field):
    page = field[0].with_name("page.html")
    result = run(field[0], field[3], "--no-costs", "-o", page)
    assert result.stdout.count("selected on these images") == 2  # the note, and the table's title
    assert page.read_text().count("selected on these images") == 3
    found = json.loads(run(field[0], field[3], "--no-costs", "--json").stdout)
    assert (found["split"], found["selected"]) == ("val", True)
    result = run(field[0], field[3], "--no-costs", "--split", "test", "-o", page)
    assert "selected" not in result.stdout + page.read_text()
    assert (
        "looks at test, this one included: frm-lite0-0 1, efficientvit-seg-b0-0 1" in result.stdout
    )


def test_a_score_by_which_models_were_compared_is_called_selected_whatever_weights_were_kept(field):
    with_settings(field[0], "train", keep="last")
    run(field[0], field[3], "--no-costs")
    assert [line["selected"] for line in open_run(field[0]).evaluations()] == [True]
    assert "selected on these images" in (field[0] / "card.md").read_text()


@pytest.mark.seconds
def test_scores_on_images_trained_on_are_marked_and_refused_as_test(field):
    with_settings(field[0], "data", train_split="val+test")
    run(field[0], field[3], "--no-costs")
    (line,) = open_run(field[0]).evaluations()
    assert line["trained_on"]
    error = run(field[0], field[3], "--no-costs", "--split", "test").exception
    assert isinstance(error, FeathersegError)
    assert "So they are no test" in str(error)
    assert len(open_run(field[0]).evaluations()) == 1


@pytest.mark.seconds
def test_every_look_at_test_is_counted_in_the_run(field):
    run(field[0], field[3], "--no-costs", "--split", "test")
    lines = (field[0] / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["split"] for line in lines] == ["test"]


def test_a_split_without_a_labelled_pixel_is_refused_before_a_look_is_counted(field, monkeypatch):
    data = open_dataset(open_run(field[0]).recipe.data.name, "test")
    monkeypatch.setattr(type(data), "label", lambda *_: np.full((64, 72), 255, np.uint8))
    error = run(field[0], field[3], "--no-costs", "--split", "test").exception
    assert isinstance(error, FeathersegError)
    assert "test: no pixel of its 2 images is labelled" in str(error)
    assert open_run(field[0]).evaluations() == []


def timed(names, paths, runtimes, size, device, progress):
    """What tests/benchmarking starts processes for."""
    assert (len(paths), size) == (len(names), (64, 72))
    times = np.random.default_rng(0).normal(9.0, 0.1, (len(names), 2, 4))
    return SideBySide(
        tuple(names), size, "cpu", times, np.full(len(names), 300.0), np.full(len(names), np.nan)
    )


@pytest.mark.seconds
def test_scores_of_several_passes_and_a_limit_for_one_name_no_model(field, monkeypatch):
    monkeypatch.setattr(comparison, "time_side_by_side", timed)
    cautions = json.loads(run(field[0], field[3], "--tta", "flip", "--json").stdout)["cautions"]
    assert (
        sum(
            "latency, MACs and memory are those of one pass" in text
            and "not of whole, flip" in text
            for text in cautions
        )
        == 1
    )
    cautions = json.loads(run(field[0], field[3], "--json").stdout)["cautions"]
    assert not any("of one pass" in text for text in cautions)
    monkeypatch.setattr(comparison, "_score", lambda *_: pytest.fail("one was scored"))
    for option in (("--tta", "flip"), ("--scales", "0.5"), ("--resize", "32x48")):
        error = run(field[0], field[3], "--max-ms", "1e6", *option).exception
        assert isinstance(error, ConfigError)
        assert "no model can be named for a limit by both" in str(error)


@pytest.mark.seconds
def test_the_table_is_whole_at_80_columns_and_has_no_empty_column(field, monkeypatch):
    monkeypatch.setattr(comparison, "time_side_by_side", timed)
    monkeypatch.setenv("COLUMNS", "80")
    rows = [
        row for row in run(field[0], field[3]).output.splitlines() if row.startswith(tuple("┏┃┡│└"))
    ]
    assert max(map(len, rows)) <= 80
    heads = " ".join(rows[1:3])
    assert all(word in heads for word in ("mIoU %", "GMACs", "p50", "p95", "MiB"))
    assert not any(
        word in run(field[0], field[3], "--no-costs").output for word in ("p50", "p95", "MiB")
    )


@pytest.mark.seconds
@pytest.mark.parametrize("swap", [False, True])
def test_runs_that_validate_on_other_images_are_scored_alike_in_every_order(field, swap):
    named = [field[3], field[0]] if swap else [field[0], field[3]]
    for path in named:
        with_settings(path, "data", val_split="test", val_size=None)
    of_all = json.loads(run(*named, "--no-costs", "--json").stdout)
    with_settings(field[0], "data", val_size=1)
    found = json.loads(run(*named, "--no-costs", "--json").stdout)
    assert found["images"] == of_all["images"] == 2
    assert {n["name"]: n["miou"] for n in found["rankings"][0]["models"]} == {
        n["name"]: n["miou"] for n in of_all["rankings"][0]["models"]
    }
    with_settings(field[0], "data", val_split="val")
    error = run(*named, "--no-costs").exception
    assert isinstance(error, ConfigError)
    assert str(error) == "the runs were validated on test, val: name the split with --split."
    assert run(*named, "--no-costs", "--split", "val").exit_code == 0


@pytest.mark.seconds
def test_a_run_that_cannot_be_scored_is_named(field):
    spoiled = {
        key: value * nan if value.is_floating_point() else value
        for key, value in weights("frm-lite0", 0).items()
    }
    save_weights(field[1], spoiled)
    error = run(*field, "--no-costs").exception
    assert isinstance(error, RunError)
    assert str(error).startswith("frm-lite0-1 could not be scored: the logits contain NaN")


def test_the_better_one_is_ahead_by_what_is_printed():
    below, around = Interval(-0.02, -0.03, -0.01, 50), Interval(-0.02, -0.03, 0.01, 50)
    console = Console(width=200, file=StringIO())
    pairs = [Difference(0, 1, miou, (below, around)) for miou in (below, around)]
    _print_differences(console, pairs, ["a", "b"], ["wall", "sky"])
    assert console.file.getvalue().splitlines() == [
        "  b is better than a (+2.00, +1.00 to +3.00 points of mIoU)",
        "    a less b: wall -2.00, -3.00 to -1.00",
        "  no difference between a and b is shown (a less b: -2.00, -3.00 to +1.00 points of mIoU)",
        "    a less b: wall -2.00, -3.00 to -1.00",
    ]


def test_times_memory_and_the_pick_for_a_budget_and_a_page_in_one_file(
    field, tmp_path, monkeypatch
):
    monkeypatch.setattr(comparison, "time_side_by_side", timed)
    page = tmp_path / "page.html"
    result = run(field[0], field[3], "--max-ms", "1e6", "--max-mib", "1", "-o", page)
    assert result.exit_code == 0, result.output
    assert "within 1e+06 ms" in result.output
    assert "none of 2 models stays within 1 MiB" in result.output
    assert "the images are one block" in result.output
    assert " points of mIoU, no interval)" in result.output
    assert "says nothing about the models" in result.output
    assert "; no difference to" not in result.output  # they were not compared
    html = page.read_text()
    assert html.count("<svg") == 2  # the fronts of time and memory
    assert all(
        word in html
        for word in ("efficientvit-seg-b0", "grass", "default-src 'none'", "How to read this")
    )
    assert all(heading in html for heading in ("GMACs", "p50, ms", "p95, ms", "memory, MiB"))
    assert "Classes that differ: none" in html
    assert "<script" not in html


@pytest.mark.slow
def test_exported_files_are_compared_as_files_and_tell_their_model_and_start(field, tmp_path):
    trained, first, second = (
        open_run(field[0]),
        tmp_path / "a" / "model.onnx",
        tmp_path / "b" / "model.onnx",
    )
    cost = json.loads(run(*field[:2], "--no-costs", "--json").stdout)["rankings"][0]["models"][0]
    trained.__dict__["model"] = TwoClasses().eval()  # what `Run.model` would read; quick to export
    for file in (first, second):
        file.parent.mkdir()
    export(trained, "onnx", first)
    second.write_bytes(first.read_bytes())
    result = run(
        field[0], first, second, "--data", trained.recipe.data.name, "--no-costs", "--json"
    )
    found = json.loads(result.stdout)
    (ranking,) = found["rankings"]
    rows = {n["name"]: n for n in ranking["models"]}
    assert (ranking["init"], set(rows)) == (
        "from scratch",
        {"frm-lite0", "a/model.onnx", "b/model.onnx"},
    )
    assert {(row["params"], row["gmacs"]) for row in rows.values()} == {
        (cost["params"], cost["gmacs"])
    }
    pairs = {frozenset((pair["first"], pair["second"])): pair for pair in found["files"]}
    assert set(pairs) == set(
        map(frozenset, combinations((field[0].name, "a/model.onnx", "b/model.onnx"), 2))
    )
    alike = pairs[frozenset(("a/model.onnx", "b/model.onnx"))]
    assert (alike["miou"][0], alike["better"]) == (0, None)


def test_a_class_that_is_absent_has_a_dash_on_the_page(field):
    found = featherseg.compare([field[0], field[3]], costs=False)
    (difference,) = found.files.differences
    absent = replace(difference, classes=(Interval(nan, nan, nan), *difference.classes[1:]))
    html = replace(found, files=replace(found.files, differences=(absent,)))._repr_html_()
    assert "nan<" not in html.replace("\n", "")
    assert re.search(r'<td class="number">\s*\N{EN DASH}', html)


def test_a_sweep_is_compared_on_the_device_of_its_recipe(field, tmp_path, monkeypatch):
    with_settings(field[0], "train", device="cuda:1")
    monkeypatch.setattr(sweeps, "train_all", lambda *_: field)
    monkeypatch.setattr(sweeps, "compare", lambda *_, **options: options["device"])
    for device, used in ((None, "cuda:1"), ("cpu", "cpu")):
        found = sweeps.sweep(
            "frm-lite0", ["frm-lite0"], seeds=[0, 1], out=tmp_path / "field", device=device
        )
        assert found.comparison == used


SWEEP = ["sweep", "frm-lite0", "--models", "frm-lite0", "--out", "x"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["compare", "RUN"], "1 to compare"),
    (["compare", "RUN", "RUN"], "named twice"),
    ([*SWEEP, "--seeds", "a"], "--seeds 'a'"),
    ([*SWEEP, "--models", "frm-lite0,frm-lite0"], "once"),
    ([*SWEEP, "--seeds", "3"], "make one run"),
    ([*SWEEP, "--device", "gpu0"], "unknown device"),
    ([*SWEEP, "--max-ms", "0"], "--max-ms 0: expected a number above 0"),
    (["paper", "no-such"], "unknown paper"),
    (["compare", "RUN", "RUN", "--max-ms", "-5"], "--max-ms -5: expected a number above 0"),
    (["compare", "RUN", "--max-mib", "5", "--no-costs"], "leave out --no-costs"),
])  # fmt: skip
def test_what_cannot_be_compared_gets_a_message(
    lawn_run, arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    verb, *others = (str(lawn_run) if argument == "RUN" else argument for argument in arguments)
    error = run(*others, verb=verb).exception
    assert isinstance(error, FeathersegError)
    assert message in str(error)


def test_runs_of_two_datasets_need_one_to_be_named(field):
    info = open_run(field[3]).info
    data = info.recipe.data.model_copy(update={"name": "camvid"})
    write_info(
        field[3], info.model_copy(update={"recipe": info.recipe.model_copy(update={"data": data})})
    )
    error = run(field[0], field[3], "--no-costs").exception
    assert isinstance(error, ConfigError)
    assert "--data NAME" in str(error)


@pytest.mark.seconds
def test_a_sweep_asks_for_weights_only_where_the_default_recipe_does(monkeypatch, tmp_path):
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path / "home"))
    texts = [text for text in TRAINED if not text.startswith("model.pretrained")]
    words = [word for setting in texts for word in ("--set", setting)]
    words += ["--models", "ddrnet-23-slim,frm-van-s", "--out", tmp_path / "field"]
    error = run("frm-lite0", *words, verb="sweep").exception
    assert isinstance(error, WeightsError)
    assert "the ImageNet weights of 'van-b1' were not found" in str(error)


@pytest.mark.seconds
@pytest.mark.usefixtures("light_models")
@pytest.mark.parametrize(
    "models",
    [
        ["efficientvit-seg-b0"],
        pytest.param(["efficientvit-seg-b0", "frm-lite0"], marks=pytest.mark.slow),
    ],
)
def test_models_are_trained_under_one_recipe_then_compared_and_go_on_where_they_were(
    models, tmp_path
):
    settings = [word for setting in TRAINED for word in ("--set", setting)]
    words = [
        "frm-lite0",
        "--models",
        ",".join(models),
        "--seeds",
        "0,1",
        "--out",
        tmp_path / "field",
    ]
    settings += ["--no-costs", "--json"]
    found = json.loads(run(*words, *settings, verb="sweep").stdout)
    assert [len(n["runs"]) for n in found["rankings"][0]["models"]] == [2] * len(models)
    names = sorted(path.name for path in (tmp_path / "field").iterdir())
    assert names == [f"{model}-{seed}" for model in models for seed in range(2)]
    before = {
        name: (tmp_path / "field" / name / "weights.safetensors").stat().st_mtime_ns
        for name in names
    }
    assert run(*words, *settings, verb="sweep").exit_code == 0
    assert before == {
        n: (tmp_path / "field" / n / "weights.safetensors").stat().st_mtime_ns for n in names
    }


@pytest.mark.parametrize(
    ("words", "twice"),
    [
        (
            ["--data", "yard", "--set", "data.name=field"],
            "by --data and by --set data.name=field. Leave one of them",
        ),
        (
            ["--device", "cpu", "--set", "train.device=cuda"],
            "train.device is given twice, by --device and by --set",
        ),
    ],
)
def test_a_setting_that_an_option_gives_as_well_is_refused(tmp_path, words, twice):
    sweep = run(
        "frm-lite0", "--models", "frm-lite0", "--out", tmp_path / "field", *words, verb="sweep"
    )
    trained = command(train)("frm-lite0", "--out", tmp_path / "run", *words)
    for result in (sweep, trained):
        assert isinstance(result.exception, ConfigError)
        assert twice in str(result.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("light_models")
def test_ctrl_c_says_that_the_same_sweep_goes_on(tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("featherseg.training.job.train", stop)
    settings = [word for setting in TRAINED for word in ("--set", setting)]
    words = [
        "frm-lite0",
        "--models",
        "efficientvit-seg-b0",
        "--seeds",
        "0,1",
        "--out",
        tmp_path / "field",
    ]
    assert (
        "the same sweep, started again, resumes this run"
        in run(*words, *settings, verb="sweep").output
    )


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("models", "error"), [("frm-lite0,no-such", UnknownName), ("frm-lite0,frm-van-s", WeightsError)]
)
def test_what_cannot_be_trained_is_refused_before_the_first_is(
    tmp_path, models, error, monkeypatch
):
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path / "home"))
    result = run("frm-lite0", "--models", models, "--out", tmp_path / "field", verb="sweep")
    assert isinstance(result.exception, error)
    assert not (tmp_path / "field").exists()


@pytest.mark.seconds
def test_a_paper_s_tables_are_printed_whole_at_80_columns(monkeypatch):
    count = Count(
        Decimal("123.456"), "macs", (1024, 2048), 19
    )  # tests/counting counts what is printed here
    monkeypatch.setattr(papers, "parameters", lambda counting: count)
    monkeypatch.setattr(papers, "gmacs", lambda counting: [count])
    text = run("frm", verb="paper").stdout
    rows = [
        line for line in text.splitlines() if line.startswith("\N{BOX DRAWINGS LIGHT VERTICAL}")
    ]
    assert not any("\N{HORIZONTAL ELLIPSIS}" in row or len(row) > 80 for row in rows)
    assert text.count("published, not recounted") == 2
