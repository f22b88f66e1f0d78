"""Core ML for Apple's devices. UNTESTED: written from coremltools' documentation, never run.

The package takes one normalised image (1, C, H, W) of one size, by default the training size.
featherseg has no runtime for it.
"""

import json
from typing import Any

import torch

from featherseg.core.errors import require
from featherseg.exporters.fixed_graph import example, with_few_dimensions
from featherseg.exporters.job import Job, Maps
from featherseg.exporters.quiet import quiet


def write(job: Job) -> None:
    """Write model.mlpackage into the job's folder. Untested.

    Raises MissingExtra without coremltools, ExportError if coremltools fails.
    """
    coremltools: Any = require("coremltools", "coreml", "Core ML export")
    size = job.facts.fixed_size
    with quiet("coremltools cannot write this model"):
        program = torch.export.export(
            Maps(with_few_dimensions(job.model)).eval(), (example(job.model, size),)
        )
        package = coremltools.convert(
            program.run_decompositions({}),
            outputs=[coremltools.TensorType(name=name) for name in job.outputs],
            convert_to="mlprogram",
            compute_precision=coremltools.precision.FLOAT32,
        )
        for key, text in {**job.metadata, "fixed_size": json.dumps(size)}.items():
            package.user_defined_metadata[f"featherseg.{key}"] = text
        package.save(str(job.folder / "model.mlpackage"))
