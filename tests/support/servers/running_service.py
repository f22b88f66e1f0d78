"""A service on a free port, in a thread of the test; and what a client sends to it byte by byte."""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
from support.models.color_model import encoded, served

from featherseg.serving.app import create_app
from featherseg.serving.server import bind, server_of
from featherseg.serving.settings import Limits, Settings, allowed_hosts


@contextmanager
def running(*models, token=None, **limits) -> Iterator[tuple[str, object]]:
    """(address, the server) of a service on a free port."""
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    settings = Settings(
        limits=Limits(**limits), hosts=allowed_hosts("127.0.0.1", port), token=token
    )
    server = server_of(create_app(models or [served()], settings))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        if thread.is_alive():
            server.handle_exit(signal.SIGTERM, None)
        thread.join()


def form(pixels: np.ndarray) -> dict:
    return {"image": ("photo.png", encoded(pixels))}


def connected(address: str, sent: bytes = b"") -> socket.socket:
    """A connection on which so much was sent."""
    url = httpx.URL(address)
    connection = socket.create_connection((url.host, url.port), timeout=20)
    connection.sendall(sent)
    return connection


def post_head(address: str, *lines: str) -> bytes:
    """The head of a request to /v1/segment, with further header lines."""
    host = address.removeprefix("http://")
    first = (
        "POST /v1/segment HTTP/1.1",
        f"Host: {host}",
        "Content-Type: multipart/form-data; boundary=x",
    )
    return "\r\n".join([*first, *lines, "", ""]).encode()


def posted(address: str, pixels: np.ndarray) -> bytes:
    """A whole request with an image."""
    request = httpx.Request("POST", f"{address}/v1/segment", files=form(pixels))
    names = ("Host", "Content-Type", "Content-Length")
    head = "".join(f"{name}: {request.headers[name]}\r\n" for name in names)
    return f"POST /v1/segment HTTP/1.1\r\n{head}\r\n".encode() + request.read()


def all_of(connection: socket.socket) -> bytes:
    """What arrives until the other side closes; nothing more where it resets the connection."""
    found = b""
    try:
        while piece := connection.recv(65_536):
            found += piece
    except ConnectionError:
        pass
    return found
