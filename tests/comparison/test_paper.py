"""`featherseg paper --train` on tiny releases: what is trained, goes on after a kill, and is told.

Quick tests put a model of nine layers in the place of the papers' and train it on small crops.
"""

import json
import shlex
import shutil
from dataclasses import replace

import pytest
from support.data.tiny_releases import COUNT, RELEASES
from support.models.quick_work import quick_training
from support.models.small_training import (
    Killed,
    Silent,
    Tiny,
    TinyConfig,
    equal_state,
    outcome,
)
from support.processes.command import command

from featherseg import cli
from featherseg.cli.comparison_tables import print_paper
from featherseg.cli.paper import paper
from featherseg.cli.terminal import Console
from featherseg.comparison.paper import plan_paper, train_paper
from featherseg.core.errors import ConfigError
from featherseg.costs.cost import cost
from featherseg.costs.papers import _by_authors, read_paper
from featherseg.models import MODELS
from featherseg.recipe.reading import shipped_recipes
from featherseg.runs.run import open_run

run = command(paper)

SHORT = (
    "model.pretrained=false",
    "train.steps=2",
    "train.batch_size=1",
    "data.workers=0",
)
QUICK = (*SHORT, "augment.crop=[64, 96]", "train.checkpoint_seconds=1e-9")


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """ROOT/NAME of every dataset of the papers, with four images a split."""
    root = tmp_path_factory.mktemp("releases")
    for name, write in RELEASES.items():
        write(root / name)
    return root


@pytest.fixture(scope="module")
def tiny_papers():
    """The models of FRM's tables are a small one, and small trainings are quick."""
    with pytest.MonkeyPatch.context() as patched, quick_training():
        for name in ("frm-van-s", "frm-van-s-ppm", "frm-van-s-dappm", "sfnet-r18"):
            light = replace(MODELS[name], model=lambda _, classes: Tiny(TinyConfig(), classes))
            patched.setitem(MODELS, name, light)
        cost.cache_clear()
        _by_authors.cache_clear()
        yield
    cost.cache_clear()
    _by_authors.cache_clear()


def plan_table_2(root, out, *settings):
    return plan_paper("frm", 2, out=out, data_root=root, settings=(*QUICK, *settings))


@pytest.fixture(scope="module")
def trained(tiny_papers, releases, tmp_path_factory):
    """FRM's Table 2, trained without a stop: (folder of the runs, the result)."""
    out = tmp_path_factory.mktemp("table")
    return out, train_paper("frm", 2, plan_table_2(releases, out), Silent())


# What is planned


@pytest.mark.parametrize("name", ["frm", "cgrseg", "rsp"])
def test_every_row_of_a_paper_is_trained_by_its_recipe_or_has_the_reason(name, tmp_path):
    plan = {training.name: training for training in plan_paper(name, out=tmp_path)}
    rows = [row for table in read_paper(name)["tables"] for row in table["rows"]]
    assert len(plan) <= sum(len(row["measured"]) for row in rows)
    for training in plan.values():
        assert (training.name in shipped_recipes()) == (not training.reason)
    without = [name for name, training in plan.items() if training.reason]
    expected = ["SFANet, ResNet-18", "hanet-r101_bdd100k", "pfnet-r50_bdd100k"]
    assert without == (expected if name == "frm" else [])


def test_a_training_that_stands_in_two_tables_is_done_once(tmp_path):
    names = [training.name for training in plan_paper("frm", out=tmp_path)]
    assert names.count("frm-van-s_cityscapes") == 1
    both = plan_paper("frm", 1, out=tmp_path) + plan_paper("frm", 2, out=tmp_path)
    assert [training.name for training in both].count("frm-van-s_cityscapes") == 2


