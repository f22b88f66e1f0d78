"""A bar for long work, shared by the verbs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featherseg.cli.terminal import Console
    from featherseg.core.types import Progress


@contextmanager
def progress_bar(console: Console) -> Iterator[Progress]:
    """A bar on a terminal, gone when the work is done; silent elsewhere."""
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda doing, done, total: bar.update(task, description=escape(doing), completed=done, total=total)
