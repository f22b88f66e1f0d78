import io

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
