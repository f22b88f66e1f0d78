"""One thread a model: images of one size that wait at the same time go through it together.

Nothing waits for a batch to fill. A batch in which the model fails is run again image by image, so that one
image hurts no other.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from featherseg.inference.inputs import alike
from featherseg.inference.predictor import Prediction

Predict = Callable[[list[np.ndarray]], Sequence[Prediction]]

turns = threading.Lock()
"""Models take turns: each takes all cores, or the one device, by itself."""


@dataclass(eq=False)  # a job is itself alone: arrays of two sizes cannot be compared
class _Job:
    pixels: np.ndarray  # (H, W, C)
    answer: "Future[Prediction]" = field(default_factory=Future)


class Worker:
    """Runs `predict` on images in the order they come, at most `batch` of one size at a time.

    observe is told the size of every batch. How many may wait is bounded by who submits.
    """

    def __init__(self, predict: Predict, batch: int, observe: Callable[[int], None] = lambda size: None) -> None:
        self.predict, self.batch, self.observe = predict, batch, observe
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def submit(self, pixels: np.ndarray) -> "Future[Prediction]":
        """The answer for an image (H, W, C) uint8 or uint16, to come; cancelled while it waits, it costs nothing."""
        job = _Job(pixels)
        with self._changed:
            assert not self._closed
            self._jobs.append(job)
            self._changed.notify()
        return job.answer

    @property
    def waiting(self) -> int:
        """Images that are not yet run."""
        return len(self._jobs)

    @property
    def alive(self) -> bool:
        """Whether answers will come."""
        return self._thread.is_alive()

    def close(self, seconds: float) -> None:
        """Finish what waits, for at most so long, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)

    def _work(self) -> None:
        while jobs := self._take():
            running = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
            if running:
                self.observe(len(running))
                self._answer(running)
            del jobs, running  # no image is held while the thread waits

    def _take(self) -> list[_Job]:
        """The first that waits, and those like it, at most a batch; none when closed and done."""
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            if not self._jobs:
                return []
            first = self._jobs[0].pixels
            taken = [job for job in self._jobs if alike(job.pixels, first)][: self.batch]
            for job in taken:
                self._jobs.remove(job)
            return taken

    def _answer(self, jobs: Sequence[_Job]) -> None:
        try:
            with turns:
                answers = self.predict([job.pixels for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
                return
            for job in jobs:
                self._answer([job])
            return
        for job, answer in zip(jobs, answers, strict=True):
            job.answer.set_result(answer)
