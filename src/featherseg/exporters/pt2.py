"""torch-export: a .pt2 file of torch operators without Python code, for any image size."""

import json
from io import BytesIO
from typing import Any

import torch
from torch.fx.experimental import _config as tracing

from featherseg.exporters.job import Job, Maps
from featherseg.exporters.quiet import EVERY_SIZE, quiet
from featherseg.inference.runtimes.pt2 import FACTS

EXAMPLE = (2, 160, 224)
"""(batch, height, width) of the traced image; a size of 1 would become a constant."""


def write(job: Job) -> None:
    """Write model.pt2 into the job's folder, with its metadata. Raises ExportError if torch fails.

    It is traced like torch's own ONNX export. Otherwise the strides of a map decide which sizes the
    file takes, because they depend on whether the example leaves one position of it (DDRNet would
    only take sides of 65 to 256).
    """
    batch, height, width = EXAMPLE
    images = torch.zeros(batch, len(job.model.mean), height, width)
    any_size = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    content = BytesIO()  # in memory: if the disk refuses, torch aborts the process
    with quiet(f"torch {torch.__version__} cannot export this model", advice=EVERY_SIZE):
        with tracing.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            program = torch.export.export(
                Maps(job.model).eval(), (images,), dynamic_shapes=(any_size,)
            )
        _strip(program)
        torch.export.save(program, content, extra_files={FACTS: json.dumps(job.metadata)})
    (job.folder / "model.pt2").write_bytes(content.getbuffer())


def _strip(program: Any) -> None:
    """Drop debugging data (with paths of this machine), the example image, and guards of its size.

    The strides stored with every map go too. Nothing uses them at run time, but they are long
    expressions of sizes to parse: without them frm-lite0 opens in less than half the time.
    """
    program._guards_code = []
    program.example_inputs = None
    for module in program.graph_module.modules():
        for node in module.graph.nodes:
            for key in (
                "stack_trace",
                "nn_module_stack",
                "source_fn_stack",
                "torch_fn",
                "from_node",
                "custom",
            ):
                node.meta.pop(key, None)
            if node.op == "call_function" and isinstance(
                value := node.meta.get("val"), torch.Tensor
            ):
                node.meta["val"] = value.new_empty(()).expand(value.shape)  # its strides are 0
