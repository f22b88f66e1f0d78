"""The lane of large images: one at a time, behind the small ones, and ended when nobody waits for it any more.

A small image never stands behind a large one: it has a worker of its own (batching.py). Here a thread of low priority
does all of one image (read, predict, encode) before the next; what is given up ends at the next operation of torch or,
in an exported file, after the window at hand.
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

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from featherseg.core.allocator import large_blocks_returned, return_freed_memory
from featherseg.inference.runtimes import Runtime

NICE = 10
"""Steps of priority (Linux) by which the lane stands behind the small images: these get nine tenths of a core."""

SECONDS_PER_MEGAPIXEL = 1.0
"""By so much later an image is taken to have come: smaller ones go first, and the largest still has its turn."""

Stop = Callable[[], None]
"""Called between steps; raises Stopped when the answer is wanted no more."""


class Stopped(Exception):
    """Nobody waits for the answer."""


class _Job:
    """`work(stop)` and the answer to it; cancelled at any time, also while it runs."""

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
        self.work = None  # and with it the image's bytes, though the job may stand in the queue for long


class LargeLane:
    """One thread that does one job after the other."""

    def __init__(self) -> None:
        self._jobs: list[_Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="large images", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Stop], Any], pixels: int) -> "Future[Any]":
        """The result of `work(stop)`, to come; cancelled, also while it runs, `stop` raises Stopped from then on."""
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
        """Finish what somebody waits for, for at most so long, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)

    def _work(self) -> None:
        if sys.platform == "linux":  # of this thread alone, and of those that torch starts for it
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
            with _StopBetweenOperations(job.stop), large_blocks_returned():
                result = work(job.stop)
            job.answer.set_result(result)
        except (Stopped, InvalidStateError):
            return
        except BaseException as error:
            with suppress(InvalidStateError):  # it may be cancelled at any time
                job.answer.set_exception(error)


class _StopBetweenOperations(TorchDispatchMode):
    """Within it every operation of torch in this thread asks first whether it is still wanted."""

    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self.stop = stop

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.stop()
        return func(*args, **(kwargs or {}))


class Interruptible:
    """A runtime that asks before each run whether it is still wanted, and holds `turn` during it alone."""

    def __init__(self, runtime: Runtime, stop: Stop, turn: AbstractContextManager[Any] | None = None) -> None:
        self._runtime, self._stop, self._turn = runtime, stop, turn or nullcontext()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def __call__(self, images: torch.Tensor) -> Any:
        self._stop()
        with self._turn:
            out = self._runtime(images)
        time.sleep(0.001)  # who waits for the turn has it now: a lock is not fair
        return out

    def release_memory(self) -> None:
        """What the runtime keeps of its last run is given back, in a turn as well."""
        if release := getattr(self._runtime, "release_memory", None):
            with self._turn:
                release()
