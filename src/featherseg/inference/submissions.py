"""Predictions in the formats of benchmarks: grey masks, or panoptic PNGs with their JSON."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from featherseg.core.errors import ConfigError, DataError
from featherseg.core.files import refuse_links
from featherseg.core.types import ClassInfo
from featherseg.data import category_ids
from featherseg.data.datasets.cityscapes_labels import CITYSCAPES_CLASSES, LABEL_IDS
from featherseg.data.panoptic.data import categories
from featherseg.data.panoptic.files import PanopticWriter, official_id
from featherseg.inference.drawing import save_image
from featherseg.inference.manifest import PANOPTIC
from featherseg.inference.panoptic import Panoptic

SHOWN_NAMES = 5
"""Most class names of a model that a message shows."""


@dataclass(frozen=True)
class Submission:
    """The format of a benchmark: `values[i]` is written for class i of `classes`."""

    name: str
    classes: tuple[ClassInfo, ...]
    values: tuple[int, ...]

    def check(self, model: str, classes: Sequence[ClassInfo]) -> None:
        """Raise ConfigError unless a model has the benchmark's classes, by name and order."""
        names, needed = [info.name for info in classes], [info.name for info in self.classes]
        if names != needed:
            shown = ", ".join(names[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")
            raise ConfigError(
                f"{model} has {len(names)} classes ({shown}); a submission to {self.name} needs "
                f"the {len(needed)} of that benchmark, in this order: {', '.join(needed)}. Train "
                f"on them with --data {self.name}."
            )

    def file(self, folder: Path, name: str) -> Path:
        """Return the file of an image's mask."""
        return folder / f"{name}.png"

    def save(self, mask: np.ndarray, folder: Path, name: str) -> Path:
        """Write class ids (H, W) as a grey PNG of the benchmark's values; return the file."""
        values = np.array(self.values, dtype=np.uint8)[mask]  # (H, W)
        path = self.file(folder, name)
        save_image(Image.fromarray(values), path)
        return path


SUBMISSIONS = {
    "cityscapes": Submission("cityscapes", CITYSCAPES_CLASSES, LABEL_IDS),
    "bdd100k": Submission("bdd100k", CITYSCAPES_CLASSES, tuple(range(len(CITYSCAPES_CLASSES)))),
}
"""Dataset -> the benchmark's format."""


class PanopticOutput:
    """Writes panoptic/NAME.png for every image, and on demand panoptic.json with their segments.

    Categories are those of the benchmark with these classes (`data.category_ids`), else class ids.

    Raises:
        FeathersegError: panoptic/, anything in it, or panoptic.json is a link.
    """

    def __init__(self, output: Path, classes: Sequence[ClassInfo]) -> None:
        refuse_links(output, PANOPTIC, f"{PANOPTIC}.json")
        self.ids = category_ids(classes)
        self.added = False
        self.writer = PanopticWriter(output / PANOPTIC, categories(classes, self.ids))

    def lists(self, name: str) -> bool:
        """Whether panoptic.json lists the PNG of the image of that name."""
        return self.writer.lists(f"{name}.png")

    def keep(self, names: Sequence[str], there: Callable[[Path], bool], place: str) -> None:
        """Continue an existing panoptic.json, so that it also lists other images with a PNG.

        Args:
            names: The images of this command.
            there: Whether a PNG exists.
            place: The name of panoptic.json in messages.

        Raises:
            DataError: It cannot be read, or has other classes.
        """
        try:
            self.writer.keep(
                lambda file: there(self.writer.folder / file), [f"{name}.png" for name in names]
            )
        except DataError as error:
            reason = str(error).replace(str(self.writer.path), place)
            raise DataError(
                f"{reason} Choose another folder with -o, or move that file away."
            ) from None

    def add(self, name: str, image: str, panoptic: Panoptic) -> None:
        """Write the PNG of one image with the file `image`; its image id is NAME in their form."""
        self.added = True
        segments = [
            {**segment, "category_id": self.ids[segment["category_id"]]}
            for segment in panoptic.segments
        ]
        self.writer.add(official_id(name), image, f"{name}.png", (panoptic.ids, segments))

    def finish(self) -> Path:
        """Write the JSON of the images so far; return its path."""
        return self.writer.finish()
