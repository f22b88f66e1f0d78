"""The page of an audit: the most suspicious images, given mask and prediction beside each other, and a person's word.

Decisions are made by keyboard and saved as a JSON file: of every region its pixels that become another class if the
prediction is accepted, as runs at the size that was audited.
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

from featherseg.auditing.examples import Example, kept_file
from featherseg.auditing.regions import KINDS, components
from featherseg.auditing.scorer import Judged
from featherseg.core.files import write_text
from featherseg.core.types import IGNORE, Progress, SegmentationData
from featherseg.core.wording import ESCAPES
from featherseg.data.checks.decisions import mask_digest
from featherseg.data.images.image_range import range_above
from featherseg.inference.drawing import color_mask, rgb_view
from featherseg.reports.examples import data_uri, webp
from featherseg.reports.page import page_html, render

MOST_SHOWN = 60
"""Images on the page, the most suspicious: at about 60 kB each it stays a page that opens at once."""

OUTLINE = (255, 0, 200)

NEAR = 0.4
"""Regions whose box is shorter than this part of the image's longer side are shown a second time, enlarged ..."""

AROUND = 1.0
"""... with so much around them, in parts of the box, and at least LEAST_AROUND pixels."""

LEAST_AROUND = 12

NEAR_SIDE = 360
"""Pixels of the enlarged image's width."""


def write_page(
    data: SegmentationData,
    seen: np.ndarray,
    folder: Path,
    judged: Judged,
    worst: np.ndarray,
    out: Path,
    progress: Progress,
    no_ranking: str | None,
) -> int:
    """Write the page atomically; -> how many images it shows, 0 with `no_ranking`, the reason why there is none.

    judged is of the images whose numbers are `seen`; worst (N,): the number of the most suspicious region of each, -1
    of an image without one; folder: of the examples, by number.
    """
    order = np.argsort(-judged.images, kind="stable")[: 0 if no_ranking else MOST_SHOWN]
    rows, scores = [], judged.scores
    for done, place in enumerate(order):
        progress("drawing the page", done, len(order))
        number, region = int(seen[place]), int(worst[place])
        if region >= 0:
            example = Example.load(kept_file(folder, number))
            rows.append(_row(data, number, example, float(scores[place]), region))
    body = render(
        "auditing/page.html",
        test=judged.self_test,
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
    write_text(
        out, page_html(f"{data.name} · featherseg audit", body, style, "" if no_ranking else script)
    )
    return len(rows)


def _row(
    data: SegmentationData, number: int, example: Example, score: float, region: int
) -> dict[str, Any]:
    """An image on the page: three panels, its most suspicious region outlined, and what accepting would change."""
    inside = region_at(example, region)
    label, classes = example.label, data.classes
    height, width = label.shape
    photo = data[number].image
    full = rgb_view(photo, range_above(photo.max()))
    image = full.resize((width, height), Image.Resampling.BILINEAR)
    drawn = [
        np.array(image),
        *(np.array(color_mask(mask, classes)) for mask in (label, example.prediction)),
    ]
    edge = ndimage.binary_dilation(inside) & ~inside
    names = ("image", "given mask", "prediction")
    panels = [
        (name, _source(_outlined(pixels, edge), name))
        for name, pixels in zip(names, drawn, strict=True)
    ]

    # A small region once more, enlarged: the image in its own pixels
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    longer = max(bottom - top, right - left)
    near = []
    if longer < NEAR * max(height, width):
        more = max(LEAST_AROUND, round(AROUND * longer / 2))
        middle, half = ((top + bottom) // 2, (left + right) // 2), longer // 2 + more
        box = [max(0, middle[1] - half), max(0, middle[0] - half)]
        box += [min(width, middle[1] + half), min(height, middle[0] + half)]
        scale = (full.width / width, full.height / height)
        whole = full.crop(tuple(round(side * scale[place % 2]) for place, side in enumerate(box)))
        cut = np.s_[box[1] : box[3], box[0] : box[2]]
        size = (NEAR_SIDE, max(1, round(NEAR_SIDE * (box[3] - box[1]) / (box[2] - box[0]))))
        near = [_source(np.array(whole.resize(size, Image.Resampling.BICUBIC)), names[0])]
        for name, pixels in zip(names[1:], drawn[1:], strict=True):
            near.append(_source(_outlined(pixels, edge)[cut], name))

    # What it is, and what accepting would make of it
    runs = change_runs(label, example.prediction, inside)
    becomes = (
        np.bincount([run[0] for run in runs], [run[2] for run in runs]) if runs else np.zeros(1)
    )
    of = classes[example.classes[region]].name
    what = f"{of} in the {'mask' if KINDS[example.kinds[region]] == 'labelled' else 'prediction'}: accepting changes "
    if runs:
        most = ", most" if (becomes > 0).sum() > 1 else ""
        what += f"{int(becomes.sum())} of its {int(inside.sum())} pixels{most} to {classes[int(becomes.argmax())].name}"
    else:
        what += "nothing"
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
        "what": what,
        "decision": decision,
        "id": hashlib.sha256(decision.encode(errors=ESCAPES)).hexdigest()[:16],
    }


def _outlined(pixels: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """(H, W, 3) with OUTLINE where edge (H, W)."""
    return np.where(edge[:, :, None], np.array(OUTLINE, np.uint8), pixels)


def _source(pixels: np.ndarray, name: str) -> Markup:
    return data_uri(webp(Image.fromarray(pixels), lossless=name != "image"))


def region_at(example: Example, region: int) -> np.ndarray:
    """Where region number `region` of an image is, (H, W) bool."""
    kind = example.kinds[region]
    mask = (
        example.label
        if kind == 0
        else np.where(example.label == IGNORE, IGNORE, example.prediction)
    )
    numbers, _ = components(mask)
    return numbers == region + 1 - (int((example.kinds == 0).sum()) if kind else 0)


def change_runs(label: np.ndarray, prediction: np.ndarray, inside: np.ndarray) -> list[list[int]]:
    """What accepting a region changes: [class, first pixel, pixels] row by row, where mask and prediction differ."""
    become = np.where(
        inside & (label != prediction) & (label != IGNORE), prediction.astype(np.int64), -1
    ).ravel()
    starts = np.flatnonzero(np.diff(become, prepend=-2))
    lengths = np.diff(starts, append=become.size)
    return [
        [int(become[s]), int(s), int(n)]
        for s, n in zip(starts, lengths, strict=True)
        if become[s] >= 0
    ]
