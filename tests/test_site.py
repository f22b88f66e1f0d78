"""The documents as a site: every link has a page and heading, in the source and as built."""

import functools
import html
import re
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from support.servers.chromium import chromium

ROOT = Path(__file__).parents[1]
PAGES = [*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG"))]
PAGES += [
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks/tables").glob("*.md")),
]


@functools.cache
def anchors(path: Path) -> set[str]:
    """The names of a page's headings by GitHub's rule, the second of a name with -1."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S), re.M
    ):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if name in found else name)
        found[name] = found.get(name, 0) + 1
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_headings_lead_to_one(page):
    links = re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", page.read_text())
    assert [
        (to, name) for to, name in links if name not in anchors((page.parent / to) if to else page)
    ] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What `make docs` builds."""
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    (line,) = re.findall(
        r"^\t@(sphinx-build .+) build/site$", (ROOT / "Makefile").read_text(), re.M
    )
    command = [
        sys.executable,
        "-m",
        "sphinx",
        *line.split()[1:],
        "-d",
        str(folder / "cache"),
        str(folder / "site"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "site"


@pytest.mark.slow
def test_the_site_has_every_document_and_its_links_lead_somewhere(site):
    pages = {path: path.read_text() for path in site.rglob("*.html")}
    assert {site / page.relative_to(ROOT).with_suffix(".html") for page in PAGES} <= set(pages)
    assert pages[site / "index.html"] == pages[site / "README.html"]
    targets = {path: {*re.findall(r'\bid="([^"]+)"', text), ""} for path, text in pages.items()}
    broken = []
    for path, text in pages.items():
        for link in map(html.unescape, re.findall(r'\b(?:href|src)="([^"]+)"', text)):
            if re.match(r"[a-z]+:", link):
                continue
            to, _, name = link.partition("#")
            file = (path.parent / unquote(to.partition("?")[0])).resolve() if to else path
            if not file.is_file() or unquote(name) not in targets.get(file, {name}):
                broken.append((path.name, link))
    assert broken == []


@pytest.mark.slow
def test_a_search_leads_to_a_page_for_users_first(site):
    """In the browser, by the search of the site itself."""
    places = {
        "confusion matrix": "docs/faq.html",
        "class weights": "docs/faq.html",
        "out of memory": "docs/troubleshooting.html",
        "raspberry": "docs/faq.html",
        "resume": "docs/troubleshooting.html",
    }
    found = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    with server, chromium() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page, address = browser.new_page(), f"http://127.0.0.1:{server.server_port}/"
        for words in places:
            page.goto(f"{address}search.html?q={words.replace(' ', '+')}")
            first = page.wait_for_selector("ul.search li > a")
            found[words] = first.get_attribute("href").partition("?")[0].removeprefix(address)
        server.shutdown()
    assert found == places


class Quiet(SimpleHTTPRequestHandler):
    """Writes no log."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.slow
def test_no_page_is_wider_than_a_phone(site):
    """Tables and output scroll for themselves; comments behind commands wrap."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        wide = []
        for path in (
            "docs/recipe",
            "docs/verbs",
            "docs/coming-from",
            "docs/troubleshooting",
            "README",
        ):
            page.goto((site / f"{path}.html").as_uri())
            if page.evaluate("document.documentElement.scrollWidth") > 390:
                wide.append(path)
            hidden = "pre => pre.scrollWidth > pre.clientWidth + 1"
            blocks = page.locator(".highlight-sh pre").all()
            wide += [f"{path}: {b.inner_text()[:40]}" for b in blocks if b.evaluate(hidden)]
        assert wide == []


@pytest.mark.slow
def test_the_site_asks_no_other_host_for_anything_and_finds_words(site):
    for path in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]*\bsrc="([^"]+)"|<link[^>]*\bhref="([^"]+)"',
            path.read_text(),
        )
        assert not [link for pair in loaded for link in pair if "//" in link], path
    assert '"boundari"' in (site / "searchindex.js").read_text()  # the stem of boundary
