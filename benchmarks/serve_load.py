"""Load the service: right masks, latency at 80 % of capacity, memory, a kill during requests.

    python benchmarks/serve_load.py RUN IMAGE... [--minutes 5] [--json FILE]

This process sends requests to a real server process over loopback on the same cores, in this order:

1. 200 requests from 32 clients. Each answer is compared byte for byte with the mask that `predict`
   writes; 429 is counted.
2. More requests, as fast as 32 clients can, until 2,000: capacity, and resident memory after
   request 200 and 2,000.
3. Arrivals at random times (exponential gaps, fixed seed) at 80 % of capacity, whether answers come
   or not. Times start when a request was due, so that waiting to be sent counts.
4. kill -9 while 32 requests run: every client gets a connection error or its right mask, and a new
   server on the same port answers.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np

CLIENTS, FIRST, ALL = 32, 200, 2000
SHARE = 0.8
SEED = 0
GOAL_GROWTH = 5.0
"""Percent by which memory may have grown between request FIRST and ALL."""


@dataclass(frozen=True)
class Image:
    """The bytes of an image file, and those of its mask."""

    content: bytes
    mask: bytes


@dataclass(frozen=True)
class Result:
    """Measurements: outcomes by name, times in ms from the scheduled start, memory in MiB."""

    cores: int
    first: dict[str, int]
    rest: dict[str, int]
    per_second: float
    rss_first_mib: float
    rss_all_mib: float
    open_loop: dict[str, int]
    offered_per_second: float
    minutes: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    rss_end_mib: float
    killed: dict[str, int]
    after_restart: dict[str, int]

    @property
    def growth(self) -> float:
        """Of memory between request FIRST and ALL, in percent."""
        return 100 * (self.rss_all_mib / self.rss_first_mib - 1)


class Server:
    """A `featherseg serve` of its own, on a port that stays the same."""

    def __init__(self, run: str) -> None:
        self.run, self.port = run, "0"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "featherseg", "serve", self.run, "--port", self.port]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
        )
        assert self.process.stdout
        lines = iter(self.process.stdout.readline, "")
        self.address = next((line.strip() for line in lines if line.startswith("http://")), "")
        if not self.address:
            sys.exit(f"the server ended with {self.process.wait()}: {' '.join(command)}")
        self.port = self.address.rstrip("/").rpartition(":")[2]

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def end(self, kill: bool = False) -> int:
        (self.process.kill if kill else self.process.terminate)()
        return self.process.wait()


def offline(run: str, files: Sequence[Path]) -> list[Image]:
    """Images and masks, made by `featherseg predict` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "featherseg",
            "predict",
            run,
            *map(str, files),
            "-o",
            folder,
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return [
            Image(file.read_bytes(), Path(folder, f"{file.stem}_mask.png").read_bytes())
            for file in files
        ]


async def ask(client: httpx.AsyncClient, image: Image) -> str:
    """`right`, `wrong`, a status, or the kind of error."""
    try:
        answer = await client.post("v1/segment", files={"image": ("image", image.content)})
    except httpx.HTTPError as error:
        return type(error).__name__
    if answer.status_code != 200:
        return str(answer.status_code)
    return "right" if answer.content == image.mask else "wrong"


async def closed_loop(
    server: Server, images: Sequence[Image], requests: int
) -> tuple[Counter[str], float]:
    """Send requests from CLIENTS clients, each after its last answer; return outcomes, seconds."""
    turns: Iterator[Image] = (images[number % len(images)] for number in range(requests))
    outcomes: Counter[str] = Counter()

    async def one() -> None:
        async with connected(server) as client:
            for image in turns:
                outcomes[await ask(client, image)] += 1

    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(CLIENTS)))
    return outcomes, time.perf_counter() - started


