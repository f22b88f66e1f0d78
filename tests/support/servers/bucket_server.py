"""S3 on the loopback interface by moto: `python bucket_server.py [FAULT]` prints its port.

It serves until it is killed. FAULT is one or several joined by commas: `every:N` answers every N-th
request with 500, `all` every request; `hang:KEY` reads half of what is put as KEY, prints "hanging"
and waits, like a slow network.
"""

import itertools
import sys
import threading
import warnings

warnings.simplefilter("ignore")

from moto.server import DomainDispatcherApplication, create_backend_app  # noqa: E402
from werkzeug.serving import make_server  # noqa: E402

ERROR = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>injected</Message></Error>"


def main(fault: str = "") -> None:
    """Serve, with faults."""
    inner = DomainDispatcherApplication(create_backend_app)
    faults = dict(part.split(":") if ":" in part else (part, "") for part in fault.split(","))
    numbers = itertools.count(1)

    def application(environ, start_response):
        path = environ["PATH_INFO"]
        if "all" in faults or ("every" in faults and next(numbers) % int(faults["every"]) == 0):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("500 Internal Server Error", [("Content-Type", "application/xml")])
            return [ERROR]
        if (
            "hang" in faults
            and environ["REQUEST_METHOD"] == "PUT"
            and path.endswith(faults["hang"])
        ):
            body = environ["wsgi.input"]
            environ["wsgi.input"] = SlowBody(body, int(environ.get("CONTENT_LENGTH") or 0))
        return inner(environ, start_response)

    server = make_server("127.0.0.1", 0, application, threaded=True)
    print(server.server_port, flush=True)  # noqa: T201
    server.serve_forever()


class SlowBody:
    """A body of which half comes, and then nothing until the sender has gone."""

    def __init__(self, body, length):
        self.body, self.length = body, length

    def read(self, size=-1):
        """All that comes; raises where that is less than was announced."""
        content = self.body.read(self.length // 2)
        print("hanging", flush=True)  # noqa: T201
        threading.Event().wait(8)  # the client is killed meanwhile
        content += self.body.read(self.length - len(content))
        if len(content) < self.length:
            raise ConnectionError("the client has gone")
        return content


if __name__ == "__main__":
    main(*sys.argv[1:])
