"""The page kit: one HTML file, nothing loaded, no script but a page's own, light and dark.

Templates are jinja2, all text escaped.
"""

import base64
import hashlib
import math
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from featherseg._version import __version__
from featherseg.core.wording import counted
from featherseg.data.images.palettes import color_text
from featherseg.reports.charts import STYLE

CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # the page may load and run nothing


@cache
def _templates() -> Environment:
    loader = PackageLoader("featherseg", "")
    found = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "percent": percent,
        "fixed": fixed,
        "capital": lambda text: text[:1].upper() + text[1:],
    }
    found.filters |= {
        "hex": color_text,
        "value_text": value_text,
        "figure_texts": lambda figure: figure.texts(),
    }
    found.globals |= {"counted": counted, "enumerate": enumerate, "zip": zip}
    return found


def render(template: str, **values: Any) -> str:
    """A template, such as "comparison/page.html", with these values: every text is escaped, `Markup` alone is HTML."""
    return _templates().get_template(template).render(**values)


def macro(template: str, name: str, *values: Any, **context: Any) -> str:
    """A macro of a template, which sees `context`, called with `values`."""
    return str(
        getattr(_templates().get_template(template).make_module(context), name)(*values)
    ).strip()


def page_html(title: str, body: str, style: str = "", script: str = "") -> str:
    """The whole page around `body`, which is HTML; `title` is text, `style` CSS beside that of all pages.

    script: JavaScript of ours, which alone the page lets run.
    """
    policy = CONTENT_POLICY
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    common = (resources.files("featherseg.reports") / "page.css").read_text(encoding="utf-8")
    return render(
        "reports/page.html",
        title=title,
        body=Markup(body),
        style=Markup(common + STYLE + style),
        content_policy=Markup(policy),
        script=Markup(script),
        version=__version__,
    )


def percent(share: float | None) -> str:
    """0.6153 -> "61.5"; a dash for none and for NaN."""
    return "\N{EN DASH}" if share is None or math.isnan(share) else f"{100 * share:.1f}"


def fixed(value: float | None, digits: int) -> str:
    """A number to so many digits; empty for none."""
    return "" if value is None else f"{value:.{digits}f}"


def value_text(value: Any) -> str:
    """A value of JSON in words: 480 x 360 for sizes and lists, yes and no, floats to four digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(value_text(item) for item in value)
    return "none" if value is None else str(value)
