"""What the service allows, and from where."""

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
"""To listen at all addresses of a machine; no request is for these."""

_HOST = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?", re.ASCII)

SHORTEST_TOKEN = 16
"""Characters; the tokens that are made here have 43."""


def allowed_hosts(host: str, port: int, others: Iterable[str] = ()) -> frozenset[str]:
    """What the Host header may say: the loopback names, `host` and `others`, with the port; others without it too.

    Raises ConfigError for another that is no NAME or NAME:PORT.
    """
    own = () if host in EVERYWHERE else (host,)
    named = [f"[{name}]" if ":" in name else name for name in (*LOOPBACK_NAMES, *own)]
    hosts = {f"{name}:{port}" for name in named}
    hosts |= set(named) if port == 80 else set()
    for other in others:
        if not _HOST.fullmatch(other):
            raise ConfigError(
                f"--allow-host {other!r}: expected a NAME or NAME:PORT as it stands in the address, such as "
                "box.example or box.example:8443, without https:// and without *."
            )
        hosts |= {other, f"{other}:{port}"}
    return frozenset(name.lower() for name in hosts)


def is_loopback(address: str) -> bool:
    """Whether an address (no name) reaches this machine alone."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def choose_token(given: str | None, address: str) -> str | None:
    """The token that is required: the one given, else a new one where others reach `address`, else none.

    Raises ConfigError for one that is short or cannot stand in a header.
    """
    if given is None:
        return None if is_loopback(address) else secrets.token_urlsafe(32)
    if len(given) < SHORTEST_TOKEN or not given.isascii() or not given.isprintable() or " " in given:
        raise ConfigError(
            f"a token of {len(given)} characters was given: expected at least {SHORTEST_TOKEN} letters, digits and "
            "signs, without spaces. Leave it out to have one generated when needed."
        )
    return given


class Limits(Config):
    """What one request, and all of them together, may ask for; above each the answer is a refusal.

    bytes: of a request's body. pixels: of one image, height times width, known before it is decoded. queue: images
    that are received, waiting or being segmented, in all. seconds: for a body to arrive, and again for its answer.
    batch: images of one request to /v1/segment/batch; by default 16, and no more than half of the queue.
    """

    bytes: int = Field(default=20_000_000, ge=1)
    pixels: int = Field(default=32_000_000, ge=1)
    queue: int = Field(default=64, ge=1)
    seconds: float = Field(default=60.0, gt=0)
    batch: int = Field(default=16, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _fit_batch(cls, given: dict[str, Any]) -> dict[str, Any]:
        """A batch that no queue has room for would be told to try again for ever."""
        queue = given.get("queue")
        return {"batch": min(16, max(1, queue // 2)), **given} if isinstance(queue, int) else given


class Settings(Config):
    """limits; hosts: values of the Host header that are answered; token: what every request but those for the page and
    the two health checks must carry, None for nothing; threads: how many images are decoded or encoded at a time."""

    limits: Limits = Limits()
    hosts: frozenset[str] = allowed_hosts("127.0.0.1", 8000)
    token: str | None = None
    threads: int = Field(default=2, ge=1)
