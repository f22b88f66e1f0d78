"""openvino-int8: the OpenVINO graph with int8 convolutions and products, quantised after training by NNCF."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featherseg.core.errors import ExportError, require
from featherseg.export import onnx, openvino
from featherseg.export.int8 import quantise
from featherseg.export.job import Job, Quantised
from featherseg.export.quiet import quiet

os.environ.setdefault("NNCF_CI", "1")  # else NNCF, when it is imported, begins to tell its makers what it does


def write(job: Job) -> Quantised:
    """model.int8.xml and model.int8.bin in the job's folder; see `int8.quantise`. Raises MissingExtra, ExportError."""
    nncf: Any = require("nncf", "openvino", "int8 for OpenVINO")
    proto: Any = require("onnx", "export", "OpenVINO export").load_from_string(onnx.content(job))
    path = job.folder / "model.int8.xml"

    def candidate(layers: Sequence[str], nodes: Sequence[str]) -> Path:
        model = openvino.convert(job)
        names = [op.get_friendly_name() for op in model.get_ops() if op.get_friendly_name().split("/")[0] in nodes]
        openvino.save(_quantised(nncf, model, job, names), path, {**job.metadata, "kept": json.dumps(list(layers))})
        return path

    return quantise(job, proto.graph, candidate)


def _quantised(nncf: Any, model: Any, job: Job, kept: Sequence[str]) -> Any:
    """-> openvino.Model with weights in int8 by output channel, activations in int8 or uint8 by tensor.

    MIXED: activations of both signs are taken as such, others from zero on. `kept` are operations left in fp32.
    """
    pictures = nncf.Dataset(job.calibration, lambda picture: picture.numpy())
    try:
        with quiet("nncf"):
            return nncf.quantize(
                model,
                pictures,
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(job.calibration),
                ignored_scope=nncf.IgnoredScope(names=list(kept), validate=False),
            )
    except Exception as error:  # NNCF and OpenVINO raise their own kinds
        first = str(error).strip().splitlines()[0]
        raise ExportError(f"NNCF {nncf.__version__} cannot quantise this network: {first}") from error
