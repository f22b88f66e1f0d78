"""predict --cluster with Ray: one machine, then three nodes that lose workers, node and driver.

Runs on disk and on S3 (moto) with random faults. FEATHERSEG_CLUSTER_IMAGES,
FEATHERSEG_CLUSTER_ROUNDS and FEATHERSEG_CLUSTER_NAMES make it longer: 2000, 5 and 10000000 is the
full test.
"""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from support.servers.running_bucket import KEY, SECRET, RunningBucket

from featherseg.runs.run import STARTER

pytestmark = pytest.mark.slow
IMAGES = int(os.environ.get("FEATHERSEG_CLUSTER_IMAGES", "200"))
ROUNDS = int(os.environ.get("FEATHERSEG_CLUSTER_ROUNDS", "2"))
NAMES = int(os.environ.get("FEATHERSEG_CLUSTER_NAMES", "300000"))
MOST_GROWN = 60e6
"""Bytes by which a worker may grow from the first tenth of the images on."""
MOST_DRIVER_GROWN = 300e6
""" ... and the driver from 10^5 names to any number."""


def command(*words):
    return [sys.executable, "-m", "featherseg", "predict", STARTER, *map(str, words)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The images, the last of them cut short, and the masks that one process makes of them."""
    pytest.importorskip(
        "ray.data", reason="Ray is not installed: pip install 'featherseg[cluster]'"
    )
    folder, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("alone")
    for number in range(IMAGES):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.png")
    (folder / "spoiled.png").write_bytes((folder / "00000.png").read_bytes()[:300])
    assert (
        subprocess.run(
            command(folder, "-o", out, "--masks"), capture_output=True, check=False
        ).returncode
        == 1
    )
    return folder, {path.name: path.read_bytes() for path in out.iterdir()}


class Disk:
    """The place of images and masks; `environment` is that of all processes that use it."""

    def __init__(self, photos, tmp_path):
        self.photos, self.out, self.environment = photos, tmp_path / "out", dict(os.environ)
        self.environment["RAY_TMPDIR"] = tempfile.mkdtemp(
            prefix="ray"
        )  # names of sockets in it must be short

    def names(self):
        """What is in the output folder, but for files that are being written."""
        found = os.listdir(self.out) if self.out.exists() else []
        return [name for name in found if not name.startswith(".")]

    def objects(self):
        return {name: (self.out / name).read_bytes() for name in self.names()}

    def stop(self):
        shutil.rmtree(self.environment["RAY_TMPDIR"])


class Bucket(Disk):
    """In moto's, of which every 50th request is answered by 500."""

    def __init__(self, photos, tmp_path, fault="every:50"):
        super().__init__(photos, tmp_path)
        self.server = RunningBucket(tmp_path / "home", fault)
        self.server.put(**{f"in/{path.name}": path.read_bytes() for path in photos.iterdir()})
        self.photos, self.out = "s3://yard/in", "s3://yard/out"
        self.environment = self.server.environment | {"RAY_TMPDIR": self.environment["RAY_TMPDIR"]}

    def names(self):
        return self.server.names("out")

    def objects(self):
        return self.server.objects("out")

    def stop(self):
        """Neither Ray's logs nor ours may have told a secret."""
        self.server.stop()
        written = [
            path for path in Path(self.environment["RAY_TMPDIR"]).rglob("*") if path.is_file()
        ]
        told = [path for path in written if tells(path)]
        super().stop()
        assert any(path.suffix == ".log" for path in written)
        assert not told


def tells(path):
    content = path.read_bytes()
    return SECRET.encode() in content or KEY.encode() in content


@pytest.fixture(params=[Disk, Bucket])
def place(request, photos, tmp_path):
    made = request.param(photos[0], tmp_path)
    yield made
    made.stop()


def check(place, expected):
    """Every mask is there once, the same bytes, and has its line; nothing else is."""
    found = place.objects()
    lines = [json.loads(line) for line in found.pop("predictions.jsonl").splitlines()]
    del found["settings.json"]
    assert found == expected
    assert len(lines) == IMAGES + 1
    digests = {
        f"{line['name']}_mask.png": line["sha256"] for line in lines if line["status"] == "done"
    }
    assert digests == {
        name: hashlib.sha256(content).hexdigest() for name, content in expected.items()
    }
    assert [line["image"] for line in lines if line["status"] == "failed"] == ["spoiled.png"]


def masks_in(place):
    return sum(name.endswith("_mask.png") for name in place.names())


def workers(process):
    """Processes below it that run a model, or wait to."""
    found = []
    for child in process.children(recursive=True):
        try:
            if "_RayWorker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def look(place, process, held):
    """-> how many masks are there; notes with it the memory that each worker holds."""
    there = masks_in(place)
    for worker in workers(process):
        with suppress(psutil.Error):
            held.append((there, worker.memory_info().rss))
    return there


def check_memory(held):
    """From the first tenth of the images on (200 of 2,000) no worker grows."""
    early = [rss for there, rss in held if 0.1 * IMAGES <= there < 0.3 * IMAGES]
    late = [rss for there, rss in held if there >= 0.8 * IMAGES]
    if IMAGES >= 2000:
        figures = f"a worker held {max(early) / 1e6:.0f} MB early and {max(late) / 1e6:.0f} MB late"
        print(figures)  # noqa: T201
        assert max(late) - max(early) < MOST_GROWN


def test_this_machine_alone_writes_what_predict_writes_and_the_second_time_nothing(
    photos, tmp_path
):
    folder, expected = photos
    place, held = Disk(folder, tmp_path), []
    words = command(folder, "-o", place.out, "--cluster", "local", "--workers", "2")
    with (tmp_path / "said.txt").open("w") as said:
        driver = psutil.Popen(words, stdout=said, stderr=said, env=place.environment)
        while driver.poll() is None:
            look(place, driver, held)
            time.sleep(0.5)  # between two looks at the folder
    assert driver.returncode == 1, (tmp_path / "said.txt").read_text()
    check(place, expected)
    check_memory(held)
    times = {path.name: path.stat().st_mtime_ns for path in place.out.glob("*_mask.png")}
    again = subprocess.run(
        words, capture_output=True, text=True, check=False, env=place.environment
    )
    assert again.returncode == 1, again.stdout + again.stderr
    assert "1 image without a mask" in again.stdout
    assert {path.name: path.stat().st_mtime_ns for path in place.out.glob("*_mask.png")} == times
    place.stop()


def test_an_address_where_nobody_is_gives_a_sentence(photos, tmp_path):
    words = (photos[0], "-o", tmp_path / "out", "--cluster", "127.0.0.1:1", "--workers", "2")
    done = subprocess.run(command(*words), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no Ray cluster answers at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def nodes(place, tmp_path):
    script, told = (
        Path(__file__).parents[1] / "support/servers/ray_nodes.py",
        tmp_path / "nodes.txt",
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": told.open("w")}
    process = psutil.Popen([sys.executable, str(script)], **pipes, text=True, env=place.environment)
    address = process.stdout.readline().strip()
    assert address, told.read_text()
    yield process, address
    process.stdin.close()
    process.wait(300)
    process.stdout.close()
    pipes["stderr"].close()


@pytest.mark.parametrize("number", range(ROUNDS))
def test_workers_a_node_and_the_driver_are_killed_and_every_mask_is_there_once(
    photos, place, nodes, tmp_path, number
):
    (process, address), expected = nodes, photos[1]
    chance = random.Random(number)
    words = command(place.photos, "-o", place.out, "--cluster", address, "--workers", "3")
    faults = ["worker", "worker", "node"]
    chance.shuffle(faults)
    if number % 2 == 0:
        faults.insert(0, "driver")
    moments = sorted(chance.uniform(0.05, 0.6) * IMAGES for _ in faults)
    driver, held, said = None, [], (tmp_path / "said.txt").open("a+")
    try:
        while True:
            driver = driver or subprocess.Popen(
                words, stdout=said, stderr=said, env=place.environment
            )
            there = look(place, process, held)
            if moments and there >= moments[0]:
                running = workers(process)
                if faults[0] == "worker" and not running:
                    continue  # the last that was killed is being started again
                moments.pop(0)
                fault = faults.pop(0)
                if fault == "worker":
                    chance.choice(running).kill()
                elif fault == "node":
                    process.stdin.write("lose\n")
                    process.stdin.flush()
                    assert process.stdout.readline() == "lost\n", (
                        tmp_path / "nodes.txt"
                    ).read_text()
                elif fault == "driver":
                    driver.kill()
                    driver.wait()
                    driver = None
                    continue
            if driver.poll() is not None:
                break
            time.sleep(0.5)  # between two looks at the folder
    finally:
        if driver:
            driver.kill()
            driver.wait()
    said.seek(0)
    told = said.read()
    said.close()
    assert driver.returncode == 1, told
    assert SECRET not in told
    assert KEY not in told
    assert not faults, "some faults were never planted: more images"
    check(place, expected)
    check_memory(held)


def test_of_a_worker_that_is_killed_while_it_puts_an_object_nothing_is_half_there(photos, tmp_path):
    folder, expected = photos
    place = Bucket(folder, tmp_path, "every:50,hang:out/00007_mask.png")
    words = command(place.photos, "-o", place.out, "--cluster", "local", "--workers", "2")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    driver = psutil.Popen(words, **pipes, env=place.environment)
    assert place.server.process.stdout.readline() == "hanging\n"  # half of the mask is sent
    for worker in workers(driver):
        worker.kill()
    assert "00007_mask.png" not in place.names()
    told = driver.communicate(timeout=1200)[0]
    assert driver.returncode == 1, told
    assert SECRET not in told
    assert KEY not in told
    check(place, expected)
    place.stop()


def test_a_driver_holds_no_list_of_ten_million_names():
    """The list is simulated, Ray is not; every name gets its line in the manifest."""
    pytest.importorskip(
        "ray.data", reason="Ray is not installed: pip install 'featherseg[cluster]'"
    )
    script, held = Path(__file__).parents[1] / "support/data/many_names.py", []
    for count in (10**5, NAMES):
        done = subprocess.run(
            [sys.executable, str(script), str(count)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        lines, peak = map(int, done.stdout.split()[-2:])
        print(f"{count:,} names: {peak / 1e6:.0f} MB")  # noqa: T201
        assert lines == count
        held.append(peak)
    assert held[1] - held[0] < MOST_DRIVER_GROWN
