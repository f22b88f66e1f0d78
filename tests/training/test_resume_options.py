"""`train --resume` accepts repeated options of the run, and refuses unknown or other ones."""

import json
import shutil
import sys

import pytest
from support.models.small_training import SMALL, Killed, KilledAt, Silent, request

from featherseg import cli
from featherseg.comparison.sweep import train_all
from featherseg.core.errors import ConfigError, DeviceError
from featherseg.training import Request, train

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory):
    """A run that was stopped at its third step of four."""
    out = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.raises(Killed):
        train(request(), out, KilledAt(3))
    return out


@pytest.fixture(params=["finished", "stopped"])
def begun(request, small_run, stopped_run, tmp_path):
    """A copy of a run that is finished, and of one that was stopped."""
    source = small_run.path if request.param == "finished" else stopped_run
    return shutil.copytree(source, tmp_path / "run")


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("asked", "error", "sentences"),
    [
        ({"overrides": ("train.nonsense=1",)}, ConfigError, ["unknown key 'train.nonsense'"]),
        ({"overrides": ("model.nonsense=1",)}, ConfigError, ["nonsense"]),
        (
            {"overrides": ("train.epochs=9",)},
            ConfigError,
            ["train.epochs is 2 in the run and 9 now", "--init"],
        ),
        (
            {"overrides": ("train.batch_size=auto",)},
            ConfigError,
            ["train.batch_size is 4 in the run and 'auto' now"],
        ),
        (
            {"overrides": ("train.patience=3",)},
            ConfigError,
            ["train.patience is None in the run and 3 now"],
        ),
        ({"overrides": ("paper.row=x",)}, ConfigError, ["paper"]),
        ({"overrides": ("train.device=cuda:7",)}, DeviceError, ["cuda:7"]),
        ({"data": "camvid"}, ConfigError, ["data.name is 'shapes' in the run and 'camvid' now"]),
        (
            {"data": "no/such/dataset.toml"},
            ConfigError,
            ["data.name is 'shapes'", "no/such/dataset.toml"],
        ),
        (
            {"data_root": "/no/such"},
            ConfigError,
            ["data.root is None in the run and '/no/such' now"],
        ),
        ({"init": "runs/other"}, ConfigError, ["--init is None in the run and 'runs/other' now"]),
        (
            {"recipe": "pidnet-s"},
            ConfigError,
            ["model.name is 'tiny' in the run and 'pidnet-s' now"],
        ),
    ],
    ids=lambda value: next(iter(value.values()))[0] if isinstance(value, dict) else None,
)
def test_an_option_that_is_unknown_or_differs_is_refused(begun, asked, error, sentences):
    before = content(begun)
    with pytest.raises(error) as told:
        train(Request(**{"recipe": None} | asked), begun, Silent(), resume=True)
    assert all(sentence in str(told.value) for sentence in sentences)
    assert content(begun) == before


@pytest.mark.parametrize(
    "asked",
    [
        Request(None),
        Request(
            None,
            "shapes",
            overrides=("train.epochs=2", "augment.crop=[64, 96]", "train.device=cpu"),
        ),
        request("train.checkpoint_seconds=5"),
    ],
    ids=["none", "some", "all"],
)
def test_options_that_repeat_the_run_are_accepted(begun, asked):
    assert max(train(asked, begun, Silent(), resume=True).metrics()) == 4


@pytest.mark.seconds
def test_init_may_be_repeated_in_another_spelling(small_run, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(request(init=str(small_run.path)), out, KilledAt(1))
    monkeypatch.chdir(small_run.path.parent)
    with pytest.raises(ConfigError, match=r"--init is '.*small' in the run and 'other' now"):
        train(Request(None, init="other"), out, Silent(), resume=True)
    train(Request(None, init=small_run.path.name), out, Silent(), resume=True)


def test_a_number_that_the_run_found_may_be_left_open_again(tmp_path):
    open_numbers = ("train.batch_size=auto", "train.epochs=1")
    train(request(*open_numbers), tmp_path / "run", Silent())
    train(request(*open_numbers), tmp_path / "run", Silent(), resume=True)
    most = [text for text in (*SMALL, *open_numbers) if "crop" not in text]
    with pytest.raises(ConfigError, match=r"augment\.crop is \(64, 96\) in the run and None now"):
        train(Request("frm-lite0", overrides=tuple(most)), tmp_path / "run", Silent(), resume=True)


def test_a_run_of_before_recipes_left_optimiser_and_batch_size_open_goes_on_with_its_recipe(
    tmp_path,
):
    train(
        request("train.epochs=1", "train.optimizer=adamw", "train.batch_size=8"),
        tmp_path / "run",
        Silent(),
    )
    resolved = tmp_path / "run" / "resolved.json"
    facts = json.loads(resolved.read_text())
    del facts["recipe"]["train"]["lr_batch_size"]
    resolved.write_text(json.dumps(facts))
    today = request("train.epochs=1", "train.batch_size=auto", "train.lr_batch_size=8")
    train(today, tmp_path / "run", said := Silent(), resume=True)
    assert any("is finished" in text for text in said.messages)
    with pytest.raises(ConfigError, match=r"train\.lr_batch_size is None in the run and 4 now"):
        train(
            request("train.epochs=1", "train.lr_batch_size=4"),
            tmp_path / "run",
            Silent(),
            resume=True,
        )


def test_the_command_ends_with_2_and_both_values(small_run, monkeypatch, capsys):
    slip = [
        "featherseg",
        "train",
        "--resume",
        "--out",
        str(small_run.path),
        "--set",
        "train.epochs=9",
    ]
    monkeypatch.setattr(sys, "argv", slip)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "train.epochs is 2 in the run and 9 now" in capsys.readouterr().err


def test_a_sweep_refuses_before_it_trains_what_was_begun_otherwise(small_run, tmp_path):
    shutil.copytree(small_run.path, tmp_path / "tiny-1")
    asked, reporter = Request("frm-lite0", overrides=(*SMALL, "train.epochs=1")), Silent()
    with pytest.raises(ConfigError, match=r"train\.epochs is 2 in the run and 1 now"):
        train_all(asked, ["tiny"], [0, 1], tmp_path, reporter)
    assert not reporter.steps
    assert not (tmp_path / "tiny-0").exists()
