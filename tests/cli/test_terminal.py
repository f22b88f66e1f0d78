import io
import re
from contextlib import redirect_stdout

import pytest
from rich.table import Table

from featherseg.cli.terminal import Console, wrapped
from featherseg.cli.train import TrainingProgress

HOSTILE = "a\x1b[2J\u202eb\udcff"


@pytest.mark.parametrize("markup", [False, True])
def test_names_in_lines_titles_and_tables_steer_nothing(markup):
    file = io.StringIO()
    console = Console(file=file, markup=markup, width=200)
    console.print(HOSTILE)
    console.print(HOSTILE, style="bold", highlight=False)
    table = Table("name", title=HOSTILE)
    table.add_row(HOSTILE)
    console.print(table)
    assert file.getvalue().count(r"a\x1b[2J\u202eb\udcff") == 4
    assert "\x1b" not in file.getvalue()


def test_our_own_colours_stay():
    file = io.StringIO()
    Console(file=file, force_terminal=True, color_system="standard").print("[red]left out[/] a.png")
    assert "\x1b[31mleft out\x1b[0m a.png" in file.getvalue()


def test_a_training_that_goes_on_for_longer_has_a_bar_of_its_own():
    shown = TrainingProgress()
    shown.step(1, 40, {"loss": 1.0})
    assert shown.bar.tasks[0].description == "loss 1.000"  # no rate yet
    for step, steps in ((40, 40), (41, 49), (49, 49)):
        shown.step(step, steps, {"loss": 1.0})
    (task,) = shown.bar.tasks
    assert (task.completed, task.total) == (49, 49)


def test_work_before_and_behind_a_training_has_a_bar_of_its_own():
    shown = TrainingProgress()

    def bars():
        return [
            (f"{task.fields['doing']} {task.description}".strip(), task.completed, task.total)
            for task in shown.bar.tasks
        ]

    shown.progress("timing candidates", 2, 12)
    assert bars() == [("timing candidates", 2, 12)]
    shown.progress("timing the steps of a model", 0, None)
    assert bars() == [("timing the steps of a model", 0, None)]
    shown.step(1, 2, {"loss": 1.0})
    shown.progress("validating", 3, 9)
    assert bars() == [("step validating 3/9", 1, 2)]
    shown.step(2, 2, {"loss": 1.0})
    shown.progress("scoring", 3, 9)
    assert bars() == [("scoring", 3, 9)]


def test_a_step_shows_loss_miou_and_learning_rate_within_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    file = io.StringIO()
    with redirect_stdout(file):
        monkeypatch.setattr(file, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        shown = TrainingProgress()
        with shown:
            (task,) = shown.bar.tasks
            assert task.fields["doing"] == "starting"  # no phase is silent
            shown.step(1199, 9999, {"loss": 0.51234, "lr": 0.00123456, "val_miou": 0.55123})
            shown.step(1200, 9999, {"loss": 0.51234, "lr": 0.00123456})
    (task,) = shown.bar.tasks
    assert task.description.startswith("loss 0.512, mIoU 55.1 %, lr 0.0012, ")
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= 80
    assert any("1200/9999 loss 0.512, mIoU 55.1 %, lr 0.0012, " in line for line in lines)


def test_a_message_is_broken_between_words_and_a_command_never():
    text = "validation mIoU was 12.34 % at step 100: the-model may-be overfitting"
    command = "featherseg train --resume --out " + "a" * 40
    assert wrapped(text, 40).splitlines() == [
        "validation mIoU was 12.34 % at step 100:",
        "the-model may-be overfitting",
    ]
    assert wrapped(f"stopped. Continue with: {command}", 40).splitlines() == [
        "stopped. Continue with:",
        command,
    ]
    assert wrapped(f"{text}\n{command}", 400) == f"{text}\n{command}"
    assert wrapped(command, 20) == command


def test_a_training_is_shown_while_an_export_keeps_stdout_quiet(capsys):
    shown = TrainingProgress()
    with redirect_stdout(io.StringIO()):
        shown.message("step 1 of 2")
    assert capsys.readouterr().out == "step 1 of 2\n"
