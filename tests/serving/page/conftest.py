"""A service, and a page of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers.chromium import chromium
from support.servers.page_driver import noise_run, opened, says, served_models, serving, unexpected

from featherseg.serving.models import open_models


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    return noise_run(tmp_path_factory.mktemp("runs") / "noise")


@pytest.fixture(scope="session")
def served(run):
    """Name -> model: colors, layers, objects, noise."""
    return {model.name: model for model in [*served_models(), *open_models([run], "cpu")]}


@pytest.fixture(scope="session")
def address(served) -> Iterator[str]:
    with serving(list(served.values())) as found:
        yield found


@pytest.fixture(scope="package")
def browser():
    with chromium() as program:
        yield program


@pytest.fixture
def page(browser, address):
    """The page, ready; nothing may have gone wrong in it when the test ends."""
    page = opened(browser, address)
    says(page, "Ready.")
    yield page
    page.context.close()
    assert unexpected(page) == []
