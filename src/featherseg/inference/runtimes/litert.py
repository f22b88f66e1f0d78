"""An exported LiteRT file (.tflite) that is ready to run."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.core.errors import DataNotFound, DeviceError, ExportError, require
from featherseg.core.files import MOST_TEXT, parse_json
from featherseg.core.machine import default_threads
from featherseg.inference.runtimes.file_metadata import FileRuntime, read_facts

FACTS = "featherseg.json"
"""The file of the metadata, in the zip archive at the end of the .tflite."""


class LitertRuntime(FileRuntime):
    """A file of `featherseg export --format litert`, run on the CPU.

    It takes images of one size.

    Raises:
        ExportError: It is no such file.
        MissingExtra: ai-edge-litert is not installed.
        DeviceError: The device is not the CPU.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        if device not in ("auto", "cpu"):
            raise DeviceError(
                f"device {device!r} was asked for, but LiteRT files run on the CPU here. Use "
                "--device cpu."
            )
        if not path.is_file():
            raise DataNotFound(
                f"{path} does not exist. Write it with: featherseg export RUN --format litert"
            )
        super().__init__(path, read_facts(_texts(path), path))
        litert: Any = require("ai_edge_litert.interpreter", "litert", f"running {path.name}")
        try:
            self._interpreter = litert.Interpreter(
                model_path=str(path), num_threads=threads or default_threads()
            )
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ExportError(
                f"{path} cannot be run by LiteRT: {str(error).strip().splitlines()[0]}"
            ) from None
        self._run: Any = self._interpreter.get_signature_runner()

    def run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """See FileRuntime; the file takes one image at a time."""
        try:
            each = [self._run(args_0=image[None]) for image in images]
        except (RuntimeError, ValueError) as error:
            raise ExportError(
                f"{self.name} cannot be run by LiteRT: {str(error).strip().splitlines()[0]}"
            ) from None
        names = [f"output_{number}" for number in range(len(self.outputs))]
        return [np.concatenate([maps[name] for maps in each]) for name in names]


def _texts(path: Path) -> dict[str, str]:
    """Return the metadata, each a JSON text; none for files of others."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(FACTS).file_size > MOST_TEXT:
                return {}
            texts = parse_json(archive.read(FACTS).decode())
    except Exception:  # zipfile raises nearly anything for damaged or encrypted entries
        return {}
    is_ours = isinstance(texts, dict) and all(isinstance(text, str) for text in texts.values())
    return texts if is_ours else {}
