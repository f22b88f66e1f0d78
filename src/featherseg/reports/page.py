"""What every page of ours is made of: one HTML file, no script, nothing loaded, light and dark."""

import math
from html import escape
from importlib import resources

from featherseg._version import __version__
from featherseg.reports.charts import STYLE

CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # the page may load and run nothing


def page_html(title: str, body: str, style: str = "") -> str:
    """The whole page around `body`, which is HTML; `title` is text, `style` CSS beside that of all pages."""
    common = (resources.files("featherseg.reports") / "page.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{common}{STYLE}{style}</style>
<main>
{body}
<footer>Written by featherseg {__version__}. This file is complete in itself.</footer>
</main>
</html>
"""


def section(title: str, content: str) -> str:
    """A section of a page; both are HTML."""
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>"


def percent(share: float | None) -> str:
    """0.6153 -> "61.5"; a dash for none and for NaN."""
    return "\N{EN DASH}" if share is None or math.isnan(share) else f"{100 * share:.1f}"
