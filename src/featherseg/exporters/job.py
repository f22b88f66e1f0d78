"""The input of every exporter: the model, its facts, and where to write."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from featherseg.core.types import ClassInfo, Resize, Size
from featherseg.inference.memory import peak_bytes_per_pixel
from featherseg.inference.runtimes.file_metadata import FORMAT_VERSION, OUTPUTS
from featherseg.layers.model import SegmentationModel
from featherseg.layers.normalise import divisor
from featherseg.layers.sizes import resized
from featherseg.recipe.panoptic import PanopticTable

DEFAULT_SIZE = (512, 1024)
"""Image size (height, width) if the training size is unknown."""

PREPROCESSING = {
    True: "uint8 image of any size, height x width x channels, values 0..255 (16 bits: {deep}), "
    "channels {order}; they stay as they are",
    False: "image as float32, channels x height x width, channels {order}, values 0..255 "
    "(16 bits: {deep}); of each channel subtract mean and divide by std, which are in the same "
    "units of 0..255; do not divide by 255",
}
"""Whether the file gives masks -> how to prepare an image for it."""

RESIZED = (
    "before that: make the image fit {short} (short side) x {long} (long side) pixels, "
    "its ratio kept"
)
"""A further step for a model that sees images resized."""

POSTPROCESSING = {
    True: "masks: at every pixel the number of its class, in the order of classes",
    False: "logits: classes x h x w. Enlarge each class's plane bilinearly (align_corners as told "
    "here) to the height and width of the image, each first raised to the least multiple of "
    "size_divisor that is at least minimum_size; crop to the image at the top left; the class "
    "with the largest value is the pixel's, in the order of classes",
}


BROUGHT_BACK = (
    "what is said of the image is of the one that the file was given; "
    "bring the result back to its own size"
)


@dataclass(frozen=True)
class Facts:
    """The facts that a file contains about its model, besides those of the model itself.

    name is the catalogue's name of a run's model, with its `options`; image_size is the (H, W) in
    pixels it was trained on, if known; test_resize is the size images were resized to in
    validation, None for their own size; panoptic is how centres become objects; init is `Run.init`,
    how its training began, and provenance is what the weights were made from; used_size is the
    (H, W) of images it will be used on, if different from the training images.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    licence: str
    image_size: Size | None = None
    test_resize: Resize | None = None
    panoptic: PanopticTable | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    init: str | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    used_size: Size | None = None

    @property
    def fixed_size(self) -> Size:
        """The (height, width) of images for files of one fixed size, and for timing the others.

        It is the size at which the model sees an image of used_size, else of image_size.
        """
        return resized(self.used_size or self.image_size or DEFAULT_SIZE, self.test_resize)


def metadata(model: SegmentationModel, facts: Facts, masks: bool = False) -> dict[str, str]:
    """Return what a reader of the file needs besides the graph, each value as JSON text.

    `runtimes.file_metadata` reads it. Logits are brought to the image as in
    `layers.resize.to_image`: the graph pads right and below to the least multiple of size_divisor
    that is at least minimum_size. mean and std are in units of 0..255, one value per channel;
    16-bit values 0..image_range-1 are scaled to 0..255 first. preprocessing and postprocessing
    describe all of that in words, for programs without featherseg.
    """
    order = {1: "grey", 3: "RGB"}.get(len(model.mean), "as the training images have them")
    deep = f"v / {divisor(model.image_range):g}"
    before, behind = [PREPROCESSING[masks].format(order=order, deep=deep)], [POSTPROCESSING[masks]]
    if facts.test_resize:
        short, long = facts.test_resize
        before.append(RESIZED.format(short=short, long=long))
        behind.append(BROUGHT_BACK)
    values = {
        "format_version": FORMAT_VERSION,
        "model": facts.name,
        "options": dict(facts.options),
        "init": facts.init,
        "classes": [row.name for row in facts.classes],
        "colors": [list(row.color) for row in facts.classes],
        "things": [row.thing for row in facts.classes],
        "mean": list(model.mean),
        "std": list(model.std),
        "channels": len(model.mean),
        "size_divisor": model.size_divisor,
        "minimum_size": model.minimum_size,
        "align_corners": model.align_corners,
        "licence": facts.licence,
        "provenance": dict(facts.provenance),
        "image_size": facts.image_size,
        "test_resize": facts.test_resize,
        "panoptic": (facts.panoptic or PanopticTable()).model_dump() if model.panoptic else None,
        "masks": masks,
        "channel_order": order,
        "value_range": [0, 255],
        "image_range": model.image_range,
        "preprocessing": "; ".join(before),
        "postprocessing": "; ".join(behind),
        "peak_bytes_per_pixel": float(peak_bytes_per_pixel(model)),
    }
    return {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}


@dataclass(frozen=True)
class Quantised:
    """The result of quantisation: modules kept in fp32, and the file's mIoU (0..1), if scored.

    tried contains (layers kept, mIoU) of each candidate in turn.
    """

    kept: tuple[str, ...] = ()
    miou: float | None = None
    tried: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Job:
    """One file to write.

    model is in eval mode, in fp32, on the CPU; folder is an empty folder for the draft; calibration
    are normalised float32 images (1, C, H, W) from the training split, only for quantised formats;
    score returns the mIoU (0..1) of a candidate file on the labelled split, None without one, and
    floor is the lowest accepted score; masks: the file takes uint8 RGB images (B, H, W, C) and
    gives masks (B, H, W) uint8; graph returns the content of the .onnx file, from which several
    formats start.
    """

    model: SegmentationModel
    facts: Facts
    folder: Path
    graph: Callable[[], bytes]
    calibration: Sequence[Tensor] = ()
    score: Callable[[Path], float] | None = None
    floor: float = 0.0
    masks: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the file's outputs."""
        return ("masks",) if self.masks else OUTPUTS if self.model.panoptic else OUTPUTS[:1]

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the file, each value as JSON text."""
        return metadata(self.model, self.facts, self.masks)


class Maps(nn.Module):
    """The model of a file: normalised images (B, C, H, W) -> logits (B, K, h, w), and nothing else.

    A panoptic model also gives centers (B, 1, h, w) and offsets (B, 2, h, w).
    """

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        out = self.model(images)
        return (
            (out.logits,)
            if out.centers is None or out.offsets is None
            else (out.logits, out.centers, out.offsets)
        )
