"""Tables and progress bars in Jupyter; nothing is shown anywhere else."""

import logging
import sys
import time
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from featherseg.core.types import Progress, Reporter

REDRAW_SECONDS = 0.2  # between two drawings of a bar: each is a message to the browser


def progress_or_bar(progress: Progress | None) -> Progress:
    """Return `progress`; for None, a bar in a notebook and nothing elsewhere."""
    if progress is not None:
        return progress
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return NotebookBar() if getattr(shell, "kernel", None) else lambda doing, done, total: None


def reporter_of(progress: Progress | Reporter | None) -> Reporter:
    """Return a Reporter: `progress` itself, or one that calls it and logs messages."""
    return (
        progress if isinstance(progress, Reporter) else _LoggedProgress(progress_or_bar(progress))
    )


class _LoggedProgress:
    """Reports a training to a `Progress`; its messages go to the logger "featherseg"."""

    def __init__(self, progress: Progress) -> None:
        self.call = progress

    def message(self, text: str) -> None:
        """Log a message."""
        logging.getLogger("featherseg").info(text)

    def step(self, step: int, steps: int, record: dict[str, Any]) -> None:
        """Report a step."""
        score = (
            f", mIoU {percent(record['val_miou'])} %" if record.get("val_miou") is not None else ""
        )
        self.call(f"training, loss {record['loss']:.3f}{score}", step, steps)

    def progress(self, doing: str, done: int, total: int | None) -> None:
        """Report work between two steps."""
        self.call(doing, done, total)


class NotebookBar:
    """A progress bar below the notebook's cell."""

    def __init__(self) -> None:
        self.handle: Any = None
        self.drawn = 0.0  # clock

    def __call__(self, doing: str, done: int, total: int | None) -> None:
        if done != total and time.monotonic() - self.drawn < REDRAW_SECONDS:
            return
        from IPython.display import HTML, display

        self.drawn = time.monotonic()
        place = f' value="{done}" max="{total}"' if total else ""
        bar = HTML(
            f"<progress{place}></progress> {done}{f' of {total}' if total else ''} {escape(doing)}"
        )
        if self.handle is None:
            self.handle = display(bar, display_id=True)
        else:
            self.handle.update(bar)


def html_table(
    title: str, heads: Sequence[str], rows: Iterable[Sequence[object]], notes: Iterable[str] = ()
) -> str:
    """Return a table as HTML, first column left-aligned, texts escaped; None is an empty cell."""

    def cells(kind: str, texts: Sequence[object]) -> str:
        sides = ["left"] + ["right"] * (len(texts) - 1)
        shown = ("" if text is None else escape(str(text)) for text in texts)
        return "".join(
            f'<{kind} style="text-align:{side}">{text}</{kind}>'
            for side, text in zip(sides, shown, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    head = f"<caption>{escape(title)}</caption><tr>{cells('th', heads)}</tr>"
    return f"<table>{head}{body}</table>{below}"


def percent(share: float | None) -> str:
    """Return 0.6153 as "61.53"; "" for None."""
    return "" if share is None or share != share else f"{100 * share:.2f}"
