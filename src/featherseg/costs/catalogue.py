"""Recorded figures of the catalogue's models: parameters, MACs, latency, accuracy."""

from pathlib import Path
from typing import Any

from featherseg import models
from featherseg.core.files import load_json
from featherseg.costs.cost import cost

SIZE = (512, 1024)
"""(height, width) of the image that models are counted at."""

CLASSES = 19


def counts(name: str) -> tuple[int, int]:
    """Return (parameters, multiply-accumulates by `macs`) of a model at SIZE and CLASSES.

    The figures are those of the model's row in the catalogue. A model is counted only if its row
    has none, because counting all models takes more than ten seconds.

    Raises:
        UnknownName: for a model that is not in the catalogue.
    """
    row = models.entry(name)
    if row.params is not None and row.macs is not None:
        return row.params, row.macs
    counted = cost(name, SIZE, CLASSES)
    return counted.params, counted.macs["macs"]


LATENCIES = Path(__file__).parent / "latencies.json"
"""Measured latency of semantic models: "ms" by model, and how they were measured."""


def latencies() -> dict[str, Any]:
    """Return "ms" by model, "device", "threads", "format", "size", "classes" and "date".

    A model that is not in "ms" was never timed.
    """
    return load_json(LATENCIES)


SCORES = Path(__file__).parent / "scores.json"
"""Measured test mIoU of models that were trained under the same recipe."""


def scores() -> dict[str, Any]:
    """Return "miou" (0..1) by dataset and model, "minutes" of one core in training, and "seeds".

    Each model has a score on every dataset, the mean of at least "seeds" runs.
    """
    return load_json(SCORES)
