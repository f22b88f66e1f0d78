"""Settings of the service: hosts, origins, token, limits."""

import ipaddress
import re
import secrets
from collections.abc import Iterable
from typing import Any

from pydantic import Field, model_validator

from featherseg.core.config import Config
from featherseg.core.errors import ConfigError

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")
"""Hosts that listen on all addresses of a machine; no request is addressed to them."""

OWN_PATHS = ("v1", "page", "healthz", "readyz", "metrics", "openapi.json")
"""First parts of the service's paths; a root path must not begin like one of them."""

_ORIGIN = re.compile(r"https?://(?:[\w.-]+|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?", re.ASCII)

_ROOT_PATH = re.compile(r"(?:/[\w.~-]+)*", re.ASCII)

_HOST = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?", re.ASCII)

SHORTEST_TOKEN = 16
"""Least number of characters of a token; generated tokens have 43."""


def allowed_hosts(host: str, port: int, others: Iterable[str] = ()) -> frozenset[str]:
    """Return the allowed Host headers: loopback names, `host` and `others`, each with the port.

    `others` are allowed without the port, too. Raises ConfigError for one that is no NAME or
    NAME:PORT.
    """
    listening = () if host in EVERYWHERE else (host,)
    named = [f"[{name}]" if ":" in name else name for name in (*LOOPBACK_NAMES, *listening)]
    hosts = {f"{name}:{port}" for name in named}
    hosts |= set(named) if port == 80 else set()
    for other in others:
        if not _HOST.fullmatch(other):
            raise ConfigError(
                f"--allow-host {other!r}: expected a NAME or NAME:PORT as it stands in the "
                "address, such as box.example or box.example:8443, without https:// and without *."
            )
        hosts |= {other, f"{other}:{port}"}
    return frozenset(name.lower() for name in hosts)


def allowed_origins(origins: Iterable[str]) -> frozenset[str]:
    """Return the origins whose pages may call the API, in the form that browsers send.

    Raises ConfigError for one that is no http(s)://NAME or http(s)://NAME:PORT.
    """
    origins = list(origins)
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"--allow-origin {origin!r}: expected the scheme, name and port of a page, such as "
                "https://app.example or http://localhost:3000, without a path and without *."
            )
    return frozenset(origin.lower() for origin in origins)


def checked_root_path(path: str) -> str:
    """Return the path at which a proxy shows the service, without a final slash; "" for none.

    Raises ConfigError.
    """
    path = path.rstrip("/")
    parts = path.split("/")[1:]
    if (
        not _ROOT_PATH.fullmatch(path)
        or {".", ".."} & set(parts)
        or set(parts[:1]) & set(OWN_PATHS)
    ):
        raise ConfigError(
            f"--root-path {path!r}: expected the path of the address, such as /seg: letters, "
            "digits and - _ . ~, and none that begins like one of the service's own "
            f"({', '.join(OWN_PATHS)})."
        )
    return path


def is_loopback(address: str) -> bool:
    """Whether an address (not a name) is reachable only from this machine."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def choose_token(given: str | None, address: str) -> str | None:
    """Return the required token: the given one, else a new one if others can reach `address`.

    Returns None if no token is needed. Raises ConfigError for one that is short or cannot be sent
    in a header.
    """
    if given is None:
        return None if is_loopback(address) else secrets.token_urlsafe(32)
    if (
        len(given) < SHORTEST_TOKEN
        or not given.isascii()
        or not given.isprintable()
        or " " in given
    ):
        raise ConfigError(
            f"a token of {len(given)} characters was given: expected at least {SHORTEST_TOKEN} "
            "letters, digits and signs, without spaces. Leave it out to have one generated when "
            "needed."
        )
    return given


class Limits(Config):
    """Limits for one request, and for all together; requests above them are refused.

    bytes: of a request's body. pixels: of one image, height times width, checked before decoding.
    queue: images received, waiting or being segmented, in all. seconds: for a body to arrive, and
    again for its answer. batch: images of one request to /v1/segment/batch; by default 16, and at
    most half of the queue.
    """

    bytes: int = Field(default=20_000_000, ge=1)
    pixels: int = Field(default=32_000_000, ge=1)
    queue: int = Field(default=64, ge=1)
    seconds: float = Field(default=60.0, gt=0)
    batch: int = Field(default=16, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _fit_batch(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Refuse a batch larger than the queue: its clients would retry for ever."""
        queue = given.get("queue")
        return {"batch": min(16, max(1, queue // 2)), **given} if isinstance(queue, int) else given


class Settings(Config):
    """Settings of the service.

    hosts: values of the Host header that are answered. origins: origins of other pages whose
    scripts may call the API. token: required with every request except for the page and the two
    health checks; None for no token. root_path: where a proxy shows the service, such as "/seg".
    threads: images decoded or encoded at a time.
    """

    limits: Limits = Limits()
    hosts: frozenset[str] = allowed_hosts("127.0.0.1", 8000)
    origins: frozenset[str] = frozenset()
    token: str | None = None
    root_path: str = ""
    threads: int = Field(default=2, ge=1)
