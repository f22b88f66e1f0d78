"""Successive halving in seconds: how many steps each candidate trains, and which candidates stay.

Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization",
AISTATS 2016: half of the candidates are dropped, the others get twice the time. Here candidates go
on from where they are, their steps take different times, and the last one gets at least half of all
time. A schedule holds numbers of steps, so that it gives the same result whenever it is carried
out.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Protocol, TypeVar

from pydantic import Field

from featherseg.core.config import MOST_STEPS

FINALIST = 0.5
"""The least share of the time for the last candidate, beside what it had before."""

LEAST = 60.0
"""The least seconds that a candidate trains up to the first rung. With less, models of different
size are ranked by how soon they learn."""

LEAST_STEPS = 100
"""The least steps that a candidate trains up to the first rung, for the same reason. The rate has
risen after 50 steps."""

FINAL_STEPS = 1000
"""The least steps of the last candidate behind the rungs. If the time is too short for that, the
best guess gains more by the time of the rungs than by their choice (benchmarks/fit_regret.py,
docs/log.md)."""

MOST = 8
"""The most candidates that train."""

FIRST = MOST // 2
"""The number of models that are compared before any of them is also compared at a larger scale."""

DECAY = 0.2
"""The share of the last candidate's steps in which its rate falls."""

MOST_CONSTANT = MOST_STEPS - int(DECAY * MOST_STEPS)
"""The most steps of a rung: all that a training can have before its rate falls."""

SPARE = 0.1
"""The share of the limit that a candidate must stay below it: the same file took up to so much
longer in another process."""

MOST_MS = 10_000_000
"""Milliseconds above any limit that is meant."""

Milliseconds = Annotated[float, Field(gt=0, lt=MOST_MS)]
"""A latency in a file, which may come from others."""

Scale = Annotated[float, Field(gt=0, le=16)]
"""An input scale in a file."""


def keeps_limits(
    latency_ms: float,
    memory_mib: float | None,
    max_ms: float,
    max_mib: float | None,
    spare: float = SPARE,
) -> bool:
    """Return whether a file keeps the limits, latency with `spare`; unknown memory counts as 0."""
    light = max_mib is None or memory_mib is None or memory_mib <= max_mib
    return light and latency_ms <= (1 - spare) * max_ms


def name_of(model: str, scale: float) -> str:
    """Return the name of a model at an input scale: `frm-lite0-light at 0.5`."""
    return f"{model} at {scale:g}"


class Scaled(Protocol):
    """A model at an input scale."""

    @property
    def model(self) -> str:
        """Its name, as `models.MODELS` has it."""

    @property
    def scale(self) -> float:
        """The factor of the image's sides before the model."""


One = TypeVar("One", bound=Scaled)


def best_guesses(
    feasible: Iterable[One], place: Callable[[str], int], *, enlarged_first: bool = False
) -> list[One]:
    """Return the candidates to compare in their order, the best guess first; others are left out.

    Each model is taken at its scale nearest to 1, from below if there is one, because smaller
    images cost accuracy on most data. Behind the FIRST models come the same at their next scale
    above 1; then the other models, in the same way.

    Args:
        feasible: Those that keep the limit.
        place: The place of a model among the others, 0 for the best guess.
        enlarged_first: Put models at a scale above 1 before the same models at the scale nearest to
            1.
    """
    scales: dict[str, list[One]] = {}
    for one in sorted(feasible, key=lambda one: (one.scale > 1, abs(one.scale - 1))):
        scales.setdefault(one.model, []).append(one)
    models = sorted(scales.values(), key=lambda sizes: place(sizes[0].model))
    ordered = list[One]()
    for some in (models[:FIRST], models[FIRST:]):
        nearest = [sizes[0] for sizes in some]
        above = ([one for one in sizes[1:] if one.scale > 1] for sizes in some)
        enlarged = [sizes[0] for sizes in above if sizes]
        ordered += enlarged + nearest if enlarged_first else nearest + enlarged
    return ordered


@dataclass(frozen=True)
class Candidate:
    """A model at an input scale, with its latency on the device and its training here.

    Args:
        latency_ms: From a decoded image to its mask.
        step_seconds: A training step.
        batch_size: Images of a step, as there was memory for when it was timed; None in older
            plans.
    """

    model: str
    scale: Scale
    latency_ms: Milliseconds
    step_seconds: Annotated[float, Field(gt=0, lt=1e7)]
    batch_size: Annotated[int, Field(ge=1, lt=1e6)] | None = None

    @property
    def name(self) -> str:
        """Its name in messages and files."""
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
    """Return the least seconds in which `make_schedule` compares two candidates with such steps."""
    return max(4 * LEAST, 4 * LEAST_STEPS * step_seconds, FINAL_STEPS * step_seconds / FINALIST)


def _whole(steps: float, most: int) -> int:
    return max(1, int(min(steps, most)))


def rung_sizes(compared: int) -> list[int]:
    """Return how many candidates train in each rung: all, half of them (rounded up), ..., 2."""
    sizes = list[int]()
    while compared > 1:
        sizes.append(compared)
        compared = math.ceil(compared / 2)
    return sizes


def survivors(
    standing: Sequence[tuple[Candidate, float]], keep: int, margin: float = 0.0
) -> list[Candidate]:
    """Return the `keep` best candidates, the best first; ties are broken by latency.

    Args:
        standing: Candidates with their scores.
        margin: The difference up to which scores count as equal. With half a point the choices on
            recorded trainings are worse on one dataset and better on none
            (benchmarks/fit_regret.py, docs/log.md).
    """
    left, chosen = list(standing), list[Candidate]()
    while left and len(chosen) < keep:
        best = max(score for _, score in left)
        near = [row for row in left if row[1] >= best - margin]
        row = min(near, key=lambda row: (row[0].latency_ms, row[0].name))
        left.remove(row)
        chosen.append(row[0])
    return chosen
