"""The one evaluator: validation in training, `featherseg evaluate` and export checks all score with these functions.

One image at a time, full-resolution labels, counts summed over the dataset. The same weights on the same machine give
the same bits.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.core.errors import ConfigError, DataError, DataNotFound
from featherseg.core.notebook import html_table, percent
from featherseg.core.types import IGNORE, Progress, SegmentationData
from featherseg.core.wording import marks, size_text
from featherseg.counting.published import Comparison
from featherseg.data.fingerprint import files_of
from featherseg.data.images import read_mask
from featherseg.evaluation.boundary import BoundaryF
from featherseg.evaluation.ground_truth import PanopticScorer
from featherseg.evaluation.iou import Confusion
from featherseg.inference.masks import predict_mask, predict_panoptic
from featherseg.inference.range_warning import warn_of_range
from featherseg.inference.runtimes import Runtime
from featherseg.inference.settings import InferenceSettings
from featherseg.uncertainty.bootstrap import image_counts


@dataclass(frozen=True)
class Scores:
    """What an evaluation found. Shares are fractions 0..1, NaN where there was nothing to measure.

    confusion (K, K) counts pixels, rows are the ground truth; void (K,) counts those predicted as no class; iou and
    class_boundary_f (K,); boundary_f is NaN where it was not asked for; per_image holds each image's own mIoU by its
    key (NaN for one without a labelled pixel), counts (N, 3, K) its pixels of each class in the ground truth, hit and
    predicted, which is what an interval of mIoU is drawn from. panoptic is what `PanopticQuality.compute` gives, its
    categories in the order of the classes, and panoptic_counts (N, 3, K) what `PanopticQuality.pooled` gives of each
    image, for an interval of PQ; both None where model or data know no objects. published is the paper's row
    beside these figures, where the run's recipe names one; selected: whether the run kept its weights by these images;
    trained_on: whether it was trained on some of them; look: which one of the run at test this is; notes are sentences
    on how it was scored. data, split and inference name what was scored and how, the last two where they are known.
    """

    classes: tuple[str, ...]
    images: int
    miou: float
    iou: np.ndarray
    pixel_accuracy: float
    class_accuracy: float
    boundary_f: float
    class_boundary_f: np.ndarray
    confusion: np.ndarray
    void: np.ndarray
    per_image: dict[str, float]
    counts: np.ndarray
    panoptic: dict[str, Any] | None = None
    panoptic_counts: np.ndarray | None = None
    published: Comparison | None = None
    selected: bool = False
    trained_on: bool = False
    look: int | None = None
    notes: tuple[str, ...] = ()
    data: str = ""
    split: str | None = None
    inference: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: fractions, pixel counts (confusion, void), null for NaN.

        "selected" and "trained_on" are there where true, "look" where it is one at test, "split" and "inference" where
        they are known.
        """
        scored = {"data": self.data, "split": self.split, "inference": self.inference}
        found: dict[str, Any] = {key: text for key, text in scored.items() if text is not None}
        found |= {
            "miou": number(self.miou),
            "iou": [number(v) for v in self.iou],
            "pixel_accuracy": number(self.pixel_accuracy),
            "class_accuracy": number(self.class_accuracy),
            "boundary_f": number(self.boundary_f),
            "class_boundary_f": [number(v) for v in self.class_boundary_f],
            "classes": list(self.classes),
            "images": self.images,
            "confusion": self.confusion.tolist(),
            "void": self.void.tolist(),
            "notes": list(self.notes),
        }
        found |= {"panoptic": plain(self.panoptic)} if self.panoptic else {}
        found |= {"look": self.look} if self.look else {}
        return found | {key: True for key in ("selected", "trained_on") if getattr(self, key)}

    def _repr_html_(self) -> str:
        rows: list[tuple[str, ...]] = [
            (name, percent(iou), percent(contour))
            for name, iou, contour in zip(self.classes, self.iou, self.class_boundary_f, strict=True)
        ]
        rows.append(("mean", percent(self.miou), percent(self.boundary_f)))
        objects = [f"PQ {percent(self.panoptic['pq'])} %"] if self.panoptic else []
        title = f"{self.images} images: mIoU {percent(self.miou)} %, pixel accuracy {percent(self.pixel_accuracy)} %"
        told = marks(selected=self.selected, trained_on=self.trained_on)
        title += f" ({told})" if told else ""
        return html_table(title, ("class", "IoU %", "boundary F %"), rows, (*objects, *self.notes))


