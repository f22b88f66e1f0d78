"""The service apart from HTTP: networks with their threads, limits, metrics; pictures in, predictions out."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np

from featherseg.core.errors import FeathersegError
from featherseg.inference.predictor import Prediction
from featherseg.serving.admission import Budget, Slots
from featherseg.serving.batching import Worker
from featherseg.serving.decode import decode, size_of
from featherseg.serving.metrics import Metrics
from featherseg.serving.networks import Served
from featherseg.serving.refusal import Refused
from featherseg.serving.settings import Settings

T = TypeVar("T")

DECODED = 2
"""Pictures of the largest size that may be decoded at a time; of smaller ones, as many as have so many pixels."""


class Service:
    """Answers for pictures; `open` before the first, `close` after the last. For one event loop."""

    def __init__(self, networks: Sequence[Served], settings: Settings) -> None:
        assert networks
        assert len({network.name for network in networks}) == len(networks)
        self.networks = {network.name: network for network in networks}
        self.settings = settings
        self.slots = Slots(settings.limits.queue)
        self.metrics = Metrics(lambda: self.slots.taken)
        self.stopping = False
        self._workers: dict[str, Worker] = {}
        self._decoded = Budget(DECODED * settings.limits.pixels)
        self._threads: ThreadPoolExecutor | None = None

    def open(self) -> None:
        """Start the threads."""
        self._threads = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="pictures")
        for name, network in self.networks.items():
            observe = partial(self.metrics.ran, name)
            self._workers[name] = Worker(network.predictor, network.predictor.batch, observe)

    async def close(self) -> None:
        """Finish what runs and end the threads; what takes longer than a request may is left behind."""
        self.stopping = True
        for worker in self._workers.values():
            await asyncio.to_thread(worker.close, self.settings.limits.seconds)
        if self._threads:
            self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def ready(self) -> bool:
        """Whether requests will be answered."""
        workers = self._workers.values()
        return bool(workers) and not self.stopping and all(worker.alive for worker in workers)

    def waiting(self, name: str) -> int:
        """Pictures that are decoded and wait for the network of that name."""
        return self._workers[name].waiting

    def network(self, name: str | None) -> Served:
        """The network of that name, by default the first. Raises Refused (404)."""
        if name is None:
            return next(iter(self.networks.values()))
        if name not in self.networks:
            raise Refused(404, "model", f"There is no model of that name. Known: {', '.join(self.networks)}.")
        return self.networks[name]

    async def segment(self, network: Served, content: bytes, encode: Callable[[Prediction], T]) -> T:
        """What `encode` makes of the prediction for a picture file. Raises Refused."""
        height, width = await self._in_thread(size_of, content, self.settings.limits.pixels)
        async with self._decoded.take(height * width):
            pixels = await self._in_thread(decode, content, network.channels)
            prediction = await self._run(network, pixels)
            self.metrics.segmented(network.name, height * width)
            return await self._in_thread(encode, prediction)

    async def _run(self, network: Served, pixels: np.ndarray) -> Prediction:
        try:
            return await asyncio.wrap_future(self._workers[network.name].submit(pixels))
        except FeathersegError as error:  # a size that a file does not take, too little memory
            raise Refused(400, "picture", str(error)) from None

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
