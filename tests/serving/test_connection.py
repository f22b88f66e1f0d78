"""Silent, slow, piecewise or unread connections do not keep the service from others."""

import runpy
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest
from support.models.color_model import Gated, image, until
from support.servers.running_service import all_of, connected, form, post_head, running

from featherseg.serving import connection
from featherseg.serving.models import Served

TOKEN = "0123456789abcdef"
SOON = 30.0
"""Seconds, far from every time limit as it comes; on an idle machine milliseconds are enough."""


def is_served(address: str) -> None:
    """Both a health check and an image of another client are answered."""
    assert httpx.get(f"{address}/healthz", timeout=SOON).status_code == 200
    assert httpx.post(f"{address}/v1/segment", files=form(image()), timeout=SOON).status_code == 200


def status(connection: socket.socket) -> int:
    """Of the answer that arrives before the other side closes."""
    return int(all_of(connection).split()[1])


@contextmanager
def several(address: str, number: int, sent: bytes):
    """So many connections on which that was sent."""
    with ExitStack() as stack:
        yield [stack.enter_context(connected(address, sent)) for _ in range(number)]


@pytest.mark.parametrize("said", ["nothing", "half a head", "a head", "the beginning of a body"])
def test_connections_that_hold_all_places_shut_nobody_out(monkeypatch, said):
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 8)
    with running() as (address, server):
        head = post_head(address, "Content-Length: 1000")
        sent = {"nothing": b"", "half a head": head[:40], "a head": head}.get(
            said, head + b"--x\r\n"
        )
        with several(address, 20, sent):
            until(lambda: len(server.server_state.connections) >= 8)
            is_served(address)
            assert len(server.server_state.connections) <= 8


def test_an_image_under_way_keeps_its_place(monkeypatch):
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 8)
    predictor = Gated()
    with running(Served("color", predictor)) as (address, _), ThreadPoolExecutor(1) as thread:
        answer = thread.submit(httpx.post, f"{address}/v1/segment", files=form(image()), timeout=60)
        until(lambda: predictor.seen)
        with several(address, 20, b""):
            assert httpx.get(f"{address}/healthz", timeout=SOON).status_code == 200
            predictor.gate.set()
            assert answer.result(60).status_code == 200


@pytest.mark.parametrize("dripping", [False, True])
def test_a_head_that_does_not_come_in_its_time_is_not_waited_for(monkeypatch, dripping):
    monkeypatch.setattr(connection, "HEADER_SECONDS", 0.2)
    with running() as (address, _), connected(address, b"GET / HTTP/1.1\r\nX: ") as client:
        client.settimeout(0.05 if dripping else 20)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                client.sendall(b"a" * dripping)
                assert client.recv(1) == b""
                return
            except TimeoutError:
                continue
            except ConnectionError:
                return
        pytest.fail("it is open still")


@pytest.mark.parametrize(
    ("key", "length", "expected"), [("wrong", "1000", 401), (TOKEN, "20000001", 413)]
)
def test_token_and_size_are_checked_before_the_body_is_read(key, length, expected):
    with running(token=TOKEN) as (address, _):
        head = post_head(
            address,
            f"Authorization: Bearer {key}",
            f"Content-Length: {length}",
            "Expect: 100-continue",
        )
        with connected(address, head) as client:
            assert status(client) == expected  # and no 100 Continue before it


@pytest.fixture
def parsed(monkeypatch) -> list:
    """The events of h11 that hold a part of a body, as they are parsed."""
    found, next_event = [], connection._Counted.next_event

    def counting(self):
        event = next_event(self)
        found.extend([event] * isinstance(event, connection.h11.Data))
        return event

    monkeypatch.setattr(connection._Counted, "next_event", counting)
    return found


BEGIN = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
PIECES = b"%x\r\n%b\r\n" % (len(BEGIN), BEGIN) + b"1\r\nx\r\n" * 200_000


def send_all(client: socket.socket, content: bytes) -> None:
    with suppress(ConnectionError):
        client.sendall(content)


@pytest.mark.parametrize(("key", "expected"), [("wrong", 401), (TOKEN, 400)])
def test_bodies_in_pieces_of_a_byte_are_not_parsed_to_their_end(parsed, key, expected):
    with running(token=TOKEN) as (address, _):
        head = post_head(address, f"Authorization: Bearer {key}", "Transfer-Encoding: chunked")
        with several(address, 5, head) as clients:
            for client in clients:
                send_all(client, PIECES)
            assert httpx.get(f"{address}/healthz", timeout=SOON).status_code == 200
            assert len(parsed) < 5 * 2000
        with connected(address, head) as client:
            client.sendall(PIECES[: 10_000 if expected == 400 else 3_000])
            assert status(client) == expected


def test_an_ordinary_body_in_chunks_is_read(parsed):
    with running() as (address, _):
        request = httpx.Request("POST", f"{address}/v1/segment", files=form(image(0, (300, 300))))
        content = request.read()

        def pieces():
            for start in range(0, len(content), 1000):
                yield content[start : start + 1000]

        headers = {"Content-Type": request.headers["Content-Type"]}
        answer = httpx.post(f"{address}/v1/segment", content=pieces(), headers=headers, timeout=60)
        assert answer.status_code == 200
        assert len(parsed) >= len(content) // 1000


def test_a_refused_body_that_goes_on_is_cut_off(monkeypatch):
    monkeypatch.setattr(connection, "DRAIN_SECONDS", 0.2)
    with running(token=TOKEN) as (address, server):
        client = connected(address, post_head(address, "Content-Length: 1000"))
        assert status(client) == 401
        until(lambda: not server.server_state.connections)
        client.close()


@pytest.mark.seconds
def test_an_answer_that_nobody_fetches_does_not_keep_its_connection():
    with running(seconds=0.3) as (address, server):
        host = address.removeprefix("http://")
        asked = f"GET /openapi.json HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() * 2000
        with connected(address) as client:
            client.settimeout(2)
            with suppress(TimeoutError, ConnectionError):
                client.sendall(asked)
            until(
                lambda: any(
                    one.unfetched_since <= time.monotonic()
                    for one in server.server_state.connections
                )
            )
            until(lambda: not server.server_state.connections)


def test_nonsense_after_an_answer_is_told_as_nonsense():
    with running() as (address, _):
        host = address.removeprefix("http://")
        with connected(
            address, f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        ) as client:
            assert client.recv(15).startswith(b"HTTP/1.1 200")
            client.sendall(b"\0\xff\r\n\r\n")
            assert b"HTTP/1.1 400" in all_of(client)


@pytest.mark.parametrize(("files", "most"), [(-1, 512), (100_000, 512), (256, 128)])
def test_a_process_without_a_limit_of_files_has_one_of_connections(monkeypatch, files, most):
    monkeypatch.setattr("os.sysconf", lambda name: files)
    assert runpy.run_path(connection.__file__)["MOST_CONNECTIONS"] == most
