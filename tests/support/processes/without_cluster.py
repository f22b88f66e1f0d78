"""What a cluster does with an order for masks, in this process."""

from collections.abc import Iterator
from pathlib import Path

from featherseg.inference import cluster
from featherseg.inference.manifest import Manifest, Record


def in_this_process(
    job: cluster.Job, folder: Path, tasks: int, size: int
) -> Iterator[list[Record]]:
    """Every task, one after the other."""
    worker = cluster.Worker(job)
    with Manifest(folder) as manifest:
        for number in range(tasks):
            yield list(worker.predict(manifest.share(number, size)))
