"""fit.html: what was tried and dropped, where the time went, and what more time would give."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from featherseg.comparison.pareto import Point, Quantity, front_svg
from featherseg.core.files import read_lines, write_text
from featherseg.core.notebook import percent
from featherseg.fitting.halving import SPARE, Schedule, least_to_compare
from featherseg.fitting.results import (
    NEAR,
    OVER,
    PAGE,
    UNDELIVERED,
    latency_text,
    over_text,
    summary,
)
from featherseg.reports.charts import Line, chart
from featherseg.reports.page import page_html, render
from featherseg.runs.run import METRICS

WIDE = 720
"""The width of a chart on a screen, in units of which a letter is 12 high."""

NARROW = 380
"""The width of a chart on a phone, in the same units."""

NOISE = 0.005
"""The difference of mIoU (0..1) that means nothing: seeds differ by 0.3 to 0.8 points on CamVid."""

Curves = dict[str, list[tuple[float, float]]]
"""Candidate -> (step, mIoU 0..1) of every validation."""

STYLE = """
.spent{display:flex;height:1.4rem;border-radius:4px;overflow:hidden;margin:.4rem 0}
.spent span{display:block;background:var(--accent);opacity:.35;border-right:1px solid var(--paper)}
.spent .chosen{opacity:1}
.spent .beside{background:var(--muted)}
.scroll :is(th,td):nth-child(2){text-align:left;white-space:normal;min-width:7rem}
.chart .other{stroke:var(--muted);opacity:.7} .chart .tag:last-of-type{fill:var(--ink)}
.narrow{display:none}
.chart :is(.on,.off){paint-order:stroke;stroke:var(--paper);stroke-width:3}
@media (max-width: 40rem) {
  .narrow{display:block} .roomy{display:none}
  .scroll tbody th{white-space:normal;min-width:8.5rem}
}
"""


def write_page(out: Path, facts: Mapping[str, Any], schedule: Schedule) -> None:
    """Write OUT/fit.html from the content of OUT/fit.json."""
    write_text(out / PAGE, fit_html(facts, read_curves(out, facts), schedule))


def read_curves(out: Path, facts: Mapping[str, Any]) -> Curves:
    """Return the scores of every trial on its way, of the chosen one with its last training."""
    curves: Curves = {}
    for row in facts["candidates"]:
        folders = [out / row["run"]] if row["run"] else []
        folders += [out] if row["status"] == "chosen" else []
        points = {
            record["step"]: record["val_miou"]
            for folder in folders
            for record in read_lines(folder / METRICS)
            if isinstance(record.get("step"), int) and record.get("val_miou") is not None
        }
        if points:
            curves[name_of(row)] = sorted(points.items())
    return curves


def fit_html(facts: Mapping[str, Any], points: Curves, schedule: Schedule) -> str:
    """Return the page.

    Args:
        facts: The content of fit.json.
    """
    trained = [row for row in facts["candidates"] if row["miou_val"] is not None]
    key = f"p{facts['percentile']}"
    quantity = Quantity(f"latency {key}", "ms")
    marks = [Point(name_of(row), row["latency_ms"][key], row["miou_val"]) for row in trained]
    chosen = name_of(facts["chosen"])
    front = [
        Markup(front_svg(marks, quantity, picked=chosen, budget=facts["limit_ms"], width=width))
        for width in (WIDE, NARROW)
        if len(marks) > 1
    ]
    pace = {one.name: one.step_seconds / 60 for one in schedule.candidates}
    trained_as = name_of(
        facts["chosen"] | {"scale": facts["chosen"].get("trained_scale", facts["chosen"]["scale"])}
    )
    pace[chosen] = pace[trained_as]  # at another scale where that was too slow in the end
    lines = [
        Line(
            [(step * pace[name], 100 * score) for step, score in values],
            f"line {'miou' if name == chosen else 'other'}",
            name,
        )
        for name, values in sorted(
            points.items(), key=lambda item: item[0] == chosen
        )  # that is drawn over the others
    ]
    summary_text = (
        "mIoU on the validation images by minutes of training, the chosen candidate in colour"
    )
    charts = [
        Markup(chart("mIoU, %, by minutes of training", summary_text, lines, size=size))
        for size in ((WIDE, 360), (NARROW, 420))
        if sum(len(line.points) for line in lines) > 1
    ]
    body = render(
        "fitting/page.html",
        f=facts,
        there="bundle" in facts,
        confirmed=facts.get("confirmed"),
        chosen=chosen,
        trained_as=trained_as,
        summary=summary(facts),
        over=over_text(facts),
        latency=lambda row: latency_text(row, facts),
        name=name_of,
        front=front,
        charts=charts,
        alone=trained[0] if len(trained) == 1 else None,
        spent=spent(facts),
        lasted=lasted,
        outlook=outlook(facts, points, schedule),
        rungs=schedule.rungs,
        spare=SPARE,
        gave_way=any(row["status"].startswith(UNDELIVERED) for row in facts["candidates"]),
        today=datetime.now(UTC).date().isoformat(),
    )
    return page_html(f"{chosen} · featherseg fit", body, STYLE)


def spent(facts: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """Return rows (what the time went for, seconds, CSS class).

    They are what comes before the trainings, each training, and what remains.
    """
    trained = [row for row in facts["candidates"] if row["seconds_trained"]]
    trainings = [
        (
            f"training {name_of(row)}, {row['status']}",
            row["seconds_trained"],
            "chosen" * (row["status"] == "chosen"),
        )
        for row in sorted(trained, key=lambda row: -(row["miou_val"] or 0.0))
    ]
    before = facts.get("seconds_before", 0.0)  # older ones lack it
    remaining = facts["seconds"] - before - sum(seconds for _, seconds, _ in trainings)
    beginning = "looking at the images, timing candidates and their steps"
    ending = "export, timing the file, scoring, and trainings that were cut off or replaced"
    rows = [
        (beginning, before, "beside"),
        *trainings,
        (ending if before else f"{beginning}, {ending}", remaining, "beside"),
    ]
    return [row for row in rows if row[1] > 0]


def lasted(seconds: float) -> str:
    """Return seconds as `100 s` or `24 min`."""
    return f"{seconds:.0f} s" if seconds <= 120 else f"{seconds / 60:.0f} min"


def outlook(facts: Mapping[str, Any], points: Curves, schedule: Schedule) -> list[str]:
    """Return sentences on what more time and a higher limit would probably give."""
    sentences = []
    values = points.get(name_of(facts["chosen"]), [])[
        :-1
    ]  # the last one is behind the falling rate, which ends a run
    if len(values) > 1:
        (start, before), (end, score) = values[-2:]
        more = "some more" if score - before > NOISE else "little"
        sentences.append(
            f"From step {start} to step {end}, at its constant rate, the chosen model gained "
            f"{100 * (score - before):.1f} points on the validation images: as many again would "
            f"probably give {more}."
        )
    else:
        sentences.append(
            "More hours train the chosen model for longer: featherseg fit --resume --hours HOURS "
            "--out RUN, where RUN is this folder. It was validated too seldom to tell what that "
            "gives."
        )
    one = schedule.candidates[0]
    needed, had = least_to_compare(one.step_seconds), schedule.final[one.name] * one.step_seconds
    if not schedule.rungs and needed > had:
        sentences.append(
            f"With {lasted(needed)} for training, where this one had {lasted(had)}, a new fit "
            "could compare it with another whose steps take as long, if one keeps the limit."
        )
    for row in facts["candidates"]:
        if row["status"].startswith(UNDELIVERED) and row["miou_val"] is not None:
            sentences.append(
                f"{name_of(row)} has {percent(row['miou_val'])} % on the validation images and was "
                f"{row['status']}. Before it was trained it took {latency_text(row, facts)} ms. "
                f"Its weights are kept: {row['run']} is a run that every other command takes."
            )
    over = [row for row in facts["candidates"] if row["status"] in (OVER, NEAR)]
    if over:
        least = min(over, key=lambda row: row["latency_ms"][f"p{facts['percentile']}"])
        sentences.append(
            f"A higher limit would let in {name_of(least)} first, with "
            f"{latency_text(least, facts)} ms; it was not trained, so its mIoU here is unknown."
        )
    fastest = min(facts["candidates"], key=lambda row: row["latency_ms"]["p50"])
    if len(facts["candidates"]) > 1 and name_of(fastest) == name_of(facts["chosen"]):
        sentences.append("The chosen one is the fastest that was timed.")
    return sentences


def name_of(row: Mapping[str, Any]) -> str:
    """Return the name of a candidate: `frm-lite0-light at 0.5`."""
    return f"{row['model']} at {row['scale']:g}"
