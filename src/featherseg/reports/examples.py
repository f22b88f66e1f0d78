"""Draw the best and worst predictions of an evaluation: image, masks, overlay and errors.

RUN/examples/ contains a WebP file for each panel of an example (`best-1-image.webp`, ...) and
examples.json; the report shows them.
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
from featherseg.inference.drawing import (
    color_mask,
    error_map,
    hatch_ignored,
    overlay,
    overlay_panoptic,
    rgb_view,
)
from featherseg.inference.masks import predict_mask, predict_panoptic
from featherseg.inference.runtimes import Runtime
from featherseg.inference.settings import InferenceSettings

FOLDER, INDEX = "examples", "examples.json"
NEEDED = ("image", "ground truth", "prediction")
PANELS = (*NEEDED, "overlay", "errors")
"""The panels of an example; runs of earlier days have the first three, panoptic ones no overlay."""

DRAWN = 4  # most best images, and worst images
MAX_SIDE = 640  # pixels; larger images are shrunk for the page
OPACITY = 0.7
"""Opacity of the colours of objects and regions over the image."""


@dataclass(frozen=True)
class Example:
    """One drawn sample; the names of its files begin with `name` ("best-1").

    miou (0..1) is that of this image alone.
    """

    name: str
    key: str
    miou: float

    def file(self, panel: str) -> str:
        """Return the file name of a panel (one of PANELS) inside RUN/examples."""
        return f"{self.name}-{panel.replace(' ', '-')}.webp"


def draw_examples(
    run_path: Path,
    runtime: Runtime,
    data: SegmentationData,
    mious: Mapping[str, float],
    inference: InferenceSettings | None = None,
) -> list[Example]:
    """Predict and draw the best and worst images of `data` into RUN/examples; return them.

    Earlier examples are replaced. At most DRAWN images of each kind are drawn, none twice.

    mious: key -> mIoU (0..1) of a single image, from an evaluation with `inference`; images without
    a number are skipped.
    """
    folder = run_path / FOLDER
    chosen = choose(mious, DRAWN)
    index = {key: i for i, key in enumerate(data.keys)}
    write_json(folder / INDEX, [])  # no example is shown until all are drawn
    for example in chosen:
        images = panels(runtime, data[index[example.key]], data.classes, inference)
        for panel, image in images.items():
            # Masks of a semantic model have flat colours; objects are drawn over the image
            flat = panel in NEEDED[1:] and runtime.panoptic is None
            write_bytes(folder / example.file(panel), webp(image, lossless=flat))
    write_json(folder / INDEX, [asdict(example) for example in chosen])
    return chosen


def panels(
    runtime: Runtime,
    sample: Sample,
    classes: Sequence[ClassInfo],
    inference: InferenceSettings | None = None,
) -> dict[str, Image.Image]:
    """Return the drawings of a sample by their names in PANELS.

    A panoptic model's objects are outlined over the image.
    """
    image, label, image_range = sample.image, sample.label, runtime.image_range
    drawn = {"image": rgb_view(image, image_range)}
    if runtime.panoptic is None or sample.instances is None:
        mask = predict_mask(runtime, image, inference)
        drawn |= {
            "ground truth": hatch_ignored(color_mask(label, classes), label),
            "prediction": color_mask(mask, classes),
            "overlay": overlay(image, mask, classes, image_range=image_range),
        }
    else:
        ((mask, predicted),) = predict_panoptic(runtime, image[None], inference)
        ground_truth = from_sample(label, sample.instances, classes, range(len(classes)))
        for panel, objects in (("ground truth", ground_truth), ("prediction", predicted)):
            drawn[panel] = overlay_panoptic(image, *objects, classes, OPACITY, image_range)
    return drawn | {"errors": error_map(image, label, mask, image_range)}


def choose(mious: Mapping[str, float], count: int) -> list[Example]:
    """Return the best and worst `count` keys, most extreme first; no key twice, ties by key.

    The best are at most a third of all images: among few, a list of them would say nothing.
    """
    ranked = sorted((m, key) for key, m in mious.items() if not np.isnan(m))
    worst = ranked[: min(count, -(-len(ranked) // 3))]
    best = ranked[::-1][: min(count, len(ranked) // 3)]
    return [
        Example(f"{kind}-{i}", key, miou)
        for kind, rows in (("best", best), ("worst", worst))
        for i, (miou, key) in enumerate(rows, 1)
    ]


def read_examples(run_path: Path) -> list[Example]:
    """Return the examples of a run whose NEEDED files exist inside its folder.

    Files that a name or a link places outside are skipped, because a page would show their content.
    """
    try:
        rows = load_json(examples_folder(run_path) / INDEX)
        examples = [Example(**row) for row in rows]
    except (OSError, ValueError, TypeError):
        return []
    return [e for e in examples if set(NEEDED) <= set(panels_there(run_path, e))]


def panels_there(run_path: Path, example: Example) -> list[str]:
    """Return those of PANELS whose file exists directly inside the folder of the examples."""
    inside = run_path.resolve() / examples_folder(run_path).name
    files = {panel: panel_file(run_path, example, panel) for panel in PANELS}
    return [
        panel for panel, file in files.items() if file.is_file() and file.resolve().parent == inside
    ]


def examples_folder(run_path: Path) -> Path:
    """Return the folder of a run's examples; runs of earlier days call it by another name."""
    folder, old = run_path / FOLDER, run_path / OLD_EXAMPLES
    return old if old.exists() and not folder.exists() else folder


def panel_file(run_path: Path, example: Example, panel: str) -> Path:
    """Return the file of a panel, also in a run of earlier days."""
    folder = examples_folder(run_path)
    is_old = folder.name == OLD_EXAMPLES and panel == PANELS[1]
    return folder / example.file("truth" if is_old else panel)


def webp(image: Image.Image, *, lossless: bool) -> bytes:
    """Return the bytes of a WebP file with sides of at most MAX_SIDE.

    lossless: for masks in flat colours, which are shrunk without mixing colours.
    """
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
    """Return a WebP file as a data: address inside a page."""
    return Markup(f"data:image/webp;base64,{b64encode(content).decode()}")
