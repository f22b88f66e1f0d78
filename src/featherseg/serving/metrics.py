"""Metrics of the service for Prometheus, in a separate registry with bounded labels."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCHES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The metrics of one service; `under_way()` returns the number of images in progress."""

    def __init__(self, under_way: Callable[[], int]) -> None:
        registry = self.registry = CollectorRegistry()
        self._requests = Counter(
            "featherseg_requests", "Answers.", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "featherseg_request_seconds",
            "From request to response.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "featherseg_batch_size",
            "Batch size of a model's passes.",
            ["model"],
            buckets=BATCHES,
            registry=registry,
        )
        self._pixels = Counter(
            "featherseg_pixels", "Segmented pixels.", ["model"], registry=registry
        )
        queue = Gauge(
            "featherseg_queue_length", "Images between arrival and response.", registry=registry
        )
        queue.set_function(under_way)
        ProcessCollector(registry=registry)  # memory and processor time, on Linux

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count an answer; `path` is the route's template."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def ran(self, model: str, size: int) -> None:
        """Count a batch of `size` images of a model."""
        self._batches.labels(model).observe(size)

    def segmented(self, model: str, pixels: int) -> None:
        """Count a segmented image."""
        self._pixels.labels(model).inc(pixels)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
