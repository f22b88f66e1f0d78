"""Shared fixtures. Real data lies beside the repository, never in it; tests that need it skip visibly elsewhere."""

import gc
from pathlib import Path

import hypothesis
import pytest

SHARED = Path(__file__).parents[2] / "shared"

CHROMIUM = Path("/usr/bin/chromium")
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]

hypothesis.settings.register_profile("fixed seeds", derandomize=True)
hypothesis.settings.load_profile("fixed seeds")


gc.disable()  # until all is imported: it would look through the same million objects again and again


def pytest_collection_finish():
    """Let the garbage collector pass over what is imported by now: a fifth of the time of all tests went there."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, papers and reference numbers, `../shared` beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared")
    return SHARED


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, with a camera that is none.

    Of a module, not of the session: loader workers that other tests fork meanwhile would keep its pipes open, and it
    would never end.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.is_file():
        pytest.skip(f"no browser at {CHROMIUM}")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", *CAMERA]
        program = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield program
        program.close()
