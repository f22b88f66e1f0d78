"""The end of a fit: the run, its file, its latency again, its score on unseen images, the page."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from featherseg.core.errors import ConfigError, DataError, ExportError, RunError, UnknownName
from featherseg.core.files import FIT, remove_tree, write_bytes, write_json
from featherseg.core.types import Reporter, Resize
from featherseg.data.cache.fingerprint import groups_of
from featherseg.evaluation import scoring
from featherseg.evaluation.bootstrap import score_interval
from featherseg.evaluation.clusters import clusters_of
from featherseg.exporters import EXPORTERS, export
from featherseg.exporters.pipeline import ExportSettings
from featherseg.exporters.report import PARITY, ExportReport, keep_reports
from featherseg.fitting.bundle import RUNTIMES
from featherseg.fitting.elsewhere import bundle_chosen
from featherseg.fitting.feasible import image_of
from featherseg.fitting.halving import SPARE, Candidate, name_of
from featherseg.fitting.latency import Timing, cache_file, time_file
from featherseg.fitting.page import write_page
from featherseg.fitting.plan import FitConfig, FitPlan
from featherseg.fitting.results import (
    DROPPED,
    HEAVY,
    NEAR,
    OVER,
    SLOW,
    UNDELIVERED,
    FitResult,
)
from featherseg.fitting.state import FitJob, FitState, Undelivered
from featherseg.fitting.trials import TRIALS, copy_run, final_folder, trial_folder
from featherseg.fitting.watch import Watch
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.settings import InferenceSettings
from featherseg.reports.card import write_card
from featherseg.reports.evaluate import evaluate
from featherseg.reports.run_report import write_report
from featherseg.runs.run import EVALUATIONS, open_run, write_info
from featherseg.training.self_training import PSEUDO_MASKS
from featherseg.training.trackers import TRACKERS

BUNDLE = "measure.zip"
"""The bundle that measures the delivered model on another device."""

DRAFT = "draft"
"""The folder among the trials in which a delivery is prepared."""

AGAIN = 3
"""Timings of the delivered file, each in a process of its own; the worst of them counts."""

LATE = 0.05
"""The share of the hours by which the scoring of test images may be late before it is given up."""

UNSTEADY = 1.25
"""The ratio of timings of one file above which a message says that this machine is unsteady: more
than the limit spares a candidate."""


class _HoursAreOver(Exception):
    """Ends the scoring of test images."""


def deliver(
    state: FitState,
    winner: Candidate,
    watch: Watch,
    job: FitJob,
    ends: float = math.inf,
    *,
    accept: bool = False,
) -> FitResult:
    """Make OUT the run folder of a trained candidate, with its file, its scores and the page.

    Args:
        watch: Where it reports. The timings of the file during its training count as well.
        ends: When the hours are over, by time.monotonic. After that there is only one timing, and
            soon no score on test images.
        accept: Deliver it even if it is over the limit.

    Raises:
        Undelivered: Its training failed, there is no file, or it is over the limit and that is not
            accepted. What was delivered before stays.
    """
    if state.failure is not None:
        raise state.failure
    plan, out, config = state.plan, job.out, state.plan.config
    shrunk, last = winner.name in plan.shrunk, plan.final(winner)
    assert last is not None
    run = final_folder(out, winner, last.steps)

    # A candidate that was over the limit while it trained needs no file
    if watch.timings and not shrunk and not accept:
        worst(winner.name, watch.timings, config, run, out)

    draft, miou_val = _draft_run(state, winner, run, job, watch)
    report = _write_file(draft, plan, winner, run, watch)
    latency = _time_again(draft, report, plan, winner, run, watch, job, ends, accept=accept)

    # Its scores, while what was delivered before is untouched; evaluations of that still count
    if (out / EVALUATIONS).is_file():
        write_bytes(draft / EVALUATIONS, (out / EVALUATIONS).read_bytes())
    late = ends + LATE * 3600 * config.hours
    scores = _score(report, plan, miou_val, draft, out, watch, late)

    # The draft becomes the run folder
    watch.message(f"writing the run, its page and its report to {out}")
    (out / FIT).unlink(missing_ok=True)
    copy_run(draft, out, but=(PARITY,))
    remove_tree(draft)
    report = replace(report, path=out / report.path.relative_to(draft))
    keep_reports(open_run(out), [report])

    # Page, report, card and, last, the record, with which the fit is finished
    chosen = {**latency.worst.as_dict(), "trained_scale": winner.scale, **scores}
    chosen["timings_ms"] = [round(ms, 3) for ms in latency.timings_ms]
    facts = {
        "format_version": 1,
        "chosen": chosen,
        "limit_ms": config.max_ms,
        "percentile": config.percentile,
        "max_mib": config.max_mib,
        "image_size": list(plan.image_size),
        "device": plan.device,
        "threads": plan.threads,
        "data": plan.splits.name,
        "file": str(report.path.relative_to(out)),
        "steps": last.reached,
        "decay_steps": last.reached - last.constant,
        "candidates": _candidates(state, winner, latency.worst, scores["miou_val"], out),
        **_over(config, latency.again),
        "seconds_before": round(plan.spent, 1),
        "seconds": round(job.elapsed, 1),
        "hours": config.hours,
    }
    facts |= {} if latency.bundle is None else {"bundle": latency.bundle}
    facts |= {} if last.stopped is None else {"steps_planned": last.steps}
    if facts["limit_kept"] is False:
        state.decide(out, over_limit=winner.name)
    write_page(out, facts, plan.schedule)
    write_report(open_run(out))
    write_card(open_run(out))
    write_json(out / FIT, facts)

    # Last trainings of fewer hours are of no use any more
    for old in run.parent.glob(f"{trial_folder(out, winner).name}-to-*"):
        if old != run:
            remove_tree(old)
    return FitResult(out, facts)


def _draft_run(
    state: FitState, winner: Candidate, run: Path, job: FitJob, reporter: Reporter
) -> tuple[Path, float | None]:
    """Copy the run of a last training to a draft; return (the draft, mIoU on validation images).

    Its record says that the validation images chose the model, and at which scale it is delivered.
    """
    plan, last = state.plan, state.plan.final(winner)
    assert last is not None
    remove_tree(draft := job.out / TRIALS / DRAFT)
    # OUT has its own trackers, of the run above the trials; no training goes on there
    copy_run(run, draft, but=(TRACKERS, PSEUDO_MASKS))
    changes, miou_val = dict[str, Any](fitted=True), state.trial(run).score_at(last.reached)
    if winner.name in plan.shrunk:
        resize, recipe = plan.resize_at(plan.shrunk[winner.name]), open_run(draft).recipe
        data = recipe.data.model_copy(update={"test_resize": resize})
        changes |= {"recipe": recipe.model_copy(update={"data": data})}
        miou_val = score_val(plan, run, resize, reporter)
    write_info(draft, open_run(draft).info.model_copy(update=changes))
    return draft, miou_val


def _write_file(
    draft: Path, plan: FitPlan, winner: Candidate, run: Path, reporter: Reporter
) -> ExportReport:
    """Export the draft. Raises Undelivered if there is no file."""
    format = plan.config.format
    int8 = EXPORTERS[format].quantised  # which alone reads images
    root = None if plan.splits.root is None or not int8 else Path(plan.splits.root)
    settings = ExportSettings(data_root=root, image_size=plan.image_size)
    reporter.message(f"exporting {winner.name} as {format}")
    try:
        return export(open_run(draft), format, settings=settings, progress=reporter.progress)
    except ExportError as error:
        remove_tree(draft)
        text = f"{winner.name} is trained, and its run is {run}, but there is no file: {error}"
        if int8:
            command = f"featherseg export {run} --format {format} --max-drop POINTS"
            text += f" Allow it to lose more: {command}"
        raise Undelivered(text, "its file could not be written") from error


@dataclass(frozen=True)
class _Latency:
    """What a delivered file takes.

    Args:
        worst: The slowest timing.
        again: The timings of the file, none if it runs on another device.
        timings_ms: The latency of all timings of the candidate that count.
        bundle: The id of the bundle that measures it on another device.
    """

    worst: Timing
    again: Sequence[Timing]
    timings_ms: Sequence[float]
    bundle: str | None = None


def _time_again(
    draft: Path,
    report: ExportReport,
    plan: FitPlan,
    winner: Candidate,
    run: Path,
    watch: Watch,
    job: FitJob,
    ends: float,
    *,
    accept: bool,
) -> _Latency:
    """Time the exported file, or write what measures it on another device.

    Raises Undelivered if it cannot be timed, or is over the limit and that is not accepted.
    """
    config, splits, out = plan.config, plan.splits, job.out
    image = image_of(splits.open(splits.val), plan.image_size)
    scale, before = plan.shrunk.get(winner.name, winner.scale), plan.timing(winner)
    before_ms = before.latency(config.percentile)

    # Another device measures it
    if plan.elsewhere:
        bundle = None
        if config.format in RUNTIMES:
            bundle = bundle_chosen(
                draft / BUNDLE, open_run(draft), scale, config.format, image, plan.threads
            )
            watch.message(
                f"unpack {out / BUNDLE} on {plan.device}, run there: python measure.py --threads "
                f"{plan.threads}; then here: featherseg fit --confirm latency.json --out {out}"
            )
        return _Latency(before, (), (before_ms,), bundle)

    # Here it is timed again. At a smaller scale its timings in training are of another file, so
    # that each timing is taken beside one of that, and what slowed that down counts
    file_name, name = (winner.model, scale, config.format), name_of(winner.model, scale)
    watch.message(f"timing the file of {name}")
    try:
        if winner.name in plan.shrunk and watch.timings:
            pairs = _in_time(
                lambda: (time_file(report.path, image, file_name), watch.time()), ends, watch
            )
            again, slowdown = [small for small, _ in pairs], watch.slowdown(pairs)
            slowed = [timing.slowed(slowdown) for timing in again]
            slowest = worst(name, slowed, config, run, out, accept=accept)
            watch.message(
                f"{name}: about {slowest.latency(config.percentile):.1f} ms when this machine is "
                "as slow as it was at times"
            )
        else:
            again = _in_time(lambda: time_file(report.path, image, file_name), ends, watch)
            again = watch.timings = [*watch.timings, *again]
        timing = worst(name, again, config, run, out, accept=accept)
    except Undelivered:
        remove_tree(draft)
        raise
    except RunError as error:
        remove_tree(draft)
        raise Undelivered(
            f"{winner.name} is trained, and its run is {run}, but its file is not delivered: "
            f"{error}",
            "its file could not be timed",
        ) from error

    # An unsteady machine: what is remembered of its latencies is forgotten
    timings_ms = [t.latency(config.percentile) for t in again]
    if winner.name not in plan.shrunk:
        timings_ms.insert(0, before_ms)
    if max(timings_ms) > UNSTEADY * min(timings_ms):
        watch.message(
            f"{winner.model} took {min(timings_ms):.1f} ms once and {max(timings_ms):.1f} ms "
            "another time: other programs or guests of its host slow this machine down at times; "
            f"then the limit may not be kept. Time it again: featherseg benchmark {out}. The next "
            "fit times all candidates anew."
        )
        with suppress(OSError):
            cache_file().unlink(missing_ok=True)
    return _Latency(timing, again, timings_ms)


One = TypeVar("One")


def _in_time(measure: Callable[[], One], ends: float, reporter: Reporter) -> list[One]:
    """Return AGAIN measurements, or as many as there is time for, at least one."""
    measured: list[One] = []
    while len(measured) < AGAIN:
        began = time.monotonic()
        reporter.progress("timing the file", len(measured), AGAIN)
        measured.append(measure())
        now = time.monotonic()
        if now + (now - began) > ends:
            break
    return measured


def worst(
    name: str,
    again: Sequence[Timing],
    config: FitConfig,
    run: Path,
    out: Path,
    *,
    accept: bool = False,
) -> Timing:
    """Return the slowest of several timings of the file of a run.

    Raises Undelivered if one of them is over a limit, unless that is accepted.
    """
    timing = max(again, key=lambda t: t.latency(config.percentile))
    if accept or all(t.keeps(*config.limits, spare=0) for t in again):
        return timing
    latency_ms, limit = timing.latency(config.percentile), f"{config.max_ms:g} ms"
    reason = f"{latency_ms:.1f} {SLOW} {len(again)} timings of its file"
    if latency_ms <= config.max_ms:
        reason = f"{max(t.memory_mib or 0 for t in again):.0f} {HEAVY}"
        limit = f"{config.max_mib:g} MiB"
    raise Undelivered(
        f"{name} took {reason}, over the limit of {limit}, and is not delivered; its run is {run}. "
        "Other programs may have disturbed it: "
        f"featherseg fit --resume --out {out} times it again.",
        reason,
        over_ms=latency_ms if latency_ms > config.max_ms else None,
    )


def _over(config: FitConfig, again: Sequence[Timing]) -> dict[str, Any]:
    """Return whether the limits are kept, and by how much not; None if nothing was timed here."""
    if not again:
        return {"limit_kept": None, "latency_over_ms": None, "memory_over_mib": None}
    slowest = max(t.latency(config.percentile) for t in again)
    heaviest = max(t.memory_mib or 0 for t in again)
    over_mib = 0.0 if config.max_mib is None else round(max(0.0, heaviest - config.max_mib), 1)
    over_ms = round(max(0.0, slowest - config.max_ms), 3)
    kept = all(t.keeps(*config.limits, spare=0) for t in again)
    return {"limit_kept": kept, "latency_over_ms": over_ms, "memory_over_mib": over_mib}


def score_val(plan: FitPlan, run: Path, resize: Resize | None, reporter: Reporter) -> float:
    """Return the mIoU (0..1) of a run on the validation images, resized in another way."""
    val = plan.splits.open(plan.splits.val, plan.splits.val_size, exact=False)
    runtime = open_runtime(open_run(run), plan.config.device)
    settings = InferenceSettings(resize=resize)
    return scoring.evaluate(runtime, val, settings, boundary=False, progress=reporter.progress).miou


def _score(
    report: ExportReport,
    plan: FitPlan,
    miou_val: float | None,
    run: Path,
    out: Path,
    reporter: Reporter,
    ends: float,
) -> dict[str, Any]:
    """Return the mIoU (0..1) on validation and on test images, the latter with its interval.

    An int8 file is scored itself, because its masks differ from those of the model. If the test
    images cannot be scored, or not by `ends`, their mIoU is None: the model is delivered all the
    same.

    Args:
        miou_val: That of the model on the validation images.
    """

    def progress(*values: Any) -> None:
        if time.monotonic() > ends:
            raise _HoursAreOver
        reporter.progress(*values)

    splits, quantised = plan.splits, EXPORTERS[plan.config.format].quantised
    if quantised and report.parity and report.parity.file_miou is not None:
        miou_val = report.parity.file_miou
    unscored = {"miou_val": miou_val, "miou_test": None, "interval": None}
    if splits.test is None:
        return unscored
    without = f"it is delivered without a score on {splits.test}"
    try:
        data = splits.open(splits.test)
        reporter.message(f"scoring {len(data)} images of {splits.test}")
        tested = evaluate(
            open_run(run), split=splits.test, device=plan.config.device, progress=progress
        )
        if quantised:
            tested = evaluate(report.path, data, device="cpu", progress=progress)
    except _HoursAreOver:
        reporter.message(f"{without}: its hours are over. Score it: featherseg evaluate {out}")
        return unscored
    except (DataError, ConfigError, UnknownName) as error:
        reporter.message(f"{without}, which cannot be scored: {error}")
        return unscored
    if math.isnan(tested.miou):
        reporter.message(f"{without}: no pixel there is labelled")
        return unscored
    interval = score_interval(tested.counts, clusters_of(list(tested.per_image), groups_of(data)))
    low_high = None if math.isnan(interval.low) else [interval.low, interval.high]
    return {"miou_val": miou_val, "miou_test": tested.miou, "interval": low_high}


def _candidates(
    state: FitState,
    winner: Candidate,
    delivered: Timing,
    miou_val: float | None,
    out: Path,
) -> list[dict[str, Any]]:
    """Return a row for each timing, the fastest first, that says what became of the candidate.

    The row of a winner that was shrunk has its delivered scale and latency.
    """
    plan, rows = state.plan, []
    planned = {one.name: one for one in plan.schedule.candidates}
    for timing in plan.timings:
        one = planned.get(timing.name)
        shown = delivered if one == winner and delivered.scale != winner.scale else timing
        row = {
            **shown.as_dict(),
            "status": "",
            "seconds_trained": 0.0,
            "miou_val": None,
            "run": None,
        }
        if one is None:
            row["status"] = _why_untrained(timing, plan.config)
        else:
            folder, score = trial_folder(out, one), state.scores.get(timing.name)
            trial = state.trial(folder)
            row |= {
                "seconds_trained": round(trial.seconds, 1),
                "run": str(folder.relative_to(out)),
                "miou_val": None if score is None or math.isnan(score) else score,
            }

            # The last rung in which it trained
            rungs = [
                number
                for number, rung in enumerate(plan.schedule.rungs, 1)
                if trial.score_at(rung.steps[timing.name]) is not None
            ]
            row["status"] = f"{DROPPED} {rungs[-1]}" if rungs else "not trained"
            if rungs:
                last_steps = plan.schedule.rungs[rungs[-1] - 1].steps[timing.name]
                if reason := trial.failure_at(last_steps):
                    row["status"] = f"its training failed at rung {rungs[-1]}: {reason}"

            # Trained to its end, but not delivered
            if one.name in plan.failed and (finals := plan.finals_of(one)):
                row["status"] = f"{UNDELIVERED}: {plan.failed[one.name]}"
                ended = final_folder(out, one, finals[-1].steps)
                score = state.trial(ended).score_at(finals[-1].reached)
                if score is not None and not math.isnan(score):
                    seconds = round(row["seconds_trained"] + state.trial(ended).seconds, 1)
                    row |= {
                        "miou_val": score,
                        "run": str(ended.relative_to(out)),
                        "seconds_trained": seconds,
                    }
        if one == winner:
            row |= {"status": "chosen", "miou_val": miou_val}
            if last := plan.final(winner):
                seconds = state.trial(final_folder(out, winner, last.steps)).seconds
                row["seconds_trained"] = round(row["seconds_trained"] + seconds, 1)
        rows.append(row)
    return sorted(rows, key=lambda row: row["latency_ms"]["p50"])


def _why_untrained(timing: Timing, config: FitConfig) -> str:
    """Return why a candidate that was timed is not in the schedule."""
    if timing.keeps(*config.limits):
        return "not trained: others are better guesses"
    latency_ms = timing.latency(config.percentile)
    if latency_ms > config.max_ms:
        return OVER
    return NEAR if latency_ms > config.max_ms * (1 - SPARE) else "over the limit of memory"
