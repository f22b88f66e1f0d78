"""The terminal, and what must not reach it: names of files and classes come from others."""

from typing import Any

import rich.console
from rich.text import Text

from featherseg.core.wording import visible


class Console(rich.console.Console):
    """Rich's console, which shows characters that would steer the terminal as escapes."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Every plain text that is printed or stands in a table comes through here."""
        return super().render_str(visible(text), **options)
