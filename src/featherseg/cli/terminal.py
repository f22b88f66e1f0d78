"""The terminal, protected from control characters in names of files and classes."""

from collections.abc import Iterable, Sequence
from typing import Any

import rich.console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from featherseg.core.wording import visible


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
