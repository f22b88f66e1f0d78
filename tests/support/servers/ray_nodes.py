"""Start three Ray nodes, print the head's address; "lose" on stdin replaces one, EOF ends them."""

import os
import sys
import time
from contextlib import suppress

import psutil

os.environ.setdefault(
    "RAY_agent_register_timeout_ms", "120000"
)  # where others keep the machine busy
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster

SIZE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


def holds_driver(node) -> bool:
    """Return whether the node hosts the driver, where the actor that gives out images is pinned."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for process in raylet.children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            if "_Shares" in " ".join(process.cmdline()):
                return True
    return False


def add_node(cluster: Cluster, **more):
    """Ray gives a node 30 s to start, which is too short where others keep the machine busy."""
    for left in reversed(range(5)):
        before = set(psutil.Process().children())
        try:
            return cluster.add_node(**SIZE, **more)
        except Exception:  # Ray raises plain ones
            for started in set(psutil.Process().children()) - before:
                started.kill()
            if not left:
                raise


def main() -> None:
    """Serve until stdin ends."""
    cluster = Cluster()
    add_node(cluster, include_dashboard=False)
    others = [add_node(cluster) for _ in range(2)]
    print(cluster.address, flush=True)  # noqa: T201
    for line in sys.stdin:
        if line.strip() == "lose":
            while not (free := [node for node in others if not holds_driver(node)]):
                time.sleep(1)  # of a driver that was killed the actor ends soon
            lost = free[0]
            others.remove(lost)
            cluster.remove_node(lost, allow_graceful=False)
            print("lost", flush=True)  # noqa: T201
            others.append(add_node(cluster))
    cluster.shutdown()


if __name__ == "__main__":
    main()
