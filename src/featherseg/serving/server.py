"""The serving process: a socket, uvicorn, and a stop that finishes running requests."""

import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from featherseg.core.allocator import keep_freed_memory
from featherseg.core.config import parse
from featherseg.core.errors import ConfigError
from featherseg.core.machine import usable_cores
from featherseg.inference.tiling import DEFAULT_GB
from featherseg.serving.app import create_app
from featherseg.serving.connection import Connection, sweep
from featherseg.serving.models import Served, open_models
from featherseg.serving.service import Service
from featherseg.serving.settings import (
    Limits,
    Settings,
    allowed_hosts,
    allowed_origins,
    checked_root_path,
    choose_token,
)

STOPPED = 130
"""The exit code after Ctrl-C."""

FINISH_SECONDS = 15.0
"""Seconds for running requests after a signal; then the others get 503 and are cancelled."""

GRACE_SECONDS = 5
"""Seconds for clients to fetch the last answers; then connections are closed.

With FINISH_SECONDS before and `service.STOP_SECONDS` after it a stop takes 25 s at most.
"""

TICKS = 10
"""uvicorn ticks ten times a second; connections are checked once a second."""


def serve(
    runs: Sequence[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    allow_hosts: Sequence[str] = (),
    allow_origins: Sequence[str] = (),
    root_path: str = "",
    device: str = "auto",
    batch: int = 4,
    memory_gb: float = DEFAULT_GB,
    threads: int | None = None,
    trust: bool = False,
    limits: Limits | Mapping[str, Any] = Limits(),  # noqa: B008 (frozen)
    on_start: Callable[[Sequence[Served], Settings, int], object] | None = None,
) -> None:
    """Serve models over HTTP until a signal; this process is then the server's alone.

        featherseg.serve(["runs/photos"], port=8000)

    Args:
        runs: Runs (folders or names) and exported files.
        host: The address to listen on; 0.0.0.0 for all addresses of this machine.
        port: The port; 0 takes a free one.
        token: Required with every request. Default: none on a loopback address, else a new one.
        allow_hosts: Other host names of this machine, NAME or NAME:PORT.
        allow_origins: Pages whose scripts may call the API, such as https://app.example.
        root_path: Where a proxy shows the service, such as /seg.
        device: auto, cpu, cuda, cuda:N or mps.
        batch: Batch size, for images of the same size.
        memory_gb: Memory limit; larger images are tiled.
        threads: Number of CPU threads. Default: torch's, at most the usable cores.
        trust: Open .pt2 files, which run the code that they contain.
        limits: Limits of requests, also as a mapping: {"queue": 8}.
        on_start: Called with (models, settings, port) when requests are answered.

    Raises:
        ConfigError: The address cannot be listened on, or a setting is wrong.
        RunError, ExportError, UntrustedFile: A run or file cannot be opened.
        KeyboardInterrupt: Ctrl-C, after running requests are finished.
    """
    origins, root_path = allowed_origins(allow_origins), checked_root_path(root_path)
    with bind(host, port) as listener:
        address, port = listener.getsockname()[:2]
        settings = Settings(
            limits=limits if isinstance(limits, Limits) else parse(Limits, dict(limits), "limits"),
            hosts=allowed_hosts(host, port, allow_hosts),
            origins=origins,
            token=choose_token(token, address),
            root_path=root_path,
            threads=threads or usable_cores(),
        )
        keep_freed_memory(one_heap=True)
        models = open_models(runs, device, batch, memory_gb, threads, trust)
        app = create_app(models, settings)
        run(app, listener, lambda: on_start and on_start(models, settings, port))


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free port. Raises ConfigError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
    except (socket.gaierror, UnicodeError, OverflowError) as error:
        raise ConfigError(
            f"--host {host!r}, --port {port}: no such address ({error}). Try --host 127.0.0.1."
        ) from None
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError(_bind_message(host, port, error)) from None
    return listener


def _bind_message(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use by another program. Choose another with --port, "
            "or 0 for a free one."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"--host {host}: this machine has no such address. 127.0.0.1 is reachable only "
            "locally, 0.0.0.0 means all its addresses."
        )
    return (
        f"cannot listen on {host}, port {port}: {error.strerror or error}. "
        "Choose another port with --port."
    )


def run(app: FastAPI, listener: socket.socket, announce: Callable[[], object]) -> None:
    """Serve until SIGTERM or SIGHUP (returns) or SIGINT (raises KeyboardInterrupt).

    Running requests are finished, others get 503. SIGHUP, sent when a terminal closes, stays
    ignored if `nohup` ignores it. `announce` is called when requests are answered and signals are
    handled.
    """
    server = server_of(app, announce)
    if os.name == "posix" and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, server.handle_exit)
    server.run(sockets=[listener])
    if (
        server.service.busy
    ):  # while a model still works, a normal exit of the interpreter would abort
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # the pipe's reader is gone
                stream.flush()
        os._exit(STOPPED if server.stopped_by == signal.SIGINT else 0)
    if server.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt


def server_of(app: FastAPI, announce: Callable[[], object] = lambda: None) -> "StoppableServer":
    """Return the uvicorn server of an application from `create_app`."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        http=Connection,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return StoppableServer(config, app.state.service, announce)


class StoppableServer(uvicorn.Server):
    """Stops in two steps: a signal refuses new requests, and the server ends with the last image.

    Requests not answered after FINISH_SECONDS are given up; a second signal ends the server at
    once.
    """

    def __init__(
        self, config: uvicorn.Config, service: Service, announce: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self.service, self.announce = service, announce
        self.stopped_by: int | None = None
        self.finish_by = float("inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = self.force_exit = self.stopped_by is not None
        self.stopped_by, self.service.stopping = sig, True
        self.finish_by = time.monotonic() + FINISH_SECONDS

    async def on_tick(self, counter: int) -> bool:
        if self.service.stopping and (
            self.service.slots.in_use == 0 or time.monotonic() > self.finish_by
        ):
            self.should_exit = True
        if counter % TICKS == 0:
            service = self.service
            sweep(
                self.server_state.connections, service.settings.limits.seconds, service.bodies.most
            )
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.give_up()
        await super().shutdown(sockets)
