"""A bar for long work, shared by the verbs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featherseg.cli.terminal import Console
    from featherseg.data.statistics import Progress


@contextmanager
def progress_bar(console: Console, verb: str) -> Iterator[Progress]:
    """A bar on a terminal, gone when the work is done; silent elsewhere."""
    from rich.progress import Progress as Bar

    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(verb, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def work_bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for work of several kinds, told (what is being done, steps done, steps in all); as `progress_bar` else."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda words, done, of: bar.update(task, description=words, completed=done, total=of)
