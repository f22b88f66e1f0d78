"""ncnn for phones: model.ncnn.param (graph), model.ncnn.bin (weights), model.ncnn.json (facts).

A file takes images of one size, by default the training size. The weights are fp32. pnnx writes the
pair from a TorchScript trace.
"""

import json
import re
import subprocess
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import fx

from featherseg.core.errors import ExportError, require
from featherseg.core.types import Size
from featherseg.exporters.fixed_graph import example, fixed_graph
from featherseg.exporters.job import Job
from featherseg.exporters.quiet import quiet
from featherseg.inference.runtimes.ncnn import FACTS, GRAPH, WEIGHTS, read_pair_hash

LAYER_NAME = re.compile(r"[A-Za-z0-9_]+")
"""The names of ncnn's layers; pnnx keeps torch's names, with a dot or colon, for unknown ones."""


def write(job: Job) -> None:
    """Write the three files into the job's folder.

    Raises MissingExtra, and ExportError if pnnx has no layer for a part.
    """
    pnnx: Any = require("pnnx", "ncnn", "ncnn export")
    size = job.facts.fixed_size
    with TemporaryDirectory() as draft:
        trace = Path(draft) / "model.pt"
        _trace(fixed_graph(job.model, size), job, size, trace)
        _run(pnnx.EXEC_PATH, trace)
        graph, weights = (job.folder / f"model{ending}" for ending in (GRAPH, WEIGHTS))
        graph.write_bytes(trace.with_name("model.ncnn.param").read_bytes())
        weights.write_bytes(trace.with_name("model.ncnn.bin").read_bytes())
    texts = {
        **job.metadata,
        "fixed_size": json.dumps(size),
        "sha256": json.dumps(read_pair_hash(graph, weights)),
    }
    (job.folder / f"model{FACTS}").write_text(
        json.dumps(texts, indent=2, ensure_ascii=False), encoding="utf-8"
    )


def _trace(graph: fx.GraphModule, job: Job, size: Size, path: Path) -> None:
    """Write the graph as TorchScript, the input of pnnx."""
    with quiet(
        "torch cannot write this model as TorchScript"
    ):  # torch calls TorchScript deprecated; pnnx reads nothing else
        content = BytesIO()  # in memory: if the disk refuses, torch aborts the process
        torch.jit.save(torch.jit.trace(graph, example(job.model, size), check_trace=False), content)
    path.write_bytes(content.getbuffer())


def _run(program: str, trace: Path) -> None:
    """Run pnnx in a separate process, because it prints a lot. Raises ExportError if it fails."""
    command = [program, trace.name, "fp16=0"]
    with quiet("pnnx cannot be started"):
        process = subprocess.run(
            command, cwd=trace.parent, capture_output=True, encoding="utf-8", errors="replace"
        )
    graph = trace.with_name("model.ncnn.param")
    if process.returncode != 0 or not graph.is_file():
        lines = process.stderr.strip().splitlines()
        raise ExportError(
            "pnnx could not write this model for ncnn: "
            f"{lines[-1] if lines else process.returncode}."
        )
    layers = {
        line.split()[0]
        for line in graph.read_text(encoding="utf-8").splitlines()[2:]
        if line.strip()
    }
    unknown = sorted(layer for layer in layers if not LAYER_NAME.fullmatch(layer))
    if unknown:
        raise ExportError(
            f"ncnn has no layer for {', '.join(unknown)} of this model, so it cannot run there. "
            f"Export it as onnx or litert instead."
        )
