"""Real sockets: where it may listen, what happens when a client leaves, and how it stops."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
from support.models.color_model import Gated, Slow, answer_of, image, large_image, mask_in, until
from support.servers.running_service import all_of, connected, form, post_head, posted, running

from featherseg.core.errors import ConfigError
from featherseg.inference.predictor import Predictor
from featherseg.serving import server as server_module
from featherseg.serving.models import Served
from featherseg.serving.server import bind


def test_a_free_port_is_taken_and_a_busy_one_refused_in_a_sentence():
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert port > 0
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is in use"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize(
    "host", ["no.such.host.invalid", "203.0.113.7", "a" * 300, "127.0.0.1:8000", ""]
)
def test_an_address_that_is_not_here_is_refused_in_a_sentence(host):
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1|--port"):
        bind(host, 0)


def test_masks_come_over_a_socket_on_one_connection():
    with running() as (address, _), httpx.Client(base_url=address) as client:
        for seed in range(3):
            response = client.post("/v1/segment", files=form(image(seed)))
            np.testing.assert_array_equal(mask_in(response.content), answer_of(image(seed)))


@pytest.mark.seconds
def test_a_large_body_is_refused_with_an_answer_that_arrives():
    with (
        running(bytes=10_000) as (address, _),
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        for _ in range(2):
            response = client.post("/v1/segment", files={"image": ("a.png", bytes(30_000_000))})
            assert (response.status_code, response.json()["error"]["code"]) == (413, "bytes")


def test_an_image_whose_client_left_is_not_looked_at():
    predictor = Gated(batch=1)
    with running(Served("color", predictor)) as (address, server):
        slots, connections = server.service.slots, []
        for number in (1, 2):
            connections.append(connected(address, posted(address, image())))
            until(lambda number=number: slots.in_use == number)
        until(lambda: predictor.seen and server.service.waiting("color") == 1)
        for connection in connections:
            connection.close()
        until(lambda: slots.in_use == 0)
        predictor.gate.set()
        assert (
            httpx.post(f"{address}/v1/segment", files=form(image()), timeout=60).status_code == 200
        )
        assert predictor.seen == [1, 1]  # the one that ran when its client left, and the last


def test_stopping_finishes_what_runs_and_refuses_what_comes():
    predictor = Gated()
    answers = []
    with (
        running(Served("color", predictor)) as (address, server),
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        assert client.get("/readyz").status_code == 200

        def ask():
            answers.append(httpx.post(f"{address}/v1/segment", files=form(image()), timeout=60))

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: predictor.seen)
        server.handle_exit(signal.SIGTERM, None)
        refusals = [client.get("/readyz"), client.post("/v1/segment", files=form(image()))]
        assert [(answer.status_code, answer.headers["retry-after"]) for answer in refusals] == [
            (503, "5")
        ] * 2
        predictor.gate.set()
        asking.join()
    np.testing.assert_array_equal(mask_in(answers[0].content), answer_of(image()))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/healthz")


def test_a_stop_ends_in_its_time_whatever_is_under_way(monkeypatch):
    monkeypatch.setattr(server_module, "FINISH_SECONDS", 0.3)
    slow = Slow()
    with running(Served("color", Predictor(slow))) as (address, server):
        with (
            connected(address, posted(address, large_image())) as working,
            connected(address, post_head(address, "Content-Length: 1000")) as arriving,
        ):
            until(lambda: slow.running)
            server.handle_exit(signal.SIGTERM, None)
            for connection in (working, arriving):
                assert all_of(connection).startswith(b"HTTP/1.1 503")
        until(
            lambda: not slow.running and not server.service.busy
        )  # long before the 60 s of an answer


SERVED = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from support.models.color_model import CLASSES, ColorModel
from featherseg.inference.predictor import Predictor
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.serving import server, service
from featherseg.serving.app import create_app
from featherseg.serving.models import Served
from featherseg.serving.settings import Limits, Settings, allowed_hosts

class Endless(ColorModel):
    def forward(self, images):
        many = torch.ones(20_000_000)
        while images.shape[2:] == (24, 40) and not images.is_meta:
            torch.sin(many)  # nearly all its time in one operation
        return super().forward(images)

service.STOP_SECONDS = 0.5
with server.bind("127.0.0.1", 0) as listener:
    port = listener.getsockname()[1]
    settings = Settings(limits=Limits(seconds=0.3), hosts=allowed_hosts("127.0.0.1", port))
    predictor = Predictor(TorchRuntime(Endless().eval(), CLASSES, device="cpu"))
    app = create_app([Served("endless", predictor)], settings)
    server.run(app, listener, lambda: print(port, flush=True))
"""


@pytest.mark.slow
def test_sighup_while_a_model_works_on_an_image_answered_504_exits_with_0():
    """The end of the interpreter would abort the process in the middle of an operation of torch.

    SIGTERM is sent in tests/cli/test_serve.py.
    """
    command = [sys.executable, "-c", SERVED, str(Path(__file__).parents[1])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            port = process.stdout.readline().strip()
            assert port, process.stderr.read()
            answer = httpx.post(
                f"http://127.0.0.1:{port}/v1/segment", files=form(image()), timeout=60
            )
            assert answer.status_code == 504
            process.send_signal(signal.SIGHUP)
            assert (process.wait(60), process.stderr.read()) == (0, "")
        finally:
            process.kill()


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
        with connected(address, nonsense) as connection:
            answer = connection.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 40")
        assert b"Traceback" not in answer
        assert httpx.get(f"{address}/healthz").status_code == 200
