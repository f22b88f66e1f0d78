"""The service without HTTP: models with threads, limits and metrics; images to predictions.

The memory beyond the process' own needs is shared between request bodies, small images with their
passes through a model, and one large image at a time. Small images have their own workers and never
wait for a large one.
"""

import asyncio
import copy
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import TypeVar

import numpy as np

from featherseg.core.errors import ConfigError, DataError, FeathersegError
from featherseg.core.types import Size
from featherseg.core.wording import size_text
from featherseg.inference.predictor import Prediction, Predictor
from featherseg.inference.runtimes.onnx import OnnxRuntime
from featherseg.inference.soft_output import SoftKind
from featherseg.inference.tiling import DECODING_BYTES, LARGEST_PASS, process_bytes
from featherseg.serving.admission import Bodies, Budget, Slots
from featherseg.serving.batching import Worker, turns
from featherseg.serving.decode import decode, size_of
from featherseg.serving.lanes import Interruptible, LargeLane, Stop
from featherseg.serving.metrics import Metrics
from featherseg.serving.models import Served
from featherseg.serving.refusal import Refused
from featherseg.serving.settings import Settings

T = TypeVar("T")

SMALL_PIXELS = 1_000_000
"""Most pixels of a small image; it must also go through the model as a whole."""

BODIES, SMALL_IMAGES, SMALL_PASSES, LARGE = 0.1, 0.15, 0.15, 0.6
"""Shares of the memory beyond the process' own needs."""

TURN_PIXELS = 2**21
"""Most pixels of one pass of a large image if passes take turns (1024x2048).

A small image waits for one such pass at most.
"""

MOST_PROBABILITIES = 2**27
"""Most bytes of one answer with probabilities: 19 classes at 1024x2048 have 80 million.

It is held beyond the shares above until it is sent.
"""

STOP_SECONDS = 5.0
"""Seconds to end the threads after the last answer; a model that works longer is abandoned."""


