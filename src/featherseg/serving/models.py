"""The models of the service, each with its own name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featherseg.core.types import ClassInfo
from featherseg.inference.predictor import Predictor
from featherseg.inference.tiling import DEFAULT_GB

WARM_UP_SIZE = (64, 64)


@dataclass(frozen=True)
class Served:
    """A model ready to answer, with the name by which requests choose it."""

    name: str
    predictor: Predictor

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """The classes in the order of the mask's values."""
        return self.predictor.classes

    @property
    def licence(self) -> str:
        """The terms under which its weights may be used."""
        return self.predictor.runtime.licence

    @property
    def panoptic(self) -> bool:
        """Whether it separates objects."""
        return self.predictor.runtime.panoptic is not None

    @property
    def channels(self) -> int:
        """The number of channels of its images."""
        return self.predictor.runtime.channels


def open_models(
    runs: Sequence[str | Path],
    device: str = "auto",
    batch: int = 1,
    memory_gb: float = DEFAULT_GB,
    threads: int | None = None,
    trust: bool = False,
) -> list[Served]:
    """Open run folders, names of runs and exported files; each predicts a small image once.

    trust: open .pt2 files, which run the code that they contain. Models are named after the folder
    or file; repeated names are numbered: model.onnx, model.onnx-2. Raises the errors of
    `open_runtime`, ConfigError.
    """
    opened: list[Served] = []
    for run in runs:
        predictor = Predictor(
            run, device, threads=threads, trust=trust, batch=batch, memory_gb=memory_gb
        )
        name = _free_name(predictor.runtime.name, {model.name for model in opened})
        height, width = getattr(predictor.runtime, "fixed_size", None) or WARM_UP_SIZE
        predictor(np.zeros((height, width, predictor.runtime.channels), dtype=np.uint8))
        _ = (
            predictor.runtime.peak_bytes_per_pixel
        )  # measured now, so that the first image does not wait for it
        opened.append(Served(name, predictor))
    return opened


def _free_name(name: str, used_names: set[str]) -> str:
    numbered = [name, *(f"{name}-{number}" for number in range(2, len(used_names) + 2))]
    return next(candidate for candidate in numbered if candidate not in used_names)
