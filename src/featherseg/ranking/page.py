"""The page of a ranking: the listed images, what the model predicts, and where it is uncertain."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from featherseg.core.files import write_text
from featherseg.core.types import Progress
from featherseg.data.images import read_image
from featherseg.inference.drawing import overlay, rgb_view
from featherseg.inference.predictor import Predictor
from featherseg.ranking.measures import measure
from featherseg.reports.examples import data_uri, webp
from featherseg.reports.page import page_html, render

if TYPE_CHECKING:
    from featherseg.ranking.session import RankedImages

MOST_SHOWN = 100
"""Images on the page, the first of the list: at about 30 kB each it stays a page that opens at once."""

SIDE = 320
"""Pixels of the longer side of a thumbnail."""

SCORED_BY: Mapping[str, str] = {
    "both": "how uncertain the model is of their regions, times how unlike the images are that are labelled or higher "
    "on the list",
    "uncertainty": "how uncertain the model is of their regions",
    "diversity": "how unlike the images are that are labelled or higher on the list",
}


def write_page(ranked: "RankedImages", predictor: Predictor, count: int, progress: Progress) -> None:
    """Write the page atomically; count: of images that were measured."""
    rows = []
    shown = ranked.images[:MOST_SHOWN]
    for number, row in enumerate(shown):
        progress("drawing the page", number, len(shown))
        rows.append({"row": row, "panels": _panels(Path(row.image), predictor)})
    body = render(
        "ranking/page.html",
        name=ranked.name,
        by=SCORED_BY[ranked.by],
        rows=rows,
        listed=len(ranked.images),
        count=count,
        left_out=len(ranked.left_out),
        notes=ranked.notes,
    )
    style = (resources.files("featherseg.ranking") / "page.css").read_text(encoding="utf-8")
    write_text(ranked.page, page_html(f"{ranked.name} · featherseg rank", body, style))


def _panels(path: Path, predictor: Predictor) -> list[tuple[str, Any]]:
    """Thumbnails of an image: itself, the prediction over it, the entropy of its pixels over it in red."""
    image = read_image(path, predictor.runtime.channels)
    found = measure(predictor.runtime, image, predictor.plan(image.shape[:2]).inference)
    height, width = found.prediction.shape
    seen = rgb_view(image, predictor.runtime.image_range).resize((width, height), Image.Resampling.BOX)
    grey = np.asarray(seen.convert("L"), np.float32)[:, :, None] * (1 - found.entropy[:, :, None])
    red = grey + found.entropy[:, :, None] * np.array([255, 40, 0], np.float32)  # (H, W, 3)
    drawn = (
        ("image", seen),
        ("prediction", overlay(np.asarray(seen), found.prediction, predictor.classes)),
        ("uncertain in red", Image.fromarray(red.astype(np.uint8))),
    )
    panels = []
    for name, panel in drawn:
        panel.thumbnail((SIDE, SIDE))
        panels.append((name, data_uri(webp(panel, lossless=False))))
    return panels
