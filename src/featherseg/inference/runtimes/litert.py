"""An exported LiteRT file (.tflite) that is ready to run."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featherseg.core.errors import DataNotFound, DeviceError, ExportError, require
from featherseg.core.files import MOST_TEXT, parse_json
from featherseg.inference.runtimes.file_metadata import FileRuntime, read_facts

FACTS = "featherseg.json"
"""The metadata: a file in the zip archive at the end of the .tflite, which is where such files keep what goes along."""


class LitertRuntime(FileRuntime):
    """A file written by `featherseg export --format litert`, run on the CPU, on as many threads as torch's.

    It takes images of one size. Raises ExportError for a file that is none, MissingExtra without ai-edge-litert,
    DeviceError for a device that is not the CPU.
    """

    def __init__(self, path: Path, device: str = "auto") -> None:
        if device not in ("auto", "cpu"):
            raise DeviceError(
                f"device {device!r} was asked for, but LiteRT files run on the CPU here. Use --device cpu."
            )
        if not path.is_file():
            raise DataNotFound(
                f"{path} does not exist. Write it with: featherseg export RUN --format litert"
            )
        super().__init__(path, read_facts(_texts(path), path))
        litert: Any = require("ai_edge_litert.interpreter", "litert", f"running {path.name}")
        try:
            self._interpreter = litert.Interpreter(
                model_path=str(path), num_threads=torch.get_num_threads()
            )
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ExportError(
                f"{path} cannot be run by LiteRT: {str(error).strip().splitlines()[0]}"
            ) from None
        self._run: Any = self._interpreter.get_signature_runner()

    def run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """See FileRuntime; the file holds one image, so they go one after the other."""
        try:
            each = [self._run(args_0=image[None]) for image in images]
        except (RuntimeError, ValueError) as error:
            raise ExportError(
                f"{self.name} cannot be run by LiteRT: {str(error).strip().splitlines()[0]}"
            ) from None
        names = [f"output_{number}" for number in range(len(self.outputs))]
        return [np.concatenate([maps[name] for maps in each]) for name in names]


def _texts(path: Path) -> dict[str, str]:
    """The metadata, each a JSON text; none in a file of others."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(FACTS).file_size > MOST_TEXT:
                return {}
            texts = parse_json(archive.read(FACTS).decode())
    except (
        Exception
    ):  # of a spoiled, encrypted or oddly packed entry zipfile raises nearly anything
        return {}
    return (
        texts
        if isinstance(texts, dict) and all(isinstance(text, str) for text in texts.values())
        else {}
    )
