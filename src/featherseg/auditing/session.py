"""`featherseg audit`: predict every image by a model that never saw it, learn from planted faults, rank, tell."""

import hashlib
import heapq
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.auditing.examples import Example, examine
from featherseg.auditing.faults import FAULTS
from featherseg.auditing.folds import FOLDS, folds_of
from featherseg.auditing.page import write_page
from featherseg.auditing.probabilities import open_unseeing, probabilities_at, train_fold
from featherseg.auditing.regions import KINDS
from featherseg.auditing.scorer import Judged, SelfTest, judge
from featherseg.core.errors import DataError, DataNotFound, UnknownName, require
from featherseg.core.files import check_folder, check_writable
from featherseg.core.notebook import html_table, progress_or_bar
from featherseg.core.types import IGNORE, Progress, SegmentationData
from featherseg.core.wording import counted
from featherseg.data import is_own, open_dataset, own_config
from featherseg.data.decisions import AUDITED, audited_places
from featherseg.data.fingerprint import Fingerprint
from featherseg.inference.runtimes import Runtime, open_runtime
from featherseg.runs import Run

MINUTES = 30.0
"""From start to page, where nothing is said."""

TRAINING = 0.65
"""The part of the minutes that the trainings take; predicting and planting take what is left."""

ALWAYS_PLANTED, MOST_PLANTED = 60, 600
"""Images that faults are planted into, whatever the time, and at most: more teach the scorer nothing new."""

MOST_REGIONS = 1000
"""Regions that are listed, the most suspicious: a large dataset has millions."""

FEWEST = 2 * FOLDS
"""Images, for models to be trained without some of them."""

FORMAT = 1
"""Raised where what is kept of images would be another: then an audit begins anew."""

