"""The formats that a model can be written in.

To add one: its module with `write(job)`, its row in EXPORTERS, a test; and its runtime in
`inference.runtimes`, if none exists.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from featherseg.exporters import (
    coreml,
    litert,
    ncnn,
    onnx,
    onnx_int8,
    openvino,
    openvino_int8,
    tensorrt,
    web,
)
from featherseg.exporters import pt2 as torch_export
from featherseg.exporters.job import Job, Quantised
from featherseg.inference.runtimes import FILE_RUNTIMES


@dataclass(frozen=True)
class Format:
    """One export format.

    main is the name of the file or folder that is opened; write(job) puts it and its companions
    into the job's folder. extra is the pip extra with the `packages` that write and check the file.
    checked is the file for the parity check if main is a folder. quantised: it needs calibration
    images, and its logits differ from the model's. verified=False: no runtime here can check the
    file, and the report says so. masks: it can be written with masks as outputs. channels_last: the
    layout of maps in its runtime (see `onnx.graph_form`). need() raises before any work if
    something is missing that is no Python package.
    """

    main: str
    write: Callable[[Job], Quantised | None]
    extra: str = "export"
    packages: tuple[str, ...] = ()
    checked: str = ""
    quantised: bool = False
    verified: bool = True
    masks: bool = False
    channels_last: bool = False
    need: Callable[[], object] | None = None

    @property
    def ending(self) -> str:
        """The ending by which `open_file` recognises the file, ".onnx" of model.int8.onnx; "" of a
        folder.
        """
        return next(
            (ending for ending in FILE_RUNTIMES if self.main.endswith(ending)),
            Path(self.main).suffix,
        )

    @property
    def is_folder(self) -> bool:
        """Whether main is a folder; no runtime opens it, even with an ending such as .mlpackage."""
        return self.ending not in FILE_RUNTIMES


ONNX = ("onnx", "onnxscript", "onnxruntime")
OPENVINO = ("onnx", "onnxscript", "openvino")  # its graph is read from ONNX

EXPORTERS: dict[str, Format] = {
    "onnx": Format("model.onnx", onnx.write, packages=ONNX, masks=True),
    "openvino": Format(
        "model.xml", openvino.write, "openvino", OPENVINO, masks=True, channels_last=True
    ),
    "onnx-int8": Format("model.int8.onnx", onnx_int8.write, packages=ONNX, quantised=True),
    "openvino-int8": Format(
        "model.int8.xml", openvino_int8.write, "openvino", (*OPENVINO, "nncf"), quantised=True
    ),
    "torch-export": Format("model.pt2", torch_export.write),
    "ncnn": Format("model.ncnn.param", ncnn.write, "ncnn", ("pnnx", "ncnn")),
    "litert": Format("model.tflite", litert.write, "litert", ("litert_torch", "ai_edge_litert")),
    "web": Format("web", web.write, packages=ONNX, checked="web/model.onnx", need=web.find_runtime),
    "tensorrt": Format(
        "tensorrt", tensorrt.write, packages=ONNX, verified=False, channels_last=True
    ),
    "coreml": Format("model.mlpackage", coreml.write, "coreml", ("coremltools",), verified=False),
}
