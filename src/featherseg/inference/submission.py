"""Masks as the benchmarks' own evaluations read them: one grey PNG an image, named like it, and nothing beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from featherseg.core.errors import ConfigError
from featherseg.core.types import ClassInfo
from featherseg.data.datasets.cityscapes_labels import CITYSCAPES_CLASSES, LABEL_IDS
from featherseg.inference.draw import save_image

SHOWN_NAMES = 5
"""How many class names of a model that does not fit a message shows."""


@dataclass(frozen=True)
class Submission:
    """What a benchmark takes: `values[i]` is written for class i of `classes`."""

    name: str
    classes: tuple[ClassInfo, ...]
    values: tuple[int, ...]

    def check(self, model: str, classes: Sequence[ClassInfo]) -> None:
        """Raises ConfigError where the classes of a model are not the benchmark's, by name and order."""
        found, needed = [info.name for info in classes], [info.name for info in self.classes]
        if found != needed:
            shown = ", ".join(found[:SHOWN_NAMES]) + (", ..." if len(found) > SHOWN_NAMES else "")
            raise ConfigError(
                f"{model} has {len(found)} classes ({shown}); a submission to {self.name} needs the {len(needed)} of "
                f"that benchmark, in this order: {', '.join(needed)}. Train on them with --data {self.name}."
            )

    def file(self, folder: Path, name: str) -> Path:
        """Where the mask of an image goes."""
        return folder / f"{name}.png"

    def save(self, mask: np.ndarray, folder: Path, name: str) -> Path:
        """Write a mask (H, W) of class ids as a grey PNG of the benchmark's values; -> the file."""
        values = np.array(self.values, dtype=np.uint8)[mask]  # (H, W)
        path = self.file(folder, name)
        save_image(Image.fromarray(values), path)
        return path


SUBMISSIONS = {
    "cityscapes": Submission("cityscapes", CITYSCAPES_CLASSES, LABEL_IDS),
    "bdd100k": Submission("bdd100k", CITYSCAPES_CLASSES, tuple(range(len(CITYSCAPES_CLASSES)))),
}
"""The benchmarks whose files can be written, by their dataset's name."""
