"""The terminal, protected from control characters in names of files and classes."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import rich.console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from featherseg.core.wording import visible


def wrapped(text: str, width: int) -> str:
    """Return a message in lines of at most `width` characters, broken between words.

    A command gets a line of its own and is never broken, so that it works when it is pasted.
    """
    lines: list[str] = []
    for line in text.split("\n"):
        prose, command = line, ""
        if len(line) > width and ": featherseg " in line:
            prose, _, command = line.partition(": featherseg ")
            prose, command = f"{prose}:", f"featherseg {command}"
        is_command = prose.startswith("featherseg ")
        lines += (
            [prose]
            if is_command or not prose
            else textwrap.wrap(prose, width, break_long_words=False, break_on_hyphens=False)
        )
        lines += [command] if command else []
    return "\n".join(lines)


class Console(rich.console.Console):
    """Rich's console; characters that would control the terminal are printed as escapes."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape a text; every plain text that is printed or stands in a table passes here."""
        return super().render_str(visible(text), **options)

    def print_table(
        self,
        heads: Sequence[str],
        rows: Iterable[Sequence[str]],
        totals: Iterable[Sequence[str]] = (),
        title: str = "",
    ) -> None:
        """Print a table, its first column left-aligned; a rule separates rows and totals."""
        table = Table(*map(escape, heads), title=escape(title) or None, title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*map(escape, row))
        table.add_section()
        for row in totals:
            table.add_row(*map(escape, row))
        self.print(table)
