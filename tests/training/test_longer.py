"""`train.schedule = "stable"`: a run goes on to more steps as if it had been begun with them."""

import math
from dataclasses import replace

import pytest
import torch
from support.models.small_training import SMALL, Killed, KilledAt, Silent, equal_state, outcome

from featherseg.core.errors import ConfigError
from featherseg.recipe.tables import TrainTable
from featherseg.runs.run import open_run
from featherseg.training import Request, train
from featherseg.training.optimisers import build_schedule

pytestmark = pytest.mark.usefixtures("tiny")

STABLE = (
    "model.name=tiny",
    *(setting for setting in SMALL if not setting.startswith("train.epochs")),
    *('train.schedule="stable"', "train.ema=0.9", "train.keep=last", "train.validate_every=100"),
)


def request(*overrides):
    return Request("frm-lite0", overrides=overrides)


def trained(out, *overrides, reporter=None, resume=False):
    return train(request(*overrides), out, reporter or Silent(), resume=resume)


def rates(steps, **settings):
    table = TrainTable(steps=steps, schedule="stable", lr=1.0, **settings)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, found = build_schedule(optimizer, table, steps), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_is_kept_and_falls_in_the_last_steps():
    assert rates(5) == [1.0] * 5
    assert rates(6, warmup_steps=2) == [0.5] + [1.0] * 5
    falling = [1 - math.sqrt(over / 4) for over in range(4)]
    assert rates(10, decay_steps=4) == pytest.approx([1.0] * 6 + falling)
    assert rates(10, decay_steps=4, floor=0.1) == pytest.approx(
        [1.0] * 6 + [0.1 + 0.9 * x for x in falling]
    )


def without_validations(run):
    """Return the outcome without intermediate validations, which depend on a run's length."""
    found = outcome(run)
    kept = {
        step: {k: v for k, v in row.items() if not k.startswith("val_")}
        for step, row in found["metrics"].items()
    }
    return {key: value for key, value in found.items() if key != "recorder"} | {"metrics": kept}


@pytest.mark.seconds
def test_a_run_that_goes_on_is_the_one_that_was_begun_with_all_steps(tmp_path):
    whole = trained(tmp_path / "whole", *STABLE, "train.steps=7", "train.decay_steps=2")
    run = tmp_path / "longer"
    trained(run, *STABLE, "train.steps=2")
    train(request(*STABLE, "train.steps=4"), run, Silent(), resume=True)
    with pytest.raises(Killed):
        train(
            request(*STABLE, "train.steps=7", "train.decay_steps=2"), run, KilledAt(5), resume=True
        )
    assert open_run(run).unfinished
    reporter = Silent()
    longer = trained(
        run, *STABLE, "train.steps=7", "train.decay_steps=2", reporter=reporter, resume=True
    )
    assert equal_state(without_validations(longer), without_validations(whole))
    assert (longer.recipe.train.steps, longer.recipe.train.decay_steps) == (7, 2)
    assert reporter.steps[-1] == 7
    assert "is finished: 7 steps" in finished(run)

    # So is one whose clock ended it, and that goes on
    clock = tmp_path / "clock"
    train(replace(request(*STABLE, "train.steps=6"), ends=lambda step: step == 3), clock, Silent())
    assert max(open_run(clock).metrics()) == 3
    longer = trained(clock, *STABLE, "train.steps=7", "train.decay_steps=2", resume=True)
    assert equal_state(without_validations(longer), without_validations(whole))

    # Its rate has fallen, so it ends here
    with pytest.raises(
        ConfigError, match=r"is at step 7, and its rate has been falling since step 5"
    ):
        train(request(*STABLE, "train.steps=9", "train.decay_steps=2"), run, Silent(), resume=True)


def finished(run):
    """What a resume of a finished run says."""
    reporter = Silent()
    train(request(*STABLE, "train.steps=7", "train.decay_steps=2"), run, reporter, resume=True)
    return " ".join(reporter.messages)


def test_a_run_that_cannot_go_on_as_asked_says_why(tmp_path):
    run = tmp_path / "run"
    trained(run, *STABLE, "train.steps=3")
    before = (run / "resolved.json").read_bytes()
    for asked, said in (
        (
            ("train.steps=4", "train.decay_steps=2"),
            r"falls from step 2\. Give at least 5 steps",
        ),
        (("train.steps=2",), r"falls from step 2\. Give at least 3 steps"),
        (("train.steps=5", "train.lr=1e-4"), r"train\.lr is 0\.004 in the run and 0\.0001 now"),
    ):
        with pytest.raises(ConfigError, match=said):
            train(request(*STABLE, *asked), run, Silent(), resume=True)
    assert (run / "resolved.json").read_bytes() == before


@pytest.mark.parametrize(
    "setting", ["train.ema_share=0.5", "train.patience=3", "augment.progressive=true"]
)
def test_what_depends_on_the_length_keeps_it(setting, tmp_path):
    settings = (*(one for one in STABLE if not one.startswith("train.ema=")), setting)
    trained(tmp_path, *settings, "train.steps=1")
    with pytest.raises(
        ConfigError, match=f"begun with {setting.partition('=')[0]}, which depends on the number"
    ):
        train(request(*settings, "train.steps=2"), tmp_path, Silent(), resume=True)


def test_decay_steps_belong_to_a_stable_schedule_of_as_many_steps():
    with pytest.raises(
        ValueError, match=r"train\.decay_steps has no effect with train\.schedule = 'poly'"
    ):
        TrainTable(steps=4, decay_steps=2)
    with pytest.raises(ValueError, match=r"train\.decay_steps = 5: the run has 4 steps"):
        TrainTable(steps=4, schedule="stable", decay_steps=5)
