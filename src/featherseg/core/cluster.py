"""A Ray cluster: started on this machine, or joined. Ray is imported only where it is used."""

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
"""Within which a cluster's head must take a connection."""

STARTS = 3
"""Of Ray on this machine, each of which gives up after 30 s; a busy machine needs more for the first."""


@dataclass(frozen=True)
class Cluster:
    """machines with processors, the processors of the one that has the fewest, and the GPUs of all."""

    machines: int
    processors: int
    gpus: int


@contextmanager
def ray_cluster(address: str, workers: int, purpose: str) -> Iterator[Cluster]:
    """Start Ray on this machine ("local"), or join the cluster at HOST:PORT or "auto"; -> what it has.

    Raises MissingExtra, which names the purpose, and ConfigError where nobody answers there, or the cluster has too few
    processors.
    """
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")  # a busy machine starts it in more than 30 s
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default 15: beside any other work they stand still
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what it survives, it need not tell
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address not in ("local", "auto"):
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ConfigError(f"--cluster {address!r}: expected local, auto, or HOST:PORT of a Ray cluster's head.")
    ray = require("ray", "cluster", purpose)
    if address not in ("local", "auto"):
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
        except OSError as error:
            raise ConfigError(
                f"no Ray cluster answers at {address} ({error.strerror or error}). Start one with `ray start --head`, "
                "or give --cluster local."
            ) from None
    own = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": 2**28} if address == "local" else {}
    for left in reversed(range(STARTS if own else 1)):
        before = set(psutil.Process().children())
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
            break
        except Exception as error:  # Ray raises plain ones
            ray.shutdown()
            for started in set(psutil.Process().children()) - before:  # Ray leaves them until this process ends
                with suppress(psutil.Error):
                    started.kill()
            if not left:
                raise ConfigError(
                    f"--cluster {address}: Ray could not be {'started' if own else 'joined'}: {one_line(str(error))}"
                ) from None
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        processors = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU")]
        if sum(processors) < workers:
            raise ConfigError(
                f"--workers {workers}, but the cluster at {address} has {counted(sum(processors), 'processor')}, and a "
                "worker takes one. Give fewer."
            )
        yield Cluster(len(processors), min(processors), int(sum(node.get("GPU", 0) for node in nodes)))
    finally:
        ray.shutdown()
