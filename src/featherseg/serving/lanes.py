"""The lane of large images: one at a time, behind small ones, cancelled if nobody waits.

A small image never waits for a large one: it has its own worker (batching.py). Here a thread of low
priority reads, predicts and encodes one image after the other. A cancelled job ends at the next
operation of torch or, for an exported file, after the current window.
"""

import heapq
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from featherseg.core.allocator import large_blocks_returned, return_freed_memory
from featherseg.inference.runtimes import Runtime

NICE = 10
"""Niceness of the lane's thread (Linux): small images get nine tenths of a core."""

SECONDS_PER_MEGAPIXEL = 1.0
"""Seconds per megapixel by which an image queues later: small ones go first, large ones do run."""

Stop = Callable[[], None]
"""A function called between steps; raises Stopped when nobody waits for the answer."""


class Stopped(Exception):
    """Nobody waits for the answer any more."""


class _Job:
    """`work(stop)` and the future of its result; may be cancelled, also while it runs."""

    def __init__(self, work: Callable[[Stop], Any], pixels: int) -> None:
        self.work: Callable[[Stop], Any] | None = work
        self.turn = time.monotonic() + SECONDS_PER_MEGAPIXEL * pixels / 1e6
        self.answer: Future[Any] = Future()
        self.answer.add_done_callback(self._let_go)

    def __lt__(self, other: "_Job") -> bool:
        return self.turn < other.turn

    def stop(self) -> None:
        if self.answer.cancelled():
            raise Stopped

    def _let_go(self, answer: "Future[Any]") -> None:
        self.work = None  # frees the image's bytes: the job may stay in the queue for long


class LargeLane:
    """A thread that runs one job after the other."""

    def __init__(self) -> None:
        self._jobs: list[_Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="large images", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Stop], Any], pixels: int) -> "Future[Any]":
        """Return a future of `work(stop)`; after its cancellation, `stop` raises Stopped."""
        job = _Job(work, pixels)
        with self._changed:
            self._jobs = [waiting for waiting in self._jobs if not waiting.answer.cancelled()]
            heapq.heapify(self._jobs)
            heapq.heappush(self._jobs, job)
            self._changed.notify()
        return job.answer

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def close(self, seconds: float) -> None:
        """Finish jobs that somebody waits for, for at most `seconds`, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)

    def _work(self) -> None:
        if (
            sys.platform == "linux"
        ):  # there, it applies to this thread and those that torch starts for it
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while True:
            with self._changed:
                while not self._jobs and not self._closed:
                    self._changed.wait()
                if not self._jobs:
                    return
                job = heapq.heappop(self._jobs)
            self._answer(job)
            del job
            return_freed_memory()

    def _answer(self, job: _Job) -> None:
        work = job.work
        if work is None or job.answer.cancelled():
            return
        try:
            with _between_operations(job.stop), large_blocks_returned():
                result = work(job.stop)
            job.answer.set_result(result)
        except (Stopped, InvalidStateError):
            return
        except BaseException as error:
            with suppress(InvalidStateError):  # cancelled meanwhile
                job.answer.set_exception(error)


def _between_operations(stop: Stop) -> AbstractContextManager[Any]:
    """Call `stop` before every operation of torch, if a model uses it."""
    if "torch" not in sys.modules:
        return nullcontext()
    from featherseg.serving.torch_operations import StopBetweenOperations

    return StopBetweenOperations(stop)


class Interruptible:
    """A runtime that calls `stop` before each run, and holds `turn` only during the run."""

    def __init__(
        self, runtime: Runtime, stop: Stop, turn: AbstractContextManager[Any] | None = None
    ) -> None:
        self._runtime, self._stop, self._turn = runtime, stop, turn or nullcontext()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def __call__(self, images: Any) -> Any:
        self._stop()
        with self._turn:
            out = self._runtime(images)
        time.sleep(0.001)  # lets a waiting thread take the turn: locks are not fair
        return out

    def release_memory(self) -> None:
        """Release the memory that the runtime keeps from its last run, in a turn as well."""
        if release := getattr(self._runtime, "release_memory", None):
            with self._turn:
                release()
