"""The page kit: HTML pages in one file that load nothing, with light and dark colours.

Templates are jinja2, and all text is escaped. A page runs only its own script.
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

CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content-Security-Policy: the page loads and runs nothing."""


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("featherseg", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "fixed": fixed,
        "capital": lambda text: text[:1].upper() + text[1:],
        "hex": color_text,
        "value_text": value_text,
        "figure_texts": lambda figure: figure.texts(),
    }
    environment.globals |= {"counted": counted, "enumerate": enumerate, "zip": zip}
    return environment


def render(template: str, **values: Any) -> str:
    """Fill a template, such as "comparison/page.html"; texts are escaped, only `Markup` is HTML."""
    return _templates().get_template(template).render(**values)


def macro(template: str, name: str, *values: Any, **context: Any) -> str:
    """Call a macro of a template with `values`; the template sees `context`."""
    module = _templates().get_template(template).make_module(context)
    return str(getattr(module, name)(*values)).strip()


def page_html(title: str, body: str, style: str = "", script: str = "") -> str:
    """Return the page around `body`, which is HTML.

    title: plain text. style: CSS in addition to that of all pages. script: our JavaScript, the only
    script that the page runs.
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
    """Return 0.6153 as "61.5"; a dash for None and NaN."""
    return "\N{EN DASH}" if share is None or math.isnan(share) else f"{100 * share:.1f}"


def fixed(value: float | None, digits: int) -> str:
    """Return a number with so many decimals; "" for None."""
    return "" if value is None else f"{value:.{digits}f}"


def value_text(value: Any) -> str:
    """Return a JSON value as text: lists with commas, yes and no, floats with four digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(value_text(item) for item in value)
    return "none" if value is None else str(value)
