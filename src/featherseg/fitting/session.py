"""`featherseg fit`: data and a budget in, the best verified model for the device out. Reads from top to bottom.

Refuse, time every candidate before any trains, plan, halve, train the last one to its end, deliver. plan.json holds
what was decided before the first training; what follows, follows from it and from scores.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featherseg.api import evaluate
from featherseg.core.errors import ConfigError, RunError, TrainingError, require, unknown
from featherseg.core.files import check_folder, locked, remove_tree, write_json
from featherseg.core.machine import command_began
from featherseg.core.notebook import percent, reporter_of
from featherseg.core.types import Progress, Reporter, Size
from featherseg.core.wording import counted, size_text
from featherseg.data import open_dataset
from featherseg.data.statistics import typical_size
from featherseg.exporters import export
from featherseg.exporters.formats import EXPORTERS
from featherseg.exporters.pipeline import ExportSettings
from featherseg.fitting.bundle import RUNTIMES, MeasuredLatency, read_latency
from featherseg.fitting.candidates import Offer, offers, overrides, resize_of, settings_of
from featherseg.fitting.elsewhere import bundle_chosen, timings_of
from featherseg.fitting.feasible import image_of, no_candidate, time_offers
from featherseg.fitting.latency import Timing, here, require_format, time_candidate, time_file
from featherseg.fitting.page import write_page
from featherseg.fitting.parts import DATASET, find_parts
from featherseg.fitting.plan import DECAY, MARGIN, Candidate, make_plan, survivors
from featherseg.fitting.record import PLAN, Asked, Made, Parts, read_plan
from featherseg.fitting.results import FIT, FitResult, read_fit
from featherseg.fitting.trials import Executor, Segment, carry_out, copy_run, progress_of, score_at, seconds_of
from featherseg.reports.run_report import write_report
from featherseg.runs import open_run
from featherseg.training import Request
from featherseg.training.job import torch_as_it_was
from featherseg.training.length import duration, time_step, time_validation
from featherseg.training.memory import estimate_memory
from featherseg.training.prepare import check_request, resolve_batch_size
from featherseg.uncertainty.bootstrap import score_interval
from featherseg.uncertainty.clusters import clusters_of

TRIALS, LOCK, BUNDLE = "trials", ".fit.lock", "measure.zip"

STEPS_TIMED, MOST_TIMED = 0.02, 15.0
"""The share of the time, and the seconds at most, in which the steps of a candidate are timed."""

VALIDATING, LEAST_SCORED = 0.03, 20
"""The share of the time that a validation may take, and the images that it has in any case."""

FEW = 200
"""Steps with which no model is near what it can be."""

STARTING, AN_IMAGE = 3.0, 0.0075
"""Seconds before the first step of a training, and of one that goes on; for the former also so many an image."""

EXPORTING, ONCE_AGAIN = 30.0, 6.0
"""Seconds that the export of the last one takes at least, and one of its timings."""

KEPT_BACK = 0.02
"""The share of the time that nothing is planned for."""

CALIBRATION = 8
"""Training images that a quantised candidate is calibrated with to be timed."""

AGAIN = 3
"""Timings of the file that is delivered, each in a process of its own; the median of them counts."""


@dataclass(frozen=True)
class FitSettings:
    """What a fit may be told beside data, limit and time.

    Args:
        percentile: 50 or 95: so many of 100 masks are there within the limit.
        max_mib: What the process that predicts may hold of the memory, in MiB.
        data_root: The folder in which a dataset with a name lies.
        device: What it trains on: auto, cpu, cuda, cuda:N or mps.
        plan: A plan.json to carry out again: nothing is timed beforehand, the same steps are taken.

    Raises:
        ConfigError: A value is out of range.
    """

    percentile: int = 50
    max_mib: float | None = None
    data_root: str | Path | None = None
    device: str = "auto"
    plan: str | Path | None = None

    def __post_init__(self) -> None:
        if self.percentile not in (50, 95):
            raise ConfigError(f"percentile = {self.percentile}: expected 50 or 95.")
        if self.max_mib is not None and not 0 < self.max_mib < 1e9:
            raise ConfigError(f"max_mib = {self.max_mib}: expected a number of MiB above 0.")


DEFAULTS = FitSettings()


def fit(
    data: str | Path | None = None,
    max_ms: float | None = None,
    *,
    out: str | Path,
    hours: float | None = None,
    format: str = "onnx",
    image_size: Size | None = None,
    latency: str | Path | None = None,
    resume: bool = False,
    settings: FitSettings = DEFAULTS,
    progress: Progress | Reporter | None = None,
) -> FitResult:
    """Find, train, export and verify the most accurate model that is fast enough on this device.

    Candidates, models at input scales, are timed before any trains; those that keep the limit train by successive
    halving, the last one for at least half of the time. Kill it at any time: with `resume` it goes on.

    Args:
        data: A dataset's name, a dataset.toml, or a folder of images and masks. Where it has no validation or test
            images, a tenth of the training images becomes each.
        max_ms: What `Predictor` may take from a decoded image to its mask, in milliseconds.
        out: The folder to write, in the end a run folder; must be new, except with `resume`.
        hours: From start to end; with `resume` more than before train the chosen model for longer.
        format: Of the exported file, a key of `exporters.EXPORTERS` that is run here.
        image_size: (height, width) of the images that will be predicted; default: that of a typical training image.
        latency: The latency.json of another device, as the script of `featherseg fit --measure -o bundle.zip` writes it
            there: the choice is by what that device takes.
        resume: Go on with what is in `out`, as it was begun; nothing else need be given.
        settings: Percentile, memory, data root, training device, a plan to carry out again.
        progress: As of `featherseg.train`.

    Returns:
        FitResult: what was chosen, every candidate, where the exported file is.

    Raises:
        ConfigError: A value is out of range, or no candidate keeps the limit: the fastest is told.
        UnknownName, DataNotFound, DataError, MissingExtra, DeviceError: Before anything is trained.
        RunError: `out` exists (without `resume`), another process works in it, or the exported file was over the limit
            when it was timed again.
        KeyboardInterrupt: It was stopped; `resume` goes on.
    """
    require("lightning", "train", "fit")
    began, out, reporter = command_began(), Path(out), reporter_of(progress)
    there = (out / PLAN).is_file()
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    new = not out.exists() or (out.is_dir() and (not names or (LOCK in names and names <= {LOCK, DATASET})))
    if not resume and not new:
        raise RunError(f"{out} already exists. Add --resume to continue it, or choose another folder with --out.")
    if not there and (data is None or max_ms is None):
        begin_with = "there is nothing to continue" if resume else "too little was said"
        raise ConfigError(f"{out}: {begin_with}. Begin with data, limit and time: --data DATA --max-ms 20 --hours 2")
    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    with (
        _unless_begun(out, new),
        locked(out / LOCK, RunError(f"another process fits in {out}. Wait for it or stop it first.")),
        torch_as_it_was(),
    ):
        if there:
            made = read_plan(out / PLAN)
            _refuse_other(made.asked, data, max_ms)
            spent = made.spent + sum(seconds_of(path) for path in (out / TRIALS).glob("*"))
            began = time.monotonic() - spent
            reporter.message(f"going on with {out}: {duration(spent)} of {made.asked.hours:g} h are used")
        else:
            asked = Asked(
                str(data),
                None if settings.data_root is None else str(settings.data_root),
                float(max_ms or 0),
                settings.percentile,
                settings.max_mib,
                1.0 if hours is None else hours,
                format,
                image_size,
                settings.device,
            )
            given = None if settings.plan is None else read_plan(Path(settings.plan))
            measured = None if latency is None else read_latency(Path(latency))
            made = begin(asked, out, began, measured, given, reporter)
        made = _with_hours(made, hours, out)
        try:
            winner, scores = halve(made, out, carry_out, reporter)
            final, made = train_to_the_end(made, winner, out, began, carry_out, reporter)
            return deliver(made, winner, final, scores, out, began, reporter)
        except KeyboardInterrupt:
            reporter.message(f"stopped. Go on with: featherseg fit --resume --out {out}")
            raise


@contextmanager
def _unless_begun(out: Path, new: bool) -> Iterator[None]:
    """Of a fit that was refused nothing stays: it would be in the mended command's way."""
    try:
        yield
    finally:
        if new and not (out / PLAN).is_file():
            for name in (LOCK, DATASET):
                (out / name).unlink(missing_ok=True)
            out.rmdir()


