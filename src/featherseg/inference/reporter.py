"""Where `featherseg.predict` reports while it works."""

import logging
from typing import Protocol, runtime_checkable

from featherseg.core.types import Progress
from featherseg.inference.predictor import Prediction


@runtime_checkable
class PredictReporter(Protocol):
    """Receives what happens while predictions are written. The command line prints it."""

    def message(self, text: str) -> None:
        """Receive a sentence for the user."""

    def skipped(self, reason: str) -> None:
        """Receive why an image or a video is skipped."""

    def predicted(self, name: str, result: Prediction, images: int) -> None:
        """Receive the prediction of an image, one of `images`."""

    def progress(self, doing: str, done: int, total: int | None) -> None:
        """Receive how far the work is: a `Progress`."""


class LoggedReporter:
    """Calls a `Progress`; messages go to the logger "featherseg"."""

    def __init__(self, progress: Progress) -> None:
        self.on_progress = progress

    def message(self, text: str) -> None:
        """Log a sentence."""
        logging.getLogger("featherseg").info("%s", text)

    def skipped(self, reason: str) -> None:
        """Do nothing: the result lists what is skipped."""

    def predicted(self, name: str, result: Prediction, images: int) -> None:
        """Do nothing: the result lists the names."""

    def progress(self, doing: str, done: int, total: int | None) -> None:
        """Call the `Progress`."""
        self.on_progress(doing, done, total)
