"""The metadata of every exported file, of any format: JSON texts about its model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from featherseg.core.config import Config, parse
from featherseg.core.errors import ConfigError, DataError, ExportError
from featherseg.core.files import parse_json
from featherseg.core.old_names import NEW_NAMES, with_new_names
from featherseg.core.types import ClassInfo, Color, SegOutput, Size
from featherseg.core.wording import size_text
from featherseg.data.images.sizes import ImageSize, ResizeTo
from featherseg.layers.normalise import FULL_RANGE
from featherseg.layers.sizes import padded_side
from featherseg.recipe.panoptic import PanopticTable

FORMAT_VERSION = 2
OUTPUTS = ("logits", "centers", "offsets")
"""Outputs of an exported file; the last two are for panoptic models."""


class FileFacts(Config):
    """The metadata of an exported file, as exporters/job.py writes it; other keys are skipped."""

    format_version: int
    classes: Annotated[list[str], Field(min_length=1, max_length=255)]
    colors: list[Color]
    things: list[bool]
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    channels: Annotated[int, Field(ge=1, le=512)]
    size_divisor: Annotated[int, Field(ge=1, le=4096)]
    minimum_size: Annotated[int, Field(ge=0, le=4096)]
    align_corners: bool
    licence: str
    peak_bytes_per_pixel: Annotated[float, Field(ge=0, le=1e9)]
    model: str | None = None  # of the catalogue, with `options`, for an exported run
    options: dict[str, Any] | None = None
    init: str | None = None  # see `Run.init`
    image_size: ImageSize | None = None
    test_resize: ResizeTo | None = None
    panoptic: PanopticTable | None = None
    masks: bool = False
    # 16-bit images have values below it
    image_range: Annotated[int, Field(ge=2, le=FULL_RANGE)] = FULL_RANGE
    fixed_size: ImageSize | None = None
    kept: list[str] | None = None  # for an int8 file the layers that are not in int8

    @model_validator(mode="after")
    def _lengths_agree(self) -> "FileFacts":
        if not len(self.classes) == len(self.colors) == len(self.things):
            raise ValueError("classes, colors and things differ in length")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError("mean and std do not have one value per channel")
        return self


def read_facts(texts: dict[str, str], path: Path) -> FileFacts:
    """Parse the metadata of a file, each a JSON text.

    Raises:
        ExportError: They are missing, damaged or from a newer version.
    """
    missing = [
        key
        for key, field in FileFacts.model_fields.items()
        if field.is_required() and key not in texts
    ]
    if missing:
        raise ExportError(
            f"{path} lacks the metadata {', '.join(missing)}: it was not written by featherseg. "
            f"Write it with: featherseg export RUN --format onnx -o {path}"
        )
    try:
        values = {
            k: parse_json(text)
            for k, text in texts.items()
            if NEW_NAMES.get(k, k) in FileFacts.model_fields
        }
        if values["format_version"] == 1:
            values = with_new_names(values)
        values = {key: value for key, value in values.items() if key in FileFacts.model_fields}
        if isinstance(values["format_version"], int) and values["format_version"] > FORMAT_VERSION:
            raise ExportError(
                f"{path} has format {values['format_version']}; this featherseg reads up to "
                f"{FORMAT_VERSION}. Update featherseg."
            )
        return parse(FileFacts, values, str(path))
    except (ValueError, ConfigError) as error:
        raise ExportError(f"{error} The file's metadata are damaged; export it again.") from None


OpenFile = Callable[[Path, str, int | None], "FileRuntime"]
"""Called with the path, the device and the threads of the CPU, None for the default."""


def open_as(kind: OpenFile, path: Path, device: str, threads: int | None) -> "FileRuntime":
    """Open the file at `path` by `kind`; device and threads are kept for copies of the runtime."""
    runtime = kind(path, device, threads)
    runtime.device_name, runtime.threads = device, threads
    return runtime


class FileRuntime(ABC):
    """An exported file that is ready to run; each format has a class with its `run`.

    It takes and returns numpy arrays. `inference.runtimes.Runtime` describes the other attributes.

    Attributes:
        own_threads: Whether `run` computes on threads that are not torch's.
        facts: All of its metadata.
        masks: Whether it contains normalisation, upsampling and argmax, takes uint8 RGB images
            (B, H, W, C) and returns masks (B, H, W) uint8; then only `run` can be called.
        fixed_size: (H, W) in pixels of the only images that it takes; None for any.
    """

    own_threads = True
    how_far = ""
    device = None  # a runtime on a GPU copies the arrays
    device_name = "auto"
    threads: int | None = None

    def __init__(self, path: Path, facts: FileFacts) -> None:
        self.path = path.absolute()
        self.name, self.licence, self.masks = path.name, facts.licence, facts.masks
        self.image_size, self.test_resize, self.panoptic = (
            facts.image_size,
            facts.test_resize,
            facts.panoptic,
        )
        rows = zip(facts.classes, facts.colors, facts.things, strict=True)
        self.classes = tuple(ClassInfo(name, color, thing) for name, color, thing in rows)
        self.mean, self.std, self.channels = facts.mean, facts.std, facts.channels
        self.image_range, self.align_corners = facts.image_range, facts.align_corners
        self.size_divisor = facts.size_divisor
        self.minimum_size, self.peak_bytes_per_pixel = (
            facts.minimum_size,
            facts.peak_bytes_per_pixel,
        )
        self.fixed_size, self.facts = facts.fixed_size, facts
        self.outputs = ("masks",) if facts.masks else OUTPUTS if facts.panoptic else OUTPUTS[:1]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path: another process opens the file again, on the same device and threads.

        A .pt2 file needs no `trust` again, because a pickle is a program itself.
        """
        return open_as, (type(self), self.path, self.device_name, self.threads)

    @abstractmethod
    def run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """Run (B, C, H, W) float32 or (B, H, W, C) uint8; return outputs in their order."""

    def check_size(self, size: Size) -> None:
        """Raise DataError if the file takes only images of another (height, width)."""
        if self.fixed_size is not None and size != self.fixed_size:
            raise DataError(
                f"{self.name} takes images of {size_text(self.fixed_size)} (height x width) only, "
                f"not of {size_text(size)}: this format has a fixed size. Resize the image, or "
                "export the model as onnx, which takes any size."
            )

    def __call__(self, images: np.ndarray) -> SegOutput:
        """Run normalised float32 images (B, C, H, W).

        Raises:
            DataError: As `check_size`.
            ExportError: The number of classes of the logits differs from the metadata.
        """
        size = (images.shape[2], images.shape[3])
        self.check_size(size)
        maps: Any = self.run(np.ascontiguousarray(images))  # (B, K | 1 | 2, h, w)
        if maps[0].ndim != 4 or maps[0].shape[1] != len(self.classes):
            raise ExportError(
                f"{self.name} gives logits of shape {maps[0].shape}; expected "
                f"{len(self.classes)} channels, one for each class of its metadata. The file is "
                "damaged; export it again."
            )
        height, width = (padded_side(side, self.size_divisor, self.minimum_size) for side in size)
        out = SegOutput(maps[0], size, (height, width), self.align_corners)
        return out._replace(centers=maps[1], offsets=maps[2]) if self.panoptic else out
