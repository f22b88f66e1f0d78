"""A Ray cluster: what is said of an address, how often a start is tried, what it has."""

import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from featherseg.core import cluster
from featherseg.core.errors import ConfigError

NODES = [
    {"Alive": True, "Resources": {"CPU": 4.0}},
    {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}},
    {"Alive": False, "Resources": {"CPU": 1.0, "GPU": 8.0}},
    {"Alive": True, "Resources": {}},
]


@pytest.mark.parametrize("address", ["remote", "127.0.0.1", ":6379", "a:b", "a:99999", "ray://a:1"])
def test_what_is_no_address_is_told(address):
    with (
        pytest.raises(ConfigError, match="expected local, auto, or HOST:PORT"),
        cluster.ray_cluster(address, 1, "it"),
    ):
        pass


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_ray_gets_three_starts_and_leaves_nothing_behind(monkeypatch, failures):
    """It gives itself 30 s, in which a busy machine does not start it."""
    left, made = [TimeoutError("timed out during startup")] * failures, []

    def init(**options):
        assert options["num_cpus"] == 2
        if left:
            made.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
            raise left.pop()

    ray = SimpleNamespace(init=init, shutdown=lambda: None, nodes=lambda: NODES)
    monkeypatch.setattr(cluster, "require", lambda *_: ray)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    refused = pytest.raises(ConfigError, match="started") if failures == 3 else nullcontext()
    with refused, cluster.ray_cluster("local", 2, "it") as found:
        assert found == cluster.Cluster(machines=2, processors=2, gpus=1)
    assert [process.wait(10) for process in made] == [-signal.SIGKILL] * failures
    for process in made:
        process.stdin.close()


def test_more_workers_than_processors_are_refused(monkeypatch):
    ray = SimpleNamespace(init=lambda **_: None, shutdown=lambda: None, nodes=lambda: NODES)
    monkeypatch.setattr(cluster, "require", lambda *_: ray)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(ConfigError, match="--workers 7, but the cluster at local has 6 processors"):
        cluster.ray_cluster("local", 7, "it").__enter__()
