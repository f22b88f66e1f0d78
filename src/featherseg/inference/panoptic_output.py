"""Panoptic predictions of a folder of images, as the official tools of COCO and Cityscapes take them."""

from collections.abc import Sequence
from pathlib import Path

from featherseg.core.files import refuse_links
from featherseg.core.types import ClassInfo
from featherseg.data import category_ids
from featherseg.data.panoptic.data import categories
from featherseg.data.panoptic.files import PanopticWriter
from featherseg.inference.panoptic import Panoptic

FOLDER = "panoptic"
CITYSCAPES_IMAGE = "_leftImg8bit"


class PanopticOutput:
    """Writes panoptic/NAME.png for every image, and at the end panoptic.json, which says what their ids are.

    Categories are those of the benchmark whose classes these are (`data.category_ids`), else the class ids. Raises
    FeathersegError where panoptic/, or anything in it, is a link.
    """

    def __init__(self, output: Path, classes: Sequence[ClassInfo]) -> None:
        refuse_links(output, FOLDER)
        self.ids = category_ids(classes)
        self.writer = PanopticWriter(output / FOLDER, categories(classes, self.ids))

    @staticmethod
    def files(output: Path, names: Sequence[str]) -> list[Path]:
        """What will be written for images of these names."""
        return [*(output / FOLDER / f"{name}.png" for name in names), output / f"{FOLDER}.json"]

    def add(self, name: str, image: str, panoptic: Panoptic) -> None:
        """Write the PNG of one image, whose file is `image`; its image id is NAME as the benchmarks have it."""
        segments = [{**segment, "category_id": self.ids[segment["category_id"]]} for segment in panoptic.segments]
        self.writer.add(image_id(name), image, f"{name}.png", (panoptic.ids, segments))

    def finish(self) -> Path:
        """Write the JSON; -> its path."""
        return self.writer.finish()


def image_id(name: str) -> int | str:
    """The image id of a file's name without ending: COCO's are numbers, Cityscapes' lack the kind of the file."""
    return int(name) if name.isascii() and name.isdigit() else name.removesuffix(CITYSCAPES_IMAGE)
