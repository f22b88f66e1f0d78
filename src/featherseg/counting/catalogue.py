"""What `featherseg models` says at once of the catalogue: parameters, multiply-accumulates, latency, accuracy."""

from pathlib import Path
from typing import Any

from featherseg import models
from featherseg.core.files import load_json
from featherseg.counting.cost import cost

SIZE = (512, 1024)
"""(height, width) of the image that is counted."""

CLASSES = 19


def counts(name: str) -> tuple[int, int]:
    """(parameters, multiply-accumulates by `macs`) of a model at SIZE and CLASSES. Raises UnknownName.

    As its row of the catalogue states them: counting them all takes ten seconds and more, so only
    a model whose row states none is counted here.
    """
    row = models.entry(name)
    if row.params is not None and row.macs is not None:
        return row.params, row.macs
    counted = cost(name, SIZE, CLASSES)
    return counted.params, counted.macs["macs"]


LATENCIES = Path(__file__).parent / "latencies.json"
"""Milliseconds of semantic models: "ms", with "device", "threads", "format", "size", "classes", "date"."""


def latencies() -> dict[str, Any]:
    """What LATENCIES holds; a model that is not in "ms" was never timed."""
    return load_json(LATENCIES)


SCORES = Path(__file__).parent / "scores.json"
"""Test mIoU (0..1) of models that were trained alike: "miou" by dataset and model, "minutes" of one core, "seeds"."""


def scores() -> dict[str, Any]:
    """What SCORES holds; each model in it has for every dataset the mean of "seeds" runs at least."""
    return load_json(SCORES)
