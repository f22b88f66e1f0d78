"""An exported .onnx file that is ready to run."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.core.errors import DataNotFound, DeviceError, ExportError, require
from featherseg.core.machine import default_threads
from featherseg.core.wording import visible
from featherseg.inference.runtimes.file_check import check_file
from featherseg.inference.runtimes.file_metadata import FileRuntime, read_facts

GPU = "CUDAExecutionProvider"
"""The name of NVIDIA GPUs in onnxruntime."""


class OnnxRuntime(FileRuntime):
    """A file of `featherseg export --format onnx` or onnx-int8.

    Raises:
        ExportError: It is no such file.
        MissingExtra: onnxruntime is not installed.
        DeviceError: The installed onnxruntime cannot use the device.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        self._session = open_session(path, device, threads=threads)
        super().__init__(path, read_facts(self._session.get_modelmeta().custom_metadata_map, path))
        self._input = self._session.get_inputs()[0].name

    def run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """See FileRuntime."""
        try:
            outputs: list[np.ndarray] = self._session.run(self.outputs, {self._input: images})
        except Exception as error:  # onnxruntime raises its own kinds, which share no base
            raise ExportError(
                f"{self.name} cannot be run by onnxruntime: {_reason(error)}"
            ) from None
        return outputs


def open_session(
    path: Path, device: str, *, threads: int | None = None, profile: Path | None = None
) -> Any:
    """Open an onnxruntime session. Raises as OnnxRuntime.

    Args:
        path: The file.
        device: auto, cpu, cuda or cuda:N.
        threads: Threads of the CPU. Default: `core.machine.default_threads`.
        profile: The beginning of the name of a file for the time of each node.
    """
    if not path.is_file():
        raise DataNotFound(
            f"{path} does not exist. Write it with: featherseg export RUN --format onnx -o {path}"
        )
    check_file(path)
    ort: Any = require("onnxruntime", "runtime", f"running {path.name}")
    offered = ort.get_available_providers()
    kind = device.partition(":")[0]
    if not re.fullmatch("auto|cpu(:0)?|cuda(:[0-9]+)?", device) or (
        kind == "cuda" and GPU not in offered
    ):
        raise DeviceError(
            f"device {device!r} was asked for, but onnxruntime {ort.__version__} offers "
            f"{', '.join(offered)} here. Use --device cpu or --device auto; with CUDA also cuda or "
            "cuda:N."
        )
    options = ort.SessionOptions()
    # Its log writes names from the file to the terminal unescaped; errors are raised
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or default_threads()
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    # Its arena keeps the largest memory ever used, in blocks of up to twice that (measured: 520
    # bytes per pixel of 245); malloc is as fast
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    # On a GPU in fp32, as the file was checked: no TF32
    on_gpu = {"device_id": int(device.partition(":")[2] or 0), "use_tf32": 0}
    chosen: list[Any] = [(GPU, on_gpu)] if kind != "cpu" and GPU in offered else []
    try:
        session = ort.InferenceSession(
            str(path), options, providers=[*chosen, "CPUExecutionProvider"]
        )
        if kind == "cuda" and GPU not in session.get_providers():
            raise DeviceError(
                f"device {device!r} was asked for, but onnxruntime {ort.__version__} cannot use it "
                "here."
            )
        return session
    except DeviceError:
        raise
    except Exception as error:  # onnxruntime raises its own kinds, which share no base
        raise ExportError(
            f"{path} cannot be run by onnxruntime {ort.__version__}: {_reason(error)}"
        ) from None


def _reason(error: Exception) -> str:
    return visible((str(error) or type(error).__name__).splitlines()[0])
