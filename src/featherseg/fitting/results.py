"""fit.json: the choice and every candidate; the choice among them for another limit."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from featherseg.core.config import Config, parse
from featherseg.core.errors import ConfigError, RunError, near_path
from featherseg.core.files import FIT, FIT_LOCK, PLAN, is_held, load_json
from featherseg.core.notebook import html_table, percent
from featherseg.core.wording import brief, one_line
from featherseg.fitting.halving import (
    MOST_MS,
    SPARE,
    Candidate,
    Milliseconds,
    Scale,
    keeps_limits,
    survivors,
)

if TYPE_CHECKING:
    from featherseg.runs.run import Run

PAGE = "fit.html"

UNDELIVERED = "not delivered"
"""The status of a candidate that could not be delivered; the reason follows."""

SLOW = "ms in the worst of"
"""What follows the milliseconds in that reason if they are over the limit; the number of timings
follows."""

HEAVY = "MiB when its file was run again"
"""How that reason ends if the memory limit was not kept."""

DROPPED = "dropped at rung"
"""The status of a candidate that was dropped; the number of the rung follows."""

OVER = "over the limit"
"""The status of a candidate that was too slow to train."""

NEAR = f"within {100 * SPARE:g} % of the limit"
"""The status of a candidate that had too little to spare."""

Share = Annotated[float, Field(ge=0, le=1)]


class _Part(Config):
    """Those keys of a file of others that are used."""

    model_config = ConfigDict(extra="ignore")


class _Latency(_Part):
    p50: Milliseconds
    p95: Milliseconds


class _Row(_Part):
    model: str
    scale: Scale
    latency_ms: _Latency
    memory_mib: float | None = None
    miou_val: Share | None


class _Chosen(_Row):
    format: str
    miou_test: Share | None
    interval: tuple[Share, Share] | None


class _Candidate(_Row):
    status: str
    seconds_trained: float
    run: str | None

    @model_validator(mode="after")
    def _is_a_run(self) -> "_Candidate":
        if self.miou_val is not None and self.run is None:
            raise ValueError("it has a score, and no run")
        return self


class _Confirmed(_Part):
    device: str
    threads: int
    latency_ms: _Latency
    memory_mib: float | None = None
    keeps_limit: bool


class _Facts(_Part):
    chosen: _Chosen
    limit_ms: Milliseconds
    percentile: Literal[50, 95]
    max_mib: float | None = None
    file: str
    steps: int
    candidates: tuple[_Candidate, ...]
    confirmed: _Confirmed | None = None
    limit_kept: bool | None = None
    latency_over_ms: Annotated[float, Field(ge=0, lt=MOST_MS)] | None = None
    memory_over_mib: Annotated[float, Field(ge=0)] | None = None


@dataclass(frozen=True)
class FitResult:
    """A finished fit: `path` is the run folder, `facts` the content of fit.json, mIoU in 0..1."""

    path: Path
    facts: Mapping[str, Any]

    @property
    def run(self) -> "Run":
        """The trained model."""
        from featherseg.runs.run import open_run

        return open_run(self.path)

    @property
    def file(self) -> Path:
        """The exported file, which `Predictor` takes."""
        return self.path / self.facts["file"]

    @property
    def limit_kept(self) -> bool:
        """Whether the exported file keeps the limits; True until another device has measured it."""
        return self.facts.get("limit_kept") is not False

    @property
    def page(self) -> Path:
        """The page of what was tried, and what came of it."""
        return self.path / PAGE

    def as_dict(self) -> dict[str, Any]:
        """Return the content of fit.json."""
        return dict(self.facts)

    def __repr__(self) -> str:
        return brief(self, self.path, summary(self.facts))

    def _repr_html_(self) -> str:
        rows = [
            (
                f"{row['model']} at {row['scale']:g}",
                latency_text(row, self.facts),
                percent(row["miou_val"]),
                row["status"],
            )
            for row in self.facts["candidates"]
        ]
        return html_table(
            summary(self.facts),
            ("candidate", "latency, ms", "val mIoU %", "what became of it"),
            rows,
        )


def summary(facts: Mapping[str, Any]) -> str:
    """Return the choice in a line.

    `frm-lite0-light at 1 as onnx: 17.2 ms (limit 20), mIoU 64.10 % on images that nothing was
    chosen by`
    """
    chosen = facts["chosen"]
    text = f"{chosen['model']} at {chosen['scale']:g} as {chosen['format']}: "
    text += f"{latency_text(chosen, facts)} ms (limit {facts['limit_ms']:g}), mIoU "
    if chosen["miou_test"] is None:
        score = percent(chosen["miou_val"])
        return f"{text}{score} % on the images it was chosen by, as no others could be scored"
    between = ""
    if chosen["interval"] is not None:
        between = f" ({' to '.join(percent(value) for value in chosen['interval'])})"
    return f"{text}{percent(chosen['miou_test'])} %{between} on images that nothing was chosen by"


def over_text(facts: Mapping[str, Any]) -> str:
    """Return by how much limits are exceeded: `5.2 ms (26 %) over the limit of 20 ms`, or ""."""
    parts = []
    if over := facts.get("latency_over_ms"):
        limit = facts["limit_ms"]
        parts.append(f"{over:.1f} ms ({over / limit:.0%}) over the limit of {limit:g} ms")
    if over := facts.get("memory_over_mib"):
        parts.append(f"{over:.0f} MiB over the limit of {facts['max_mib']:g} MiB")
    return " and ".join(parts)


def is_over(reason: str) -> bool:
    """Return whether the reason for which a model was not delivered is a limit."""
    return SLOW in reason or HEAVY in reason


def latency_text(row: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Return the percentile that the limit is about, in milliseconds."""
    percentile = facts["percentile"]
    return f"{row['latency_ms'][f'p{percentile}']:.1f}"