async def open_loop(
    server: Server, images: Sequence[Image], per_second: float, seconds: float
) -> tuple[Counter[str], list[float]]:
    """Send requests at random times; return outcomes and seconds from due time to right answers."""
    chance = random.Random(SEED)
    outcomes: Counter[str] = Counter()
    times: list[float] = []
    async with connected(server) as client:
        started = time.perf_counter()

        async def one(due: float, image: Image) -> None:
            outcome = await ask(client, image)
            outcomes[outcome] += 1
            if outcome == "right":
                times.append(time.perf_counter() - started - due)

        due, number, asked = chance.expovariate(per_second), 0, []
        while due < seconds:
            await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
            asked.append(asyncio.create_task(one(due, images[number % len(images)])))
            due, number = due + chance.expovariate(per_second), number + 1
        await asyncio.gather(*asked)
    return outcomes, times


async def killed(server: Server, images: Sequence[Image]) -> tuple[Counter[str], Counter[str]]:
    """Return what CLIENTS clients see of a server killed while they wait, and of its successor."""
    async with connected(server) as client:
        asked = [asyncio.create_task(ask(client, images[i % len(images)])) for i in range(CLIENTS)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        server.end(kill=True)
        during = Counter(await asyncio.gather(*asked))
    await asyncio.to_thread(server.start)
    return during, (await closed_loop(server, images, CLIENTS))[0]


def connected(server: Server) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=server.address, timeout=120, limits=limits, trust_env=False)


async def measure(server: Server, images: Sequence[Image], minutes: float) -> Result:
    first, _ = await closed_loop(server, images, FIRST)
    rss_first = server.rss_mib()
    rest, seconds = await closed_loop(server, images, ALL - FIRST)
    rss_all, per_second = server.rss_mib(), rest["right"] / seconds
    offered = SHARE * per_second
    outcomes, times = await open_loop(server, images, offered, 60 * minutes)
    p50, p95, p99 = 1000 * np.percentile(times, [50, 95, 99])
    rss_end = server.rss_mib()
    during, after = await killed(server, images)
    return Result(
        cores=os.cpu_count() or 1,
        first=dict(first),
        rest=dict(rest),
        per_second=per_second,
        rss_first_mib=rss_first,
        rss_all_mib=rss_all,
        open_loop=dict(outcomes),
        offered_per_second=offered,
        minutes=minutes,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        rss_end_mib=rss_end,
        killed=dict(during),
        after_restart=dict(after),
    )


def print_result(result: Result) -> None:
    rows = {
        f"{FIRST} requests, {CLIENTS} clients": words(result.first),
        f"{ALL - FIRST} more": f"{words(result.rest)}; "
        f"{result.per_second:.1f} a second on {result.cores} cores",
        "memory": f"{result.rss_first_mib:.0f} MiB after {FIRST}, "
        f"{result.rss_all_mib:.0f} after {ALL}: {result.growth:+.1f} % "
        f"(goal: at most {GOAL_GROWTH:+.0f} %); {result.rss_end_mib:.0f} at the end",
        f"{result.minutes:g} minutes at {result.offered_per_second:.1f} a second": words(
            result.open_loop
        ),
        "from the scheduled start": f"p50 {result.p50_ms:.0f} ms, p95 {result.p95_ms:.0f}, "
        f"p99 {result.p99_ms:.0f}",
        f"killed under {CLIENTS} requests": words(result.killed),
        "restarted": words(result.after_restart),
    }
    for name, text in rows.items():
        print(f"{name:32} {text}")


def words(outcomes: dict[str, int]) -> str:
    """`1800 right, 3 429`."""
    return ", ".join(
        f"{number} {name}" for name, number in sorted(outcomes.items(), key=lambda row: -row[1])
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    images = offline(arguments.run, arguments.images)
    server = Server(arguments.run)
    try:
        result = asyncio.run(measure(server, images, arguments.minutes))
    finally:
        server.end()
    print_result(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(result), indent=2) + "\n")


if __name__ == "__main__":
    main()
