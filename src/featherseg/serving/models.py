"""The models behind the service, each with a name of its own."""

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
    """A model that is ready to answer, under the name by which requests choose it."""

    name: str
    predictor: Predictor

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """In the order of the mask's values."""
        return self.predictor.classes

    @property
    def licence(self) -> str:
        """Under which terms its weights may be used."""
        return self.predictor.runtime.licence

    @property
    def panoptic(self) -> bool:
        """Whether it tells objects apart."""
        return self.predictor.runtime.panoptic is not None

    @property
    def channels(self) -> int:
        """Of the images that it takes."""
        return self.predictor.runtime.channels


def open_models(
    runs: Sequence[str | Path],
    device: str = "auto",
    batch: int = 1,
    memory_gb: float = DEFAULT_GB,
    threads: int | None = None,
    trust: bool = False,
) -> list[Served]:
    """Run folders, names of runs and exported files, ready to answer; each has predicted a small image once.

    trust: open .pt2 files, which run the code that they contain.
    Names are the folders' or files'; a later one of the same name is numbered: model.onnx, model.onnx-2.
    Raises the errors of `open_runtime`, ConfigError.
    """
    opened: list[Served] = []
    for run in runs:
        predictor = Predictor(run, device, threads=threads, trust=trust, batch=batch, memory_gb=memory_gb)
        name = _free_name(predictor.runtime.name, {model.name for model in opened})
        height, width = getattr(predictor.runtime, "fixed_size", None) or WARM_UP_SIZE
        predictor(np.zeros((height, width, predictor.runtime.channels), dtype=np.uint8))
        _ = predictor.runtime.peak_bytes_per_pixel  # measured once: the first image of usual size would wait for it
        opened.append(Served(name, predictor))
    return opened


def _free_name(name: str, taken: set[str]) -> str:
    numbered = [name, *(f"{name}-{number}" for number in range(2, len(taken) + 2))]
    return next(candidate for candidate in numbered if candidate not in taken)
