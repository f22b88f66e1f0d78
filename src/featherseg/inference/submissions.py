"""Predictions as the benchmarks' own tools read them: grey masks, or panoptic PNGs with their JSON."""

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


class PanopticOutput:
    """Writes panoptic/NAME.png for every image, and when asked panoptic.json, which says what their ids are.

    Categories are those of the benchmark whose classes these are (`data.category_ids`), else the class ids. Raises
    FeathersegError where panoptic/, anything in it, or panoptic.json is a link.
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
        """Go on with the panoptic.json that is there, so that it lists other images than these too, whose PNG is there.

        Raises DataError, which calls it `place`, for one that cannot be read, or has other classes.
        """
        try:
            self.writer.keep(
                lambda file: there(self.writer.folder / file), [f"{name}.png" for name in names]
            )
        except DataError as error:
            found = str(error).replace(str(self.writer.path), place)
            raise DataError(
                f"{found} Choose another folder with -o, or move that file away."
            ) from None

    def add(self, name: str, image: str, panoptic: Panoptic) -> None:
        """Write the PNG of one image, whose file is `image`; its image id is NAME as the benchmarks have it."""
        self.added = True
        segments = [
            {**segment, "category_id": self.ids[segment["category_id"]]}
            for segment in panoptic.segments
        ]
        self.writer.add(official_id(name), image, f"{name}.png", (panoptic.ids, segments))

    def finish(self) -> Path:
        """Write the JSON of the images so far; -> its path."""
        return self.writer.finish()
