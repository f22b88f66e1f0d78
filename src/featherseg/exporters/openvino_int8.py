"""openvino-int8: the OpenVINO graph with int8 convolutions and products, quantised after training by NNCF."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featherseg.core.errors import require
from featherseg.exporters import openvino
from featherseg.exporters.int8 import quantise
from featherseg.exporters.job import Job, Quantised
from featherseg.exporters.quiet import quiet

FUSED = "fused_names_0"
"""Where OpenVINO notes what an operation was made of."""


def write(job: Job) -> Quantised:
    """model.int8.xml and model.int8.bin in the job's folder; see `int8.quantise`. Raises MissingExtra, ExportError."""
    nncf: Any = require("nncf", "openvino", "int8 for OpenVINO")
    proto: Any = require("onnx", "export", "OpenVINO export").load_from_string(job.graph())
    path = job.folder / "model.int8.xml"

    def candidate(layers: Sequence[str], nodes: Sequence[str]) -> Path:
        model = fused(openvino.convert(job))
        kept = [op.get_friendly_name() for op in model.get_ops() if origins(op) & set(nodes)]
        kept += before_windows(model)
        openvino.save(_quantised(nncf, model, job, kept), path, {**job.metadata, "kept": json.dumps(list(layers))})
        return path

    return quantise(job, proto.graph, candidate)


def fused(model: Any) -> Any:
    """The openvino.Model itself, with its GELUs, norms and scaled convolutions each in one operation.

    OpenVINO does so whenever it opens a file. Here it must be done before int8 comes in between: a GELU in pieces, each
    quantised, is slow and holds maps of its own (benchmarks/tables).
    """
    passes: Any = require("openvino._offline_transformations", "openvino", "int8 for OpenVINO")
    passes.apply_moc_transformations(model, cf=True)
    return model


def origins(operation: Any) -> set[str]:
    """The names that an operation has, or that what was fused into it had, in the ONNX graph."""
    names = operation.get_friendly_name()
    notes = operation.get_rt_info()
    if FUSED in notes:
        names += "," + notes[FUSED].astype(str)
    return {name.split("/")[0] for name in names.split(",")}


def before_windows(model: Any) -> list[str]:
    """The convolutions whose output is cut into windows (a Gather by a table of places), as RSP's keys and values are.

    OpenVINO 2026.4 cannot open the file where these are quantised: it moves the scale of each channel behind the Gather
    as if that kept the axes.
    """
    found = []
    for operation in model.get_ops():
        if operation.get_type_name() == "Gather" and operation.input_value(1).get_partial_shape().rank.get_length() > 1:
            while operation.get_type_name() not in ("Convolution", "Parameter", "Constant"):
                operation = operation.input_value(0).get_node()
            found.append(operation.get_friendly_name())
    return found


def _quantised(nncf: Any, model: Any, job: Job, kept: Sequence[str]) -> Any:
    """-> openvino.Model with weights in int8 by output channel, activations in int8 or, from zero on, uint8 by tensor.

    PERFORMANCE: zero is 0 in int8 too. MIXED would shift ranges of both signs, and so waste none of a GELU's (by 0.2 to
    0.4 dB), but then 1x1 convolutions end the process on Intel processors with AMX at sizes that cannot be told
    beforehand (OpenVINO 2026.4, docs/log.md). Weights reach to 64 alone, as in onnx_int8.py, for processors without
    VNNI. `kept` are operations left out.
    """
    images = nncf.Dataset(job.calibration, lambda image: image.numpy())
    with quiet(f"NNCF {nncf.__version__} cannot quantise this model", "nncf"):
        return nncf.quantize(
            model,
            images,
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(job.calibration),
            ignored_scope=nncf.IgnoredScope(names=list(kept), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        )