def begin(
    asked: Asked, out: Path, began: float, measured: MeasuredLatency | None, given: Made | None, reporter: Reporter
) -> Made:
    """Refuse what cannot be, time the candidates and their steps, and write the plan."""
    ends = began + 3600 * asked.hours
    if asked.format not in EXPORTERS:
        raise unknown("format", asked.format, EXPORTERS)
    require_format(asked.format)
    root = None if asked.data_root is None else Path(asked.data_root)
    parts, said = find_parts(asked.data, root, out)
    for text in said:
        reporter.message(text)
    train = open_dataset(parts.name, parts.train, root := None if parts.root is None else Path(parts.root))
    val = open_dataset(parts.name, parts.val, root)
    size = typical_size(train)
    if measured is not None and measured.image_size not in (asked.image_size, size):
        asked = replace(asked, image_size=measured.image_size)
    image_size = asked.image_size or size
    if given is not None:
        if measured is not None:
            raise ConfigError("--plan and --latency: a plan has its latencies. Give one of them.")
        if (given.asked.format, given.image_size) != (asked.format, image_size):
            raise ConfigError(
                f"the plan is of {given.asked.format} files and images of {size_text(given.image_size)}, not of "
                f"{asked.format} and {size_text(image_size)}. Give it the same --format and --image-size, or none."
            )
        parts = replace(parts, val_size=given.parts.val_size)
        made = replace(given, asked=asked, parts=parts, finals={}, given=True, spent=time.monotonic() - began)
        made.write(out)
        return made

    # What each takes on the device; what cannot keep the limit costs no step of training
    image, started = image_of(val, image_size), time.monotonic()
    choice = offers(image_size)
    if measured is None:
        device, threads = here()
        reporter.message(
            f"timing up to {len(choice)} candidates as {asked.format} on {device}, {counted(threads, 'thread')}, "
            f"images of {size_text(image_size)}"
        )
        calibration = [image_of(train, image_size, i / CALIBRATION) for i in range(CALIBRATION)]

        def measure(offer: Offer) -> Timing:
            resize = resize_of(offer.scale, image_size, whole=asked.image_size is None)
            name = (offer.model, offer.scale, asked.format)
            return time_candidate(name, train.classes, resize, image, calibration)

        timings = time_offers(choice, asked, image_size, measure, began, reporter)
    else:
        device, threads = measured.device, measured.threads
        known = {offer.name for offer in choice}
        timings = [t for t in timings_of(measured, asked.format) if Candidate(t.model, t.scale, 1, 1).name in known]
    an_export = (time.monotonic() - started) / max(1, len(timings))
    feasible = [t for t in timings if t.keeps(asked.max_ms, asked.percentile, asked.max_mib)]
    if not feasible:
        raise no_candidate(asked, timings)

    # What a step of those takes that may train; then the plan
    one = [Candidate(t.model, t.scale, t.latency(asked.percentile), 1.0) for t in feasible]
    left = ends - time.monotonic()
    timed, each = list[Candidate](), 0.0
    for candidate in make_plan(one, max(1.0, left)).candidates:
        seconds = min(MOST_TIMED, STEPS_TIMED * 3600 * asked.hours)
        pace, validation = _pace(candidate, asked, parts, image_size, size, seconds, reporter)
        timed.append(replace(candidate, step_seconds=pace))
        each = max(each, validation)
        reporter.message(f"{candidate.name}: {candidate.latency_ms:.1f} ms, a step of training takes {pace:.2f} s")
    tested = 0 if parts.test is None else len(open_dataset(parts.name, parts.test, root))
    scored = 3 * len(val) if EXPORTERS[asked.format].quantised else 0
    ending = max(EXPORTING, 2 * an_export) + AGAIN * ONCE_AGAIN + 1.5 * each * (tested + scored)
    ending += KEPT_BACK * 3600 * asked.hours
    few = max(LEAST_SCORED, int(VALIDATING * 3600 * asked.hours / each))
    if few < len(val):
        parts = replace(parts, val_size=few)
        reporter.message(f"{few} of {len(val)} validation images are scored in training: all would take too long")
    validating, opening = STARTING + each * min(few, len(val)), AN_IMAGE * (len(train) + len(val) + tested)
    left = ends - time.monotonic() - ending - (2 * validating + opening) * len(timed)
    plan = make_plan(timed, max(1.0, left))
    spent = time.monotonic() - began
    made = Made(
        asked, parts, device, threads, image_size, size, tuple(timings), plan, spent, ending, validating, opening
    )
    made = replace(made, elsewhere=measured is not None)
    made.write(out)
    these = ", ".join(one.name for one in plan.candidates)
    reporter.message(f"training {these}: {duration(max(1.0, left))}, then export and the score on unseen images")
    return made


