"""What every dataset offers in a program: a repr, and its samples as tensors."""

from typing import TYPE_CHECKING

from featherseg.core.types import ClassInfo
from featherseg.core.wording import brief, counted

if TYPE_CHECKING:
    from featherseg.data.pipeline.tensors import TensorPairs


class DataView:
    """The base of every dataset of featherseg."""

    name: str
    classes: tuple[ClassInfo, ...]
    keys: list[str]

    def __repr__(self) -> str:
        images, classes = counted(len(self.keys), "image"), counted(len(self.classes), "class")
        return brief(self, self.name, images, classes)

    def torch(self) -> "TensorPairs":
        """Return a torch dataset of (image, label) for a plain DataLoader.

        The image is (C, H, W) float32, 0 to 1, and not normalised; the label is (H, W) int64 class
        ids, 255 = ignore. Sizes are those of the files: images of several sizes need a batch size
        of 1 or a `collate_fn`.
        """
        from featherseg.data.pipeline.tensors import TensorPairs

        return TensorPairs(self)  # type: ignore[arg-type]
