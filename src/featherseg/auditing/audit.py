"""`featherseg audit`: predict every image by a model that never saw it, learn from planted faults, rank, tell."""

import hashlib
import heapq
import json
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.auditing.examples import Example, examine, kept_file
from featherseg.auditing.faults import FAULTS
from featherseg.auditing.folds import FOLDS, folds_of, names_across_splits
from featherseg.auditing.page import write_page
from featherseg.auditing.probabilities import open_unseeing, probabilities_at, train_fold
from featherseg.auditing.regions import KINDS
from featherseg.auditing.scorer import MOST_TAUGHT, Judged, judge
from featherseg.auditing.self_test import SelfTest
from featherseg.converters import write_samples, writer_of
from featherseg.converters.masks import masks_of
from featherseg.core.errors import ConfigError, DataError, DataNotFound, UnknownName, require
from featherseg.core.files import check_folder, check_writable, refuse_used
from featherseg.core.machine import command_began
from featherseg.core.notebook import html_table, progress_or_bar
from featherseg.core.types import IGNORE, Progress, SegmentationData
from featherseg.core.wording import counted
from featherseg.data import open_dataset
from featherseg.data.cache.fingerprint import files_of, groups_of
from featherseg.data.checks.decisions import AUDITED, audited_places
from featherseg.data.panoptic.data import PanopticData
from featherseg.inference.runtimes import Runtime, open_runtime
from featherseg.inference.runtimes.pytorch import TorchRuntime, weight_bytes
from featherseg.runs.run import Run, open_run

MINUTES = 30.0
"""From start to page, where nothing is said."""

TRAINING, PREDICTING = 0.65, 0.08
"""The part of the minutes that the trainings take; predicting and planting take what is left, or at least this part."""

JUDGING, LOADS = 0.12, 4
"""The part of the minutes that is kept for learning and the page; and for every image as long as it takes to read what
is known of it so many times: measured, judging reads it twice and takes as long again.
"""

LEAST_PLANTED, ALWAYS_PLANTED, MOST_PLANTED = 12, 60, 600
"""Images that faults are planted into: whatever the time; in up to half of the time for predicting; and at most, in
time that is left: more teach the scorer nothing new.
"""

MOST_READ = 1000
"""Masks that are read before the folds are made, for a class to be in more than one: evenly spread over all."""

MOST_REGIONS = 1000
"""Regions that are listed, the most suspicious: a large dataset has millions."""

TOP = 50
"""Images that are written for an annotation tool: those for which a precision is told."""

FEWEST = 2 * FOLDS
"""Images, for models to be trained without some of them."""

FORMAT = 5
"""Raised where what is kept of images, or how models are trained, would be another: then an audit begins anew."""

