"""A service of small models, asked without a socket."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from support.models.color_model import served
from support.servers.asgi_client import Client

from featherseg.serving.app import create_app
from featherseg.serving.settings import Limits, Settings

HOME = "http://127.0.0.1:8000"


@pytest.fixture
def start() -> Iterator[Callable[..., Client]]:
    """start(*models, limits={...}, token=..., ...) -> client of a service; default: one model."""
    with ExitStack() as stack:

        def start(*models, limits=None, base_url=HOME, **settings):
            app = create_app(
                models or [served()], Settings(limits=Limits(**(limits or {})), **settings)
            )
            return stack.enter_context(closing(Client(app, base_url)))

        yield start


@pytest.fixture
def client(start) -> Client:
    """Of a service with the limits as they come."""
    return start()
