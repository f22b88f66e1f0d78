"""Successive halving in seconds: the plan of a fit, made before its first training, and who goes on behind a rung.

Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016: a half
of the candidates is dropped, those that stay get twice the time. Here candidates go on from where they are, differ in
the price of a step, and the last one gets at least half of all time. A plan holds numbers of steps, so that what
follows from it and from scores is the same wherever and however often it is carried out.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Protocol, TypeVar

from pydantic import Field

from featherseg.core.config import MOST_STEPS

FINALIST = 0.5
"""The share of the time that the last candidate gets at least, beside what it had before."""

LEAST, LEAST_STEPS = 60.0, 100
"""Seconds and steps that a candidate trains up to the first rung, at least: with less, models of different size are
ranked by how soon they learn. The rate has risen after 50 steps."""

FINAL_STEPS = 1000
"""Steps that the last candidate has behind the rungs, at least: where the time is too short for that, the best guess
gains more by what the rungs would take than by their choice (benchmarks/fit_regret.py, docs/log.md)."""

MOST = 8
"""Candidates that train, at most."""

FIRST = MOST // 2
"""Models that are compared before any of them is also compared at a larger scale."""

DECAY = 0.2
"""The share of the last candidate's steps in which its rate falls."""

MOST_CONSTANT = MOST_STEPS - int(DECAY * MOST_STEPS)
"""Steps of a rung, at most: all that a training can have before its rate falls."""

SPARE = 0.1
"""Of the limit, what a candidate must stay below it: the same file took up to so much longer in another process."""


MOST_MS = 10_000_000
"""Above any limit that is meant."""

Milliseconds = Annotated[float, Field(gt=0, lt=MOST_MS)]
Scale = Annotated[float, Field(gt=0, le=16)]
"""As they are read from files, which may be another's."""


def keeps_limits(
    latency_ms: float,
    memory_mib: float | None,
    max_ms: float,
    max_mib: float | None,
    spare: float = SPARE,
) -> bool:
    """Whether it stays within the limits, that of time with something to spare; memory may not be known."""
    light = max_mib is None or memory_mib is None or memory_mib <= max_mib
    return light and latency_ms <= (1 - spare) * max_ms


def name_of(model: str, scale: float) -> str:
    """What a model at an input scale is called: `frm-lite0-light at 0.5`."""
    return f"{model} at {scale:g}"


class Scaled(Protocol):
    """A model at an input scale, whatever else is known of it."""

    @property
    def model(self) -> str:
        """Its name."""

    @property
    def scale(self) -> float:
        """Of the images' sides."""


One = TypeVar("One", bound=Scaled)


def best_guesses(
    feasible: Iterable[One], place: Callable[[str], int], *, enlarged_first: bool = False
) -> list[One]:
    """In which order candidates that keep the limit are compared, the best guess first; others are not compared.

    place: of a model among the others, 0 for the best guess. Each is taken at its scale nearest to 1, from below where
    there is one; behind the FIRST models come these at their next scale above 1, or before them where that is
    asked for; then the other models, in the same way. Smaller images cost accuracy on most data.
    """
    scales: dict[str, list[One]] = {}
    for one in sorted(feasible, key=lambda one: (one.scale > 1, abs(one.scale - 1))):
        scales.setdefault(one.model, []).append(one)
    models = sorted(scales.values(), key=lambda own: place(own[0].model))
    found = list[One]()
    for some in (models[:FIRST], models[FIRST:]):
        nearest = [own[0] for own in some]
        enlarged = [
            above[0] for own in some if (above := [one for one in own[1:] if one.scale > 1])
        ]
        found += enlarged + nearest if enlarged_first else nearest + enlarged
    return found


