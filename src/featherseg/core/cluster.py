"""A Ray cluster, started on this machine or joined; Ray is imported only when it is used."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

from featherseg.core.errors import ConfigError, require
from featherseg.core.wording import counted, one_line

ANSWER_SECONDS = 5
"""Seconds within which a cluster's head must accept a connection."""

STARTS = 3
"""Attempts to start Ray on this machine; each gives up after 30 s, too short on a busy machine."""


@dataclass(frozen=True)
class Cluster:
    """The number of machines, the least processors of one machine, and the GPUs of all."""

    machines: int
    processors: int
    gpus: int


@contextmanager
def ray_cluster(address: str, workers: int, purpose: str) -> Iterator[Cluster]:
    """Start Ray on this machine ("local"), or join the cluster at HOST:PORT or "auto".

    Raises MissingExtra, which names the purpose, and ConfigError if there is no answer, or the
    cluster has too few processors.
    """
    os.environ.setdefault(
        "RAY_agent_register_timeout_ms", "120000"
    )  # on a busy machine it takes over 30 s
    os.environ.setdefault(
        "RAY_worker_niceness", "0"
    )  # by default 15: they stall beside any other work
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # hides errors that Ray survives
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address not in ("local", "auto"):
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ConfigError(
                f"--cluster {address!r}: expected local, auto, or HOST:PORT of a Ray cluster's "
                "head."
            )
    ray = require("ray", "cluster", purpose)
    if address not in ("local", "auto"):
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
        except OSError as error:
            raise ConfigError(
                f"no Ray cluster answers at {address} ({error.strerror or error}). Start one with "
                "`ray start --head`, or give --cluster local."
            ) from None
    local_options = (
        {"num_cpus": workers, "include_dashboard": False, "object_store_memory": 2**28}
        if address == "local"
        else {}
    )
    for left in reversed(range(STARTS if local_options else 1)):
        before = set(psutil.Process().children())
        try:
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, **local_options
            )
            break
        except Exception as error:  # Ray raises plain Exceptions
            ray.shutdown()
            for started in (
                set(psutil.Process().children()) - before
            ):  # Ray would leave them until this process ends
                with suppress(psutil.Error):
                    started.kill()
            if not left:
                raise ConfigError(
                    f"--cluster {address}: Ray could not be "
                    f"{'started' if local_options else 'joined'}: {one_line(str(error))}"
                ) from None
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        processors = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU")]
        if sum(processors) < workers:
            raise ConfigError(
                f"--workers {workers}, but the cluster at {address} has "
                f"{counted(sum(processors), 'processor')}, and a worker takes one. Give fewer."
            )
        yield Cluster(
            len(processors), min(processors), int(sum(node.get("GPU", 0) for node in nodes))
        )
    finally:
        ray.shutdown()
