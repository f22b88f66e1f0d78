"""The page of an audit: the most suspicious images, given mask and prediction beside each other, and a person's word.

Decisions are made by keyboard and saved as a JSON file: of every region its pixels that become another class if the
prediction is accepted, as runs at the size that was audited.
"""

import base64
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from featherseg.auditing.examples import Example
from featherseg.auditing.regions import KINDS, components
from featherseg.auditing.scorer import Judged
from featherseg.core.files import write_text
from featherseg.core.types import IGNORE, Progress, SegmentationData
from featherseg.data.decisions import mask_digest
from featherseg.inference.drawing import rgb_view
from featherseg.reports.examples import painted, webp
from featherseg.reports.page import page_html, render

MOST_SHOWN = 60
"""Images on the page, the most suspicious: at about 60 kB each it stays a page that opens at once."""

OUTLINE = (255, 0, 200)


def write_page(
    data: SegmentationData, seen: np.ndarray, folder: Path, judged: Judged, out: Path, progress: Progress
) -> int:
    """Write the page atomically; -> how many images it shows.

    judged is of the images whose numbers are `seen`; folder: of the examples, by number.
    """
    order = np.argsort(-judged.images, kind="stable")[:MOST_SHOWN]
    shown = []
    for done, place in enumerate(order):
        progress("drawing the page", done, len(order))
        number, scores = int(seen[place]), judged.regions[place]
        if len(scores):
            example = Example.load(folder / f"{number:06d}.npz")
            shown.append(_row(data, number, example, float(judged.images[place]), int(scores.argmax())))
    files = resources.files("featherseg.auditing")
    body = render("auditing/page.html", test=judged.self_test, rows=shown, images=len(data), name=data.name)
    style, script = ((files / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    write_text(out, page_html(f"{data.name} · featherseg audit", body, style, script))
    return len(shown)


def _row(data: SegmentationData, number: int, example: Example, score: float, region: int) -> dict[str, Any]:
    """An image on the page: three panels, its most suspicious region outlined, and what accepting would change."""
    inside = region_at(example, region)
    edge = inside & ~_shrunk(inside)
    label, classes = example.label, data.classes
    height, width = label.shape
    image = rgb_view(data[number].image).resize((width, height), Image.Resampling.BILINEAR)
    panels = []
    for name, drawn in (
        ("image", np.array(image)),
        ("given mask", np.array(painted(label, classes))),
        ("prediction", np.array(painted(example.prediction, classes))),
    ):
        drawn[edge] = OUTLINE
        content = base64.b64encode(webp(Image.fromarray(drawn), lossless=name != "image")).decode()
        panels.append((name, Markup(f"data:image/webp;base64,{content}")))

    def most(mask: np.ndarray) -> str:
        return classes[int(np.bincount(mask[inside]).argmax())].name

    decision = {
        "key": data.keys[number],
        "region": region,
        "size": [height, width],
        "runs": change_runs(label, example.prediction, inside),
        "mask": mask_digest(label),
    }
    return {
        "key": data.keys[number],
        "score": score,
        "panels": panels,
        "kind": KINDS[example.kinds[region]],
        "given": most(label),
        "predicted": most(example.prediction),
        "decision": json.dumps(decision),
    }


def region_at(example: Example, region: int) -> np.ndarray:
    """Where region number `region` of an image is, (H, W) bool."""
    kind = example.kinds[region]
    mask = example.label if kind == 0 else np.where(example.label == IGNORE, IGNORE, example.prediction)
    numbers, _ = components(mask)
    return numbers == region + 1 - (int((example.kinds == 0).sum()) if kind else 0)


def change_runs(label: np.ndarray, prediction: np.ndarray, inside: np.ndarray) -> list[list[int]]:
    """What accepting a region changes: [class, first pixel, pixels] row by row, where mask and prediction differ."""
    become = np.where(inside & (label != prediction) & (label != IGNORE), prediction.astype(np.int64), -1).ravel()
    starts = np.flatnonzero(np.diff(become, prepend=-2))
    lengths = np.diff(starts, append=become.size)
    return [[int(become[s]), int(s), int(n)] for s, n in zip(starts, lengths, strict=True) if become[s] >= 0]


def _shrunk(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:] & mask
