"""openvino-int8: the OpenVINO graph with int8 convolutions and products, quantised by NNCF."""

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
"""The attribute in which OpenVINO stores what an operation was fused from."""


def write(job: Job) -> Quantised:
    """Write model.int8.xml and model.int8.bin into the job's folder; see `int8.quantise`.

    Raises MissingExtra, ExportError.
    """
    nncf: Any = require("nncf", "openvino", "int8 for OpenVINO")
    proto: Any = require("onnx", "export", "OpenVINO export").load_from_string(job.graph())
    path = job.folder / "model.int8.xml"

    def candidate(layers: Sequence[str], nodes: Sequence[str]) -> Path:
        model = fused(openvino.convert(job))
        kept = [op.get_friendly_name() for op in model.get_ops() if origins(op) & set(nodes)]
        kept += before_windows(model)
        openvino.save(
            _quantised(nncf, model, job, kept),
            path,
            {**job.metadata, "kept": json.dumps(list(layers))},
        )
        return path

    return quantise(job, proto.graph, candidate)


def fused(model: Any) -> Any:
    """Fuse GELUs, norms and scaled convolutions of an openvino.Model in place, and return it.

    OpenVINO does so whenever it opens a file. Here it must happen before quantisation: a GELU in
    parts, each quantised, is slow and keeps extra maps (docs/performance.md).
    """
    passes: Any = require("openvino._offline_transformations", "openvino", "int8 for OpenVINO")
    passes.apply_moc_transformations(model, cf=True)
    return model


def origins(operation: Any) -> set[str]:
    """Return the names in the ONNX graph of an operation, or of those fused into it."""
    names = operation.get_friendly_name()
    notes = operation.get_rt_info()
    if FUSED in notes:
        names += "," + notes[FUSED].astype(str)
    return {name.split("/")[0] for name in names.split(",")}


def before_windows(model: Any) -> list[str]:
    """Return the convolutions whose output a Gather cuts into windows, as RSP's keys and values.

    OpenVINO 2026.4 cannot open the file if these are quantised: it moves the scale of each channel
    behind the Gather as if the axes stayed the same.
    """
    names = []
    for operation in model.get_ops():
        if (
            operation.get_type_name() == "Gather"
            and operation.input_value(1).get_partial_shape().rank.get_length() > 1
        ):
            while operation.get_type_name() not in ("Convolution", "Parameter", "Constant"):
                operation = operation.input_value(0).get_node()
            names.append(operation.get_friendly_name())
    return names


def _quantised(nncf: Any, model: Any, job: Job, kept: Sequence[str]) -> Any:
    """Return the openvino.Model with int8 weights by output channel and 8-bit activations.

    `kept` are operations that stay in fp32. Activations are rounded by tensor, to int8, or to uint8
    if they are not negative. PERFORMANCE keeps zero at 0 in int8. MIXED would shift ranges of both
    signs and so use all of a GELU's range (0.2 to 0.4 dB better), but then 1x1 convolutions crash
    the process on Intel processors with AMX at sizes that cannot be predicted (OpenVINO 2026.4,
    docs/log.md). Weights use only -64..64, as in onnx_int8.py, for processors without VNNI.
    """
    images = nncf.Dataset(job.calibration, lambda image: image.numpy())
    with quiet(f"NNCF {nncf.__version__} cannot quantise this model", "nncf"):
        return nncf.quantize(
            model,
            images,
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(job.calibration),
            ignored_scope=nncf.IgnoredScope(names=list(kept), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE
            ),
        )
