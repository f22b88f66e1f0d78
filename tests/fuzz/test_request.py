"""Requests that no browser sends: an answer or a formatted refusal, never a 500 or a stop."""

import asyncio
import json
import random
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import strategies as st
from support.bad_inputs import sample
from support.bad_inputs.case import RGB, saved
from support.models.pixel_model import pixel_runtime
from support.processes.fuzzing import BUDGETS, HANG, change_bytes, fuzz, mutations
from support.servers.asgi_client import Client

from featherseg.inference.predictor import Predictor
from featherseg.serving.app import create_app
from featherseg.serving.models import Served
from featherseg.serving.settings import Limits, Settings

BOUNDARY = b"----a-boundary"
PNG = saved(RGB, "PNG")
PATHS = (
    *(
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/v1/models",
        "/v1/limits",
        "/page/page.js",
        "/page/",
    ),
    *(
        "/v1/segment",
        "/v1/segment/",
        "/v1/segment/batch",
        "/v1//segment",
        "/v2/segment",
        "/v1/segment/../models",
    ),
    *(
        "/page/../../../etc/passwd",
        "/page/..%2f..%2fetc%2fpasswd",
        "/%00",
        "/page/\x00",
        "//evil.example/",
        "/\x1b[2J",
        "/" + "a" * 9000,
    ),
)
METHODS = (
    "POST",
    "GET",
    "HEAD",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "CONNECT",
    "BREW",
    "",
)
QUERIES = (
    *(
        b"",
        b"format=png",
        b"format=rle",
        b"format=polygons",
        b"format=",
        b"format=exe",
        b"format=png&format=rle",
    ),
    *(
        b"model=pixels",
        b"model=none",
        b"model=",
        b"model=%00",
        b"model=../../etc",
        b"%",
        b"=&=&",
        b"a=" + b"b" * 9000,
        b"\xff",
    ),
)
HEADERS = (
    *(
        (b"host", b"evil.example"),
        (b"host", b""),
        (b"host", b"127.0.0.1:8000\x00"),
        (b"host", b"localhost:8000"),
    ),
    *(
        (b"origin", b"http://evil.example"),
        (b"origin", b"null"),
        (b"origin", b"\xff"),
        (b"origin", b"http://localhost:8000"),
    ),
    *(
        (b"content-length", b"-1"),
        (b"content-length", b"99999999999"),
        (b"content-length", b"x"),
        (b"content-length", b"0"),
    ),
    *(
        (b"content-type", b"multipart/form-data"),
        (b"content-type", b"text/plain"),
        (b"content-type", b"\xff/\xff"),
        (b"content-type", b""),
    ),
    (b"content-type", b"multipart/form-data; boundary=" + b"x" * 5000),
    *(
        (b"content-type", b"multipart/form-data; charset=" + charset + b"; boundary=" + BOUNDARY)
        for charset in (b"nonsense", b"punycode", b"idna", b"utf-8")
    ),
    (b"content-type", b'multipart/form-data; boundary="' + BOUNDARY + b'"'),
    *(
        (b"authorization", b"Bearer x"),
        (b"authorization", b"Basic \xff"),
        (b"content-encoding", b"gzip"),
        (b"range", b"bytes=0-"),
    ),
    *(
        (b"transfer-encoding", b"chunked"),
        (b"accept", b"*" * 9000),
        (b"cookie", b"\xff" * 999),
        (b"x-forwarded-host", b"evil.example"),
    ),
)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    limits = Limits(bytes=200_000, pixels=100_000, batch=4, seconds=float(HANG))
    client = Client(
        create_app([Served("pixels", Predictor(pixel_runtime()))], Settings(limits=limits)),
        "http://127.0.0.1:8000",
    )
    yield client
    client.close()


