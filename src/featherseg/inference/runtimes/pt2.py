"""An exported .pt2 file, torch's own form of a model, that is ready to run.

torch.export's reader runs code that a file contains: `open_file` opens one only with `trust`.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from featherseg.core.errors import DataNotFound, DeviceError, ExportError
from featherseg.core.wording import one_line, visible
from featherseg.inference.runtimes.file_metadata import FileRuntime, read_facts
from featherseg.layers.precision import autocast_off

FACTS = "facts.json"
"""The file in the archive with the metadata."""


class TorchExportRuntime(FileRuntime):
    """A file of `featherseg export --format torch-export`, run by torch on the CPU, in fp32.

    Opening it runs the code that it contains.

    Raises:
        ExportError: It is no such file.
        DeviceError: The device is not the CPU.
    """

    own_threads = False

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        if device not in ("auto", "cpu"):
            raise DeviceError(
                f"device {device!r} was asked for, but .pt2 files run on the CPU. Use --device cpu."
            )
        if not path.is_file():
            command = f"featherseg export RUN --format torch-export -o {path}"
            raise DataNotFound(f"{path} does not exist. Write it with: {command}")
        try:
            from torch.export.pt2_archive._package import load_pt2  # takes seconds to import

            # Not torch.export.load, which prints a traceback for a damaged file
            with warnings.catch_warnings():
                # torch 2.11 warns about a tensor on the file's read-only bytes
                warnings.simplefilter("ignore")
                content = load_pt2(str(path))
            program = content.exported_programs["model"]
            texts = json.loads(content.extra_files[FACTS])
        except Exception as error:  # torch's deserialiser raises dozens of kinds
            first = visible((str(error) or type(error).__name__).splitlines()[0])
            raise ExportError(
                f"{path} cannot be run by torch {torch.__version__}: {first}"
            ) from None
        super().__init__(path, read_facts(texts, path))
        self._module = program.module(check_guards=False)  # it takes any size

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """See FileRuntime."""
        try:
            with autocast_off(torch.device("cpu")):
                outputs = self._module(torch.from_numpy(images))
        except RuntimeError as error:
            raise ExportError(
                f"{self.name} cannot be run by torch: {one_line(str(error))[:200]}"
            ) from None
        return [x.numpy() for x in outputs]
