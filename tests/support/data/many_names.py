"""predict_folder over Ray with a simulated list of images and workers that open none.

`python many_names.py COUNT [alone]` prints the number of manifest lines and the driver's peak
memory in bytes. alone: without Ray, one task after the other.
"""

import hashlib
import resource
import sys
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from ray import cloudpickle
from support.processes.without_cluster import in_this_process

from featherseg.core.cluster import ray_cluster
from featherseg.inference import cluster
from featherseg.inference.manifest import DONE, Listed, Record
from featherseg.inference.settings import InferenceSettings

FACTOR = 7_368_787
"""A prime: multiples of it, modulo another number, come in no order."""


class Pretending:
    """A Worker that has done what it is asked to do."""

    def __init__(self, job):
        pass

    def predict(self, images):
        for image in images:
            yield Record(image.id, DONE, sha256=hashlib.sha256(image.file.encode()).hexdigest())


def main(count: int, alone: bool) -> None:
    """Name them, and let Ray give them to two workers."""
    cloudpickle.register_pickle_by_value(
        cluster
    )  # so that Ray's processes get what is put into it here
    cluster.Worker = Pretending
    cluster.list_images = lambda folder: (
        Listed(f"{n * FACTOR % count:09}.jpg", 0) for n in range(count)
    )
    with TemporaryDirectory() as folder:
        job = cluster.Job("run", "in", f"{folder}/out", "cpu", InferenceSettings(), 4.0, None, "")
        with nullcontext() if alone else ray_cluster("local", 2, "prediction"):
            execute = in_this_process if alone else cluster.over_ray(2)
            assert cluster.predict_folder(job, execute, 2, lambda *counts: None) == (count, 0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        lines, last = 0, b""
        with Path(folder, "out", cluster.MANIFEST).open("rb") as file:
            for line in file:
                lines, last, before = lines + 1, line.split(b'"')[3], last
                assert before < last  # each once
    print(lines, peak)  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:] == ["alone"])
