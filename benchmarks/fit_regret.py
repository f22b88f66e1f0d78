"""What `fit` would have chosen from the recorded table, and what that costs, beside simpler ways with the same time.

    python benchmarks/fit_regret.py [--margin 0 0.25 0.5 1]

Replays tables/fit_table.jsonl (fit_table.py) with the latencies of tables/fit_latency.jsonl; nothing is trained. A case
is a dataset, a seed, a latency limit (five, spread over the candidates' latencies) and a share of what training every
candidate to its end takes. Scores between two rungs lie on a line over the logarithm of the time; behind the last rung
a candidate stays as it is. Regret: points of test mIoU that the chosen model, trained for as long as it was, lies below
the best that keeps the limit, trained to its end (mean of its seeds: the largest of several noisy ones, which counts
against every way alike). Every start, validation, look through the images and timing of steps takes its time from the
way that needs it.

The ways: fit (featherseg/fitting/halving.py), with the order and the margin that are judged; guess, the first in that
order with all the time; as shipped, fit as it is, for which all of the table was looked at; asha, the same halving as
fit's, without a margin, and whoever goes on starts anew; most parameters and most MACs, the model that has them of
those that keep the limit, at its scale nearest to 1, from below where there is one, with all the time; default, DEFAULT
at that scale where it keeps the limit, else most MACs; random, four drawn candidates with a quarter of the time each,
the mean of DRAWS drawings.

Choices of fit are made on half of the datasets and judged on the other half, datasets of one origin in one half: in
which order candidates are compared, by what they reach on val in GUESSED seconds, and the margin (--margin) that is
best. Intervals are over datasets, by Student's t.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from fit_table import GAIN, gained, read_table

from featherseg.core.files import read_lines
from featherseg.evaluation.bootstrap import student_quantile
from featherseg.fitting.beginning import AN_IMAGE, MOST_TIMED, STARTING, STEPS_TIMED
from featherseg.fitting.candidates import in_line
from featherseg.fitting.halving import Candidate, best_guesses, make_schedule, rung_sizes, survivors

TABLES = Path(__file__).parent / "tables"
SHARES = (0.1, 0.25, 0.5)
LIMITS = 5
DRAWN, DRAWS = 4, 50
DEFAULT = "frm-lite0-light"
"""The model that README names first."""
GUESSED = 600.0
"""Seconds of training behind which scores tell who is the better guess."""
WHOLE = 0.8
"""Of the candidates of a dataset's fullest seed, what another has at least where it counts."""
GOOD = 0.5
"""Points of regret that are at the noise of a seed."""


@dataclass(frozen=True)
class Recorded:
    """A candidate on one dataset with one seed: its curves over seconds of training."""

    candidate: Candidate
    size: tuple[int, int]  # of the dataset's images
    parameters: int
    macs: int
    seconds: np.ndarray  # (R,) at the constant rate
    val: np.ndarray  # (R,) mIoU in %
    ended: np.ndarray  # (R,) seconds, those at a falling rate included
    test: np.ndarray  # (R,) behind these
    val_ended: np.ndarray  # (R,) behind these
    opening: float = 0.0  # seconds that a training takes to start and to be validated
    looking: float = 0.0  # seconds that the first start takes to look through the images

    def beginning(self, seconds: float) -> float:
        """Of so many seconds, those before the first step of a training: its steps are timed as well."""
        return self.opening + self.looking + min(MOST_TIMED, STEPS_TIMED * seconds)

    def val_at(self, seconds: float) -> float:
        """On val at the constant rate."""
        return float(np.interp(np.log(max(seconds, 1e-9)), np.log(self.seconds), self.val))

    def val_ended_at(self, seconds: float) -> float:
        """On val, when the rate has fallen at the end of so many seconds."""
        return float(np.interp(np.log(max(seconds, 1e-9)), np.log(self.ended), self.val_ended))

    def test_at(self, seconds: float) -> float:
        """On test, when the rate has fallen at the end of so many seconds."""
        return float(np.interp(np.log(max(seconds, 1e-9)), np.log(self.ended), self.test))


Way = Callable[[Sequence[Recorded], float, np.random.Generator], tuple[Recorded, float]]
"""Candidates that keep the limit, seconds, chance -> who is chosen, and the seconds that it was trained for."""

