"""What every exporter is given: the model, what its file tells about it, and where to write."""

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
from featherseg.layers.resize import resized
from featherseg.recipe.tables import PanopticTable

DEFAULT_SIZE = (512, 1024)
"""(height, width) of images where it is not known what the model was trained on."""

PREPROCESSING = {
    True: "uint8 image of any size, height x width x channels, values 0..255 (16 bits: {deep}), channels {order}; "
    "they stay as they are",
    False: "image as float32, channels x height x width, channels {order}, values 0..255 (16 bits: {deep}); of each "
    "channel subtract mean and divide by std, which are in the same units of 0..255; do not divide by 255",
}
"""What is to be done with an image before the file takes it, by whether the file gives masks."""

RESIZED = "before that: make the image fit {short} (short side) x {long} (long side) pixels, its ratio kept"
"""The same of a model that sees images at another size than their own."""

POSTPROCESSING = {
    True: "masks: at every pixel the number of its class, in the order of classes",
    False: "logits: classes x h x w. Enlarge each class's plane bilinearly (align_corners as told here) to the height "
    "and width of the image, each first raised to the least multiple of size_divisor that is at least minimum_size; "
    "crop to the image at the top left; the class with the largest value is the pixel's, in the order of "
    "classes",
}


BROUGHT_BACK = "what is said of the image is of the one that the file was given; bring the result back to its own size"


@dataclass(frozen=True)
class Facts:
    """What a file tells about its model besides what the model tells itself.

    name is that of the catalogue for a run's model, with its `options`; image_size is the (H, W) in pixels that it
    was trained on, where known; test_resize what images were brought to fit when it was validated, None for their own
    size; panoptic how a panoptic model's centres become objects; init what its training began with, `Run.init`;
    used_size the (H, W) of the images that it will be used on, where others than it was trained on.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    licence: str
    image_size: Size | None = None
    test_resize: Resize | None = None
    panoptic: PanopticTable | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    init: str | None = None
    used_size: Size | None = None

    @property
    def fixed_size(self) -> Size:
        """(height, width) of the only images that a file without dynamic sizes takes, and at which others are timed.

        It is what the model sees of an image of used_size, else of image_size.
        """
        return resized(self.used_size or self.image_size or DEFAULT_SIZE, self.test_resize)


def metadata(model: SegmentationModel, facts: Facts, masks: bool = False) -> dict[str, str]:
    """What a reader of the file needs besides the graph, each value as JSON text; `runtimes.file_metadata` reads it.

    Logits are brought to the image as `layers.resize.to_image` does it: the graph pads right and below to the least
    multiple of size_divisor that is at least minimum_size. mean and std are in units of 0..255, one value a channel;
    16-bit values 0..image_range-1 are brought to 0..255 first.
    preprocessing and postprocessing say all of that in words, for people whose program is not featherseg.
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
    """How a model became int8: modules whose layers stayed out of int8, and the file's mIoU (0..1), if scored.

    tried holds (layers kept, mIoU) of each candidate in turn.
    """

    kept: tuple[str, ...] = ()
    miou: float | None = None
    tried: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Job:
    """One file to write.

    model in eval mode, in fp32, on the CPU; folder, an empty one, takes the draft; calibration, normalised float32
    images (1, C, H, W) from the training split, none unless the format is quantised; score, the mIoU (0..1) of a
    candidate file on the labelled split, None without one, and floor what it should not fall below; masks, the file
    takes uint8 RGB images (B, H, W, C) and gives masks (B, H, W) uint8; graph gives the content of the .onnx file,
    which several formats start from.
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
        """The names of what the file gives."""
        return ("masks",) if self.masks else OUTPUTS if self.model.panoptic else OUTPUTS[:1]

    @property
    def metadata(self) -> dict[str, str]:
        """What the file tells, each value as JSON text."""
        return metadata(self.model, self.facts, self.masks)


class Maps(nn.Module):
    """A model as a file holds it: images (B, C, H, W), normalised -> logits (B, K, h, w), and nothing else.

    A panoptic model also gives centers (B, 1, h, w) and offsets (B, 2, h, w).
    """

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        out = self.model(images)
        return (out.logits,) if out.centers is None or out.offsets is None else (out.logits, out.centers, out.offsets)