@dataclass(frozen=True)
class Candidate:
    """A model at an input scale, what its mask takes on the device, and what a step of its training takes here.

    batch_size: images of a step, as memory had room for them when it was timed; None in older plans.
    """

    model: str
    scale: Scale
    latency_ms: Milliseconds
    step_seconds: Annotated[float, Field(gt=0, lt=1e7)]
    batch_size: Annotated[int, Field(ge=1, lt=1e6)] | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return name_of(self.model, self.scale)


class Rung(NamedTuple):
    """The steps up to which each candidate trains, counted from its start, and how many stay."""

    steps: Mapping[str, int]
    keep: int


@dataclass(frozen=True)
class Schedule:
    """For how many steps each candidate trains.

    Args:
        candidates: Those that train, the best guess first.
        rungs: Their comparisons, in order.
        final: The steps that each would have in all as the last candidate.
    """

    candidates: tuple[Candidate, ...]
    rungs: tuple[Rung, ...]
    final: Mapping[str, int]


def make_schedule(ordered: Sequence[Candidate], seconds: float, at_once: int = 1) -> Schedule:
    """Return the schedule that compares as many of the first candidates as the seconds allow.

    Args:
        ordered: The best guess first (`best_guesses`). If the time is too short to compare two of
            them, the first gets all of it.
        seconds: For all trainings.
        at_once: Candidates that train at the same time.

    Raises:
        ValueError: There are no candidates, or no seconds.
    """
    if not ordered or seconds <= 0:
        raise ValueError(f"expected candidates and seconds, found {len(ordered)} and {seconds:g}")

    # Each rung has the same time, shared evenly: the first among all, the second among half, ...
    compared = min(MOST, len(ordered))
    while compared > 1:
        a_rung = (1 - FINALIST) * seconds / len(rung_sizes(compared))
        slowest = max(one.step_seconds for one in ordered[:compared])
        long_enough = a_rung / math.ceil(compared / at_once) >= max(LEAST, LEAST_STEPS * slowest)
        if long_enough and FINALIST * seconds >= FINAL_STEPS * slowest:
            break
        compared -= 1
    chosen, spent, rungs = tuple(ordered[:compared]), 0.0, list[Rung]()
    for number in rung_sizes(compared):
        spent += a_rung / math.ceil(number / at_once)
        steps = {one.name: _whole(spent / one.step_seconds, MOST_CONSTANT) for one in chosen}
        rungs.append(Rung(steps, math.ceil(number / 2)))

    # The last one gets the other half, or all where nothing is compared
    left = FINALIST * seconds if rungs else seconds
    final = {one.name: _whole((spent + left) / one.step_seconds, MOST_STEPS) for one in chosen}
    return Schedule(chosen, tuple(rungs), final)


def least_to_compare(step_seconds: float) -> float:
    """Seconds of training from which on `make_schedule` compares two whose steps take so long, one after the other."""
    return max(4 * LEAST, 4 * LEAST_STEPS * step_seconds, FINAL_STEPS * step_seconds / FINALIST)


def _whole(steps: float, most: int) -> int:
    return max(1, int(min(steps, most)))


def rung_sizes(compared: int) -> list[int]:
    """Of so many candidates, how many train in each rung: all, half of them (the larger one), ..., 2."""
    found = list[int]()
    while compared > 1:
        found.append(compared)
        compared = math.ceil(compared / 2)
    return found


def survivors(
    standing: Sequence[tuple[Candidate, float]], keep: int, margin: float = 0.0
) -> list[Candidate]:
    """Who goes on, `keep` of them: place by place the best one left, of equal ones the cheapest in latency.

    margin: of scores, within which they count as equal. With half a point the recorded table's choices are worse on one
    dataset and better on none (benchmarks/fit_regret.py, docs/log.md).
    """
    left, chosen = list(standing), list[Candidate]()
    while left and len(chosen) < keep:
        best = max(score for _, score in left)
        near = [row for row in left if row[1] >= best - margin]
        row = min(near, key=lambda row: (row[0].latency_ms, row[0].name))
        left.remove(row)
        chosen.append(row[0])
    return chosen