def read_fit(out: Path) -> dict[str, Any]:
    """Return the content of OUT/fit.json. Raises RunError if OUT is no fit that has ended."""
    file = out / FIT
    if not file.is_file() and not (out / PLAN).is_file():
        near = "" if out.exists() else near_path(out)
        raise RunError(
            f"{out} is not the folder of a fit: it has no {PLAN}.{near} Expected the --out of a "
            "fit."
        )
    if not file.is_file() and is_held(out / FIT_LOCK):
        raise RunError(f"{out} has no {FIT} yet: its fit is still running. Wait for its end.")
    if not file.is_file():
        raise RunError(
            f"{out} has no {FIT}: its fit has not ended. Go on with: "
            f"featherseg fit --resume --out {out}"
        )
    try:
        parse(_Facts, facts := load_json(file), FIT)
    except (OSError, ValueError, ConfigError) as error:
        wrong = one_line(str(error).splitlines()[0].removeprefix(f"{FIT}: ")).rstrip(".")
        raise RunError(f"{file} is not what a fit writes: {wrong}.") from None
    return dict(facts)


def choose_again(facts: Mapping[str, Any], max_ms: float) -> Sequence[Mapping[str, Any]]:
    """Return the trained candidates that keep another limit, in the order in which `fit` chooses.

    First those that were trained to their end, then those that were dropped last, because scores of
    trainings of other lengths cannot be compared. The latency of the delivered one is that of its
    file: on the device that confirmed it, else its worst timing; so is that of one that was not
    delivered because it was too slow.

    Raises:
        ConfigError: max_ms is no limit.
    """
    if not 0 < max_ms < MOST_MS:
        raise ConfigError(f"--max-ms {max_ms}: expected milliseconds above 0.")
    key = f"p{facts['percentile']}"
    confirmed = facts.get("confirmed") or {}
    fitting, rungs = (
        dict[Candidate, Mapping[str, Any]](),
        dict[float, list[tuple[Candidate, float]]](),
    )
    for row in facts["candidates"]:
        proven = False
        if row["status"] == "chosen":  # its file was timed again
            slowest = max(row, facts["chosen"], key=lambda one: one["latency_ms"][key])
            timed = confirmed or slowest
            row = {**row, "latency_ms": timed["latency_ms"], "memory_mib": timed.get("memory_mib")}
            kept = facts.get("limit_kept") is not False and confirmed.get("keeps_limit", True)
            proven = max_ms >= facts["limit_ms"] and kept
        if slow := re.match(rf"{UNDELIVERED}: (\d{{1,9}}\.\d) {SLOW} ", row["status"]):
            worst_ms = max(row["latency_ms"][key], float(slow[1]))
            row = {**row, "latency_ms": {**row["latency_ms"], key: worst_ms}}
        latency_ms, memory_mib = row["latency_ms"][key], row.get("memory_mib")
        kept = keeps_limits(
            latency_ms, memory_mib, max_ms, facts.get("max_mib"), 0.0 if proven else SPARE
        )
        if (
            kept
            and row["miou_val"] is not None
            and (slow or not row["status"].startswith(UNDELIVERED))
        ):
            fitting[one := Candidate(row["model"], row["scale"], latency_ms, 0.0)] = row
            dropped = re.fullmatch(rf"{DROPPED} (\d{{1,9}})", row["status"])
            rungs.setdefault(int(dropped[1]) if dropped else math.inf, []).append(
                (one, row["miou_val"])
            )
    last_first = (scored for _, scored in sorted(rungs.items(), reverse=True))
    return [fitting[one] for scored in last_first for one in survivors(scored, len(scored))]