class Service:
    """Predicts images; call `open` before the first and `close` after the last.

    For one event loop. Raises ConfigError if the memory is too small for an image of the size that
    a model was trained on, or of the fixed size of its file.
    """

    def __init__(self, models: Sequence[Served], settings: Settings) -> None:
        assert models
        assert len({model.name for model in models}) == len(models)
        for model in models:
            runtime = model.predictor.runtime
            if usual := getattr(runtime, "fixed_size", None) or runtime.image_size:
                _with_share(model.predictor, LARGE).plan(
                    usual
                )  # reports too little memory at the start, not to each client
        self.models = {model.name: model for model in models}
        self.settings = settings
        self.slots = Slots(settings.limits.queue)
        self.metrics = Metrics(lambda: self.slots.in_use)
        self.stopping = False
        self.ended = asyncio.Event()
        self._workers: dict[str, Worker] = {}
        self._lane: LargeLane | None = None
        free = max(0.0, min(model.predictor.memory_gb for model in models) * 1e9 - process_bytes())
        self.bodies = Bodies(max(int(BODIES * free), 2 * settings.limits.bytes))
        self._images = Budget(int(SMALL_IMAGES * free))
        self._large = Slots(max(1, settings.limits.queue // 2))
        self._regions = asyncio.Semaphore(1)
        self.probabilities_turn = asyncio.Semaphore(1)
        """Held by one request for probabilities until its answer, which is large, is sent."""
        self._small = {model.name: _with_share(model.predictor, SMALL_PASSES) for model in models}
        self._threads: ThreadPoolExecutor | None = None
        self._pooled: list[threading.Thread] = []

    def open(self) -> None:
        """Start the threads."""
        self._threads = ThreadPoolExecutor(
            self.settings.threads,
            "images",
            initializer=lambda: self._pooled.append(threading.current_thread()),
        )
        for name, model in self.models.items():
            observe = partial(self.metrics.ran, name)
            self._workers[name] = Worker(self._small[name], model.predictor.batch, observe)
        self._lane = LargeLane()

    def give_up(self) -> None:
        """Answer running and arriving requests with 503, and cancel their work soon."""
        self.ended.set()
        self.bodies.give_up()

    async def close(self) -> None:
        """End the threads after the last answer.

        Work that takes longer than STOP_SECONDS is abandoned; see `busy`.
        """
        self.stopping = True
        end = time.monotonic() + STOP_SECONDS
        if self._threads:
            self._threads.shutdown(wait=False, cancel_futures=True)
        waits: list[Callable[[float], None]] = [worker.close for worker in self._workers.values()]
        waits += [self._lane.close] if self._lane else []
        for wait in waits + [thread.join for thread in self._pooled]:
            await asyncio.to_thread(wait, max(0.0, end - time.monotonic()))

    @property
    def busy(self) -> bool:
        """Whether a thread still works; the interpreter must not end normally then."""
        workers = any(worker.alive for worker in self._workers.values())
        pooled = any(thread.is_alive() for thread in self._pooled)
        return workers or pooled or bool(self._lane and self._lane.alive)

    @property
    def ready(self) -> bool:
        """Whether requests will be answered."""
        workers = self._workers.values()
        alive = bool(self._lane and self._lane.alive) and all(worker.alive for worker in workers)
        return alive and not self.stopping

    def waiting(self, name: str) -> int:
        """The number of decoded images waiting for the model of that name."""
        return self._workers[name].waiting

    def model(self, name: str | None) -> Served:
        """Return the model of that name, by default the first. Raises Refused (404)."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Refused(
                404, "model", f"There is no model with that name. Known: {', '.join(self.models)}."
            )
        return self.models[name]

    async def segment(
        self,
        model: Served,
        content: bytes,
        encode: Callable[[Prediction], T],
        *,
        regions: bool = False,
        soft: SoftKind | None = None,
    ) -> T:
        """Return `encode(prediction)` for an image file. Raises Refused.

        regions: held while encoding, one at a time. soft: what the prediction has besides the mask;
        such an image goes through the lane of large images, whatever its size.
        """
        size = await self._in_thread(size_of, content, self.settings.limits.pixels)
        if soft == "probabilities":
            _check_probabilities(size, len(model.classes))
        if soft or not await self._in_thread(self._is_small, model, size):
            return await self._segment_large(model, content, size, encode, soft)
        async with self._images.take(size[0] * size[1] * DECODING_BYTES):
            pixels = await self._in_thread(decode, content, model.channels)
            prediction = await self._run(model, pixels)
            self.metrics.segmented(model.name, size[0] * size[1])
            async with self._regions if regions else nullcontext():
                return await self._in_thread(encode, prediction)

    def _is_small(self, model: Served, size: Size) -> bool:
        """Whether an image fits beside others, and goes through the model as a whole."""
        predictor, pixels = self._small[model.name], size[0] * size[1]
        if pixels > SMALL_PIXELS or pixels * DECODING_BYTES > self._images.most:
            return False
        try:
            return predictor.plan(size).inference == model.predictor.plan(size).inference
        except (ConfigError, DataError):
            return False

    async def _segment_large(
        self,
        model: Served,
        content: bytes,
        size: Size,
        encode: Callable[[Prediction], T],
        soft: SoftKind | None,
    ) -> T:
        """Segment in the lane of large images; a cancelled request ends there soon."""
        assert self._lane is not None

        # Its own predictor, with the lane's memory and, if the model takes turns, short passes
        predictor = _with_share(model.predictor, LARGE)
        predictor.soft = soft
        takes_turns = not _runs_in_parallel(model.predictor)
        predictor.largest = TURN_PIXELS if takes_turns and not model.panoptic else LARGEST_PASS

        def work(stop: Stop) -> T:
            predictor.runtime = Interruptible(
                model.predictor.runtime, stop, turns if takes_turns else None
            )
            stop()
            pixels = decode(content, model.channels)
            stop()
            (prediction,) = predictor([pixels])
            stop()
            return encode(prediction)

        # An image that needs too much memory is refused before it waits in the lane
        try:
            await self._in_thread(predictor.plan, size)  # raises if the memory is too small
            with self._large.take():
                answer = await asyncio.wrap_future(self._lane.submit(work, size[0] * size[1]))
        except Refused:
            raise
        except FeathersegError as error:
            raise Refused(400, "image", str(error)) from None
        self.metrics.ran(model.name, 1)
        self.metrics.segmented(model.name, size[0] * size[1])
        return answer

    async def _run(self, model: Served, pixels: np.ndarray) -> Prediction:
        try:
            return await asyncio.wrap_future(self._workers[model.name].submit(pixels))
        except FeathersegError as error:  # an unsupported size, or too little memory
            raise Refused(400, "image", str(error)) from None

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def _check_probabilities(size: Size, classes: int) -> None:
    """Raise Refused (413) if the probabilities of an image exceed MOST_PROBABILITIES bytes."""
    needed = 2 * classes * size[0] * size[1]
    if needed > MOST_PROBABILITIES:
        raise Refused(
            413,
            "probabilities",
            f"The probabilities of {classes} classes for an image of {size_text(size)} (height x "
            f"width) have {needed:,} bytes; the limit is {MOST_PROBABILITIES:,}. Ask for "
            "format=confidence, or send a smaller image.",
        )


def _with_share(predictor: Predictor, share: float) -> Predictor:
    """Return a copy of a predictor for `share` of the memory."""
    shared = copy.copy(predictor)
    shared.share = share
    return shared


def _runs_in_parallel(predictor: Predictor) -> bool:
    """Whether two threads may use the model at once: torch and onnxruntime on the CPU.

    Other models take turns.
    """
    runtime = predictor.runtime
    if runtime.device is not None:
        return runtime.device.type == "cpu"
    return isinstance(runtime, OnnxRuntime) or not getattr(runtime, "own_threads", True)
