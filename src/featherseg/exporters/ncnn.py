"""ncnn for phones: model.ncnn.param (graph), model.ncnn.bin (weights), model.ncnn.json (facts).

A file takes images of one size, by default the training size. The weights are fp32. pnnx writes the
pair from a TorchScript trace.
"""

import json
import re
import subprocess
from collections.abc import Callable
from io import BytesIO
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, fx

from featherseg.core.errors import ExportError, require
from featherseg.core.types import Size
from featherseg.costs.latency import exit_reason
from featherseg.exporters.fixed_graph import example, fixed_graph, insert_constant, replace_node
from featherseg.exporters.job import Job
from featherseg.exporters.quiet import quiet
from featherseg.inference.runtimes.ncnn import FACTS, GRAPH, WEIGHTS, read_pair_hash

aten = torch.ops.aten

LEAST = 1e-30
"""Divisor instead of 0 where the dividend is 0 too. EfficientViT's sums are far larger or 0."""

STARTS = 6
"""How often pnnx is started if it crashes.

pnnx 20261020 uses freed memory while it rewrites a graph: a sixth of the conversions of
frm-lite0-half16-light crash; the others all give the same files.
"""

LAYER_NAME = re.compile(r"[A-Za-z0-9_]+")
"""The names of ncnn's layers; pnnx keeps torch's names, with a dot or colon, for unknown ones."""


def write(job: Job) -> None:
    """Write the three files into the job's folder.

    Raises MissingExtra, and ExportError if ncnn has no layer for a part.
    """
    pnnx: Any = require("pnnx", "ncnn", "ncnn export")
    for layer in job.model.modules():
        _refuse(getattr(layer, "not_in_ncnn", ""))
    size = job.facts.fixed_size
    with TemporaryDirectory() as draft:
        trace = Path(draft) / "model.pt"
        graph = fixed_graph(job.model, size)
        for node in list(graph.graph.nodes):
            if node.target in REWRITES:
                REWRITES[node.target](graph, node)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        _trace(graph, job, size, trace)
        _run(pnnx.EXEC_PATH, trace)
        param, weights = (job.folder / f"model{ending}" for ending in (GRAPH, WEIGHTS))
        param.write_bytes(trace.with_name("model.ncnn.param").read_bytes())
        weights.write_bytes(trace.with_name("model.ncnn.bin").read_bytes())
    texts = {
        **job.metadata,
        "fixed_size": json.dumps(size),
        "sha256": json.dumps(read_pair_hash(param, weights)),
    }
    (job.folder / f"model{FACTS}").write_text(
        json.dumps(texts, indent=2, ensure_ascii=False), encoding="utf-8"
    )


def _value(module: fx.GraphModule, node: Any) -> Tensor | None:
    """Return the value of a constant node; None of others."""
    if isinstance(node, fx.Node) and node.op == "get_attr":
        return attrgetter(str(node.target))(module)
    return None


def _product(module: fx.GraphModule, node: Any) -> tuple[Tensor, fx.Node] | None:
    """Return (A, x) if the node is A @ x with a constant matrix A."""
    if isinstance(node, fx.Node) and node.target == aten.matmul.default:
        left, right = node.args
        if (matrix := _value(module, left)) is not None and isinstance(right, fx.Node):
            return matrix, right
    return None


def _select(module: fx.GraphModule, node: fx.Node) -> None:
    """Replace a selection of rows or columns by a product with a matrix of zeros and ones."""
    args: tuple[Any, ...] = node.args
    if node.target == aten.index.Tensor:  # an index for each of the first dimensions, or None
        selections = [(dim, index) for dim, index in enumerate(args[1]) if index is not None]
    else:
        selections = [args[1:]]
    x, (dim, index) = args[0], selections[0]
    shape = x.meta["val"].shape
    chosen, dim = _value(module, index), dim % len(shape) - len(shape)
    if dim not in (-2, -1) or chosen is None or chosen.dim() != 1 or len(selections) > 1:
        return
    matrix = torch.eye(shape[dim])[chosen]
    if dim == -2:
        replace_node(module, node, aten.matmul.default, insert_constant(module, node, matrix), x)
    else:
        replace_node(module, node, aten.matmul.default, x, insert_constant(module, node, matrix.T))


def _scale(module: fx.GraphModule, node: fx.Node) -> None:
    """Let the matrix of a product contain the weights of its rows."""
    first, second = node.args
    product, weights = _product(module, first), _value(module, second)
    if product and weights is not None and weights.shape == (len(product[0]), 1):
        matrix = insert_constant(module, node, product[0] * weights)
        replace_node(module, node, aten.matmul.default, matrix, product[1])


def _sum(module: fx.GraphModule, node: fx.Node) -> None:
    """Replace A @ x + B @ x by (A + B) @ x: a bicubic resize becomes one product an axis."""
    first, second = (_product(module, term) for term in node.args[:2])
    if first and second and first[1] is second[1] and not node.kwargs:
        matrix = insert_constant(module, node, first[0] + second[0])
        replace_node(module, node, aten.matmul.default, matrix, first[1])


def _divisor(module: fx.GraphModule, node: fx.Node) -> None:
    """Replace `where(x > 0, x, 1)`, by which only zeros are divided if x is 0, by a bound."""
    condition, x, other = node.args
    assert isinstance(condition, fx.Node)
    if condition.target == aten.gt.Scalar and condition.args == (x, 0) and other == 1:
        replace_node(module, node, aten.clamp.default, x, LEAST)


REWRITES: dict[Any, Callable[[fx.GraphModule, fx.Node], None]] = {
    aten.index.Tensor: _select,
    aten.index_select.default: _select,
    aten.mul.Tensor: _scale,
    aten.add.Tensor: _sum,
    aten.where.ScalarOther: _divisor,
}
"""Operation that ncnn lacks, or that takes part in one -> its replacement."""


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
    for _ in range(STARTS):
        with quiet("pnnx cannot be started"):
            process = subprocess.run(
                command, cwd=trace.parent, capture_output=True, encoding="utf-8", errors="replace"
            )
        if 0 <= process.returncode < 256:  # no signal, and on Windows no exception, ended it
            break
    graph = trace.with_name("model.ncnn.param")
    if process.returncode != 0 or not graph.is_file():
        reason = exit_reason(process.returncode, process.stderr)
        raise ExportError(f"pnnx could not write this model for ncnn: {reason}.")
    layers = {
        line.split()[0]
        for line in graph.read_text(encoding="utf-8").splitlines()[2:]
        if line.strip()
    }
    _refuse(", ".join(sorted(layer for layer in layers if not LAYER_NAME.fullmatch(layer))))


def _refuse(operations: str) -> None:
    """Raise ExportError if a model has operations for which ncnn has no layer."""
    if operations:
        raise ExportError(
            f"ncnn has no layer for {operations} of this model, so it cannot run there. "
            "Export it as onnx instead."
        )
