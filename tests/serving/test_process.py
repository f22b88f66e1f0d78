"""A process that serves a trained model under large images: memory, and waiting times. Minutes."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image
from support.models.color_model import encoded, image

from featherseg.inference.tiling import process_bytes

RUN = Path(__file__).parents[2] / "weights" / "frm-lite0-camvid"
SMALL = encoded(image(0, (360, 480)))


def flat_png(size: tuple[int, int]) -> bytes:
    """(height, width) of one colour: 32 megapixels in 0.1 MB."""
    file = BytesIO()
    Image.new("RGB", (size[1], size[0]), (90, 90, 90)).save(file, "PNG")
    return file.getvalue()


@contextmanager
def process_of(*options: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """(address, process) of `featherseg serve` of the shipped run."""
    command = [
        sys.executable,
        "-m",
        "featherseg",
        "serve",
        str(RUN),
        "--port",
        "0",
        "--device",
        "cpu",
        *options,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = iter(process.stdout.readline, "")
            yield (
                next(line.strip().rstrip("/") for line in lines if line.startswith("http://")),
                process,
            )
        finally:
            process.kill()


def post(address: str, content: bytes, timeout: float) -> int | None:
    """The status; None where the client left before the answer came."""
    try:
        return httpx.post(
            f"{address}/v1/segment", files={"image": content}, timeout=timeout
        ).status_code
    except httpx.TransportError:
        return None


@contextmanager
def repeatedly(work, threads: int) -> Iterator[list]:
    """What `work()` gave, again and again in so many threads while the block runs."""
    found, over = [], threading.Event()

    def repeat():
        while not over.is_set():
            found.append(work())

    running = [threading.Thread(target=repeat) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in running:
            thread.join()


def peak(process: subprocess.Popen) -> int:
    """Resident bytes at their highest where the system tells it, else now."""
    status = Path(f"/proc/{process.pid}/status")
    if status.is_file():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    return psutil.Process(process.pid).memory_info().rss


@pytest.mark.slow
def test_the_memory_that_was_allowed_is_kept_under_many_of_the_largest_images():
    """Four images of 32 MP at a time, half abandoned, beside small ones; once 7.3 GB of 4.0."""
    huge, highest = flat_png((4000, 8000)), 0
    assert len(huge) < 110_000
    with process_of("--memory-gb", "4") as (address, process):
        patience = iter([5.0, 300.0] * 10_000)
        with repeatedly(lambda: post(address, huge, next(patience)), threads=4):
            end = time.monotonic() + 90
            while time.monotonic() < end:
                assert post(address, SMALL, 60) == 200
                highest = max(highest, peak(process))
        assert max(highest, peak(process)) < 4.0e9


def starve(size: tuple[int, int], seconds: float, leave: float, *options: str) -> tuple[float, int]:
    """Return (longest wait of a small image in s, peak memory) beside two senders that `leave`."""
    huge, waits = flat_png(size), []
    with process_of(*options) as (address, process):
        with repeatedly(lambda: post(address, huge, leave), threads=2) as answers:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                began = time.monotonic()
                assert post(address, SMALL, 60) == 200
                waits.append(time.monotonic() - began)
        assert answers
        asked = time.monotonic()
        while "featherseg_queue_length 0.0" not in httpx.get(f"{address}/metrics", timeout=15).text:
            assert time.monotonic() - asked < 15  # what was left is not counted as under way
        highest = peak(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    return max(waits), highest


# The quick test of the lanes, without a process, is tests/serving/test_lanes.py.
@pytest.mark.slow
def test_a_few_seconds_of_large_images_whose_senders_leave_keep_memory_and_small_images():
    allowed = process_bytes() / 1e9 + 0.4
    wait, highest = starve((1500, 2000), 1, 0.5, "--memory-gb", str(allowed))
    assert wait < 15
    assert highest < allowed * 1e9


@pytest.mark.slow
def test_no_small_image_starves_in_a_minute_of_large_ones_whose_senders_leave():
    wait, highest = starve((4000, 8000), 60, 3.0)
    assert wait < 15
    assert highest < 4.0e9


@pytest.mark.slow
def test_a_stop_under_large_images_takes_less_than_is_stated():
    """It was seen to take 137 s: as long as an upload and an answer may take together."""
    with process_of("--seconds", "300") as (address, process):
        huge = flat_png((4000, 8000))
        senders = [threading.Thread(target=post, args=(address, huge, 300)) for _ in range(3)]
        for sender in senders:
            sender.start()
        while "featherseg_queue_length 3.0" not in httpx.get(f"{address}/metrics", timeout=15).text:
            time.sleep(0.05)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        assert time.monotonic() - began < 30  # 25, and what the machine is busy with
        for sender in senders:
            sender.join()


@pytest.mark.slow
def test_512_connections_and_64_slow_bodies_leave_the_others_served():
    with process_of() as (address, _):
        url = httpx.URL(address)
        head = f"POST /v1/segment HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n".encode()
        head += b"Content-Type: multipart/form-data; boundary=x\r\n"
        tiny = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000
        said = [b""] * 512 + [head + b"Content-Length: 1000000\r\n\r\n--x\r\n"] * 64 + [tiny] * 32
        held, waits = [], []
        for content in said:
            held.append(socket.create_connection((url.host, url.port)))
            held[-1].setblocking(False)
            with suppress(OSError):
                held[-1].send(content)
        for _ in range(10):
            began = time.monotonic()
            assert httpx.get(f"{address}/healthz", timeout=15).status_code == 200
            waits.append(time.monotonic() - began)
            assert post(address, SMALL, 15) == 200
        assert max(waits) < 3
        for connection in held:
            connection.close()
