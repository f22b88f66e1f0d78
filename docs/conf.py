"""Sphinx's settings for the site of the documents (`make docs`, docs/decisions/0016).

The first page is the README. The order of the others is set here, because no document contains
anything for the site alone.
"""

import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

project = "featherseg"
author = copyright = "The featherseg authors, Apache-2.0"
version = release = (ROOT / "src/featherseg/_version.py").read_text(encoding="utf-8").split('"')[1]

extensions = ["myst_parser"]
root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "docs/**.md",
    "benchmarks/tables/*.md",
    "examples/photos/README.md",
]
# not looked through for pages:
exclude_patterns = [".venv", "build", "demo", "dist", "runs", "src", "tests", "weights"]
myst_heading_anchors = 4  # as links name them, by GitHub's rule

html_theme = "furo"
html_title = "featherseg"
html_favicon = "site/icon.svg"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_search_scorer = str(ROOT / "docs/site/search_scorer.js")
html_copy_source = False
pygments_style, pygments_dark_style = "friendly", "github-dark"

REFERENCE = ("verbs", "recipe", "api", "formats", "performance", "systems", "architecture", "log")
HELP = ("troubleshooting", "faq", "coming-from", "glossary")
FIRST = ("tutorial", "own-camera", "folder", "frm")
"""Pages that come before the others of their folder."""


def _contents() -> str:
    """A hidden table of contents, for the side of the pages, behind the README."""

    def pages(folder: str) -> list[str]:
        names = sorted(
            (path.stem for path in (ROOT / "docs" / folder).glob("*.md")),
            key=lambda n: (n not in FIRST, n),
        )
        return [f"docs/{folder}/{name}" for name in names]

    others = sorted({path.stem for path in (ROOT / "docs").glob("*.md")} - {*REFERENCE, *HELP})
    measurements = sorted(
        f"benchmarks/tables/{path.stem}" for path in (ROOT / "benchmarks/tables").glob("*.md")
    )
    parts = {
        "Quick starts": pages("start"),
        "Help": [f"docs/{name}" for name in HELP],
        "Reference": [f"docs/{name}" for name in (*REFERENCE, *others)],
        "Datasets": pages("data"),
        "Models": pages("papers"),
        "Measurements": measurements,
        "Project": [
            *("CONTRIBUTING", "SECURITY", "CHANGELOG", "examples/photos/README"),
            *pages("decisions"),
        ],
    }
    table = "\n```{{toctree}}\n:hidden:\n:caption: {}\n\n{}\n```\n"
    return "".join(table.format(caption, "\n".join(names)) for caption, names in parts.items())


def _complete(app: Any, name: str, source: list[str]) -> None:
    """Add the contents to the README, and lead links to folders to the first page of each."""
    if name == root_doc:
        source[0] += _contents()
    for folder, page in (("data", "folder"), ("decisions", "0001-lightning-as-a-flat-run")):
        source[0] = source[0].replace(f"](docs/{folder})", f"](docs/{folder}/{page}.md)")


def _finish(app: Any, error: Exception | None) -> None:
    """The first page under the name that servers look for."""
    if error is None:
        shutil.copy(Path(app.outdir) / f"{root_doc}.html", Path(app.outdir) / "index.html")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _complete)
    app.connect("build-finished", _finish)
