"""Self-training: a first training labels the images without masks, a second learns from all.

The first is a run of its own, FIRST in the run folder: it learns from the masks alone, and has
FIRST_SHARE of `train.minutes`. What it sees in the images without masks becomes pseudo-masks (Lee,
"Pseudo-Label", ICML 2013 workshop), in PSEUDO_MASKS. Of each class at least the surer half of its
pixels is labelled, as in class-balanced self-training (Zou et al., ECCV 2018, Sec. 4.2): rare
classes are seldom sure. The second begins anew, as in ST++ (Yang et al., CVPR 2022), lest it keep
the faults of the first, augments more strongly, and draws SHARE of its samples from these images.
Each image is labelled once, so that a step takes no longer than one without.
"""

import math
import time
from pathlib import Path

import numpy as np
from PIL import Image

from featherseg.core.errors import DataError, RunError
from featherseg.core.files import load_json, refuse_links, write_bytes, write_json
from featherseg.core.types import Reporter
from featherseg.core.wording import WarningText, counted, duration
from featherseg.data.datasets.unlabelled import (
    PseudoMasks,
    UnlabelledImages,
    pseudo_mask,
    read_pseudo_mask,
)
from featherseg.inference.drawing import png_bytes
from featherseg.inference.predictor import Predictor
from featherseg.recipe.tables import Recipe
from featherseg.runs.run import Run

FIRST, PSEUDO_MASKS, INDEX = "first_training", "pseudo_masks", "index.json"

SURE = 230
"""Confidence (0..255) from which a pixel is labelled, whatever its class: 0.9."""

SHARE = 0.5
"""Largest share of the samples that have pseudo-masks."""

LABELLING_SHARE = 0.1
"""Largest share of `train.minutes` in which images are labelled."""


def label_images(
    first: Run,
    images: UnlabelledImages,
    recipe: Recipe,
    labelled: int,
    out: Path,
    reporter: Reporter,
) -> PseudoMasks:
    """Write what the first run sees in images without masks, and return them with pseudo-masks.

    Images are taken in an order that is drawn, as many as LABELLING_SHARE of `train.minutes` allow;
    `images` keeps those alone. Files of an interrupted call are used.

    Args:
        labelled: Number of images with masks.
        out: The run folder.

    Raises:
        DataError: no image can be read.
    """
    folder, minutes, began = out / PSEUDO_MASKS, recipe.train.minutes, time.monotonic()
    refuse_links(out, PSEUDO_MASKS)
    for split, number in images.left_out.items():
        reporter.message(f"left out {counted(number, 'image')} of {images.folder}: also in {split}")
    end = math.inf if minutes is None else began + 60 * LABELLING_SHARE * minutes
    predictor = Predictor(first, recipe.train.device, inference={"flip": recipe.augment.flip > 0})
    predictor.soft = "confidence"
    total, counts = len(images), np.zeros((256, 256), np.int64)  # classes, confidences
    keys, unread = list[str](), list[str]()
    for index in np.random.default_rng(recipe.train.seed).permutation(total).tolist():
        if keys and time.monotonic() > end:
            break
        reporter.progress("labelling images", len(keys), total)
        key = images.keys[index]
        path = pseudo_mask(folder, key)
        if not path.is_file():
            try:
                prediction = predictor(images[index].image)
            except DataError as error:
                unread.append(f"{key}: {error}")
                continue
            assert prediction.soft is not None
            # Sure pixels get one value, which makes the file small
            confidence = np.where(prediction.soft >= SURE, 255, prediction.soft)
            both = np.stack([prediction.mask, confidence.astype(np.uint8)], -1)  # (H, W, 2)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, png_bytes(Image.fromarray(both)))
        both = read_pseudo_mask(path)
        pairs = 256 * both[..., 0].ravel().astype(np.int64) + both[..., 1].ravel()
        counts += np.bincount(pairs, minlength=256**2).reshape(256, 256)
        keys.append(key)
    if unread:
        reporter.message(
            WarningText(f"{counted(len(unread), 'image')} cannot be labelled: {unread[0]}")
        )
    if not keys:
        raise DataError(f"{images.folder}: no image of it can be labelled.")
    least = least_confidence(counts[: len(first.classes)])  # (K,)
    write_json(folder / INDEX, {"least": least.tolist(), "images": sorted(keys)})
    chosen = sum(row[value:].sum() for row, value in zip(counts, least, strict=False))
    drawn = "" if len(keys) + len(unread) == total else f", drawn from {total:,}"
    reporter.message(
        f"{counted(len(keys), 'image')} without masks labelled in "
        f"{duration(time.monotonic() - began)}{drawn}: {chosen / counts.sum():.0%} of their pixels"
    )
    return open_pseudo_masks(images, labelled, out)


def least_confidence(counts: np.ndarray) -> np.ndarray:
    """Return the least confidence (0..255) of a labelled pixel of each class.

    At least the surer half of a class's pixels have it, and all pixels that are sure.

    Args:
        counts: Pixels by class and confidence (classes, 256).
    """
    below = counts.cumsum(axis=1) <= counts.sum(axis=1, keepdims=True) / 2  # (classes, 256)
    return np.minimum(SURE, below.sum(axis=1))


def open_pseudo_masks(images: UnlabelledImages, labelled: int, out: Path) -> PseudoMasks:
    """Return the images that `label_images` labelled in `out`; `images` keeps those alone.

    Raises RunError if its record is gone or damaged.
    """
    path = out / PSEUDO_MASKS / INDEX
    try:
        index = load_json(path)
        least, keys = [int(value) for value in index["least"]], set(map(str, index["images"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"{path} cannot be read ({error}): without it this run cannot go on. Start a new run "
            "with another --out."
        ) from None
    images.keep(keys)
    share = min(SHARE, len(images) / max(1, len(images) + labelled))
    return PseudoMasks(images, path.parent, least, share)
