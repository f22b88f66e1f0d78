"""Call an ASGI application without a socket; its event loop runs in a thread for parallel calls."""

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import httpx


class Client:
    """A client of `app`, which is started with it and stopped by `close`."""

    def __init__(self, app: Any, base_url: str) -> None:
        self.app = app
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url=base_url, timeout=None
        )
        self._lifespan = app.router.lifespan_context(app)
        self.do(self._lifespan.__aenter__())

    def do(self, work: Any) -> Any:
        """The result of a coroutine in the application's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def begin(self, method: str, path: str, **options: Any) -> "Future[httpx.Response]":
        """Ask, without waiting."""
        return asyncio.run_coroutine_threadsafe(
            self._client.request(method, path, **options), self.loop
        )

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.begin("GET", path, **options).result(60)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.begin("POST", path, **options).result(60)

    def close(self) -> None:
        self.do(self._client.aclose())
        self.do(self._lifespan.__aexit__(None, None, None))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