Source = Callable[[int, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(number, image (H, W, C), rows, columns) -> probabilities (K, rows, columns) of a model that never saw the image."""


@dataclass(frozen=True)
class Audit:
    """What was found. images: (key, score 0..1), the most suspicious first; regions likewise, MOST_REGIONS at most,
    each with key, kind (KINDS), class, score and box (x, y, width, height in pixels of the image).
    """

    name: str
    images: list[tuple[str, float]]
    regions: list[dict[str, Any]]
    self_test: SelfTest
    page: Path
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as --json writes them."""
        return {
            "name": self.name,
            "images": [{"key": key, "score": score} for key, score in self.images],
            "regions": self.regions,
            "self_test": asdict(self.self_test),
            "page": str(self.page),
            "notes": list(self.notes),
        }

    def _repr_html_(self) -> str:
        rows = [(key, f"{score:.3f}") for key, score in self.images[:20]]
        return html_table(f"{self.name}: masks that are probably wrong", ("image", "score"), rows, self.notes)


def audit(
    data: str | Path | SegmentationData,
    out: str | Path = "audit.html",
    *,
    run: str | Path | Run | None = None,
    minutes: float = MINUTES,
    data_root: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Audit:
    """Find masks that are probably wrong, and say how well that works on these data.

    Every image of train and val is predicted by a model that never saw its sequence. A scorer learns from faults that
    are planted into copies of the masks (regions dropped, swapped, grown, masks shifted or of another image), and ranks
    images and regions. Nothing of the dataset is changed. Kill it at any time: the same call goes on where it was.

    Args:
        data: A dataset's name, a dataset.toml, a folder of images and masks, or a dataset of your own.
        out: The page to write; what is worked out lies beside it in a folder that ends in .audit, and may be deleted.
        run: A run that was trained on none of these images. Default: a quick training for each of three folds.
        minutes: From start to page.
        data_root: The folder in which a dataset with a name lies.
        device: auto, cpu, cuda, cuda:N or mps.
        progress: Called with (what is being done, steps done, steps in all). Default: a bar in a notebook.

    Returns:
        Audit: images and regions, the most suspicious first, the self test, and where the page is.

    Raises:
        UnknownName, DataNotFound, ConfigError, DataError: The data cannot be opened or are too few, the run was trained
            on some of the images, or the minutes are too few.
        KeyboardInterrupt: It was stopped; the same call goes on.
    """
    began, out, progress = time.monotonic(), Path(out), progress_or_bar(progress)
    check_writable(out)
    data, groups = _opened(data, data_root)
    if run is None and len(data) < FEWEST:
        raise DataError(
            f"{data.name} has {counted(len(data), 'image')}: {FEWEST} are needed to train models without some of them. "
            "Give a run that never saw them with --run."
        )
    if run is None:
        require("lightning", "train", "training")
    runtime, notes = (None, list[str]()) if run is None else open_unseeing(run, data, device)
    folder = out.with_suffix(".audit") / _digest(data, runtime, minutes)
    check_folder(folder)

    # Which images are of one fold; then the models, and what they say of each image
    present = np.zeros((len(data), len(data.classes)), bool)
    for number in range(len(data)):
        progress("reading masks", number, len(data))
        present[number] = np.bincount(data.label(number).ravel(), minlength=IGNORE + 1)[: len(data.classes)] > 0
    folds = folds_of(data.keys, present, groups)
    runtimes: list[Runtime] = [] if runtime is None else [runtime] * FOLDS
    waiting = [number for number in range(len(data)) if not (folder / f"{number:06d}.npz").is_file()]
    if runtime is None and waiting:
        for fold in range(FOLDS):
            left = minutes - (time.monotonic() - began) / 60  # of a slow fold the next ones pay
            share = round(max(0.1, left - (1 - TRAINING) * minutes) / (FOLDS - fold), 2)
            trained = train_fold(data, folds, fold, folder / f"fold-{fold}", share, device, progress)
            runtimes.append(open_runtime(trained, device))

    def source(number: int, image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return probabilities_at(runtimes[folds[number]], image, rows, columns)

    examine_all(data, source, folder, began + 60 * minutes, progress)
    judged = judge(lambda: _examples(folder, len(data), progress), folds, FAULTS)
    return _told(data, folder, judged, out, notes, progress)


def examine_all(data: SegmentationData, source: Source, folder: Path, ends: float, progress: Progress) -> None:
    """Keep of every image what is learnt and judged from, a file each in `folder`; those that are there stay.

    Faults are planted into images spread over all, fewer of them where the time (`time.monotonic`) would end before.
    """
    count, took = len(data), 0.0
    planted = {int(i) for i in np.linspace(0, count - 1, min(count, MOST_PLANTED)).round()}
    always = {int(i) for i in np.linspace(0, count - 1, min(count, ALWAYS_PLANTED)).round()}
    for number in range(count):
        progress("predicting images", number, count)
        path = folder / f"{number:06d}.npz"
        if path.is_file():
            continue
        start = time.monotonic()
        sample, size = data[number], data.label(number).shape
        rows, columns = audited_places((size[0], size[1]))
        label = sample.label[rows[:, None], columns]
        faults = FAULTS if number in always or (number in planted and start + took * (count - number) < ends) else ()
        rng = np.random.default_rng([0, number])
        other = data.label(int(rng.integers(1, count) + number) % count) if faults and count > 1 else label
        chances = source(number, sample.image, rows, columns)
        predicted = time.monotonic()
        examine(label, chances, (size[0], size[1]), faults, rng, other).save(path)
        took = max(took, predicted - start)


def _examples(folder: Path, count: int, progress: Progress) -> Iterator[Example]:
    for number in range(count):
        progress("learning from planted faults", number, count)
        try:
            yield Example.load(folder / f"{number:06d}.npz")
        except (OSError, ValueError) as error:
            raise DataError(f"{error}. Delete {folder} and run the same command again.") from error


def _opened(data: str | Path | SegmentationData, root: str | Path | None) -> tuple[SegmentationData, str | None]:
    """The images of AUDITED as one dataset, and what tells its sequences."""
    if not isinstance(data, str | Path):
        return data, None
    name, base, found = str(data), None if root is None else Path(root), []
    for split in AUDITED:
        try:
            open_dataset(name, split, base)
            found.append(split)
        except (UnknownName, DataNotFound):
            if split == AUDITED[0]:
                raise
    return open_dataset(name, "+".join(found), base), own_config(name).groups if is_own(name) else None


def _digest(data: SegmentationData, runtime: Runtime | None, minutes: float) -> str:
    """What an audit is known by: images, masks and their meaning, and what predicts them."""
    known = Fingerprint.of({"train": data})
    rows = [(key, image and image[1], mask and mask[1], more) for key, image, mask, more in known.splits["train"]]
    facts = [FORMAT, known.classes, known.values, rows, minutes if runtime is None else runtime.name]
    if runtime is not None:
        weights = hashlib.sha256()
        for value in getattr(getattr(runtime, "model", None), "state_dict", dict)().values():
            weights.update(value.detach().cpu().float().numpy().tobytes())
        facts.append(weights.hexdigest())
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _told(
    data: SegmentationData, folder: Path, judged: Judged, out: Path, notes: list[str], progress: Progress
) -> Audit:
    """The lists and the page."""
    order = np.argsort(-judged.images, kind="stable")
    images = [(data.keys[i], float(judged.images[i])) for i in order]
    heap: list[tuple[float, int, int]] = []
    for number, scores in enumerate(judged.regions):
        for region, score in enumerate(scores):
            row = (float(score), -number, -region)
            if len(heap) < MOST_REGIONS:
                heapq.heappush(heap, row)
            else:
                heapq.heappushpop(heap, row)
    regions, kept = [], dict[int, Example]()
    for score, number, region in sorted(heap, reverse=True):
        if -number not in kept:
            kept = {-number: Example.load(folder / f"{-number:06d}.npz")}
        example = kept[-number]
        height, width = example.size / example.label.shape
        x, y, across, down = example.boxes[-region].tolist()
        left, top = int(x * width), int(y * height)
        box = [left, top, int(np.ceil((x + across) * width)) - left, int(np.ceil((y + down) * height)) - top]
        of = data.classes[example.classes[-region]].name
        kind = KINDS[example.kinds[-region]]
        regions.append({"key": data.keys[-number], "kind": kind, "class": of, "score": score, "box": box})
    shown = write_page(data, folder, judged, out, progress)
    notes = [*notes, f"{counted(shown, 'image')} of {len(data)} shown on the page"]
    return Audit(data.name, images, regions, judged.self_test, out, tuple(notes))