Order = Callable[[Sequence[Recorded]], list[Recorded]]
"""Candidates that keep the limit -> those that are compared, the best guess first."""


def fit(margin: float, order: Order, *, anew: bool = False) -> Way:
    """featherseg's halving; anew: who goes on starts from zero, and so has less of the last segment's time."""

    def choose(
        found: Sequence[Recorded], seconds: float, _: np.random.Generator
    ) -> tuple[Recorded, float]:
        of = {one.candidate.name: one for one in found}
        ordered = [one.candidate for one in order(found)]
        opening = max(one.opening for one in found)
        count = len(make_schedule(ordered, seconds).candidates)
        beside = (2 + sum(rung_sizes(count))) * opening
        beside += count * max(one.beginning(seconds) - one.opening for one in found)
        schedule = make_schedule(ordered, max(1.0, seconds - beside))
        left, before = list(schedule.candidates), 0.0
        for rung, keep in schedule.rungs:
            standing = []
            for one in left:
                trained = rung[one.name] * one.step_seconds - (before if anew else 0.0)
                standing.append((one, of[one.name].val_at(trained)))
            before = rung[left[0].name] * left[0].step_seconds
            left = survivors(standing, keep, margin)
        winner = left[0]
        return of[winner.name], schedule.final[winner.name] * winner.step_seconds - (
            before if anew else 0.0
        )

    return choose


def shipped(found: Sequence[Recorded]) -> list[Recorded]:
    """featherseg's own order."""
    of = {one.candidate.name: one for one in found}
    return [of[one.name] for one in in_line([one.candidate for one in found], found[0].size)]


def by_parameters(found: Sequence[Recorded]) -> list[Recorded]:
    """The model with the most parameters first."""
    of, many = (
        {one.candidate.name: one for one in found},
        {one.candidate.model: one.parameters for one in found},
    )
    return [
        of[one.name]
        for one in best_guesses([one.candidate for one in found], lambda model: -many[model])
    ]


def by_macs(found: Sequence[Recorded]) -> list[Recorded]:
    """The model with the most multiply-accumulates first."""
    of, macs = (
        {one.candidate.name: one for one in found},
        {one.candidate.model: one.macs for one in found},
    )
    return [
        of[one.name]
        for one in best_guesses([one.candidate for one in found], lambda model: -macs[model])
    ]


def learnt_from(found: Mapping[tuple[str, int], list[Recorded]]) -> Order:
    """By the points that a candidate reaches on val in GUESSED seconds, beside those of its dataset and seed.

    score = dataset and seed + candidate, by least squares, as not all need to have been recorded everywhere.
    """
    names = sorted({one.candidate.name for recorded in found.values() for one in recorded})
    told = [(place, one) for place, recorded in enumerate(found.values()) for one in recorded]
    design = np.zeros((len(told), len(found) + len(names)))
    for line, (place, one) in zip(design, told, strict=True):
        line[[place, len(found) + names.index(one.candidate.name)]] = 1
    points = np.linalg.lstsq(
        design, np.array([one.val_ended_at(GUESSED) for _, one in told]), rcond=None
    )[0]
    worth = dict(zip(names, points[len(found) :].tolist(), strict=True))
    return lambda own: sorted(own, key=lambda one: -worth.get(one.candidate.name, -np.inf))


def guess(order: Order) -> Way:
    """The first in an order, with all the time."""

    def choose(
        found: Sequence[Recorded], seconds: float, _: np.random.Generator
    ) -> tuple[Recorded, float]:
        chosen = order(found)[0]
        return chosen, max(1.0, seconds - chosen.beginning(seconds))

    return choose


most_parameters, most_macs = guess(by_parameters), guess(by_macs)


def default(
    found: Sequence[Recorded], seconds: float, rng: np.random.Generator
) -> tuple[Recorded, float]:
    """DEFAULT, at its scale nearest to 1."""
    own = [one for one in found if one.candidate.model == DEFAULT]
    return most_macs(own or found, seconds, rng)


