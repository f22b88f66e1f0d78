"""What an exporter is given, with the model's own ONNX graph unless a test brings another."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from featherseg.exporters.job import Facts, Job
from featherseg.exporters.onnx import to_onnx
from featherseg.layers.model import SegmentationModel


def job_of(
    model: SegmentationModel,
    facts: Facts,
    folder: Path,
    calibration: Sequence[Tensor] = (),
    **options: Any,
) -> Job:
    """A job of `model` that writes into `folder`."""
    graph = options.pop("graph", partial(to_onnx, model, facts))
    return Job(model, facts, folder, graph, calibration, **options)
