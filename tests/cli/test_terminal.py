import io
from contextlib import redirect_stdout

import pytest
from rich.table import Table

from featherseg.cli.terminal import Console
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
    for step, steps in ((1, 40), (40, 40), (41, 49), (49, 49)):
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


def test_a_training_is_shown_while_an_export_keeps_stdout_quiet(capsys):
    shown = TrainingProgress()
    with redirect_stdout(io.StringIO()):
        shown.message("step 1 of 2")
    assert capsys.readouterr().out == "step 1 of 2\n"
