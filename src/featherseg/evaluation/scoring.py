"""The evaluator of training, `featherseg evaluate` and the checks of exported files.

It scores one image at a time at the full size of the label, and sums counts over the dataset. The
same weights on the same machine give the same bits.
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
from featherseg.core.wording import brief, counted, marks, size_text
from featherseg.costs.published import Comparison
from featherseg.data.cache.fingerprint import files_of
from featherseg.data.images.decoding import read_mask
from featherseg.evaluation.bootstrap import image_counts
from featherseg.evaluation.boundary import BoundaryF
from featherseg.evaluation.ground_truth import PanopticScorer
from featherseg.evaluation.iou import Confusion
from featherseg.inference.masks import predict_mask, predict_panoptic
from featherseg.inference.range_warning import warn_of_range
from featherseg.inference.runtimes import Runtime
from featherseg.inference.settings import InferenceSettings


@dataclass(frozen=True)
class Scores:
    """The scores of a model on a dataset: fractions 0..1, NaN if there was nothing to measure.

    Args:
        iou, class_boundary_f: (K,).
        boundary_f: NaN as well if it was not requested.
        confusion: (K, K) pixels, rows are the ground truth.
        void: (K,) pixels predicted as no class.
        per_image: key -> mIoU of the image, NaN for one without a labelled pixel.
        counts: (N, 3, K), `bootstrap.image_counts` of each image, for an interval of mIoU.
        panoptic: as `PanopticQuality.compute` returns it, categories in the order of the classes;
            None if model or data have no objects.
        panoptic_counts: (N, 3, K), `PanopticQuality.pooled` of each image, for an interval of PQ.
        published: the paper's row beside these figures, and what the run did otherwise, if the
            run's recipe names a row.
        selected: the run chose its weights by the score on these images.
        trained_on: the run was trained on some of these images.
        look: how many times the run was scored on test, this time included; None on other splits.
        notes: sentences on how it was scored.
        data, split, inference: what was scored and how; None if not known.
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
        """Return plain JSON values: fractions, pixel counts (confusion, void), null for NaN.

        "selected" and "trained_on" are present only if true; "look", "split", "inference" and
        "published" only if they are known.
        """
        names = {"data": self.data, "split": self.split, "inference": self.inference}
        values: dict[str, Any] = {key: text for key, text in names.items() if text is not None}
        values |= {
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
        values |= {"panoptic": plain(self.panoptic)} if self.panoptic else {}
        values |= {"look": self.look} if self.look else {}
        values |= {"published": self.published.as_dict()} if self.published else {}
        return values | {key: True for key in ("selected", "trained_on") if getattr(self, key)}

    def __repr__(self) -> str:
        scored = f"{self.data} {self.split or ''}".strip()
        pq = f"PQ {percent(self.panoptic['pq'])} %" if self.panoptic else ""
        images, miou = counted(self.images, "image"), f"mIoU {percent(self.miou)} %"
        caveats = marks(selected=self.selected, trained_on=self.trained_on)
        return brief(self, scored, images, pq, miou, caveats)

    def _repr_html_(self) -> str:
        rows: list[tuple[str, ...]] = [
            (name, percent(iou), percent(contour))
            for name, iou, contour in zip(
                self.classes,
                self.iou,
                self.class_boundary_f,
                strict=True,
            )
        ]
        rows.append(("mean", percent(self.miou), percent(self.boundary_f)))
        objects = [f"PQ {percent(self.panoptic['pq'])} %"] if self.panoptic else []
        accuracy = percent(self.pixel_accuracy)
        title = f"{self.images} images: mIoU {percent(self.miou)} %, pixel accuracy {accuracy} %"
        caveats = marks(selected=self.selected, trained_on=self.trained_on)
        title += f" ({caveats})" if caveats else ""
        return html_table(title, ("class", "IoU %", "boundary F %"), rows, (*objects, *self.notes))


def evaluate(
    runtime: Runtime,
    data: SegmentationData,
    inference: InferenceSettings | None = None,
    *,
    boundary: bool = True,
    progress: Progress | None = None,
) -> Scores:
    """Score a model on every image of `data`, on its objects too if both have objects.

    Args:
        inference: as for predictions; default: that of validation in training.
        boundary: whether to compute the boundary F measure as well.

    Raises:
        ConfigError: if classes or channels of model and data differ, or if the inference settings
            cannot be used with a panoptic model.
    """
    check_classes(runtime, data)
    objects, sums = PanopticScorer(data) if runtime.panoptic else None, []

    def pairs() -> Iterable[tuple[str, np.ndarray, np.ndarray]]:
        for index in range(len(data)):
            sample = data[index]
            warn_of_range(runtime, sample.image, sample.key)
            if objects is not None:
                sums.append(objects.quality.pooled())  # of all images before this one
            if objects is None or sample.instances is None:
                yield sample.key, sample.label, predict_mask(runtime, sample.image, inference)
                continue
            ((mask, panoptic),) = predict_panoptic(runtime, sample.image[None], inference)
            objects.update(index, sample, panoptic)
            yield sample.key, sample.label, mask

    scores = _score(pairs(), data, boundary, progress)
    if objects is None or not (quality := objects.quality.compute())["n"]:
        return scores
    # the counts of an image are the difference between two running sums
    of_images = np.diff([*sums, objects.quality.pooled()], axis=0)  # (N, 3, K)
    return replace(scores, panoptic=quality, panoptic_counts=of_images)


PREDICTED = (".png", "_mask.png", "_mask.tif")
"""Ends of the file name of a prediction, after the name of its image."""


def evaluate_predictions(
    folder: Path,
    data: SegmentationData,
    *,
    boundary: bool = True,
    progress: Progress | None = None,
) -> Scores:
    """Score a folder of masks with class ids, one for each image, named as `prediction_files` says.

    Values of K or more count as no class; a note names those other than 255. Nothing is written.

    Raises:
        DataNotFound: if files are missing.
        DataError: for a file of another size, with colours, or that may be of several images.
    """
    listing = files_of(data)
    images = [pair.files[0].stem for pair in listing.pairs] if listing else []
    files = prediction_files(folder, data.keys, images or data.keys)
    no_class: Counter[int] = Counter()  # value that is no class and not 255 -> its labelled pixels

    def pairs() -> Iterable[tuple[str, np.ndarray, np.ndarray]]:
        for index, (key, file) in enumerate(zip(data.keys, files, strict=True)):
            label, prediction = data.label(index), read_mask(file)  # (H, W), (H, W) raw values
            if prediction.shape != label.shape:
                raise DataError(
                    f"{file} is {size_text(prediction.shape)}, but the mask of {key!r} is "
                    f"{size_text(label.shape)} (height x width). Expected one class id per pixel, "
                    "at full size."
                )
            outside = (prediction >= len(data.classes)) & (prediction != IGNORE) & (label != IGNORE)
            values, pixels = np.unique(prediction[outside], return_counts=True)
            no_class.update(dict(zip(values.tolist(), pixels.tolist(), strict=True)))
            yield key, label, prediction

    scores = _score(pairs(), data, boundary, progress)
    if not no_class:
        return scores
    share = percent(no_class.total() / (scores.void.sum() + scores.confusion.sum()))
    note = (
        f"{share} % of the labelled pixels are predicted as no class, with the values "
        f"{_names(list(map(str, sorted(no_class))))}: expected 0 to {len(data.classes) - 1}, the "
        "classes in the data's order"
    )
    return replace(scores, notes=(note,))


def prediction_files(folder: Path, keys: Sequence[str], images: Sequence[str]) -> list[Path]:
    """Return the file of each key's prediction in `folder`.

    The file's name is KEY, or KEY with "_" for "/", or, if no other image has that name, the last
    part of KEY or the name of the image file, followed by .png, _mask.png or (GeoTIFF) _mask.tif.

    Args:
        keys: of the samples.
        images: the names of their image files without the ending.

    Raises:
        DataNotFound: if predictions are missing, with their number and the first names.
        DataError: if a file may be the prediction of several images.
    """
    if not folder.is_dir():
        raise DataNotFound(f"there is no folder of predictions at {folder}.")
    pairs = zip(keys, images, strict=True)
    short_names = [{key.rpartition("/")[2], image.rpartition("/")[2]} for key, image in pairs]
    uses = Counter(name for names in short_names for name in names)
    files: list[Path] = []
    missing: list[str] = []
    for key, names in zip(keys, short_names, strict=True):
        unique = [name for name in sorted(names) if uses[name] == 1]
        stems = (key, key.replace("/", "_"), *unique)
        file = _first_file(folder, stems)
        if file is None:
            missing.append(unique[0] if unique else key.replace("/", "_"))
            continue
        files.append(file)
        # `predict` adds -2 to the second image of one name, when it predicts several folders
        for name in unique if file.parent == folder else ():
            other = _first_file(folder, (f"{name}-2",))
            if other and f"{name}-2" not in uses:
                raise DataError(
                    f"{folder} has {file.name} and {other.name}, from images with one name: "
                    f"it is not clear which belongs to {key!r}. Predict each folder of images into "
                    "a folder of its own, or name the masks by their keys."
                )
    if repeated := [file for file, count in Counter(files).items() if count > 1]:
        raise DataError(f"{repeated[0]} may belong to several images. Name each mask KEY.png.")
    if missing:
        raise DataNotFound(
            f"{folder} has predictions for {len(files)} of {len(keys)} images. {len(missing)} are "
            f"missing, the first: {', '.join(f'{name}.png' for name in missing[:3])}."
        )
    return files


def _first_file(folder: Path, stems: Sequence[str]) -> Path | None:
    """Return the first file of a prediction with one of these stems, in their order."""
    paths = (folder / f"{stem}{end}" for stem in stems for end in PREDICTED)
    return next((path for path in paths if path.is_file()), None)


def check_classes(runtime: Runtime, data: SegmentationData) -> None:
    """Raise ConfigError if model and data differ in channels or classes (names and order)."""
    ours, theirs = [c.name for c in runtime.classes], [c.name for c in data.classes]
    if runtime.channels != data.channels:
        raise ConfigError(
            f"{runtime.name} takes images with {runtime.channels} channels, but the images of "
            f"{data.name} have {data.channels}."
        )
    if ours == theirs:
        return
    only_ours = [name for name in ours if name not in theirs]
    only_theirs = [name for name in theirs if name not in ours]
    if only_ours or only_theirs:
        in_model, in_data = _names(only_ours), _names(only_theirs)
        difference = f"only in the model: {in_model}; only in the data: {in_data}"
    else:
        first = next(i for i, name in enumerate(ours) if name != theirs[i])
        difference = (
            f"they are in a different order: class {first} is {ours[first]!r} in the model, "
            f"{theirs[first]!r} in the data"
        )
    raise ConfigError(
        f"{runtime.name} and {data.name} have different classes ({len(ours)} and {len(theirs)}): "
        f"{difference}. Evaluate on data with the model's classes, or fine-tune on these with: "
        f"featherseg train --init {runtime.name}"
    )


def plain(value: Any) -> Any:
    """Return what `PanopticQuality.compute` gives as JSON values: null for NaN, ids as texts."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    return number(value) if isinstance(value, float) else value


def count_image(
    data: SegmentationData,
    key: str,
    label: np.ndarray,
    prediction: np.ndarray,
) -> Confusion:
    """Return the counts of one image: label and prediction (H, W).

    Raises DataError as `Confusion.update` does, with the image's key.
    """
    confusion = Confusion(len(data.classes))
    try:
        confusion.update(label, prediction)
    except DataError as error:
        raise DataError(f"{data.name}, image {key!r}: {error}") from None
    return confusion


def _score(
    pairs: Iterable[tuple[str, np.ndarray, np.ndarray]],
    data: SegmentationData,
    boundary: bool,
    progress: Progress | None,
) -> Scores:
    """Return the scores over all (key, label (H, W), prediction (H, W)) of a dataset."""
    total, contours = Confusion(len(data.classes)), BoundaryF(len(data.classes))
    per_image: dict[str, float] = {}
    counts: list[np.ndarray] = []
    for done, (key, label, prediction) in enumerate(pairs, start=1):
        confusion = count_image(data, key, label, prediction)
        total.add(confusion)
        per_image[key] = confusion.miou()
        counts.append(image_counts(confusion.matrix, confusion.void))
        if boundary:
            contours.update(label, prediction)
        if progress:
            progress("scoring", done, len(data))
    no_counts = np.zeros((0, 3, len(data.classes)), dtype=np.int64)
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
        counts=np.stack(counts) if counts else no_counts,
    )


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return shown or "none"


def number(value: float) -> float | None:
    """Return a figure as JSON can represent it: None, which is null, for NaN."""
    return None if math.isnan(value) else float(value)