def evaluate(
    runtime: Runtime,
    data: SegmentationData,
    inference: InferenceSettings | None = None,
    *,
    boundary: bool = True,
    progress: Progress | None = None,
) -> Scores:
    """Score a model on every image of `data`; `inference` as for predictions, by default that of validation.

    A panoptic model on data with objects is scored on its objects too, in the same pass. Raises ConfigError where the
    classes or channels of model and data differ, or the inference settings are not for a panoptic model.
    """
    check_classes(runtime, data)
    objects, sums = PanopticScorer(data) if runtime.panoptic else None, []

    def pairs() -> Iterable[tuple[str, np.ndarray, np.ndarray]]:
        for index in range(len(data)):
            sample = data[index]
            warn_of_range(runtime, sample.image, sample.key)
            if objects is not None:
                sums.append(objects.quality.pooled())  # of the images before
            if objects is None or sample.instances is None:
                yield sample.key, sample.label, predict_mask(runtime, sample.image, inference)
                continue
            ((mask, panoptic),) = predict_panoptic(runtime, sample.image[None], inference)
            objects.update(index, sample, panoptic)
            yield sample.key, sample.label, mask

    scores = _score(pairs(), data, boundary, progress)
    found = objects.quality.compute() if objects else {"n": 0}
    if objects is None or not found["n"]:
        return scores
    return replace(scores, panoptic=found, panoptic_counts=np.diff([*sums, objects.quality.pooled()], axis=0))


PREDICTED = (".png", "_mask.png", "_mask.tif")
"""How the file of a prediction ends, behind the name of its image."""


def evaluate_predictions(
    folder: Path, data: SegmentationData, *, boundary: bool = True, progress: Progress | None = None
) -> Scores:
    """Score a folder of index PNGs, one for every key, named as `prediction_files` says.

    Values of K or more (255 among them) are "no class", which a note tells. Nothing is written. Raises DataNotFound
    where files are missing, DataError for one that is not of its image's size or holds colours, or may be of several.
    """
    listed = files_of(data)
    images = [pair.files[0].stem for pair in listed.pairs] if listed else []
    files = prediction_files(folder, data.keys, images or data.keys)
    strange: Counter[int] = Counter()  # value that is no class -> labelled pixels that have it

    def pairs() -> Iterable[tuple[str, np.ndarray, np.ndarray]]:
        for index, (key, file) in enumerate(zip(data.keys, files, strict=True)):
            label, prediction = data.label(index), read_mask(file)  # (H, W), (H, W) raw values
            if prediction.shape != label.shape:
                raise DataError(
                    f"{file} is {size_text(prediction.shape)}, but the mask of {key!r} is {size_text(label.shape)} "
                    "(height x width). Expected one class index per pixel, at full size."
                )
            odd = prediction[(prediction >= len(data.classes)) & (prediction != IGNORE) & (label != IGNORE)]
            strange.update(dict(zip(*(part.tolist() for part in np.unique(odd, return_counts=True)), strict=True)))
            yield key, label, prediction

    scores = _score(pairs(), data, boundary, progress)
    if not strange:
        return scores
    share = percent(strange.total() / (scores.void.sum() + scores.confusion.sum()))
    told = f"{share} % of the labelled pixels are predicted as no class, by {_names(list(map(str, sorted(strange))))}"
    return replace(scores, notes=(f"{told}: expected 0 to {len(data.classes) - 1}, the classes in the data's order",))


