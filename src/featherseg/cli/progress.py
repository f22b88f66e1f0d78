"""A bar for long work, shared by the verbs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featherseg.cli.terminal import Console
    from featherseg.core.types import Progress


LINE_SECONDS = 10
"""Seconds between two lines where there is no terminal."""


@contextmanager
def progress_bar(console: Console) -> Iterator[Progress]:
    """A bar on a terminal, gone when the work is done; elsewhere a line on stderr every ten seconds."""
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    if not console.is_terminal:
        yield _lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda doing, done, total: bar.update(
            task, description=escape(doing), completed=done, total=total
        )


def _lines() -> Progress:
    """A progress that prints lines on stderr."""
    from featherseg.cli.terminal import Console

    console, last = Console(stderr=True, highlight=False, markup=False, soft_wrap=True), monotonic()

    def tell(doing: str, done: int, total: int | None) -> None:
        nonlocal last
        if monotonic() - last >= LINE_SECONDS:
            console.print(f"{doing}: {done}{f' of {total}' if total else ''}")
            last = monotonic()

    return tell
