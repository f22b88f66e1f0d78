"""A server of one file on the loopback interface that can be told to misbehave."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Behaviour:
    """What the server does with each request in turn; the last entry of a list repeats.

    cut: bytes of a body after which the connection ends (None: never). ranges: whether Range is
    honoured. location: redirect target of every request. status: in place of 200. shift: error of
    its ranges. etag: "" for none.
    """

    def __init__(self, content: bytes, **settings: object) -> None:
        self.content, self.cut, self.ranges, self.etag = content, [None], True, '"1"'
        self.location, self.status, self.size, self.shift = "", 200, len(content), 0
        self.asked: list[dict[str, str]] = []
        for name, value in settings.items():
            setattr(self, name, value)


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """The address of the server, http://127.0.0.1:PORT."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            b, number = behaviour, len(behaviour.asked)
            b.asked.append(dict(self.headers))
            if b.location:
                self.send_response(302)
                self.send_header("Location", b.location)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start, asked = 0, self.headers.get("Range", "")
            if asked and b.ranges and self.headers.get("If-Range", b.etag) == b.etag:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206 if start and b.status == 200 else b.status)
            if start:
                last = b.size - 1
                self.send_header("Content-Range", f"bytes {start + b.shift}-{last}/{b.size}")
            if b.etag:
                self.send_header("ETag", b.etag)
            if b.size >= 0:
                self.send_header("Content-Length", str(b.size - start))
            self.end_headers()
            cut = b.cut[min(number, len(b.cut) - 1)]
            self.wfile.write(b.content[start : None if cut is None else start + cut])

        def log_message(self, *_: object) -> None:
            pass

    with run_server(Handler) as address:
        yield address


@contextmanager
def run_server(
    handler: type[BaseHTTPRequestHandler] | Callable[..., BaseHTTPRequestHandler],
) -> Iterator[str]:
    """A server of this handler in threads of the test."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