def prediction_files(folder: Path, keys: Sequence[str], images: Sequence[str]) -> list[Path]:
    """The prediction of each key; `images` are the names of their files without the ending.

    It is KEY.png, KEY with "/" as "_", or, where no other image has it, the last part of KEY or the image's name; each
    also with _mask behind it, as `predict` writes them, of GeoTIFFs _mask.tif. Raises DataNotFound with counts and the
    first names, DataError where a file may be of several images.
    """
    if not folder.is_dir():
        raise DataNotFound(f"there is no folder of predictions at {folder}.")
    short = [{key.rpartition("/")[2], image.rpartition("/")[2]} for key, image in zip(keys, images, strict=True)]
    taken = Counter(name for names in short for name in names)
    found: list[Path] = []
    missing: list[str] = []
    for key, names in zip(keys, short, strict=True):
        own = [name for name in sorted(names) if taken[name] == 1]
        tried = [folder / f"{name}{end}" for name in (key, key.replace("/", "_"), *own) for end in PREDICTED]
        file = next((file for file in tried if file.is_file()), None)
        if file is None:
            missing.append(own[0] if own else key.replace("/", "_"))
            continue
        found.append(file)
        # predict numbers the images of several folders that have one name
        for name in own if file.parent == folder else ():
            other = next((f for f in (folder / f"{name}-2{end}" for end in PREDICTED) if f.is_file()), None)
            if other and f"{name}-2" not in taken:
                raise DataError(
                    f"{folder} has {file.name} and {other.name}, of images of one name: which of them is of {key!r} "
                    "is not known. Predict each folder of images into one of its own, or name masks by their keys."
                )
    if twice := [file for file, count in Counter(found).items() if count > 1]:
        raise DataError(f"{twice[0]} may be the prediction of several images. Name each by its key, as in KEY.png.")
    if missing:
        raise DataNotFound(
            f"{folder} holds predictions for {len(found)} of {len(keys)} images; {len(missing)} are missing, "
            f"the first: {', '.join(f'{name}.png' for name in missing[:3])}."
        )
    return found


def check_classes(runtime: Runtime, data: SegmentationData) -> None:
    """Raises ConfigError where the classes (by name and order) or the channels of model and data differ."""
    ours, theirs = [c.name for c in runtime.classes], [c.name for c in data.classes]
    if runtime.channels != data.channels:
        raise ConfigError(
            f"{runtime.name} takes images with {runtime.channels} channels; {data.name} has {data.channels}."
        )
    if ours == theirs:
        return
    only_ours, only_theirs = [n for n in ours if n not in theirs], [n for n in theirs if n not in ours]
    if only_ours or only_theirs:
        difference = f"only in the model: {_names(only_ours)}; only in the data: {_names(only_theirs)}"
    else:
        at = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        difference = (
            f"they are in a different order: class {at} is {ours[at]!r} in the model, {theirs[at]!r} in the data"
        )
    raise ConfigError(
        f"{runtime.name} and {data.name} have different classes ({len(ours)} and {len(theirs)}): {difference}. "
        "Evaluate on data with the model's classes, or fine-tune on these with: featherseg train --init "
        f"{runtime.name}"
    )


def plain(found: dict[str, Any]) -> dict[str, Any]:
    """What `PanopticQuality.compute` gives as plain JSON values: null for NaN, ids as texts."""
    return {
        str(key): plain(value) if isinstance(value, dict) else number(value) if isinstance(value, float) else value
        for key, value in found.items()
    }


def count_image(data: SegmentationData, key: str, label: np.ndarray, prediction: np.ndarray) -> Confusion:
    """The pixels of one image: ground truth and prediction (H, W). Raises DataError, with its key, as `Confusion`."""
    one = Confusion(len(data.classes))
    try:
        one.update(label, prediction)
    except DataError as error:
        raise DataError(f"{data.name}, image {key!r}: {error}") from None
    return one


def _score(
    pairs: Iterable[tuple[str, np.ndarray, np.ndarray]],
    data: SegmentationData,
    boundary: bool,
    progress: Progress | None,
) -> Scores:
    """Sum up (key, ground truth (H, W), prediction (H, W)) over a dataset."""
    total, contours = Confusion(len(data.classes)), BoundaryF(len(data.classes))
    per_image: dict[str, float] = {}
    counts: list[np.ndarray] = []
    for done, (key, label, prediction) in enumerate(pairs, start=1):
        one = count_image(data, key, label, prediction)
        total.add(one)
        per_image[key] = one.miou()
        counts.append(image_counts(one.matrix, one.void))
        if boundary:
            contours.update(label, prediction)
        if progress:
            progress("scoring", done, len(data))
    return Scores(
        data=data.name,
        classes=tuple(c.name for c in data.classes),
        images=len(per_image),
        miou=total.miou(),
        iou=total.iou(),
        pixel_accuracy=total.pixel_accuracy(),
        class_accuracy=total.class_accuracy(),
        boundary_f=contours.mean(),
        class_boundary_f=contours.per_class(),
        confusion=total.matrix,
        void=total.void,
        per_image=per_image,
        counts=np.stack(counts) if counts else np.zeros((0, 3, len(data.classes)), dtype=np.int64),
    )


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return shown or "none"


def number(value: float) -> float | None:
    """A figure as JSON can hold it: null for NaN."""
    return None if math.isnan(value) else float(value)
