"""predict --cluster with Ray itself: one machine, then three nodes that lose workers, a node and the driver.

FEATHERSEG_CLUSTER_IMAGES and FEATHERSEG_CLUSTER_ROUNDS make it longer: 2000 and 5 is the whole of it.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from featherseg.runs import STARTER

pytestmark = pytest.mark.slow
IMAGES = int(os.environ.get("FEATHERSEG_CLUSTER_IMAGES", "200"))
ROUNDS = int(os.environ.get("FEATHERSEG_CLUSTER_ROUNDS", "2"))
MOST_GROWN = 60e6


def command(*words):
    return [sys.executable, "-m", "featherseg", "predict", STARTER, *map(str, words)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The images, the last of them cut short, and the masks that one process makes of them."""
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'featherseg[cluster]'")
    folder, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("alone")
    for number in range(IMAGES):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.png")
    (folder / "spoiled.png").write_bytes((folder / "00000.png").read_bytes()[:300])
    assert subprocess.run(command(folder, "-o", out, "--masks"), capture_output=True, check=False).returncode == 1
    return folder, {path.name: path.read_bytes() for path in out.iterdir()}


def check(out, expected):
    """Every mask is there once, the same bytes, and has its line; nothing else is."""
    found = {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith(".")}
    lines = [json.loads(line) for line in found.pop("predictions.jsonl").splitlines()]
    del found["settings.json"]
    assert found == expected
    assert len(lines) == IMAGES + 1
    digests = {f"{line['name']}_mask.png": line["sha256"] for line in lines if line["status"] == "done"}
    assert digests == {name: hashlib.sha256(content).hexdigest() for name, content in expected.items()}
    assert [line["image"] for line in lines if line["status"] == "failed"] == ["spoiled.png"]


def test_this_machine_alone_writes_what_predict_writes_and_the_second_time_nothing(photos, tmp_path):
    folder, expected = photos
    words = (folder, "-o", tmp_path / "out", "--cluster", "local", "--workers", "2")
    done = subprocess.run(command(*words), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    check(tmp_path / "out", expected)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*_mask.png")}
    again = subprocess.run(command(*words), capture_output=True, text=True, check=False)
    assert again.returncode == 1, again.stdout + again.stderr
    assert "1 images could not be read" in again.stdout
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*_mask.png")} == times


def test_an_address_where_nobody_is_gives_a_sentence(photos, tmp_path):
    words = (photos[0], "-o", tmp_path / "out", "--cluster", "127.0.0.1:1", "--workers", "2")
    done = subprocess.run(command(*words), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no Ray cluster answers at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def nodes():
    script = Path(__file__).parents[1] / "ray_nodes.py"
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    address = process.stdout.readline().strip()
    assert address, "the nodes did not start"
    yield process, address
    process.stdin.close()
    process.wait(120)
    process.stdout.close()


def workers(nodes):
    """Processes of ours that run a model, or wait to."""
    found = []
    for process in nodes.children(recursive=True):
        try:
            if "_RayWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("number", range(ROUNDS))
def test_workers_a_node_and_the_driver_are_killed_and_every_mask_is_there_once(photos, nodes, tmp_path, number):
    folder, expected = photos
    (process, address), out = nodes, tmp_path / "out"
    chance, tree = random.Random(number), psutil.Process(nodes[0].pid)
    words = (folder, "-o", out, "--cluster", address, "--workers", "3")
    faults = ["worker", "worker", "node"]
    chance.shuffle(faults)
    if number % 2 == 0:
        faults.insert(0, "driver")
    moments = sorted(chance.uniform(0.05, 0.6) * IMAGES for _ in faults)
    driver, held, said = None, [], (tmp_path / "said.txt").open("a+")
    try:
        while True:
            driver = driver or subprocess.Popen(command(*words), stdout=said, stderr=said)
            there = len(list(out.glob("*_mask.png"))) if out.exists() else 0
            held += [(there, worker.memory_info().rss) for worker in workers(tree) if worker.is_running()]
            if moments and there >= moments[0]:
                moments.pop(0)
                fault = faults.pop(0)
                running = workers(tree)
                if fault == "worker" and running:
                    chance.choice(running).kill()
                elif fault == "node":
                    process.stdin.write("lose\n")
                    process.stdin.flush()
                    assert process.stdout.readline() == "lost\n"
                elif fault == "driver":
                    driver.send_signal(signal.SIGKILL)
                    driver.wait()
                    driver = None
                    continue
            if driver.poll() is not None:
                break
            time.sleep(0.2)  # between two looks at the folder
    finally:
        if driver:
            driver.kill()
            driver.wait()
    said.seek(0)
    assert driver.returncode == 1, said.read()
    said.close()
    assert not faults, "some faults were never planted: more images"
    check(out, expected)
    early = [rss for there, rss in held if 0.1 * IMAGES <= there < 0.3 * IMAGES]
    late = [rss for there, rss in held if there >= 0.8 * IMAGES]
    if IMAGES >= 2000 and early and late:
        assert max(late) - max(early) < MOST_GROWN