def form(images: list[bytes], field: bytes) -> bytes:
    """The body of a form with these files."""
    head = (
        b'\r\nContent-Disposition: form-data; name="'
        + field
        + b'"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    )
    return (
        b"".join(b"--" + BOUNDARY + head + image + b"\r\n" for image in images)
        + b"--"
        + BOUNDARY
        + b"--\r\n"
    )


def change_form(content: bytes, rng: random.Random) -> bytes:
    """A header of the form, its boundary or its line ends in another way."""
    changes = (
        (b'name="image"', b'name="images"'),
        (b'name="image"', b"name=" + b"x" * 9000),
        (b'filename="a.png"', b'filename="' + b"\xff\x1b[2J" * 99 + b'"'),
        (b'; filename="a.png"', b""),
        (b'filename="a.png"', b'filename="../../../etc/passwd"'),
        (b"Content-Disposition", b"Content-Disposition: x\r\nContent-Disposition"),
        (b"Content-Type: image/png", b"Content-Type: text/html; charset=\xff"),
        (b"Content-Type: image/png", b"Content-Transfer-Encoding: base64"),
        (b"Content-Type: image/png\r\n", b"".join(b"X-%d: y\r\n" % i for i in range(500))),
        (b"\r\n", b"\n"),
        (BOUNDARY, BOUNDARY + b"x"),
        (BOUNDARY + b"--", BOUNDARY),
        (
            b"--" + BOUNDARY,
            b"--"
            + BOUNDARY
            + b'\r\nContent-Disposition: form-data; name="x"\r\n\r\ny\r\n--'
            + BOUNDARY,
        ),
    )
    return content.replace(*rng.choice(changes), rng.choice((1, -1)))


def ask(
    client: Client,
    method: str,
    path: str,
    query: bytes,
    headers: list,
    pieces: list[bytes],
    gone: bool = False,
) -> tuple[int, dict, bytes]:
    """Return (status, headers, body) of a request given to the application without HTTP parsing.

    gone: the client leaves after its last piece. Status 0: no answer.
    """
    names = {name for name, _ in headers}
    own = [
        (b"host", b"127.0.0.1:8000"),
        (b"content-type", b"multipart/form-data; boundary=" + BOUNDARY),
        (b"content-length", b"%d" % sum(map(len, pieces))),
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": headers + [pair for pair in own if pair[0] not in names],
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 8000),
    }
    waiting = [{"type": "http.request", "body": p, "more_body": True} for p in pieces] + [
        {"type": "http.request", "body": b""}
    ]
    sent: list[dict] = []

    async def receive() -> dict:
        if not waiting and not gone:
            await asyncio.Event().wait()  # the client waits for its answer
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        sent.append(message)

    client.do(client.app(scope, receive, send))
    if not sent:
        return 0, {}, b""  # the client was gone
    start, *rest = sent
    return (
        start["status"],
        dict(start["headers"]),
        b"".join(message.get("body", b"") for message in rest),
    )


def check_answer(method: str, status: int, headers: dict, body: bytes) -> None:
    assert 200 <= status < 500, (status, body)
    assert b"content-security-policy" in headers
    assert b"Traceback" not in body
    if status >= 400 and method != "HEAD":
        error = json.loads(body)["error"]
        assert error.keys() == {"code", "message"}
        assert error["message"].isprintable()


def test_an_address_with_a_slash_too_many_is_not_found_whatever_its_query(client):
    """Once it was redirected, and a query that is no UTF-8 became a 500 on the way."""
    for query in (b"", b"\xff"):
        status, answered, content = ask(
            client, "POST", "/v1/segment/", query, [], [form([PNG], b"image")]
        )
        assert status == 404
        check_answer("POST", status, answered, content)


@pytest.mark.seconds
@BUDGETS
def test_any_request_is_answered_or_refused_in_the_one_form(client, seconds, seed):
    def target(case):
        method, path, query, headers, images, mutate, cuts, gone = case
        body = mutate(form(images, b"images" if path.endswith("batch") else b"image"))
        places = sorted({0, *(cut % (len(body) + 1) for cut in cuts), len(body)})
        pieces = [body[a:b] for a, b in pairwise(places)]
        status, answered, content = ask(client, method, path, query, headers, pieces, gone)
        assert status or gone
        if status:
            check_answer(method, status, answered, content)
        status, _, content = ask(client, "POST", "/v1/segment", b"", [], [form([PNG], b"image")])
        assert status == 200

    contents = [PNG] + [case.content for case in sample(60, seed=2) if len(case.content) < 20_000]
    cases = st.tuples(
        st.sampled_from(METHODS[:1] * 9 + METHODS),
        st.sampled_from(("/v1/segment", "/v1/segment/batch") * 9 + PATHS),
        st.sampled_from(QUERIES),
        st.lists(st.sampled_from(HEADERS), max_size=2),
        st.lists(st.sampled_from(contents), max_size=5),
        mutations(change_form, change_form, change_bytes) | st.just(bytes),
        st.lists(st.integers(0, 100_000), max_size=3),
        st.sampled_from((False, False, False, True)),
    )
    fuzz(target, cases, seconds, seed)