def halve(made: Made, out: Path, execute: Executor, reporter: Reporter) -> tuple[Candidate, dict[str, float]]:
    """Rung by rung, until one is left; -> the winner, and of each candidate its last score on val (0..1)."""
    left, scores = list(made.plan.candidates), dict[str, float]()
    for number, (steps, keep) in enumerate(made.plan.rungs, start=1):
        reporter.message(
            f"rung {number} of {len(made.plan.rungs)}: {counted(len(left), 'candidate')}, {keep} will stay"
        )
        found = execute([_segment(made, out, one, steps[one.name]) for one in left], reporter)
        scores |= {one.name: score for one, score in zip(left, found, strict=True)}
        sound = [(one, score) for one, score in zip(left, found, strict=True) if not math.isnan(score)]
        if not sound:
            raise TrainingError(f"no candidate of rung {number} could be trained: see {out / TRIALS}.")
        left = survivors(sound, keep, MARGIN)
        reporter.message(f"rung {number}: {', '.join(f'{one.name} {percent(s)} %' for one, s in sound)}")
    return left[0], scores


def train_to_the_end(
    made: Made, winner: Candidate, out: Path, began: float, execute: Executor, reporter: Reporter
) -> tuple[Path, Made]:
    """The winner at its constant rate, then a copy of it at a falling one, which may not go on; -> the copy.

    How many steps that is follows from the time that is left when it begins, and is written into the plan then.
    """
    if winner.name not in made.finals:
        steps, decay = made.plan.final[winner.name]
        if not made.given:
            trained, pace = progress_of(_folder(out, winner))
            left = began + 3600 * made.asked.hours - time.monotonic() - made.ending - 2 * made.validating
            left -= 0 if trained else made.opening
            steps = trained + max(1, int(left / (pace or winner.step_seconds)))
            decay = min(int(DECAY * steps), steps - trained)
        made = replace(made, finals={**made.finals, winner.name: (steps, decay)})
        made.write(out)
    steps, decay = made.finals[winner.name]
    reporter.message(f"{winner.name} goes on to step {steps}, the last {decay} of them at a falling rate")
    if steps < FEW:
        reporter.message(f"{steps} steps are very few: give it more --hours, or go on with --resume and more of them")
    constant = _segment(made, out, winner, steps - decay)
    final = replace(constant, folder=constant.folder.with_name(f"{constant.folder.name}-to-{steps}"), source=None)
    if steps > decay:
        if math.isnan(execute([constant], reporter)[0]):
            raise TrainingError(f"{winner.name} could not be trained to its end: see {constant.folder}.")
        final = replace(final, source=constant.folder)
    if math.isnan(execute([replace(final, steps=steps, decay=decay)], reporter)[0]):
        raise TrainingError(f"{winner.name} could not be trained to its end: see {final.folder}.")
    return final.folder, made


