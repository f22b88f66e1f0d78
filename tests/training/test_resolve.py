"""A recipe is resolved by facts alone; a dry run shows the figures of the training that follows."""

import json
from pathlib import Path

import pytest
from support.models.own_objects import Halves, own_model
from support.models.small_training import SMALL, Silent, request, trained
from typer.testing import CliRunner

import featherseg
from featherseg import cli
from featherseg.core.errors import ConfigError, RunError
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.training import train
from featherseg.training.resolve import (
    DataFacts,
    Facts,
    MachineFacts,
    Speed,
    resolve,
    resolved_keys,
    settings_messages,
)

CAMVID = DataFacts(images=367, val_images=101, image_size=(720, 960))


def facts(data=CAMVID, *, bf16=False, from_scratch=False, speed=None, memory=None):
    return Facts(data, MachineFacts("cpu", bf16), from_scratch, memory, speed)


def asked(*overrides):
    open_settings = ("train.batch_size=auto", "train.optimizer=auto", "train.precision=auto")
    return parse_recipe(read_recipe("frm-lite0"), [*open_settings, *overrides])


class Memory:
    """An estimate: each image of a step takes one of `available` bytes."""

    def __init__(self, available):
        self.available = available

    def added(self, images, crop):
        return images


def test_a_resolved_recipe_leaves_nothing_open_and_resolves_to_itself():
    recipe = resolve(asked(), facts())
    train = recipe.train
    assert (recipe.augment.crop, train.batch_size, train.steps) == ((384, 512), 8, 2299)
    assert (train.precision, train.optimizer, train.keep) == ("fp32", "adamw", "best")
    assert resolve(recipe, facts()) == recipe
    assert resolved_keys(recipe, facts()) == []


def test_the_recipe_that_was_asked_for_is_not_changed():
    recipe = asked()
    before = recipe.model_dump_json()
    resolve(recipe, facts())
    assert recipe.model_dump_json() == before
    assert resolved_keys(recipe, facts()) == [
        "augment.crop",
        "train.optimizer",
        "train.precision",
        "train.batch_size",
        "train.steps",
    ]


@pytest.mark.parametrize(
    ("known", "changed"),
    [
        ({"bf16": True}, {"precision": "bf16"}),
        ({"from_scratch": True}, {"optimizer": "muon"}),
        ({"memory": Memory(6)}, {"batch_size": 4, "steps": 4598}),
        ({"memory": Memory(1000)}, {}),
        ({"data": DataFacts(367, 101, (200, 200))}, {"batch_size": 32, "steps": 575}),
        ({"data": DataFacts(367, 101, (720, 960), shared=True)}, {"keep": "last"}),
    ],
)
def test_each_fact_decides_its_settings(known, changed):
    usual, other = (resolve(asked(), facts(**more)).train for more in ({}, known))
    differing = {
        key: getattr(other, key)
        for key in type(usual).model_fields
        if getattr(usual, key) != getattr(other, key)
    }
    assert differing == changed


def test_what_the_recipe_states_is_kept():
    stated = (
        "augment.crop=[64,96]",
        "train.batch_size=6",
        "train.optimizer=sgd",
        "train.precision=bf16",
        "train.epochs=2",
    )
    recipe = asked(*stated)
    assert resolve(recipe, facts(from_scratch=True, memory=Memory(2))) == recipe
    warning, *_ = settings_messages(recipe, recipe, facts())
    assert "emulated by this cpu" in warning


