"""The checks before every route: Host, Origin, token, body size; and the headers of every answer.

An unforeseen error becomes a plain 500; its traceback goes to the log, never to the client.
"""

import hmac
import ipaddress
import logging
import time
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from featherseg.serving.refusal import Refused, failed, stopping
from featherseg.serving.service import Service
from featherseg.serving.settings import LOOPBACK_NAMES

log = logging.getLogger("featherseg")

CONTENT_SECURITY_POLICY = "; ".join((
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' blob: data:",
    "media-src 'self' blob:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
))  # fmt: skip
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
"""Headers of every answer, whatever its status."""

CROSS_ORIGIN = {
    "Access-Control-Expose-Headers": "X-Featherseg-Model, Retry-After",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
"""Headers of answers to pages of allowed origins."""

PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization",
    "Access-Control-Max-Age": "600",
}

HEALTH_PATHS = ("/healthz", "/readyz")
"""Paths answered for every Host, because load balancers probe with their own names."""

OPEN_PATHS = ("/", *HEALTH_PATHS)
"""Paths without a token, besides the page's files; they reveal nothing about images or models."""

PAGE = "/page/"
GONE = 499
"""Status counted for clients that left before their answer; nobody receives it."""


class Guard:
    """The ASGI application `app` behind the checks of `service`."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        root_path = self.service.settings.root_path
        if root_path and scope["path"] == root_path:  # the page's links are relative to a folder
            await RedirectResponse(f"{root_path}/", status_code=308)(scope, receive, send)
            return
        scope = below_root(scope, root_path)
        status, started, request = GONE, time.perf_counter(), Headers(scope=scope)
        unread = request.get("content-length", "0") != "0" or "transfer-encoding" in request

        # Track whether the body was read to its end, and which status was sent
        async def watched_receive() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and message.get("more_body", False)
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(self._cross_origin(request))
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if unread:  # close instead of reading a refused body up to the next request
                    headers["Connection"] = "close"
            await send(message)

        # A client that left is no error; any other exception is ours, answered without its text
        try:
            await self._checked(scope, watched_receive, send_with_headers)
        except ClientDisconnect:
            pass
        except Exception:
            log.exception("%s %r failed", scope["method"], scope["path"][:200])
            if status != GONE:  # the answer has begun: abort it
                raise
            await failed().response()(scope, receive, send_with_headers)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.service.metrics.answered(path, status, time.perf_counter() - started)

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope, Headers(scope=scope))
        except Refused as refused:
            await refused.response()(scope, receive, send)
            return
        if self._is_preflight(scope, Headers(scope=scope)):
            await Response(status_code=204, headers=PREFLIGHT)(scope, receive, send)
            return
        await self.app(
            scope, bounded(receive, Headers(scope=scope), self.service.settings.limits.bytes), send
        )

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raise Refused: 403 for a host or an origin, 401 for the token, 503 while stopping."""
        settings, path = self.service.settings, scope["path"]
        hosts = settings.hosts | {own_address(scope)}
        host = headers.get("host", "")
        if not is_allowed(host, hosts) and path not in HEALTH_PATHS:
            advice = (
                "If it is a name of this service, start it with --allow-host and that name, "
                "port included."
            )
            raise Refused(403, "host", f"Host {shown(host)} is not allowed. {advice}")
        origin = headers.get("origin")
        scheme, _, from_host = (origin or "").partition("://")
        # The origin "null" has no scheme, so it is no page of ours
        own_page = scheme in ("http", "https") and is_allowed(from_host, hosts)
        if origin is not None and not own_page and origin.lower() not in settings.origins:
            raise Refused(
                403,
                "origin",
                f"Requests from pages of {shown(origin)} are not allowed. If it is the address of "
                "this service, start the service with --allow-host and its name, port included. "
                "If the page is yours, start the service with --allow-origin and that address.",
            )
        is_open = path in OPEN_PATHS or path.startswith(PAGE) or self._is_preflight(scope, headers)
        if settings.token is not None and not is_open:
            check_token(headers.get("authorization", ""), settings.token)
        if self.service.stopping and path != "/healthz":
            raise stopping()

    def _is_preflight(self, scope: Scope, headers: Headers) -> bool:
        """Whether a browser asks what a page of an allowed origin may send (CORS preflight).

        Browsers send no token with this request.
        """
        preflight = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        return preflight and headers.get("origin", "").lower() in self.service.settings.origins

    def _cross_origin(self, request: Headers) -> dict[str, str]:
        """The headers by which a browser lets a page of an allowed origin read the answer."""
        origins, origin = self.service.settings.origins, request.get("origin", "")
        if not origins:
            return {}
        if origin.lower() not in origins:
            return {"Vary": "Origin"}
        return {"Vary": "Origin", "Access-Control-Allow-Origin": origin, **CROSS_ORIGIN}


def below_root(scope: Scope, root_path: str) -> Scope:
    """Return `scope` with the path below `root_path`; proxies forward paths with or without it."""
    path = scope["path"]
    if not root_path or not path.startswith(f"{root_path}/"):
        return scope
    return {**scope, "path": path.removeprefix(root_path)}


def is_allowed(host: str, hosts: Iterable[str]) -> bool:
    """Whether a Host header is one of `hosts`, ignoring case."""
    return host.lower() in hosts


def own_address(scope: Scope) -> str:
    """Return the address and port on which this connection arrived, as a Host header.

    This Host is always answered. In an attack by DNS rebinding the page sends its own name, never
    an address.
    """
    host, port = scope.get("server") or ("", None)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"{LOOPBACK_NAMES[0]}:{port}"
    mapped = getattr(address, "ipv4_mapped", None) or address
    return f"[{mapped}]:{port}" if mapped.version == 6 else f"{mapped}:{port}"


def check_token(authorization: str, token: str) -> None:
    """Raise Refused (401) unless the header is `Bearer TOKEN`, in constant time."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(
        given.strip().encode(), token.encode()
    ):
        raise Refused(
            401,
            "token",
            "A token is required: the one that the service was started with, or printed then. "
            "Send it as Authorization: Bearer TOKEN.",
            {"WWW-Authenticate": "Bearer"},
        )


def shown(text: str) -> str:
    """Return a client's text for a message: ASCII, quoted, shortened."""
    return ascii(text[:100])


def bounded(receive: Receive, headers: Headers, most: int) -> Receive:
    """Wrap `receive` to raise Refused (413) if a body exceeds `most` bytes, or announces it."""
    received = 0

    def too_long(size: str) -> Refused:
        return Refused(
            413, "bytes", f"The request has {size}; the limit is {most:,}. Send a smaller image."
        )

    async def bounded_receive() -> Message:
        nonlocal received
        length = headers.get("content-length", "")
        if length.isdecimal() and len(length) < 20 and int(length) > most:
            raise too_long(f"{int(length):,} bytes")
        message = await receive()
        received += len(message.get("body", b""))
        if received > most:
            raise too_long(f"more than {received:,} bytes")
        return message

    return bounded_receive
