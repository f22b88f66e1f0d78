"""Successive halving in seconds: the plan of a fit, made before its first training, and who goes on behind a rung.

Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016: a half
of the candidates is dropped, those that stay get twice the time. Here candidates go on from where they are, differ in
the price of a step, and the last one gets at least half of all time. A plan holds numbers of steps, so that what
follows from it and from scores is the same wherever and however often it is carried out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FINALIST = 0.5
"""The share of the time that the last candidate gets at least, beside what it had before."""

LEAST = 60.0
"""Seconds that a candidate trains up to the first rung, at least: with less, models of different size are ranked by how
soon they learn."""

MOST = 8
"""Candidates that train, at most."""

DECAY = 0.2
"""The share of the last candidate's steps in which its rate falls."""

MARGIN = 0.005
"""Of mIoU (0..1): within it scores tell nothing apart. Seeds of one recipe differ by 0.3 to 0.8 points on CamVid."""


def name_of(model: str, scale: float) -> str:
    """What a model at an input scale is called: `frm-lite0-light at 0.5`."""
    return f"{model} at {scale:g}"


@dataclass(frozen=True)
class Candidate:
    """A model at an input scale, what its mask takes on the device, and what a step of its training takes here."""

    model: str
    scale: float
    latency_ms: float
    step_seconds: float

    @property
    def name(self) -> str:
        """What it is called."""
        return name_of(self.model, self.scale)


@dataclass(frozen=True)
class Plan:
    """What a fit does, decided before it trains.

    rungs: of each, the steps by which every candidate is compared, counted from its start, and how many stay. final:
    the steps that each candidate would have in the end if it were the last one, and how many of them at a falling rate.
    """

    candidates: tuple[Candidate, ...]
    rungs: tuple[tuple[Mapping[str, int], int], ...]
    final: Mapping[str, tuple[int, int]]


def make_plan(feasible: Sequence[Candidate], seconds: float, at_once: int = 1) -> Plan:
    """The plan for these seconds of training: as many candidates as can be compared, those that cost most first.

    Of all that keep the limit the ones with the highest latency train, as the rule says (the largest that fits is the
    best guess); where the time is too short to compare even two, the largest gets all of it. at_once: candidates that
    train at the same time. Raises ValueError where none is feasible or there are no seconds.
    """
    if not feasible or seconds <= 0:
        raise ValueError(f"expected candidates and seconds, found {len(feasible)} and {seconds:g}")
    ordered = sorted(feasible, key=lambda one: (-one.latency_ms, one.name))

    # Each rung has the same time, shared evenly: the first among all, the second among half of them, ...
    compared = 2 ** int(math.log2(min(MOST, len(ordered))))
    while compared > 1 and (1 - FINALIST) * seconds / math.log2(compared) / math.ceil(compared / at_once) < LEAST:
        compared //= 2
    rounds = int(math.log2(compared))
    chosen, spent, rungs = ordered[:compared], 0.0, list[tuple[Mapping[str, int], int]]()
    for number in range(rounds):
        spent += (1 - FINALIST) * seconds / rounds / math.ceil((compared >> number) / at_once)
        steps = {one.name: max(1, int(spent / one.step_seconds)) for one in chosen}
        rungs.append((steps, compared >> (number + 1)))
    left = FINALIST * seconds if rounds else seconds
    final = {one.name: max(1, int((spent + left) / one.step_seconds)) for one in chosen}
    return Plan(tuple(chosen), tuple(rungs), {name: (steps, int(DECAY * steps)) for name, steps in final.items()})


def survivors(standing: Sequence[tuple[Candidate, float]], keep: int, margin: float) -> list[Candidate]:
    """Who goes on, `keep` of them: place by place the cheapest in latency of those that come near the best one left.

    margin: of scores, what is noise: by so much the best one may be better.
    """
    left, chosen = list(standing), list[Candidate]()
    while left and len(chosen) < keep:
        best = max(score for _, score in left)
        near = [row for row in left if row[1] >= best - margin]
        row = min(near, key=lambda row: (row[0].latency_ms, row[0].name))
        left.remove(row)
        chosen.append(row[0])
    return chosen