def test_a_dry_run_prints_a_line_to_train_and_one_to_score_as_the_row_does(tmp_path):
    root = tmp_path / "my data"
    (root / "ade20k").mkdir(parents=True)
    result = run("cgrseg", "--table", 1, "--train", "--dry-run", "--data-root", root, "-o", "runs")
    lines = [shlex.split(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert [line[1] for line in lines] == ["train", "evaluate"] * 9
    assert lines[0][lines[0].index("--data-root") + 1] == str(root / "ade20k")
    assert lines[2][lines[2].index("--data-root") + 1] == str(root)
    context = lines[5]
    assert context[2:5] == ["runs/cgrseg-t_pascal-context", "--split", "val"]
    assert context[5:] == ["--scales", "0.5,0.75,1.0,1.25,1.5,1.75", "--tta", "flip"]


def test_a_dry_run_names_rows_without_a_recipe_in_comments_and_in_its_exit_status(tmp_path):
    result = run("frm", "--table", 3, "--train", "--dry-run", "-o", tmp_path)
    comments = [line for line in result.stdout.splitlines() if line.startswith("#")]
    assert result.exit_code == 1
    assert len(comments) == 2
    assert "hanet-r101 --data bdd100k" in comments[0]


@pytest.mark.parametrize(
    "options", [("--dry-run",), ("-o", "x"), ("--set", "train.steps=1"), ("--data-root", "x")]
)
def test_options_of_a_training_are_refused_without_train(options):
    refusal = run("frm", *options).exception
    assert f"{options[0].replace('-o', '--out')} would have no effect" in str(refusal)


def test_a_table_that_the_paper_does_not_have_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--table 4: FRM, .* has 1 to 3 here"):
        plan_paper("frm", 4, out=tmp_path)


# What is trained


def test_the_table_has_our_score_beside_theirs(trained):
    out, check = trained
    (table,) = check["tables"]
    for row in table["rows"]:
        val, test = row["measured"]["mIoU val, %"], row["measured"]["mIoU test, %"]
        (line,) = open_run(out / f"{row['model']}_cityscapes").evaluations()
        assert (line["split"], line["images"]) == ("val", COUNT)
        assert (val["printed"], val["ours"]["value"]) == ("-", 100 * line["miou"])
        assert val["difference"] is None
        assert test["ours"] is None
    assert [training["reason"] for training in check["trainings"]] == ["", "", ""]
    ppm = check["trainings"][1]
    assert (ppm["name"], ppm["run"]) == ("frm-van-s-ppm_cityscapes", str(out / ppm["name"]))


def test_the_settings_that_differ_from_the_recipe_stand_below_the_table(trained, capsys):
    out, check = trained
    print_paper(Console(highlight=False, soft_wrap=True), check)
    printed = capsys.readouterr().out
    assert f"frm-van-s_cityscapes: {out / 'frm-van-s_cityscapes'}\n" in printed
    _, _, below = printed.partition("frm-van-s_cityscapes: ")
    for text in (
        "train.epochs is 300 in the recipe and - here",
        "train.steps is - in the recipe and 2 here",
        "train.batch_size is 16 in the recipe and 1 here",
        "augment.crop is [1024, 1024] in the recipe and [64, 96] here",
    ):
        assert text in below


class DiesInSecond(Silent):
    """Dies in the second step of the second training, which has a checkpoint of its first."""

    def step(self, step, steps, record):
        super().step(step, steps, record)
        if len(self.steps) == 4:
            raise Killed


def test_a_killed_table_keeps_finished_runs_and_ends_the_same(trained, releases, tmp_path):
    whole, expected = trained
    plan = plan_table_2(releases, tmp_path)
    with pytest.raises(Killed):
        train_paper("frm", 2, plan, DiesInSecond())
    first = plan[0].out
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    reporter = Silent()
    check = train_paper("frm", 2, plan, reporter)
    assert reporter.steps == [2, 1, 2]
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    for training in plan:
        runs = [open_run(folder / training.name) for folder in (tmp_path, whole)]
        assert equal_state(*map(outcome, runs))
    assert check["tables"] == expected["tables"]


def test_a_row_that_cannot_be_trained_stops_no_other(trained, releases, tmp_path):
    first, second, _ = plan = plan_table_2(releases, tmp_path, "train.seed=1")
    shutil.copytree(trained[0] / first.name, first.out)
    reporter = Silent()
    check = train_paper("frm", 2, plan[:2], reporter)
    refused, done = check["trainings"]
    assert "train.seed is 0 in the run and 1 now" in refused["reason"]
    assert (refused["run"], done["run"], done["reason"]) == (None, str(second.out), "")
    assert reporter.messages[0] == f"not trained: {first.name}. {refused['reason']}"


def test_rows_without_weights_are_listed_with_the_remedy_before_any_is_trained(
    tiny_papers, releases, tmp_path, monkeypatch
):
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    settings = [word for text in (*QUICK, "model.pretrained=true") for word in ("--set", text)]
    arguments = ("frm", "--table", 3, "--train", "--data-root", releases, "-o", tmp_path / "runs")
    result = run(*arguments, *settings)
    assert result.exit_code == 1
    assert "frm-van-s_bdd100k: not trained: " in result.stdout
    assert "featherseg weights get van-b1" in result.stdout
    assert "pfnet-r50_bdd100k: not trained: there is no shipped recipe" in result.stdout
    assert not (tmp_path / "runs").exists()


def test_several_processes_are_left_to_the_printed_commands(tiny_papers, releases, tmp_path):
    plan = plan_table_2(releases, tmp_path, "train.devices=2", "train.batch_size=2")
    (training,) = train_paper("frm", 2, plan[:1], Silent())["trainings"]
    assert training["reason"].endswith("Run the commands that --dry-run prints.")
    assert not plan[0].out.exists()


def test_a_printed_command_runs_as_it_is(tiny_papers, releases, tmp_path, monkeypatch, capsys):
    (training,) = plan_table_2(releases, tmp_path)[:1]
    for line in training.commands():
        monkeypatch.setattr("sys.argv", shlex.split(line))
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
    (evaluation,) = open_run(training.out).evaluations()
    assert (evaluation["split"], evaluation["images"]) == ("val", COUNT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "table"),
    [("frm", 1), ("frm", 2), ("frm", 3), ("cgrseg", 1), ("cgrseg", 2)]
    + [("rsp", table) for table in (1, 2, 3, 4)],
)
def test_every_table_goes_through_at_the_paper_s_crop(name, table, releases, tmp_path):
    given = [word for text in SHORT for word in ("--set", text)]
    result = run(
        name, "--table", table, "--train", "--data-root", releases, "-o", tmp_path, *given, "--json"
    )
    plan = plan_paper(name, table, out=tmp_path)
    reasons = {one["name"]: one["reason"] for one in json.loads(result.stdout)["trainings"]}
    assert reasons == {training.name: training.reason for training in plan}
    assert result.exit_code == any(reasons.values())