def test_minutes_become_steps_by_the_speed():
    recipe = asked("train.minutes=10", "loss.class_weights=none")
    speed = Speed(step_seconds=0.5, validation_seconds=3.0, elapsed_seconds=12.0)
    train = resolve(recipe, facts(speed=speed)).train
    # 600 s less 2 %, 5 s for pages, 12 s that have passed, 9 validations and the report
    assert (train.steps, train.validations, train.minutes) == (1082, 9, 10)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (("train.power=1.0", "train.schedule=cosine"), "power = 1.0 acts only with train.schedule"),
        (("train.momentum=0.5",), "momentum = 0.5 acts only with train.optimizer = 'sgd'"),
        (
            ("loss.class_weight_power=0.25", "loss.class_weights=none"),
            "class_weight_power = 0.25 acts only with loss.class_weights = 'auto'",
        ),
        (
            ("loss.contrast_base_temperature=0.07",),
            "contrast_base_temperature = 0.07 acts only with loss.contrast > 0, and it is 0.0",
        ),
        (("loss.contrast=0", "loss.contrast_warmup_steps=2"), "acts only with loss.contrast > 0"),
        (
            ("loss.contrast=1", "loss.contrast_warmup_steps=4"),
            r"contrast_warmup_steps = 4: the run has 4 steps, so the contrast would never begin",
        ),
    ],
)
def test_a_setting_without_effect_is_refused(tmp_path, tiny, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        trained(tmp_path / "run", *settings)
    assert not (tmp_path / "run").exists()


def test_a_recipe_s_own_setting_may_lose_its_effect_by_an_override(tmp_path, tiny):
    text = read_recipe("frm-lite0").text
    assert "class_weight_power = 0.5" in text
    assert trained(tmp_path / "run", "train.epochs=1").recipe.loss.class_weights == "none"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text.replace('\nclass_weights = "auto"', '\nclass_weights = "none"'))
    asked = request(*[text for text in SMALL if "class_weights" not in text])
    overrides = tuple(text for text in asked.overrides if "class_weights" not in text)
    with pytest.raises(ConfigError, match=r"class_weight_power = 0\.5 acts only with"):
        train(type(asked)(str(recipe), overrides=overrides), tmp_path / "other", Silent())


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


@pytest.mark.seconds
def test_a_dry_run_writes_nothing_and_shows_the_figures_of_the_training(tmp_path, tiny):
    settings = ["train.batch_size=auto", "train.precision=auto", "train.optimizer=auto"]
    settings += [text for text in SMALL if "batch_size" not in text and "precision" not in text]
    arguments = {"settings": ["model.name=tiny", *settings], "out": tmp_path / "run"}
    before = files_below(tmp_path)
    plan = featherseg.train("frm-lite0", **arguments, dry_run=True)
    assert files_below(tmp_path) == before == {}
    run = featherseg.train("frm-lite0", **arguments, report=False)
    assert plan.recipe == run.recipe
    assert plan.steps == max(run.metrics())
    scored = [row for row in run.metrics().values() if row.get("val_miou") is not None]
    assert plan.validations == len(scored)
    recorded = json.loads((run.path / "environment.json").read_text())["memory_gb"]["estimated"]
    assert plan.memory_gb == pytest.approx(recorded, abs=0.5)
    assert 0 < plan.minutes < 60


def test_a_dry_run_of_objects_and_minutes_has_steps(tmp_path):
    plan = featherseg.train(
        own_model(),
        (Halves(4), Halves(2)),
        out=tmp_path / "run",
        settings={"train.minutes": 2, "augment.crop": [32, 48], "data.workers": 0},
        dry_run=True,
    )
    assert plan.steps > 1
    assert plan.recipe.train.minutes == 2
    assert not (tmp_path / "run").exists()


def test_a_dry_run_refuses_what_a_training_refuses(tmp_path, tiny):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="already exists"):
        featherseg.train("frm-lite0", out=tmp_path / "run", dry_run=True)
    with pytest.raises(ConfigError, match="leave out --resume"):
        featherseg.train(out=tmp_path / "run", dry_run=True, resume=True)


def test_the_command_prints_the_table(tmp_path, tiny):
    options = [option for text in ("model.name=tiny", *SMALL) for option in ("--set", text)]
    result = CliRunner().invoke(
        cli.build_app(),
        ["train", "frm-lite0", *options, "--dry-run", "--out", str(tmp_path / "run")],
    )
    assert result.exit_code == 0, result.exception
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines()[-7:])
    assert rows.keys() == {"crop", "batch", "steps", "optimizer", "precision", "memory", "time"}
    assert (rows["crop"], rows["batch"]) == ("64x96", "4 images")
    assert rows["steps"] == "4, 2 validations"
    assert not (tmp_path / "run").exists()