def deliver(
    made: Made,
    winner: Candidate,
    final: Path,
    scores: dict[str, float],
    out: Path,
    began: float,
    reporter: Reporter,
) -> FitResult:
    """The run folder, its exported file, timed again, the score on images that nothing was chosen by, the page."""
    steps = made.finals[winner.name][0]
    if (out / FIT).is_file() and read_fit(out)["steps"] == steps:
        reporter.message(f"{out} is finished: {steps} steps, nothing left to do")
        return FitResult(out, read_fit(out))
    copy_run(final, out)
    asked, parts = made.asked, made.parts
    root = None if parts.root is None else Path(parts.root)

    # The file, which is timed again: where it takes too long it is not delivered
    own = ExportSettings(data_root=root)
    report = export(open_run(out), asked.format, settings=own, progress=reporter.progress)
    timing, image = made.timing(winner), image_of(open_dataset(parts.name, parts.val, root), made.image_size)
    if made.elsewhere:
        if asked.format in RUNTIMES:
            bundle_chosen(out / BUNDLE, open_run(out), winner.scale, asked.format, image)
            reporter.message(
                f"unpack {out / BUNDLE} on {made.device}, run measure.py there, then: featherseg fit --confirm "
                f"latency.json --out {out}"
            )
    else:
        name = (winner.model, winner.scale, asked.format)
        again = [time_file(report.path, image, name) for _ in range(AGAIN)]
        timing = sorted(again, key=lambda t: t.latency(asked.percentile))[AGAIN // 2]
        if not timing.keeps(asked.max_ms, asked.percentile, asked.max_mib, spare=0):
            remove_tree(report.path)
            raise RunError(
                f"{winner.name} took {timing.latency(asked.percentile):.1f} ms when its file was timed again, over the "
                f"limit of {asked.max_ms:g} ms, and is not delivered; the run is in {out}. Other programs may have "
                f"disturbed it: featherseg fit --resume --out {out} times it again."
            )

    # One look at the images that nothing was chosen by
    tested = None
    if parts.test is not None:
        tested = evaluate(open_run(out), split=parts.test, device=asked.device, progress=reporter.progress)
    chosen = {**timing.as_dict(), "miou_val": score_at(final, steps)}
    chosen |= {"miou_test": None, "interval": None} if tested is None else {"miou_test": tested.miou}
    if tested is not None:
        interval = score_interval(tested.counts, clusters_of(list(tested.per_image)))
        chosen["interval"] = None if math.isnan(interval.low) else [interval.low, interval.high]
    facts = {
        "format_version": 1,
        "chosen": chosen,
        "limit_ms": asked.max_ms,
        "percentile": asked.percentile,
        "max_mib": asked.max_mib,
        "image_size": list(made.image_size),
        "device": made.device,
        "threads": made.threads,
        "data": parts.name,
        "file": str(report.path.relative_to(out)),
        "steps": steps,
        "candidates": _candidates(made, winner, final, scores, out),
        "seconds": round(time.monotonic() - began, 1),
        "hours": asked.hours,
    }
    write_json(out / FIT, facts)
    write_page(out, facts, made.plan)
    write_report(open_run(out))
    for old in (out / TRIALS).glob(f"{_folder(out, winner).name}-to-*"):
        if old != final:
            remove_tree(old)
    return FitResult(out, facts)


def _candidates(
    made: Made, winner: Candidate, final: Path, scores: dict[str, float], out: Path
) -> list[dict[str, Any]]:
    """A row a timing: what became of it."""
    planned, rows = {one.name: one for one in made.plan.candidates}, []
    for timing in sorted(made.timings, key=lambda t: t.p50):
        one = planned.get(name := Candidate(timing.model, timing.scale, 1, 1).name)
        row = {**timing.as_dict(), "status": "", "seconds_trained": 0.0, "miou_val": None, "run": None}
        if one is None:
            kept = timing.keeps(made.asked.max_ms, made.asked.percentile, made.asked.max_mib)
            row["status"] = "not trained: larger ones keep the limit too" if kept else "over the limit"
        else:
            folder, score = _folder(out, one), scores.get(name)
            row |= {"seconds_trained": round(seconds_of(folder), 1), "run": str(folder.relative_to(out))}
            row["miou_val"] = None if score is None or math.isnan(score) else score
            rungs = [n for n, (steps, _) in enumerate(made.plan.rungs, 1) if score_at(folder, steps[name]) is not None]
            row["status"] = f"dropped at rung {rungs[-1]}" if rungs else "not trained"
        if one == winner:
            row |= {"status": "chosen", "miou_val": score_at(final, made.finals[name][0])}
            row["seconds_trained"] = round(row["seconds_trained"] + seconds_of(final), 1)
        rows.append(row)
    return rows


def _segment(made: Made, out: Path, one: Candidate, steps: int) -> Segment:
    """The training of a candidate up to a step, at the constant rate."""
    resize = resize_of(one.scale, made.image_size, whole=made.asked.image_size is None)
    settings = settings_of(one.model, resize, made.train_size, made.parts.settings)
    return Segment(_folder(out, one), one.model, overrides(settings | {"train.device": made.asked.device}), steps)


def _folder(out: Path, one: Candidate) -> Path:
    return out / TRIALS / f"{one.model}-{one.scale:g}"


def _pace(
    candidate: Candidate,
    asked: Asked,
    parts: Parts,
    image_size: Size,
    size: Size,
    seconds: float,
    reporter: Reporter,
) -> tuple[float, float]:
    """(seconds of a step of training, seconds of an image of validation)."""
    resize = resize_of(candidate.scale, image_size, whole=asked.image_size is None)
    settings = settings_of(candidate.model, resize, size, parts.settings) | {"train.device": asked.device}
    request = Request(candidate.model, overrides=(*overrides(settings), "train.steps=1000"))
    _, recipe, (train, val), net, _ = check_request(request, lambda text: None)
    recipe = resolve_batch_size(recipe, estimate_memory(net, recipe, size), len(train), lambda text: None)
    reporter.progress(f"timing the steps of {candidate.name}", 0, None)
    pace = time_step(recipe, net, train, None, seconds)
    return pace, time_validation(net, recipe, val)[1]


def _refuse_other(asked: Asked, data: str | Path | None, max_ms: float | None) -> None:
    """Raises ConfigError where a resumed fit is asked for something else than it was begun with."""
    for word, own, now in (("--data", asked.data, data), ("--max-ms", asked.max_ms, max_ms)):
        if now is not None and (float(now) if isinstance(now, int | float) else str(now)) != own:
            raise ConfigError(f"it was begun with {word} {own}, and now it is {now}. Leave it out, or begin another.")


def _with_hours(made: Made, hours: float | None, out: Path) -> Made:
    """The plan with more hours; whoever was the last one then goes on. Raises ConfigError for fewer."""
    if hours is None or hours == made.asked.hours:
        return made
    if hours < made.asked.hours:
        raise ConfigError(f"--hours {hours:g}: it was begun with {made.asked.hours:g}. More can be given, not less.")
    made = replace(made, asked=replace(made.asked, hours=hours), finals={}, given=False)
    made.write(out)
    return made
