"""LiteRT (formerly TensorFlow Lite), for phones: one .tflite file, with the facts in a zip archive at its end.

The file takes one image (1, C, H, W) of one size, that which the model was trained on, normalised; weights in fp32.
"""

import json
import os
import zipfile
from typing import Any

from featherseg.core.errors import require
from featherseg.exporters.fixed_graph import example, fixed_graph
from featherseg.exporters.job import Job
from featherseg.exporters.quiet import quiet
from featherseg.inference.runtimes.litert import FACTS


def write(job: Job) -> None:
    """model.tflite in the job's folder. Raises MissingExtra, and ExportError where the converter gives up."""
    os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")  # it prints its progress otherwise
    with quiet("litert-torch cannot be imported"):
        litert_torch: Any = require("litert_torch", "litert", "LiteRT export")
    size = job.facts.fixed_size
    graph, path = fixed_graph(job.model, size), job.folder / "model.tflite"
    with quiet("litert-torch cannot write this model"):
        litert_torch.convert(graph, (example(job.model, size),)).export(str(path))
    texts = {**job.metadata, "fixed_size": json.dumps(size)}
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(FACTS, json.dumps(texts, indent=2, ensure_ascii=False))
