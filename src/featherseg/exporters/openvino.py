"""OpenVINO: an .xml and a .bin from the model's ONNX graph, any batch, height and width, weights in fp32."""

from pathlib import Path
from typing import Any

from featherseg.core.errors import require
from featherseg.core.files import file_digest
from featherseg.exporters.job import Job
from featherseg.exporters.quiet import quiet
from featherseg.inference.runtimes.openvino import SECTION, WEIGHTS_HASH


def write(job: Job) -> None:
    """model.xml and model.bin in the job's folder. Raises MissingExtra, and ExportError where a converter gives up."""
    save(convert(job), job.folder / "model.xml", job.metadata)


def convert(job: Job) -> Any:
    """-> openvino.Model, fp32: input `images` and the outputs of the ONNX file, whose tensors keep their names."""
    openvino: Any = require("openvino", "openvino", "OpenVINO export")
    source = job.folder / "source.onnx"
    source.write_bytes(job.graph())
    with quiet(f"OpenVINO {openvino.__version__} cannot read this model's ONNX graph"):
        model = openvino.Core().read_model(source)  # `convert_model` would tell its makers
    source.unlink()
    return model


def save(model: Any, path: Path, metadata: dict[str, str]) -> None:
    """Write the pair; the .xml tells the metadata, and the hash of the .bin that belongs to it. Raises ExportError."""
    openvino: Any = require("openvino", "openvino", "OpenVINO export")
    with quiet(f"OpenVINO cannot write {path.name}", advice="Is the disk full?"):  # it tells by a kind of its own
        openvino.save_model(model, path, compress_to_fp16=False)
        texts = {**metadata, WEIGHTS_HASH: file_digest(path.with_suffix(".bin"))}
        for key, text in texts.items():
            model.set_rt_info(text, [SECTION, key])
        openvino.save_model(model, path, compress_to_fp16=False)
