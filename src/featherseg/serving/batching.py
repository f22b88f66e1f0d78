"""One thread per model: waiting images of one size go through the model together.

Nothing waits for a batch to fill. If the model fails on a batch, its images are run one by one, so
that one image cannot fail the others.
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
"""Models take turns, because each uses all cores, or the only device."""


@dataclass(eq=False)  # compared by identity: arrays of two sizes cannot be compared
class _Job:
    pixels: np.ndarray  # (H, W, C)
    answer: "Future[Prediction]" = field(default_factory=Future)


class Worker:
    """Runs `predict` on images in order of arrival, at most `batch` of one size at a time.

    `observe` is called with the size of every batch. The caller bounds how many images may wait.
    """

    def __init__(
        self, predict: Predict, batch: int, observe: Callable[[int], None] = lambda size: None
    ) -> None:
        self.predict, self.batch, self.observe = predict, batch, observe
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def submit(self, pixels: np.ndarray) -> "Future[Prediction]":
        """Return a future of the prediction for an image (H, W, C) uint8 or uint16.

        An image cancelled while it waits is not run.
        """
        job = _Job(pixels)
        with self._changed:
            assert not self._closed
            self._jobs.append(job)
            self._changed.notify()
        return job.answer

    @property
    def waiting(self) -> int:
        """The number of images not yet run."""
        return len(self._jobs)

    @property
    def alive(self) -> bool:
        """Whether the thread runs and answers."""
        return self._thread.is_alive()

    def close(self, seconds: float) -> None:
        """Finish waiting images, for at most `seconds`, and end the thread."""
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
            del jobs, running  # frees the images while the thread waits

    def _take(self) -> list[_Job]:
        """Return the first waiting image and further ones of its size, at most a batch.

        Returns nothing when closed and done.
        """
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            if not self._jobs:
                return []
            first = self._jobs[0].pixels
            jobs = [job for job in self._jobs if alike(job.pixels, first)][: self.batch]
            for job in jobs:
                self._jobs.remove(job)
            return jobs

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
