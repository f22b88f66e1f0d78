"""A labelled set by its name, as it is asked for: opened where it is needed, in another process if need be."""

from dataclasses import dataclass
from pathlib import Path

from featherseg.core.types import SegmentationData
from featherseg.data import open_dataset


@dataclass(frozen=True)
class LabelledImages:
    """Name (or dataset.toml), split, root and number of images, as `data.open_dataset` takes them."""

    name: str
    split: str
    root: Path | None = None
    size: int | None = None

    def open(self) -> SegmentationData:
        """Raises UnknownName, DataNotFound, ConfigError."""
        return open_dataset(self.name, self.split, self.root, self.size)

    def is_of(self, name: str) -> bool:
        """Whether that name means the same dataset."""
        return self.name == name or (name.endswith(".toml") and Path(name).resolve() == Path(self.name).resolve())