Source = Callable[[int, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(number, image (H, W, C), rows, columns) -> probabilities (K, rows, columns) of a model that never saw the image."""


@dataclass(frozen=True)
class Audit:
    """What was found. images: (key, score 0..1), the most suspicious first; regions likewise, MOST_REGIONS at most,
    each with key, kind (KINDS), class, score and box (x, y, width, height in pixels of the image).

    A score is the share of planted faults among masks that score alike in the self test. no_ranking says why images and
    regions are empty, if the self test shows that the list would be no better than chance. unseen: keys of the images
    for which there was no time; they are the last of `images`, with score 0. to: the folder for an annotation tool, if
    one was asked for and there is a ranking.
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
        """Plain values, as --json writes them."""
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

    def _repr_html_(self) -> str:
        rows = [(key, f"{score:.3f}") for key, score in self.images[:20]]
        notes = (self.no_ranking, *self.notes) if self.no_ranking else self.notes
        return html_table(
            f"{self.name}: masks that are probably wrong", ("image", "score"), rows, notes
        )


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
    """Find masks that are probably wrong, and say how well that works on these data.

    Every image of train and val is predicted by a model that never saw its sequence (or, where a note says so, its part
    of the sequence). A scorer learns from faults that are planted into copies of the masks (regions dropped, swapped,
    grown, masks shifted or of another image), and ranks images and regions. Nothing of the dataset is changed. Kill it
    at any time: the same call goes on where it was.

    Args:
        data: A dataset's name, a dataset.toml, a folder of images and masks, or a dataset of your own.
        out: The page to write; what is worked out lies beside it in a folder that ends in .audit, and may be deleted.
        run: A run that was trained on none of these images. Default: a quick training for each of three folds.
        minutes: From start to page. Of images for which they do not last nothing is said; the same call goes on.
        to_format: Write the most suspicious images, with their masks as they are, for an annotation tool: labelme,
            cvat, coco or yolo. The new folder lies beside the page and ends in this name.
        top: How many of them. Default: 50.
        data_root: The folder in which a dataset with a name lies.
        device: auto, cpu, cuda, cuda:N or mps.
        progress: Called with (what is being done, steps done, steps in all). Default: a bar in a notebook.

    Returns:
        Audit: images and regions, the most suspicious first, the self test, and where the page is. No images and no
        regions, and the reason in `no_ranking`, if the self test does not show the list to be better than chance.

    Raises:
        UnknownName, DataNotFound, ConfigError, DataError: The data cannot be opened or are too few, the run was trained
            on some of the images, or the minutes are too few.
        FeathersegError: The page cannot be written, or the folder for the tool is in use.
        KeyboardInterrupt: It was stopped; the same call goes on.
    """
    began, out, progress = command_began(), Path(out), progress_or_bar(progress)
    ends = began + 60 * minutes

    # What is wrong is said before any work: of the page, the folders beside it, the options
    check_writable(out)
    if to_format is not None:
        writer_of(to_format)
    if top is not None and to_format is None:
        raise ConfigError(
            "--top says how many images --to writes: add --to labelme (or cvat, coco, yolo)."
        )
    if top is not None and top < 1:
        raise ConfigError(f"top = {top}: expected at least 1 image.")
    to, kept = (
        None if to_format is None else out.with_suffix(f".{to_format}"),
        out.with_suffix(".audit"),
    )
    if out in (to, kept):
        raise ConfigError(
            f"{out} is what a folder beside the page is called. Name a page: {out.with_suffix('.html')}."
        )
    check_folder(kept)
    if to is not None:
        refuse_used(
            to,
            "What is corrected there is not written over: move it away, or name another page with --out.",
        )
    if data_root is not None and not isinstance(data, str | Path):
        raise ConfigError(
            "data_root would have no effect: a dataset of one's own knows where it lies. Leave it out."
        )

    # The same of the images, and of the model that predicts them
    data = _opened(data, data_root)
    groups = groups_of(data)
    if to is not None:
        masks_of(data, ())  # refused now, where the images are none that a tool shows
    if len(data) < FEWEST:
        raise DataError(
            f"{data.name} has {counted(len(data), 'image')}: {FEWEST} are needed, as what is learnt from some judges "
            "the others."
        )
    if run is None:
        require("lightning", "train", "training")
    runtime, notes = (None, list[str]()) if run is None else open_unseeing(run, data, device)

    # Which images are of one fold; then the models, of each fold one that never saw it
    present, masks = _read_masks(data, progress)
    folder = kept / _digest(data, masks, runtime, minutes, groups)
    folds, cut = folds_of(data.keys, present, groups)
    if cut and run is None:
        notes.append(
            "sequences were cut in time, as whole ones would not do: a model may know an image's neighbours"
        )
    runtimes: list[Runtime] = [] if runtime is None else [runtime] * FOLDS
    if runtime is None and not all(
        kept_file(folder, number).is_file() for number in range(len(data))
    ):
        several = present.sum(axis=1)  # classes in a mask, 0 if it was not read
        sparse = bool(2 * (several == 1).sum() > (several > 0).sum())
        runtimes, from_scratch = _train_folds(
            data, folds, folder, minutes, began, device, progress, sparse
        )
        if from_scratch:
            notes.append(
                "its models were trained from scratch: pip install 'featherseg[weights]' for better ones"
            )

    # What they say of each image, as far as the time goes; a scorer that planted faults have taught judges it
    def source(number: int, image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return probabilities_at(runtimes[folds[number]], image, rows, columns)

    seen = examine_all(data, source, folds, folder, ends - JUDGING * 60 * minutes, progress)
    in_order = spread_over(folds)
    taught = np.searchsorted(seen, in_order[np.isin(in_order, seen)][:MOST_TAUGHT])
    most = MostSuspicious(len(seen))
    names = names_across_splits(data.keys)
    judged = judge(
        lambda places: _examples(folder, seen[places], progress),
        folds[seen],
        FAULTS,
        most.add,
        [names[number] for number in seen],
        groups,
        taught,
    )
    if not judged.self_test.images:
        notes.append(
            "no fault could be planted into these masks, each of which shows one class alone: the images stand in the "
            "order of the soft-minimum, and how often that is right is not known"
        )
    no_ranking = None
    if judged.self_test.images and not judged.self_test.better_than_chance:
        no_ranking = (
            f"The list would be no better than chance, so there is none: {judged.self_test.message}. "
            f"{_what_helps(data, folder, minutes, run)}"
        )
        if to is not None:
            notes.append(f"nothing was written for {to_format}")
    if unseen := len(data) - len(seen):
        again = "the same command" + (" without --to" if to else "")
        anew = (
            ""
            if run
            else ", with other --minutes an audit begins anew, with trainings of their own"
        )
        last = "" if no_ranking else ", and stand last with score 0"
        notes.append(
            f"{unseen} of {len(data)} images were not looked at for want of time{last}: {again} goes on with them{anew}"
        )

    # The page, and the images for the tool
    found = _told(data, seen, folder, judged, most, out, notes, progress, no_ranking)
    if to is None or no_ranking:
        return found
    place = {key: number for number, key in enumerate(data.keys)}
    first = [place[key] for key, _ in found.images[: min(top or TOP, len(seen))]]
    write_samples(data, first, str(to_format), to, progress)
    return replace(found, to=to)


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
    """A quick training for each fold, without its images; -> (the models, whether they were trained from scratch)."""
    from featherseg.training.length import TooFewMinutes

    found, shares, steps = list[Runtime](), list[float](), None
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
                f"--minutes {minutes:g} are too few for {FOLDS} trainings, a page and what is between. Give at least "
                f"{least}, or a run that never saw the images with --run."
            ) from error
        steps = steps or max(
            trained.metrics()
        )  # of the first: no later one is refused where the machine is busier
        found.append(open_runtime(trained, device))
    return found, trained.init == "from scratch"


def share_of_fold(minutes: float, gone: float, fold: int, first: float = 0.0) -> float:
    """The minutes that a fold's training gets when so many are gone; `first`: what that of the first fold was given.

    Trainings that took longer than they were given take from predicting, down to PREDICTING, before the next ones get
    less: one of too few minutes would end the audit.
    """
    rest, left = FOLDS - fold, minutes - gone
    planned = (left - (1 - TRAINING) * minutes) / rest
    spared = (left - (PREDICTING + JUDGING) * minutes) / rest
    return round(max(0.1 / rest, planned, min(first, spared)), 2)


def examine_all(
    data: SegmentationData,
    source: Source,
    folds: np.ndarray,
    folder: Path,
    ends: float,
    progress: Progress,
) -> np.ndarray:
    """Keep of every image what is learnt and judged from, a file each in `folder`; those that are there stay.

    -> the numbers of the images that are there in the end, ascending: all, or as many as there is time for until `ends`
    (`time.monotonic`), spread over all. Fewer have faults planted into them where the time would not last for all.
    """
    began, count = time.monotonic(), len(data)
    there = np.array([kept_file(folder, number).is_file() for number in range(count)])
    ready, lasts = int(there.sum()), deque[tuple[float, float]](maxlen=25)
    for place, number in enumerate(spread_over(folds)):
        progress("predicting images", place, count)
        if there[number]:
            continue

        # Is there time for it, and for faults in it? Judging the images that are there takes time, too
        start = time.monotonic()
        took, loading = np.median(lasts, axis=0) if lasts else (0.0, 0.0)
        left = ends - start - LOADS * loading * ready
        if place >= LEAST_PLANTED and left < took:
            break
        planted = place < MOST_PLANTED and left > (took + LOADS * loading) * (count - place)
        planted |= place < LEAST_PLANTED or (place < ALWAYS_PLANTED and start < (began + ends) / 2)

        sample, size = data[number], data.label(number).shape
        rows, columns = audited_places((size[0], size[1]))
        label = sample.label[rows[:, None], columns]
        rng = np.random.default_rng([0, number])
        other = (
            data.label(int(rng.integers(1, count) + number) % count)
            if planted and count > 1
            else label
        )
        chances = source(number, sample.image, rows, columns)
        predicted = time.monotonic()
        examine(label, chances, (size[0], size[1]), FAULTS if planted else (), rng, other).save(
            kept_file(folder, number)
        )
        there[number], ready = True, ready + 1
        saved = time.monotonic()
        Example.load(kept_file(folder, number))
        lasts.append(((predicted if planted else saved) - start, time.monotonic() - saved))
    return np.flatnonzero(there)


def spread_over(folds: np.ndarray) -> np.ndarray:
    """All images, (N,), in an order whose every beginning is spread over all of them, and over the folds (N,)."""
    when = np.zeros(len(folds))
    for fold in range(FOLDS):
        members = np.flatnonzero(folds == fold)
        bits, places = max(1, len(members) - 1).bit_length(), np.arange(len(members))
        turned = sum(
            (places >> bit & 1) << (bits - 1 - bit) for bit in range(bits)
        )  # 001 becomes 100
        when[members[np.argsort(turned)]] = places / max(1, len(members))
    return np.lexsort((folds, when))


class MostSuspicious:
    """The most suspicious regions of all images, MOST_REGIONS at most; worst (N,): of every image its own, -1 = none.

    Nothing else is kept of the regions: a large dataset has millions.
    """

    def __init__(self, images: int) -> None:
        self.worst = np.full(images, -1, np.int32)
        self._heap: list[tuple[float, int, int]] = []

    def add(self, place: int, scores: np.ndarray) -> None:
        """The scores of an image's regions."""
        if len(scores):
            self.worst[place] = scores.argmax()
        full = len(self._heap) == MOST_REGIONS
        for region in np.flatnonzero(scores >= (self._heap[0][0] if full else -1.0)).tolist():
            row = (float(scores[region]), -place, -region)
            (heapq.heappushpop if len(self._heap) == MOST_REGIONS else heapq.heappush)(
                self._heap, row
            )

    def regions(self) -> list[tuple[float, int, int]]:
        """(score, image, region), the highest score first."""
        return [
            (score, -place, -region) for score, place, region in sorted(self._heap, reverse=True)
        ]


def _examples(folder: Path, numbers: np.ndarray, progress: Progress) -> Iterator[Example]:
    for done, number in enumerate(numbers):
        progress("learning from planted faults", done, len(numbers))
        try:
            yield Example.load(kept_file(folder, number))
        except (OSError, ValueError) as error:
            raise DataError(f"{error}. Delete it and run the same command again.") from error


def _opened(data: str | Path | SegmentationData, root: str | Path | None) -> SegmentationData:
    """The images of AUDITED as one dataset. Raises DataError for a key of two images."""
    if isinstance(data, str | Path):
        name, base, found = str(data), None if root is None else Path(root), []
        for split in AUDITED:
            try:
                open_dataset(name, split, base)
                found.append(split)
            except (UnknownName, DataNotFound):
                if split == AUDITED[0]:
                    raise
        data = open_dataset(name, "+".join(found), base)
    twice = [key for key, times in Counter(data.keys).items() if times > 1]
    if twice:
        raise DataError(
            f"{data.name} has {counted(len(twice), 'key')} of more than one image, such as {twice[0]!r}. Expected one "
            "key an image, by which it is told what was found."
        )
    return data


def _read_masks(data: SegmentationData, progress: Progress) -> tuple[np.ndarray, bytes]:
    """MOST_READ masks, all of a dataset without files; -> which classes they hold (N, K), the digest of what was read.

    Of images whose masks are not read no class is known.
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
    masks: bytes,
    runtime: Runtime | None,
    minutes: float,
    groups: str | None,
) -> str:
    """What an audit is known by: images, masks (size and time of the files), their meaning, what predicts them, folds.

    Not the contents of files: those of a large dataset take longer to read than it has minutes. masks: of those read.
    """
    files, found = files_of(data), hashlib.sha256(masks)

    def take(*facts: Any) -> None:
        found.update(json.dumps(facts).encode())

    take(
        FORMAT, data.name, [(info.name, info.thing) for info in data.classes], data.channels, groups
    )
    for key in data.keys:
        take(key)
    if files is not None:
        take(sorted(files.label_map.ids.items()))
        for index, pair in enumerate(files.pairs):
            stats = [os.stat(path) for path in (pair.files[0], *pair.mask_files)]
            take([(stat.st_size, stat.st_mtime_ns) for stat in stats])
            take(pair.label_map and sorted(pair.label_map.ids.items()))
            if pair.layers:
                take([sorted(label_map.ids.items()) for _, label_map in pair.layers])
            if isinstance(files, PanopticData):
                found.update(files.annotation(index))
    take(minutes if runtime is None else runtime.name)
    if isinstance(runtime, TorchRuntime):
        for content in weight_bytes(runtime.model):
            found.update(content)
    return found.hexdigest()[:16]


def _what_helps(
    data: SegmentationData, folder: Path, minutes: float, run: str | Path | Run | None
) -> str:
    """What may give a ranking: a better run, or minutes for LEAST_STEPS or as many steps as are usual."""
    from featherseg.training.length import LEAST_STEPS, usual_steps

    if run is not None:
        return "The run may not know these classes well enough: name a better one with --run, or leave it out."
    trained = [open_run(folder / f"fold-{fold}") for fold in range(FOLDS)]
    steps, batch_size = (
        min(max(fold.metrics()) for fold in trained),
        trained[0].recipe.train.batch_size,
    )
    assert isinstance(batch_size, int)
    usual = usual_steps(len(data) * (FOLDS - 1) // FOLDS, batch_size)
    more = next((wanted for wanted in (LEAST_STEPS, usual) if wanted > steps), None)
    if more is None:
        return f"Its {FOLDS} trainings had {steps} steps each, as many as are usual: longer ones may not help."
    needed = math.ceil(minutes * more / steps)
    return (
        f"Its {FOLDS} trainings had only {steps} steps each: "
        f"try --minutes {needed}, in which they have about {more}."
    )


def _told(
    data: SegmentationData,
    seen: np.ndarray,
    folder: Path,
    judged: Judged,
    most: MostSuspicious,
    out: Path,
    notes: list[str],
    progress: Progress,
    no_ranking: str | None,
) -> Audit:
    """The lists and the page; judged is of the images `seen`."""
    unseen = tuple(data.keys[i] for i in np.setdiff1d(np.arange(len(data)), seen))
    if no_ranking:
        write_page(data, seen, folder, judged, most.worst, out, progress, no_ranking)
        return Audit(
            data.name, [], [], judged.self_test, out, tuple(notes), unseen, no_ranking=no_ranking
        )
    order = np.argsort(-judged.images, kind="stable")
    images = list(
        zip([data.keys[seen[i]] for i in order], judged.scores[order].tolist(), strict=True)
    )
    regions, kept = [], dict[int, Example]()
    listed = most.regions()
    scores = judged.of_regions(np.array([score for score, _, _ in listed]))
    for score, (_, place, region) in zip(scores.tolist(), listed, strict=True):
        number = int(seen[place])
        if number not in kept:
            kept = {number: Example.load(kept_file(folder, number))}
        example = kept[number]
        height, width = example.size / example.label.shape
        x, y, across, down = example.boxes[region].tolist()
        left, top = int(x * width), int(y * height)
        box = [
            left,
            top,
            int(np.ceil((x + across) * width)) - left,
            int(np.ceil((y + down) * height)) - top,
        ]
        of = data.classes[example.classes[region]].name
        kind = KINDS[example.kinds[region]]
        regions.append(
            {"key": data.keys[number], "kind": kind, "class": of, "score": score, "box": box}
        )
    shown = write_page(data, seen, folder, judged, most.worst, out, progress, None)
    notes = [*notes, f"{counted(shown, 'image')} of {len(data)} shown on the page"]
    images += [(key, 0.0) for key in unseen]
    return Audit(data.name, images, regions, judged.self_test, out, tuple(notes), unseen)
