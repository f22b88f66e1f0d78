"""Real sockets: where it may listen, what happens when a client leaves, and how it stops."""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from color_network import Gated, answer_of, encoded, mask_in, picture, served, until

from featherseg.core.errors import ConfigError
from featherseg.serving.app import create_app
from featherseg.serving.networks import Served
from featherseg.serving.server import bind, server_of
from featherseg.serving.settings import Limits, Settings, allowed_hosts


@contextmanager
def running(*networks, **limits) -> Iterator[tuple[str, object]]:
    """(address, the server) of a service on a free port."""
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    settings = Settings(limits=Limits(**limits), hosts=allowed_hosts("127.0.0.1", port))
    server = server_of(create_app(networks or [served()], settings))
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


def test_a_free_port_is_taken_and_a_busy_one_refused_in_a_sentence():
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert port > 0
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7", "a" * 300, "127.0.0.1:8000", ""])
def test_an_address_that_is_not_here_is_refused_in_a_sentence(host):
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1|--port"):
        bind(host, 0)


def test_masks_come_over_a_socket_on_one_connection():
    with running() as (address, _), httpx.Client(base_url=address) as client:
        for seed in range(3):
            response = client.post("/v1/segment", files=form(picture(seed)))
            np.testing.assert_array_equal(mask_in(response.content), answer_of(picture(seed)))


def test_a_large_body_is_refused_with_an_answer_that_arrives():
    with running(bytes=10_000) as (address, _), httpx.Client(base_url=address, timeout=60) as client:
        for _ in range(2):
            response = client.post("/v1/segment", files={"image": ("a.png", bytes(30_000_000))})
            assert (response.status_code, response.json()["error"]["code"]) == (413, "bytes")


def test_a_picture_whose_client_left_is_not_looked_at():
    predictor = Gated(batch=1)
    with running(Served("color", predictor)) as (address, server):
        slots, url = server.service.slots, httpx.URL(address)
        request = httpx.Request("POST", f"{address}/v1/segment", files=form(picture()))
        names = ("Host", "Content-Type", "Content-Length")
        head = "".join(f"{name}: {request.headers[name]}\r\n" for name in names)
        connections = []
        for number in (1, 2):
            connections.append(socket.create_connection((url.host, url.port)))
            connections[-1].sendall(f"POST /v1/segment HTTP/1.1\r\n{head}\r\n".encode() + request.read())
            until(lambda number=number: slots.taken == number)
        until(lambda: predictor.seen and server.service.waiting("color") == 1)
        for connection in connections:
            connection.close()
        until(lambda: slots.taken == 0)
        predictor.gate.set()
        assert httpx.post(f"{address}/v1/segment", files=form(picture()), timeout=60).status_code == 200
        assert predictor.seen == [1, 1]  # the one that ran when its client left, and the last


def test_stopping_finishes_what_runs_and_refuses_what_comes():
    predictor = Gated()
    answers = []
    with running(Served("color", predictor)) as (address, server), httpx.Client(base_url=address, timeout=60) as client:
        assert client.get("/readyz").status_code == 200

        def ask():
            answers.append(httpx.post(f"{address}/v1/segment", files=form(picture()), timeout=60))

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: predictor.seen)
        server.handle_exit(signal.SIGTERM, None)
        assert client.get("/readyz").status_code == 503
        assert client.post("/v1/segment", files=form(picture())).status_code == 503
        predictor.gate.set()
        asking.join()
    np.testing.assert_array_equal(mask_in(answers[0].content), answer_of(picture()))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/healthz")


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\0\xff\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_nonsense_on_the_socket_gets_no_traceback_and_hurts_nobody(nonsense):
    with running() as (address, _):
        url = httpx.URL(address)
        with socket.create_connection((url.host, url.port), timeout=60) as connection:
            connection.sendall(nonsense)
            answer = connection.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 40")
        assert b"Traceback" not in answer
        assert httpx.get(f"{address}/healthz").status_code == 200
