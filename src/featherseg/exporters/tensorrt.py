"""TensorRT for NVIDIA GPUs. UNTESTED: written from its documentation, never run with TensorRT.

An engine fits one kind of GPU and one version of TensorRT. Therefore the export is a folder to
build it on the target: the ONNX file, a script that uses TensorRT's Python package, and a note.
featherseg has no runtime for it.
"""

import json
from importlib.resources import files

from featherseg.core.wording import one_line
from featherseg.exporters.job import Job

NOTE = """\
{name} for TensorRT. UNTESTED: this was written from TensorRT's documentation and run on no GPU.

Where the model will run, with TensorRT's Python package installed:
    python build_engine.py --height {height} --width {width}
That writes model.engine for images from 64x64 to {largest} (height x width).
It is made for {height}x{width}.
Input "images" (B, C, H, W) float32, normalised as model.json says; output "logits" (B, K, h, w).
Compare its logits with those of model.onnx before it is used.
"""


def write(job: Job) -> None:
    """Write tensorrt/ into the job's folder: model.onnx, model.json, build_engine.py, README.txt.

    model.json contains the facts. Untested. Raises MissingExtra, and ExportError if the ONNX
    exporter fails.
    """
    folder = job.folder / "tensorrt"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(job.graph())
    (folder / "model.json").write_text(
        json.dumps(job.metadata, indent=2, ensure_ascii=False), encoding="utf-8"
    )
    script = files("featherseg.exporters") / "tensorrt_files" / "build_engine.py"
    (folder / "build_engine.py").write_bytes(script.read_bytes())
    height, width = job.facts.fixed_size
    largest = f"{2 * height}x{2 * width}"
    note = NOTE.format(name=one_line(job.facts.name), height=height, width=width, largest=largest)
    (folder / "README.txt").write_text(note, encoding="utf-8")
