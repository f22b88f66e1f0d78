"""An exported OpenVINO file (.xml, its weights beside it in .bin) that is ready to run."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.core.allocator import return_freed_memory
from featherseg.core.errors import DataNotFound, DeviceError, ExportError, require
from featherseg.core.files import file_digest
from featherseg.core.machine import default_threads
from featherseg.inference.runtimes.file_check import check_file, model_files
from featherseg.inference.runtimes.file_metadata import FileRuntime, read_facts

SECTION = "featherseg"
"""The section of the file's rt_info with our texts: the facts, and WEIGHTS_HASH."""

WEIGHTS_HASH = "weights_sha256"
"""The text with the digest of the .bin: files of different exports never run together."""

PEAK = 2.0
"""Memory of a run over torch's live tensors (measured: 1.7 to 2.0 on 0.6 to 2 megapixels)."""

DEVICES = {"auto": "CPU", "cpu": "CPU"}
"""Our name of a device -> OpenVINO's."""


class OpenvinoRuntime(FileRuntime):
    """A file of `featherseg export --format openvino` or openvino-int8.

    It runs in fp32: on processors with bf16 OpenVINO would use that, and return other logits. In an
    int8 file, whose logits are rounded more than that, the other layers do run in bf16 there.
    settings: OpenVINO's.

    Raises:
        ExportError: It is no such file, or its .bin belongs to another export.
        MissingExtra: openvino is not installed.
        DeviceError: The device is not the CPU.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        if device not in DEVICES:
            raise DeviceError(
                f"device {device!r} was asked for, but OpenVINO files run on the CPU. Use "
                "--device cpu."
            )
        _, weights = model_files(path)
        for file in (path, weights):
            if not file.is_file():
                raise DataNotFound(
                    f"{file} does not exist; an OpenVINO file is a pair, {path.name} and "
                    f"{weights.name}. Write it with: "
                    f"featherseg export RUN --format openvino -o {path}"
                )
        openvino: Any = require("openvino", "openvino", f"running {path.name}")
        check_file(path)
        _check_weights(path, weights)
        core = openvino.Core()
        try:
            model = core.read_model(path, weights)
            facts = read_facts(_texts(model), path)
            super().__init__(path, facts)
            self.peak_bytes_per_pixel *= PEAK
            able = core.get_property(DEVICES[device], "OPTIMIZATION_CAPABILITIES")
            bf16 = facts.kept is not None and "BF16" in able
            self.settings = {
                "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
                "INFERENCE_NUM_THREADS": threads or default_threads(),
                "PERFORMANCE_HINT": "LATENCY",
            }
            self._compiled = core.compile_model(model, DEVICES[device], self.settings)
        except RuntimeError as error:  # what OpenVINO raises
            raise ExportError(
                f"{path} cannot be run by OpenVINO {openvino.__version__}: {_reason(error)}"
            ) from None

    def run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """See FileRuntime."""
        try:
            outputs = self._compiled([images])
        except RuntimeError as error:
            raise ExportError(f"{self.name} cannot be run by OpenVINO: {_reason(error)}") from None
        return [outputs[name] for name in self.outputs]

    def release_memory(self) -> None:
        """Free the memory that OpenVINO keeps for the next run. Not while another runs."""
        self._compiled.release_memory()
        return_freed_memory()


def _texts(model: Any) -> dict[str, str]:
    """Return our texts in the file's rt_info; none for files of others."""
    if not model.has_rt_info([SECTION]):
        return {}
    section = model.get_rt_info([SECTION])
    values = getattr(section, "value", section)
    return {key: str(getattr(text, "value", text)) for key, text in values.items()}


def _check_weights(path: Path, weights: Path) -> None:
    """Raise ExportError if the .bin is not that of the .xml; files of others are not checked."""
    stated = re.search(
        rf'<{WEIGHTS_HASH} value="(\w*)"', path.read_text(encoding="utf-8", errors="replace")
    )
    if stated and stated[1] != file_digest(weights):
        raise ExportError(
            f"{weights} does not contain the weights that {path.name} was written with: the two "
            "are from different exports, or damaged. Export again."
        )


def _reason(error: Exception) -> str:
    """Return the last line of an OpenVINO message; those before it are places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
