"""OpenVINO: an .xml and a .bin from the model's ONNX graph, any batch, height and width, weights in fp32."""

from pathlib import Path
from typing import Any

from featherseg.core.errors import ExportError, require
from featherseg.exporters import onnx
from featherseg.exporters.job import Job
from featherseg.inference.runtimes.openvino import SECTION, WEIGHTS_HASH, weights_hash


def write(job: Job) -> None:
    """model.xml and model.bin in the job's folder. Raises MissingExtra, and ExportError where a converter gives up."""
    save(convert(job), job.folder / "model.xml", job.metadata)


def convert(job: Job) -> Any:
    """-> openvino.Model, fp32: input `images` and the outputs of the ONNX file, whose tensors keep their names."""
    openvino: Any = require("openvino", "openvino", "OpenVINO export")
    source = job.folder / "source.onnx"
    source.write_bytes(onnx.content(job))
    try:
        return openvino.Core().read_model(source)  # `convert_model` would tell its makers
    except Exception as error:  # OpenVINO raises its own kinds
        first = str(error).strip().splitlines()[0]
        raise ExportError(f"OpenVINO {openvino.__version__} cannot read this model's ONNX graph: {first}") from error
    finally:
        source.unlink()


def save(model: Any, path: Path, metadata: dict[str, str]) -> None:
    """Write the pair; the .xml tells the metadata, and the hash of the .bin that belongs to it. Raises ExportError."""
    openvino: Any = require("openvino", "openvino", "OpenVINO export")
    try:
        openvino.save_model(model, path, compress_to_fp16=False)
        texts = {**metadata, WEIGHTS_HASH: weights_hash(path.with_suffix(".bin"))}
        for key, text in texts.items():
            model.set_rt_info(text, [SECTION, key])
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:  # a disk that refuses is one of its own kinds too
        first = str(error).strip().splitlines()[0]
        raise ExportError(f"OpenVINO cannot write {path.name}: {first}. Is the disk full?") from error
