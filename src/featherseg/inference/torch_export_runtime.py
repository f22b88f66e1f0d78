"""An exported .pt2 file, torch's own form of a network without its Python code, that is ready to run."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from featherseg.core.errors import DataNotFound, DeviceError, ExportError
from featherseg.inference.file_facts import FileRuntime, read_facts
from featherseg.inference.pt2_check import check_pt2
from featherseg.layers.precision import autocast_off

FACTS = "facts.json"
"""The extra file inside the archive that holds the metadata."""


class TorchExportRuntime(FileRuntime):
    """A file written by `featherseg export --to torch-export`, run by torch on the CPU, in fp32.

    Raises ExportError for a file that is none, or that `check_pt2` refuses, DeviceError for a device that is not the
    CPU.
    """

    def __init__(self, path: Path, device: str = "auto") -> None:
        if device not in ("auto", "cpu"):
            raise DeviceError(f"device {device!r} was asked for, but .pt2 files run on the CPU. Use --device cpu.")
        if not path.is_file():
            command = f"featherseg export RUN --to torch-export -o {path}"
            raise DataNotFound(f"{path} does not exist. Write it with: {command}")
        check_pt2(path)
        extra = {FACTS: ""}
        try:
            program = torch.export.load(path, extra_files=extra)
            texts = json.loads(extra[FACTS])
        except Exception as error:  # torch's deserialiser raises dozens of kinds
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ExportError(f"{path} cannot be run by torch {torch.__version__}: {first}") from None
        super().__init__(path, read_facts(texts, path))
        self._module = program.module(check_guards=False)  # any size is taken, as by the network

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """See FileRuntime."""
        with autocast_off(self.device):
            found = self._module(torch.from_numpy(images))
        return [x.numpy() for x in found]
