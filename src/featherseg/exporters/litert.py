"""LiteRT (formerly TensorFlow Lite) for phones: one .tflite file with its facts in a zip.

The zip archive is at the end of the file. The file takes one normalised image (1, C, H, W) of one
size, by default the training size; weights are in fp32.
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
    """Write model.tflite into the job's folder.

    Raises MissingExtra, and ExportError if the converter fails.
    """
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
