"""The page of an audit: image, given mask and prediction of the most suspicious images.

A user decides by keyboard, and saves a JSON file: for each region the pixels that get another class
if the prediction is accepted, as runs at the size of the audit.
"""

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image
from scipy import ndimage

from featherseg.auditing.examples import Example, example_file
from featherseg.auditing.regions import KINDS, components
from featherseg.auditing.scorer import Ranking
from featherseg.core.files import write_text
from featherseg.core.types import IGNORE, Progress, SegmentationData
from featherseg.core.wording import ESCAPES
from featherseg.data.checks.decisions import mask_digest
from featherseg.data.images.image_range import range_above
from featherseg.inference.drawing import color_mask, hatch_ignored, rgb_view
from featherseg.reports.examples import data_uri, webp
from featherseg.reports.page import page_html, render

MOST_SHOWN = 60
"""Number of images on the page: with about 60 kB each it opens at once."""

OUTLINE = (255, 0, 200)
"""Colour of the outline of a region."""

SMALL = 0.4
"""Regions whose box is shorter than this share of the image's longer side are also enlarged."""

AROUND, LEAST_AROUND = 1.0, 12
"""Margin around an enlarged region, as a share of its box, and in pixels at least."""

ENLARGED = 360
"""Width of an enlarged region in pixels."""


def write_page(
    data: SegmentationData,
    seen: np.ndarray,
    folder: Path,
    ranking: Ranking,
    worst: np.ndarray,
    out: Path,
    progress: Progress,
    no_ranking: str | None,
) -> int:
    """Write the page atomically, return the number of images on it: 0 with `no_ranking`.

    Args:
        seen: The numbers of the images that `ranking` is of.
        folder: Has the Example of each image.
        worst: The most suspicious region of each image, -1 = none, (N,).
        no_ranking: Why images are not ranked.
    """
    order = np.argsort(-ranking.images, kind="stable")[: 0 if no_ranking else MOST_SHOWN]
    rows, scores = [], ranking.scores
    for done, place in enumerate(order):
        progress("drawing the page", done, len(order))
        number, region = int(seen[place]), int(worst[place])
        if region >= 0:
            example = Example.load(example_file(folder, number))
            rows.append(_row(data, number, example, float(scores[place]), region))
    body = render(
        "auditing/page.html",
        test=ranking.self_test,
        rows=rows,
        no_ranking=no_ranking,
        images=len(data),
        unseen=len(data) - len(seen),
        name=data.name,
        audit=folder.name,
        classes=data.classes,
    )
    files = resources.files("featherseg.auditing")
    style, script = ((files / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    title = f"{data.name} · featherseg audit"
    write_text(out, page_html(title, body, style, "" if no_ranking else script))
    return len(rows)


def _row(
    data: SegmentationData, number: int, example: Example, score: float, region: int
) -> dict[str, Any]:
    """Return an image for the page: panels, its most suspicious region, and what accepting does."""
    inside = region_at(example, region)
    label, classes = example.label, data.classes
    height, width = label.shape
    image = data[number].image
    photo = rgb_view(image, range_above(image.max()))
    resized = photo.resize((width, height), Image.Resampling.BILINEAR)
    masks = [
        np.array(hatch_ignored(color_mask(mask, classes), mask))
        for mask in (label, example.prediction)
    ]
    names, drawn = ("image", "given mask", "prediction"), [np.array(resized), *masks]
    edge = ndimage.binary_dilation(inside) & ~inside
    panels = [
        (name, _source(_outlined(pixels, edge), name))
        for name, pixels in zip(names, drawn, strict=True)
    ]

    # A small region is also enlarged; the image then has its own pixels
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    longer = max(bottom - top, right - left)
    near = []
    if longer < SMALL * max(height, width):
        half = longer // 2 + max(LEAST_AROUND, round(AROUND * longer / 2))
        y, x = (top + bottom) // 2, (left + right) // 2
        box = [max(0, x - half), max(0, y - half), min(width, x + half), min(height, y + half)]
        size = (ENLARGED, max(1, round(ENLARGED * (box[3] - box[1]) / (box[2] - box[0]))))
        scale = (photo.width / width, photo.height / height)
        part = photo.crop(tuple(round(side * scale[place % 2]) for place, side in enumerate(box)))
        near = [_source(np.array(part.resize(size, Image.Resampling.BICUBIC)), names[0])]
        for name, pixels in zip(names[1:], drawn[1:], strict=True):
            cut = _outlined(pixels, edge)[box[1] : box[3], box[0] : box[2]]
            near.append(_source(cut, name))

    # Its class, and what accepting the prediction changes
    runs = change_runs(label, example.prediction, inside)
    of = classes[example.classes[region]].name
    kind = "mask" if KINDS[example.kinds[region]] == "labelled" else "prediction"
    changes = "nothing"
    if runs:
        pixels_of = np.bincount([run[0] for run in runs], [run[2] for run in runs])
        most = ", most" if (pixels_of > 0).sum() > 1 else ""
        changes = (
            f"{int(pixels_of.sum())} of its {int(inside.sum())} pixels{most} to "
            f"{classes[int(pixels_of.argmax())].name}"
        )
    decided = {
        "key": data.keys[number],
        "region": region,
        "size": [height, width],
        "runs": runs,
        "mask": mask_digest(label),
    }
    decision = json.dumps(decided)
    return {
        "key": data.keys[number],
        "score": score,
        "panels": panels,
        "near": near,
        "what": f"{of} in the {kind}: accepting changes {changes}",
        "decision": decision,
        "id": hashlib.sha256(decision.encode(errors=ESCAPES)).hexdigest()[:16],
    }


def _outlined(pixels: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """Return pixels (H, W, 3) with OUTLINE at edge (H, W)."""
    return np.where(edge[:, :, None], np.array(OUTLINE, np.uint8), pixels)


def _source(pixels: np.ndarray, name: str) -> Markup:
    return data_uri(webp(Image.fromarray(pixels), lossless=name != "image"))


def region_at(example: Example, region: int) -> np.ndarray:
    """Return the pixels of a region of an image, (H, W) bool."""
    if example.kinds[region] == 0:
        return components(example.label)[0] == region + 1
    numbers, _ = components(np.where(example.label == IGNORE, IGNORE, example.prediction))
    return numbers == region + 1 - int((example.kinds == 0).sum())


def change_runs(label: np.ndarray, prediction: np.ndarray, inside: np.ndarray) -> list[list[int]]:
    """Return the runs [class, first pixel, pixels] of a region that accepting the prediction sets.

    These are the pixels, row by row, where mask and prediction differ.
    """
    differs = inside & (label != prediction) & (label != IGNORE)
    new = np.where(differs, prediction.astype(np.int64), -1).ravel()
    starts = np.flatnonzero(np.diff(new, prepend=-2))
    lengths = np.diff(starts, append=new.size)
    return [
        [int(new[start]), int(start), int(length)]
        for start, length in zip(starts, lengths, strict=True)
        if new[start] >= 0
    ]
