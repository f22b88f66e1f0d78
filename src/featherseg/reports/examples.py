"""Images for the report: the best and the worst predictions of an evaluation, beside image and ground truth.

They lie in RUN/images/, three WebP files an example (`best-1-image.webp`, ...), listed in examples.json.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from featherseg.core.files import load_json, write_bytes, write_json
from featherseg.core.old_names import OLD_EXAMPLES
from featherseg.core.types import ClassInfo, Sample, SegmentationData
from featherseg.data.panoptic.segments import from_sample
from featherseg.inference.drawing import color_mask, overlay_panoptic, rgb_view
from featherseg.inference.masks import predict_mask, predict_panoptic
from featherseg.inference.runtimes import Runtime
from featherseg.inference.settings import InferenceSettings

FOLDER, INDEX = "examples", "examples.json"
PANELS = ("image", "ground truth", "prediction")
DRAWN = 4  # best images, and as many worst
MAX_SIDE = 640  # pixels; larger images are shrunk for the page
OPACITY = 0.7
"""Of the colours of objects and regions over the image."""


@dataclass(frozen=True)
class Example:
    """One drawn sample: `name` ("best-1") begins its three files, miou (0..1) is that of this image alone."""

    name: str
    key: str
    miou: float

    def file(self, panel: str) -> str:
        """The file of a panel (PANELS) inside RUN/examples."""
        return f"{self.name}-{panel.replace(' ', '-')}.webp"


def draw_examples(
    run_path: Path,
    runtime: Runtime,
    data: SegmentationData,
    mious: Mapping[str, float],
    inference: InferenceSettings | None = None,
) -> list[Example]:
    """Predict and draw the best and worst images of `data` into RUN/examples, replacing the earlier ones.

    mious: the mIoU (0..1) of single images by key, as an evaluation with `inference` gives them; images without a
    figure are left out. DRAWN are of each kind; fewer than twice that are shared out, none is drawn twice.
    """
    folder = run_path / FOLDER
    chosen = choose(mious, DRAWN)
    index = {key: i for i, key in enumerate(data.keys)}
    write_json(folder / INDEX, [])  # while they are drawn none is shown
    for example in chosen:
        images = panels(runtime, data[index[example.key]], data.classes, inference)
        for panel, image in zip(PANELS, images, strict=True):
            drawn = (
                panel != "image" and runtime.panoptic is None
            )  # flat colours, not over the image
            write_bytes(folder / example.file(panel), webp(image, lossless=drawn))
    write_json(folder / INDEX, [asdict(example) for example in chosen])
    return chosen


def panels(
    runtime: Runtime,
    sample: Sample,
    classes: Sequence[ClassInfo],
    inference: InferenceSettings | None = None,
) -> list[Image.Image]:
    """A sample's image, its ground truth and what is predicted; objects outlined where a panoptic model told."""
    if runtime.panoptic is None or sample.instances is None:
        masks = (sample.label, predict_mask(runtime, sample.image, inference))
        return [
            rgb_view(sample.image, runtime.image_range),
            *(color_mask(mask, classes) for mask in masks),
        ]
    ((_, found),) = predict_panoptic(runtime, sample.image[None], inference)
    label = from_sample(sample.label, sample.instances, classes, range(len(classes)))
    seen = [
        overlay_panoptic(sample.image, *segmentation, classes, OPACITY, runtime.image_range)
        for segmentation in (label, found)
    ]
    return [rgb_view(sample.image, runtime.image_range), *seen]


def choose(mious: Mapping[str, float], count: int) -> list[Example]:
    """The best `count` and the worst `count` keys, the most telling first; ties by key, no key twice."""
    ranked = sorted((m, key) for key, m in mious.items() if not np.isnan(m))
    worst = ranked[: min(count, len(ranked) // 2)]
    best = ranked[::-1][: min(count, len(ranked) - len(worst))]
    return [
        Example(f"{kind}-{i}", key, miou)
        for kind, rows in (("best", best), ("worst", worst))
        for i, (miou, key) in enumerate(rows, 1)
    ]


def read_examples(run_path: Path) -> list[Example]:
    """The examples that were drawn for a run, those whose three files are there.

    Files outside, by a name or a link from others, are not taken: a page shows what is in them.
    """
    folder = examples_folder(run_path)
    try:
        rows = load_json(folder / INDEX)
        examples = [Example(**row) for row in rows]
    except (OSError, ValueError, TypeError):
        return []
    inside = run_path.resolve() / folder.name

    def is_there(file: Path) -> bool:
        return file.is_file() and file.resolve().parent == inside

    return [
        e for e in examples if all(is_there(panel_file(run_path, e, panel)) for panel in PANELS)
    ]


def examples_folder(run_path: Path) -> Path:
    """Where a run's examples lie."""
    folder, old = run_path / FOLDER, run_path / OLD_EXAMPLES
    return old if old.exists() and not folder.exists() else folder


def panel_file(run_path: Path, example: Example, panel: str) -> Path:
    """The drawn file of a panel, whichever format the run has."""
    folder = examples_folder(run_path)
    return folder / example.file(
        "truth" if folder.name == OLD_EXAMPLES and panel == PANELS[1] else panel
    )


def webp(image: Image.Image, *, lossless: bool) -> bytes:
    """The bytes of a WebP file, no side longer than MAX_SIDE; drawn masks are shrunk without mixing colours."""
    height, width = image.height, image.width
    factor = min(1.0, MAX_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if image.size != size:
        image = image.resize(
            size, Image.Resampling.NEAREST if lossless else Image.Resampling.LANCZOS
        )
    buffer = BytesIO()
    image.save(buffer, "WEBP", lossless=lossless, quality=85)
    return buffer.getvalue()


def data_uri(content: bytes) -> Markup:
    """A WebP file as the address of an image inside a page."""
    return Markup(f"data:image/webp;base64,{b64encode(content).decode()}")
