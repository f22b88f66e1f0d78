"""The progress bar of all verbs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featherseg.cli.terminal import Console
    from featherseg.core.types import Progress


LINE_SECONDS = 10
"""Seconds between two lines without a terminal."""


def is_quiet() -> bool:
    """Return whether the user gave -q."""
    return logging.getLogger("featherseg").level == logging.WARNING


@contextmanager
def progress_bar(console: Console) -> Iterator[Progress]:
    """Show a bar that disappears at the end; without a terminal, a line on stderr every 10 s."""
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    if is_quiet():
        yield lambda doing, done, total: None
        return
    if not console.is_terminal:
        yield _print_lines()
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


def _print_lines() -> Progress:
    """Return a progress function that prints lines on stderr."""
    from featherseg.cli.terminal import Console

    console, last = Console(stderr=True, highlight=False, markup=False, soft_wrap=True), monotonic()

    def progress(doing: str, done: int, total: int | None) -> None:
        """Print a line if the last one is LINE_SECONDS old."""
        nonlocal last
        if monotonic() - last >= LINE_SECONDS:
            console.print(f"{doing}: {done}{f' of {total}' if total else ''}")
            last = monotonic()

    return progress
