"""Convert Cityscapes as released to panoptic PNGs and JSON, as csCreatePanopticImgs does.

A pixel of *_instanceIds.png has the label id of its class, or 1000 * label id + number if objects
were annotated one by one. That value is the segment's id. A label id alone is a crowd if its class
has instances; classes that are not scored become void.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featherseg.core.errors import DataError, DataNotFound
from featherseg.core.files import check_folder, refuse_links
from featherseg.core.types import IGNORE, Progress
from featherseg.data.datasets.cityscapes import Cityscapes
from featherseg.data.datasets.cityscapes_labels import (
    CITYSCAPES_CLASSES,
    FROM_LABEL_IDS,
    LAST_LABEL_ID,
)
from featherseg.data.datasets.cityscapes_panoptic import LAYOUTS, Layout
from featherseg.data.images.decoding import read_mask
from featherseg.data.panoptic.data import categories
from featherseg.data.panoptic.files import PanopticWriter
from featherseg.data.panoptic.segments import Panoptic, list_segments

SUFFIX = "_gtFine_instanceIds.png"

INSTANCES = 1000
"""A pixel with this value or more has INSTANCES * label id + number of the object."""

_EXPECTED = f"Expected gtFine/{{train,val}}/<city>/*{SUFFIX} of gtFine_trainvaltest.zip."


@dataclass(frozen=True)
class Converted:
    """A split: its JSON, the number of its images, and of PNGs that were there already."""

    name: str
    json: Path
    images: int
    kept: int


def convert_cityscapes(
    root: Path,
    out: Path | None = None,
    *,
    train_ids: bool = False,
    progress: Progress | None = None,
) -> list[Converted]:
    """Convert the splits train and val of the release under `root`, if their files are there.

    A PNG that is there and not older than its source is kept, so that an interrupted conversion
    continues.

    Args:
        root: the folder above gtFine.
        out: where cityscapes_panoptic_SPLIT.json and the folder of that name are written; default:
            gtFine.
        train_ids: write train ids as categories, not label ids, and SPLIT_trainId in the names.

    Raises:
        DataNotFound: if there is nothing to convert.
        DataError: for a file that is no mask of Cityscapes; its split then gets no JSON.
    """
    layout = LAYOUTS[train_ids]
    source = root / "gtFine"
    sources = {split: sorted((source / split).glob(f"*/*{SUFFIX}")) for split in Cityscapes.splits}
    total, done = sum(map(len, sources.values())), 0
    if not total:
        state = f"{root} has no instance masks" if root.is_dir() else f"{root} is not a folder"
        raise DataNotFound(f"{state}. {_EXPECTED} Name the folder above gtFine.")
    target = out or source
    check_folder(target)
    refuse_links(target, *(f"cityscapes_panoptic_{split}{layout.ending}" for split in sources))
    converted = []
    for split, paths in sources.items():
        if not paths:
            continue
        folder = target / f"cityscapes_panoptic_{split}{layout.ending}"
        writer = PanopticWriter(folder, categories(CITYSCAPES_CLASSES, layout.category_ids))
        kept = 0
        for path in paths:
            kept += _convert(path, writer, layout)
            done += 1
            if progress is not None:
                progress("converting", done, total)
        converted.append(Converted(split, writer.finish(), len(paths), kept))
    return converted


def panoptic_of_instances(raw: np.ndarray, category_ids: Sequence[int], name: str) -> Panoptic:
    """Return the segmentation of a mask (H, W) of instance ids.

    Args:
        category_ids: the category id of every class.
        name: of the mask, for the message.

    Raises:
        DataError: for values that are no ids of Cityscapes.
    """
    present = np.unique(raw).tolist()
    label_of = {value: value if value < INSTANCES else value // INSTANCES for value in present}
    unknown = [value for value, label in label_of.items() if not 0 <= label <= LAST_LABEL_ID]
    if raw.ndim != 2 or unknown:
        problem = f"the value {unknown[0]}" if unknown else "colours"
        raise DataError(
            f"{name} has {problem}: expected label ids 0 to {LAST_LABEL_ID}, or {INSTANCES} times "
            "a label id plus a number."
        )
    class_of = {value: FROM_LABEL_IDS.ids[label] for value, label in label_of.items()}
    void = [value for value, index in class_of.items() if index == IGNORE]
    scored = {value: index for value, index in class_of.items() if index != IGNORE}
    crowds = {v for v, index in scored.items() if v < INSTANCES and CITYSCAPES_CLASSES[index].thing}
    category_of = {value: category_ids[index] for value, index in scored.items()}
    ids = np.where(np.isin(raw, void), 0, raw)
    return list_segments(ids, category_of | {0: 0}, frozenset(crowds))


def _convert(path: Path, writer: PanopticWriter, layout: Layout) -> bool:
    """Add one mask; return whether its PNG was there already."""
    image_id = path.name.removesuffix(SUFFIX)  # "frankfurt_000000_000294"
    file_name = f"{image_id}_gtFine_panoptic.png"
    target = writer.folder / file_name
    there = target.is_file() and target.stat().st_mtime >= path.stat().st_mtime
    panoptic = panoptic_of_instances(read_mask(path), layout.category_ids, str(path))
    writer.add(image_id, f"{image_id}_leftImg8bit.png", file_name, panoptic, draw=not there)
    return there
