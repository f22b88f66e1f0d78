"""The end of a fit: the run, its exported file, its latency again, its score on unseen images, the page."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from featherseg.api import evaluate
from featherseg.core.errors import ConfigError, DataError, ExportError, RunError, UnknownName
from featherseg.core.files import FIT, remove_tree, write_bytes, write_json
from featherseg.core.notebook import percent
from featherseg.core.types import Reporter, Resize
from featherseg.data import open_dataset
from featherseg.data.cache.fingerprint import groups_of
from featherseg.evaluation import scoring
from featherseg.evaluation.bootstrap import score_interval
from featherseg.evaluation.clusters import clusters_of
from featherseg.exporters import EXPORTERS, export
from featherseg.exporters.pipeline import ExportSettings
from featherseg.exporters.report import PARITY, ExportReport, keep_reports
from featherseg.fitting.bundle import RUNTIMES
from featherseg.fitting.candidates import LEAST_SIDE, resize_of
from featherseg.fitting.elsewhere import bundle_chosen
from featherseg.fitting.feasible import image_of
from featherseg.fitting.latency import Timing, cache_file, time_file
from featherseg.fitting.page import write_page
from featherseg.fitting.plan import SPARE, Candidate, name_of
from featherseg.fitting.record import FitConfig, Made
from featherseg.fitting.results import (
    DROPPED,
    HEAVY,
    NEAR,
    OVER,
    SLOW,
    UNDELIVERED,
    FitResult,
    is_over,
)
from featherseg.fitting.trials import (
    TRIALS,
    copy_run,
    failure_at,
    final_folder,
    score_at,
    seconds_of,
    trial_folder,
)
from featherseg.fitting.watch import Watch
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.settings import InferenceSettings
from featherseg.reports.card import write_card
from featherseg.reports.run_report import write_report
from featherseg.runs.run import EVALUATIONS, open_run, write_info
from featherseg.training.trackers import TRACKERS

BUNDLE, DRAFT = "measure.zip", "draft"
"""What measures the model that is delivered on another device; in which folder of the trials a delivery is prepared."""

AGAIN = 3
"""Timings of the file that is delivered, each in a process of its own; the worst of them counts."""

LATE = 0.05
"""The share of the hours by which the scoring of test images may be late before it is given up."""

UNSTEADY = 1.25
"""Times that timings of one file may differ before it is told: more than the limit spares a candidate."""

CELL = 32
"""Pixels a side of what a place of a model's coarsest map sees; a part of it takes about as long as all of it (256x512
at 0.97 to 0.88: no quicker than at 1, at 0.87 a tenth, docs/log.md)."""

LEAST_SHARE = 0.7
"""Of the scale that a model was trained at, the least that it is delivered at: half of the pixels."""


class Undelivered(RunError):
    """A model that was to be delivered and is not; reason: why, in a few words; over_ms: its latency, over max_ms."""

    def __init__(self, text: str, reason: str, *, over_ms: float | None = None) -> None:
        super().__init__(text)
        self.reason, self.over_ms = reason, over_ms
        self.over_limit = over_ms is not None or is_over(reason)


class _HoursAreOver(Exception):
    """Ends the scoring of test images."""


def deliver(
    made: Made,
    winner: Candidate,
    final: Path,
    scores: dict[str, float],
    watch: Watch,
    out: Path,
    began: float,
    ends: float = math.inf,
    *,
    accept: bool = False,
) -> FitResult:
    """The run folder, its exported file, timed again, the score on images that nothing was chosen by, the page.

    watch: through which it is reported; what the file took in its training counts as well. accept: it is delivered even
    if it is over the limit. ends: by time.monotonic; then one timing, and soon no score on test, has to do. Raises
    Undelivered where there is no file, or it is over the limit and not accepted; what was delivered before then stays.
    """
    # Who was over the limit while it trained needs no file
    shrunk = winner.name in made.shrunk
    if watch.timings and not shrunk and not accept:
        worst(winner.name, watch.timings, made.config, final, out)

    # A draft of the run folder, by which report and card tell that val chose the model
    last = made.final(winner)
    assert last is not None
    steps = last.reached
    remove_tree(draft := out / TRIALS / DRAFT)
    copy_run(
        final, draft, but=(TRACKERS,)
    )  # OUT has its own, of the run under which the trials stand
    config, parts, scale, miou_val = made.config, made.parts, winner.scale, score_at(final, steps)
    root, info = None if parts.root is None else Path(parts.root), dict[str, Any](fitted=True)
    if shrunk:
        scale = made.shrunk[winner.name]
        resize, recipe = _resize(made, scale), open_run(draft).recipe
        data = recipe.data.model_copy(update={"test_resize": resize})
        info |= {"recipe": recipe.model_copy(update={"data": data})}
        miou_val = _score_val(made, final, resize, watch)
    write_info(draft, open_run(draft).info.model_copy(update=info))

    # The file
    int8 = EXPORTERS[config.format].quantised  # which alone looks at images
    own = ExportSettings(data_root=root if int8 else None, image_size=made.image_size)
    try:
        report = export(open_run(draft), config.format, settings=own, progress=watch.progress)
    except ExportError as error:
        remove_tree(draft)
        text = f"{winner.name} is trained, and its run is {final}, but there is no file: {error}"
        if int8:
            text += f" Allow it to lose more: featherseg export {final} --format {config.format} --max-drop POINTS"
        raise Undelivered(text, "its file could not be written") from error

    # Its latency: another device is given what measures it; here it is timed again, and goes where it takes too long
    timing, image = (
        made.timing(winner),
        image_of(open_dataset(parts.name, parts.val, root), made.image_size),
    )
    bundle, taken = None, [timing.latency(config.percentile)]
    if made.elsewhere:
        if config.format in RUNTIMES:
            bundle = bundle_chosen(
                draft / BUNDLE, open_run(draft), scale, config.format, image, made.threads
            )
            watch.message(
                f"unpack {out / BUNDLE} on {made.device}, run there: python measure.py --threads {made.threads}; then "
                f"here: featherseg fit --confirm latency.json --out {out}"
            )
    else:
        name, called = (winner.model, scale, config.format), name_of(winner.model, scale)
        try:
            if shrunk and watch.timings:
                pairs = _in_time(lambda: (time_file(report.path, image, name), watch.time()), ends)
                again, slowdown = [small for small, _ in pairs], watch.slowdown(pairs)
                slowed = worst(
                    called, [t.slowed(slowdown) for t in again], config, final, out, accept=accept
                )
                watch.message(
                    f"{called}: about {slowed.latency(config.percentile):.1f} ms when this machine is as "
                    "slow as it was at times"
                )
            else:
                again = [
                    *watch.timings,
                    *_in_time(lambda: time_file(report.path, image, name), ends),
                ]
                watch.timings = again
            timing = worst(called, again, config, final, out, accept=accept)
        except RunError as error:
            remove_tree(draft)
            if isinstance(error, Undelivered):
                raise
            text = f"{winner.name} is trained, and its run is {final}, but its file is not delivered: {error}"
            raise Undelivered(text, "its file could not be timed") from error
        taken = [*(() if shrunk else taken), *(t.latency(config.percentile) for t in again)]
        if max(taken) > UNSTEADY * min(taken):
            watch.message(
                f"{winner.model} took {min(taken):.1f} ms once and {max(taken):.1f} ms another time: other programs or "
                "guests of its host slow this machine down at times; then the limit may not be kept. Time it again: "
                f"featherseg benchmark {out}. The next fit times all candidates anew."
            )
            with suppress(OSError):
                cache_file().unlink(missing_ok=True)

    # Its scores, while what was delivered before is untouched; evaluations of that one still count
    if (out / EVALUATIONS).is_file():
        write_bytes(draft / EVALUATIONS, (out / EVALUATIONS).read_bytes())
    judged = _judge(report, made, miou_val, draft, out, watch, ends + LATE * 3600 * config.hours)

    # It is delivered: the draft becomes the run folder
    (out / FIT).unlink(missing_ok=True)
    copy_run(draft, out, but=(PARITY,))
    remove_tree(draft)
    report = replace(report, path=out / report.path.relative_to(draft))
    keep_reports(open_run(out), [report])

    # Page, report, card and, last, the record, with which the fit is finished
    chosen = {**timing.as_dict(), "trained_scale": winner.scale, **judged}
    chosen["timings_ms"] = [round(ms, 3) for ms in taken]
    facts = {
        "format_version": 1,
        "chosen": chosen,
        "limit_ms": config.max_ms,
        "percentile": config.percentile,
        "max_mib": config.max_mib,
        "image_size": list(made.image_size),
        "device": made.device,
        "threads": made.threads,
        "data": parts.name,
        "file": str(report.path.relative_to(out)),
        "steps": steps,
        "decay_steps": steps - last.constant,
        "candidates": _candidates(made, winner, final, timing, judged["miou_val"], scores, out),
        **_over(made, [] if made.elsewhere else again),
        "seconds_before": round(made.spent, 1),
        "seconds": round(time.monotonic() - began, 1),
        "hours": config.hours,
    }
    facts |= {} if bundle is None else {"bundle": bundle}
    facts |= {} if last.stopped is None else {"steps_planned": last.steps}
    if facts["limit_kept"] is False and made.over_limit is None:
        replace(made, over_limit=winner.name).write(out)
    write_page(out, facts, made.plan)
    write_report(open_run(out))
    write_card(open_run(out))
    write_json(out / FIT, facts)

    # Last trainings of fewer hours are of no use any more
    for old in final.parent.glob(f"{trial_folder(out, winner).name}-to-*"):
        if old != final:
            remove_tree(old)
    return FitResult(out, facts)


One = TypeVar("One")


def _in_time(measure: Callable[[], One], ends: float) -> list[One]:
    """What AGAIN measurements give, or as many as there is time for, one at least."""
    found: list[One] = []
    while len(found) < AGAIN:
        began = time.monotonic()
        found.append(measure())
        now = time.monotonic()
        if now + (now - began) > ends:
            break
    return found


def _over(made: Made, again: Sequence[Timing]) -> dict[str, Any]:
    """Whether the limits are kept, and by how much they are not; null where nothing was timed here."""
    config = made.config
    if not again:
        return {"limit_kept": None, "latency_over_ms": None, "memory_over_mib": None}
    slowest = max(t.latency(config.percentile) for t in again)
    heaviest = max(t.memory_mib or 0 for t in again)
    over_mib = 0.0 if config.max_mib is None else round(max(0.0, heaviest - config.max_mib), 1)
    over_ms = round(max(0.0, slowest - config.max_ms), 3)
    kept = all(t.keeps(*config.limits, spare=0) for t in again)
    return {"limit_kept": kept, "latency_over_ms": over_ms, "memory_over_mib": over_mib}


def shrink(
    made: Made,
    winner: Candidate,
    final: Path,
    over_ms: float,
    rival: float | None,
    reporter: Reporter,
) -> Made | None:
    """The plan in which the file of one that took over_ms, more than the limit, sees smaller images; weights stay.

    None where that would be too small, or on val worse than what the one that would take its place had (rival, 0..1;
    None where there is none), which is left little time to train. Latency is taken to go with the CELLs of the image,
    so that no scale is tried which has as many.
    """

    def cells(scale: float) -> int:
        return math.prod(math.ceil(round(side * scale) / CELL) for side in made.image_size)

    # The largest scale at which it is expected to keep the limit
    limit, before = made.config.max_ms * (1 - SPARE / 2), made.shrunk.get(winner.name, winner.scale)
    least = max(LEAST_SHARE * winner.scale, LEAST_SIDE / min(made.image_size))
    smaller = (n / 100 for n in range(math.ceil(100 * before) - 1, 0, -1) if n / 100 >= least)
    scale = next((one for one in smaller if cells(one) * over_ms <= cells(before) * limit), None)
    if scale is None:
        return None
    score = _score_val(made, final, _resize(made, scale), reporter)
    reporter.message(
        f"{winner.name} took {over_ms:.1f} ms when it was timed again; at {scale:g} it has {percent(score)} % on val"
    )
    if rival is not None and score < rival:
        return None
    return replace(made, shrunk={**made.shrunk, winner.name: scale})


def _resize(made: Made, scale: float) -> Resize | None:
    """What images are brought to at a scale, as in training."""
    return resize_of(scale, made.image_size, whole=made.config.image_size is None)


def _score_val(made: Made, run: Path, resize: Resize | None, reporter: Reporter) -> float:
    """The mIoU, 0..1, of a run on the images that it was validated on, brought to another size."""
    parts = made.parts
    root = None if parts.root is None else Path(parts.root)
    val = open_dataset(parts.name, parts.val, root, parts.val_size, exact=False)
    runtime, settings = (
        open_runtime(open_run(run), made.config.device),
        InferenceSettings(resize=resize),
    )
    return scoring.evaluate(runtime, val, settings, boundary=False, progress=reporter.progress).miou


def _judge(
    report: ExportReport,
    made: Made,
    miou_val: float | None,
    run: Path,
    out: Path,
    reporter: Reporter,
    ends: float,
) -> dict[str, Any]:
    """The mIoU, 0..1, on val, and on images that nothing was chosen by with its interval, None where there are none.

    Of an int8 file, whose masks are not the model's, that of the file; miou_val: the model's. Where those images cannot
    be scored, or not by `ends`, it is None as well: the training was not for nothing.
    """

    def progress(*state: Any) -> None:
        if time.monotonic() > ends:
            raise _HoursAreOver
        reporter.progress(*state)

    parts, quantised = made.parts, EXPORTERS[made.config.format].quantised
    if quantised and report.parity and report.parity.file_miou is not None:
        miou_val = report.parity.file_miou
    unscored = {"miou_val": miou_val, "miou_test": None, "interval": None}
    if parts.test is None:
        return unscored
    try:
        data = open_dataset(
            parts.name, parts.test, None if parts.root is None else Path(parts.root)
        )
        tested = evaluate(
            open_run(run), split=parts.test, device=made.config.device, progress=progress
        )
        if quantised:
            tested = evaluate(report.path, data, device="cpu", progress=progress)
    except _HoursAreOver:
        reporter.message(
            f"it is delivered without a score on {parts.test}: its hours are over. Score it: featherseg evaluate {out}"
        )
        return unscored
    except (DataError, ConfigError, UnknownName) as error:
        reporter.message(
            f"it is delivered without a score on {parts.test}, which cannot be scored: {error}"
        )
        return unscored
    if math.isnan(tested.miou):
        reporter.message(
            f"it is delivered without a score on {parts.test}: no pixel there is labelled"
        )
        return unscored
    interval = score_interval(tested.counts, clusters_of(list(tested.per_image), groups_of(data)))
    low_high = None if math.isnan(interval.low) else [interval.low, interval.high]
    return {"miou_val": miou_val, "miou_test": tested.miou, "interval": low_high}


def worst(
    name: str,
    again: Sequence[Timing],
    config: FitConfig,
    run: Path,
    out: Path,
    *,
    accept: bool = False,
) -> Timing:
    """Of several timings of the file of a run the slowest.

    Raises Undelivered where one of them is over a limit, unless that is accepted.
    """
    timing = max(again, key=lambda t: t.latency(config.percentile))
    if accept or all(t.keeps(*config.limits, spare=0) for t in again):
        return timing
    taken, limit = timing.latency(config.percentile), f"{config.max_ms:g} ms"
    reason = f"{taken:.1f} {SLOW} {len(again)} timings of its file"
    if taken <= config.max_ms:
        reason = f"{max(t.memory_mib or 0 for t in again):.0f} {HEAVY}"
        limit = f"{config.max_mib:g} MiB"
    raise Undelivered(
        f"{name} took {reason}, over the limit of {limit}, and is not delivered; its run is {run}. Other "
        f"programs may have disturbed it: featherseg fit --resume --out {out} times it again.",
        reason,
        over_ms=taken if taken > config.max_ms else None,
    )


def _candidates(
    made: Made,
    winner: Candidate,
    final: Path,
    delivered: Timing,
    miou_val: float | None,
    scores: dict[str, float],
    out: Path,
) -> list[dict[str, Any]]:
    """A row a timing, the fastest first: what became of it; of a winner that was shrunk as it was delivered."""
    planned, rows = {one.name: one for one in made.plan.candidates}, []
    for timing in made.timings:
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
            kept = timing.keeps(*made.config.limits)
            row["status"] = "not trained: others are better guesses" if kept else OVER
            if not kept and (taken := timing.latency(made.config.percentile)) <= made.config.max_ms:
                row["status"] = (
                    NEAR if taken > made.config.max_ms * (1 - SPARE) else "over the limit of memory"
                )
        else:
            folder, score = trial_folder(out, one), scores.get(timing.name)
            row |= {
                "seconds_trained": round(seconds_of(folder), 1),
                "run": str(folder.relative_to(out)),
            }
            row["miou_val"] = None if score is None or math.isnan(score) else score
            rungs = [
                n
                for n, (rung, _) in enumerate(made.plan.rungs, 1)
                if score_at(folder, rung[timing.name]) is not None
            ]
            row["status"] = f"{DROPPED} {rungs[-1]}" if rungs else "not trained"
            if rungs and (
                reason := failure_at(folder, made.plan.rungs[rungs[-1] - 1][0][timing.name])
            ):
                row["status"] = f"its training failed at rung {rungs[-1]}: {reason}"
            if one.name in made.failed and (finals := made.finals_of(one)):
                row["status"] = f"{UNDELIVERED}: {made.failed[one.name]}"
                ended = final_folder(out, one, finals[-1].steps)
                if not math.isnan(score := score_at(ended, finals[-1].reached) or math.nan):
                    row |= {"miou_val": score, "run": str(ended.relative_to(out))}
                    row["seconds_trained"] = round(row["seconds_trained"] + seconds_of(ended), 1)
        if one == winner:
            row |= {"status": "chosen", "miou_val": miou_val}
            row["seconds_trained"] = round(row["seconds_trained"] + seconds_of(final), 1)
        rows.append(row)
    return sorted(rows, key=lambda row: row["latency_ms"]["p50"])
