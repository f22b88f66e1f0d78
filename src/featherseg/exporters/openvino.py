"""OpenVINO: an .xml and a .bin from the ONNX graph, any batch, height and width, in fp32."""

from pathlib import Path
from typing import Any

from featherseg.core.errors import require
from featherseg.core.files import file_digest
from featherseg.exporters.job import Job
from featherseg.exporters.quiet import quiet
from featherseg.inference.runtimes.openvino import SECTION, WEIGHTS_HASH


def write(job: Job) -> None:
    """Write model.xml and model.bin into the job's folder.

    Raises MissingExtra, and ExportError if a converter fails.
    """
    save(convert(job), job.folder / "model.xml", job.metadata)


def convert(job: Job) -> Any:
    """Return an openvino.Model in fp32 with the ONNX file's inputs, outputs and tensor names."""
    openvino: Any = require("openvino", "openvino", "OpenVINO export")
    source = job.folder / "source.onnx"
    source.write_bytes(job.graph())
    with quiet(f"OpenVINO {openvino.__version__} cannot read this model's ONNX graph"):
        model = openvino.Core().read_model(source)  # `convert_model` would report usage
    source.unlink()
    return model


def save(model: Any, path: Path, metadata: dict[str, str]) -> None:
    """Write the pair; the .xml contains the metadata and the hash of its .bin.

    Raises ExportError.
    """
    openvino: Any = require("openvino", "openvino", "OpenVINO export")
    with quiet(
        f"OpenVINO cannot write {path.name}", advice="Is the disk full?"
    ):  # OpenVINO raises its own kind of error
        openvino.save_model(model, path, compress_to_fp16=False)
        texts = {**metadata, WEIGHTS_HASH: file_digest(path.with_suffix(".bin"))}
        for key, text in texts.items():
            model.set_rt_info(text, [SECTION, key])
        openvino.save_model(model, path, compress_to_fp16=False)
