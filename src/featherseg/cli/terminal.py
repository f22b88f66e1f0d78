"""The terminal, and what must not reach it: names of files and classes come from others."""

from collections.abc import Iterable, Sequence
from typing import Any

import rich.console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from featherseg.core.wording import visible


class Console(rich.console.Console):
    """Rich's console, which shows characters that would steer the terminal as escapes."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Every plain text that is printed or stands in a table comes through here."""
        return super().render_str(visible(text), **options)

    def print_table(
        self,
        heads: Sequence[str],
        rows: Iterable[Sequence[str]],
        totals: Iterable[Sequence[str]] = (),
        title: str = "",
    ) -> None:
        """Texts as a table, the first column flush left, the others right; a rule between the rows and the totals."""
        table = Table(*map(escape, heads), title=escape(title) or None, title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*map(escape, row))
        table.add_section()
        for row in totals:
            table.add_row(*map(escape, row))
        self.print(table)