def at_random(
    found: Sequence[Recorded], seconds: float, rng: np.random.Generator
) -> tuple[Recorded, float]:
    """DRAWN candidates with equal time; the best of them on val."""
    drawn = rng.permutation(len(found))[:DRAWN]
    each = max(1.0, seconds / len(drawn) - max(one.beginning(seconds) for one in found))
    return found[max(drawn, key=lambda number: found[number].val_ended_at(each))], each


def load(table: Path, latencies: Path) -> dict[tuple[str, int], list[Recorded]]:
    """Dataset and seed -> its candidates, by rows of today's recipes; a seed with few of them is named and left out.

    Few are one, or less than WHOLE of those of another seed: its cases would be another choice, in less time. Of a
    candidate that was timed again the last latency counts. Raises SystemExit where one has none, or they are of
    several devices.
    """
    from featherseg.costs.catalogue import counts

    rows = {
        (row["dataset"], row["model"], row["scale"]): row
        for row in read_lines(latencies)
        if row["format"] == "onnx"
    }
    if len(devices := {(row["processor"], row["threads"]) for row in rows.values()}) > 1:
        raise SystemExit(
            f"{latencies} is of several devices: {', '.join(map(str, sorted(devices)))}."
        )
    times = {key: (row["p50_ms"], tuple(row["image_size"])) for key, row in rows.items()}
    found: dict[tuple[str, int], list[Recorded]] = {}
    for row in read_table(table).values():
        key = (row["dataset"], row["model"], row["scale"])
        if key not in times:
            raise SystemExit(
                f"{latencies} has no latency of {row['model']} at {row['scale']:g} on {row['dataset']}."
            )
        if (gain := gained(row["rungs"])) >= GAIN:
            name = f"{row['model']} at {row['scale']:g} on {row['dataset']} with seed {row['seed']}"
            print(
                f"{name} still gained {gain:.1f} points in its last fifth of {row['rungs'][-1]['seconds']} s"
            )
        steps, ended = (np.array([r[k] for r in row["rungs"]], float) for k in ("steps", "ended"))
        val, test = (np.array([r[k] for r in row["rungs"]], float) for k in ("val", "test_decayed"))
        p50_ms, size = times[key]
        one = Candidate(row["model"], row["scale"], p50_ms, row["step_seconds"])
        curves = steps * one.step_seconds, val, ended * one.step_seconds, test
        curves = *curves, np.array([r["val_decayed"] for r in row["rungs"]], float)
        taken = STARTING + row["val_seconds"], AN_IMAGE * row["images"]
        own = found.setdefault((row["dataset"], row["seed"]), [])
        own.append(Recorded(one, size, *counts(row["model"]), *curves, *taken))
    most = {
        dataset: max(len(own) for (other, _), own in found.items() if other == dataset)
        for dataset, _ in found
    }
    for (dataset, seed), own in [*found.items()]:
        if len(own) < max(2, WHOLE * most[dataset]):
            print(
                f"{dataset} with seed {seed} is left out: it has {len(own)} of {most[dataset]} candidates"
            )
            del found[dataset, seed]
    return found


def regrets(
    found: Mapping[tuple[str, int], list[Recorded]], ways: Mapping[str, Way]
) -> list[dict[str, Any]]:
    """A row a case: dataset, seed, limit, share, and the regret of every way in points."""
    rows = []
    for (dataset, seed), recorded in found.items():
        ends: dict[
            str, list[float]
        ] = {}  # of every candidate its test scores at its end, over seeds
        for (other, _), more in found.items():
            for one in more if other == dataset else ():
                ends.setdefault(one.candidate.name, []).append(float(one.test[-1]))
        times = np.sort([one.candidate.latency_ms for one in recorded])
        for limit, share in product(np.quantile(times, np.linspace(0.2, 1, LIMITS)), SHARES):
            feasible = [one for one in recorded if one.candidate.latency_ms <= limit]
            seconds = share * sum(float(one.ended[-1]) for one in recorded)
            best = max(float(np.mean(ends[one.candidate.name])) for one in feasible)
            row = {"dataset": dataset, "seed": seed, "limit": float(limit), "share": share}
            for name, way in ways.items():
                chances = [
                    np.random.default_rng([seed, round(limit * 1000), draw])
                    for draw in range(DRAWS)
                ]
                picks = [
                    way(feasible, seconds, chance)
                    for chance in (chances if name == "random" else chances[:1])
                ]
                row[name] = best - float(
                    np.mean([chosen.test_at(trained) for chosen, trained in picks])
                )
            rows.append(row)
    return rows


