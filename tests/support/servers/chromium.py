"""Debian's Chromium, with a camera that is none."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path("/usr/bin/chromium")
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield Playwright's Browser; skip the test if it is not installed.

    Loader workers that other tests fork meanwhile keep its pipes open; the garbage of trainings,
    which has them, is collected first, or the driver would wait for ever.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    if not PROGRAM.is_file():
        pytest.skip(f"no browser at {PROGRAM}")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", *CAMERA]
        program = driver.chromium.launch(executable_path=PROGRAM, args=arguments)
        yield program
        gc.collect()
        program.close()