def print_table(rows: Sequence[dict[str, Any]], ways: Sequence[str]) -> None:
    """By share of the time and dataset: mean regret and the part of the cases at the noise; how each way compares."""
    datasets = sorted({row["dataset"] for row in rows})
    for share in SHARES:
        print(f"\n{share:.0%} of the time: mean regret in points (cases of at most {GOOD})")
        for dataset in [*datasets, None]:
            own = [
                row for row in rows if row["share"] == share and dataset in (row["dataset"], None)
            ]
            cells = [
                (np.mean([r[w] for r in own]), np.mean([r[w] <= GOOD for r in own])) for w in ways
            ]
            told = [
                f"{way} {mean:.2f} ({good:.0%})"
                for way, (mean, good) in zip(ways, cells, strict=True)
            ]
            print(f"  {dataset or 'all':14}", "  ".join(told))
        own = [row for row in rows if row["share"] == share]
        for way in ways[1:]:
            means = [
                np.mean([r[way] - r["fit"] for r in own if r["dataset"] == name])
                for name in datasets
            ]
            mean, low, high = interval(np.array(means))
            worst = max(r["fit"] - r[way] for r in own)
            print(
                f"  {way} less fit: {mean:+.2f} ({low:+.2f} to {high:+.2f}), fit worse by {worst:.2f} at most"
            )


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of paired differences (n,) and its 95 % interval by Student's t.

    The bounds are NaN for fewer than three pairs.
    """
    count, value = len(differences), float(differences.mean())
    if count < 3:
        return value, np.nan, np.nan
    quantile = float(student_quantile(0.975, np.array(count - 1.0)))
    reach = quantile * differences.std(ddof=1) / np.sqrt(count)
    return value, value - reach, value + reach


def split_in_halves(datasets: Sequence[str]) -> tuple[list[str], list[str]]:
    """Datasets of one origin, which their names begin with, stay together."""
    origins = {
        name.split("-")[0]: [other for other in datasets if other.startswith(name.split("-")[0])]
        for name in datasets
    }
    halves: tuple[list[str], list[str]] = [], []
    for own in sorted(origins.values(), key=lambda own: (-len(own), own)):
        min(halves, key=len).extend(own)
    return halves


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, default=TABLES / "fit_table.jsonl")
    parser.add_argument("--latencies", type=Path, default=TABLES / "fit_latency.jsonl")
    parser.add_argument(
        "--margin",
        type=float,
        nargs="+",
        default=[0.0, 0.25, 0.5, 1.0],
        help="points, to choose from",
    )
    asked = parser.parse_args()
    found = load(asked.rows, asked.latencies)
    datasets = sorted({dataset for dataset, _ in found})
    if len(datasets) < 2:
        raise SystemExit(
            f"{asked.rows} has {len(datasets)} datasets: two or more are needed, to choose and to judge."
        )
    halves, rows = split_in_halves(datasets), []
    for judged, tuned in (halves, halves[::-1]):

        def of(names: Sequence[str]) -> dict[tuple[str, int], list[Recorded]]:
            return {key: more for key, more in found.items() if key[0] in names}

        order = learnt_from(of(tuned))
        means = {
            m: np.mean([r["fit"] for r in regrets(of(tuned), {"fit": fit(m, order)})])
            for m in asked.margin
        }
        margin = min(means, key=lambda m: (means[m], m))
        print(
            f"{', '.join(judged)}: judged with the margin {margin:g}, chosen on {', '.join(tuned)}"
        )
        ways = {"fit": fit(margin, order), "guess": guess(order), "as shipped": fit(0, shipped)}
        ways |= {"asha": fit(0.0, order, anew=True), "most parameters": most_parameters}
        ways |= {"most MACs": most_macs, "default": default, "random": at_random}
        rows += regrets(of(judged), ways)
    print_table(rows, list(ways))
    every = {one.candidate.name: one for own in found.values() for one in own}
    names = (one.candidate.name for one in learnt_from(found)(list(every.values())))
    print("\nlearnt from all of them:", ", ".join(names))


if __name__ == "__main__":
    main()
