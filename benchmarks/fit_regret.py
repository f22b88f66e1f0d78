"""What `fit` would choose from the recorded table, and the regret beside simpler methods.

    python benchmarks/fit_regret.py [--margin 0 0.25 0.5 1]

Replays tables/fit_table.jsonl (fit_table.py) with the latencies of tables/fit_latency.jsonl;
nothing is trained. A case is a dataset, a seed, a latency limit (five, spread over the candidates'
latencies) and a share of the time that training every candidate to its end takes. Scores between
two rungs are interpolated linearly over the logarithm of the time; after the last rung a score
stays as it is. Regret is the number of points of test mIoU by which the chosen model, trained for
as long as it was, lies below the best model within the limit, trained to its end (mean of its
seeds: the largest of several noisy scores, which counts against every method alike). Each method
pays with its own time for every start, validation, look through the images and timing of steps.

The methods:
- fit: featherseg/fitting/halving.py, with the order and the margin that are judged
- guess: the first in that order, with all the time
- as shipped: fit as it is, which was designed with all of the table
- asha: the same halving without a margin; a candidate that goes on starts from scratch
- most parameters, most MACs: the largest model within the limit, at its scale nearest to 1 (not
  above 1 if possible), with all the time
- default: DEFAULT at that scale if it is within the limit, else most MACs
- random: four random candidates with a quarter of the time each, the mean of DRAWS draws

The settings of fit are chosen on half of the datasets and judged on the other half; datasets of one
origin are in one half. The settings are the order in which candidates are compared, by their val
score after GUESSED seconds, and the best margin (--margin). Intervals are over datasets, by
Student's t.
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
        """Return the seconds before a training's first step, with those for timing its steps."""
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
"""(candidates within the limit, seconds, generator) -> (chosen candidate, its training seconds)."""

Order = Callable[[Sequence[Recorded]], list[Recorded]]
"""Candidates that keep the limit -> those that are compared, the best guess first."""


def fit(margin: float, order: Order, *, anew: bool = False) -> Way:
    """Return featherseg's halving; anew: survivors restart and lose part of the last segment."""

    def choose(
        candidates: Sequence[Recorded], seconds: float, _: np.random.Generator
    ) -> tuple[Recorded, float]:
        of = {one.candidate.name: one for one in candidates}
        ordered = [one.candidate for one in order(candidates)]
        opening = max(one.opening for one in candidates)
        count = len(make_schedule(ordered, seconds).candidates)
        beside = (2 + sum(rung_sizes(count))) * opening
        beside += count * max(one.beginning(seconds) - one.opening for one in candidates)
        schedule = make_schedule(ordered, max(1.0, seconds - beside))
        remaining, before = list(schedule.candidates), 0.0
        for rung, keep in schedule.rungs:
            standing = []
            for one in remaining:
                trained = rung[one.name] * one.step_seconds - (before if anew else 0.0)
                standing.append((one, of[one.name].val_at(trained)))
            before = rung[remaining[0].name] * remaining[0].step_seconds
            remaining = survivors(standing, keep, margin)
        winner = remaining[0]
        return of[winner.name], schedule.final[winner.name] * winner.step_seconds - (
            before if anew else 0.0
        )

    return choose


def shipped(candidates: Sequence[Recorded]) -> list[Recorded]:
    """featherseg's own order."""
    by_name = {one.candidate.name: one for one in candidates}
    return [
        by_name[one.name]
        for one in in_line([one.candidate for one in candidates], candidates[0].size)
    ]


def by_parameters(candidates: Sequence[Recorded]) -> list[Recorded]:
    """The model with the most parameters first."""
    by_name, many = (
        {one.candidate.name: one for one in candidates},
        {one.candidate.model: one.parameters for one in candidates},
    )
    return [
        by_name[one.name]
        for one in best_guesses([one.candidate for one in candidates], lambda model: -many[model])
    ]


def by_macs(candidates: Sequence[Recorded]) -> list[Recorded]:
    """The model with the most multiply-accumulates first."""
    by_name, macs = (
        {one.candidate.name: one for one in candidates},
        {one.candidate.model: one.macs for one in candidates},
    )
    return [
        by_name[one.name]
        for one in best_guesses([one.candidate for one in candidates], lambda model: -macs[model])
    ]


def learnt_from(by_case: Mapping[tuple[str, int], list[Recorded]]) -> Order:
    """Order candidates by their val score after GUESSED seconds, relative to dataset and seed.

    Fits score = (dataset, seed) + candidate by least squares, because some rows may be missing.
    """
    names = sorted({one.candidate.name for recorded in by_case.values() for one in recorded})
    scored = [(place, one) for place, recorded in enumerate(by_case.values()) for one in recorded]
    design = np.zeros((len(scored), len(by_case) + len(names)))
    for line, (place, one) in zip(design, scored, strict=True):
        line[[place, len(by_case) + names.index(one.candidate.name)]] = 1
    points = np.linalg.lstsq(
        design, np.array([one.val_ended_at(GUESSED) for _, one in scored]), rcond=None
    )[0]
    worth = dict(zip(names, points[len(by_case) :].tolist(), strict=True))
    return lambda candidates: sorted(
        candidates, key=lambda one: -worth.get(one.candidate.name, -np.inf)
    )


def guess(order: Order) -> Way:
    """The first in an order, with all the time."""

    def choose(
        candidates: Sequence[Recorded], seconds: float, _: np.random.Generator
    ) -> tuple[Recorded, float]:
        chosen = order(candidates)[0]
        return chosen, max(1.0, seconds - chosen.beginning(seconds))

    return choose


most_parameters, most_macs = guess(by_parameters), guess(by_macs)


def default(
    candidates: Sequence[Recorded], seconds: float, rng: np.random.Generator
) -> tuple[Recorded, float]:
    """DEFAULT, at its scale nearest to 1."""
    defaults = [one for one in candidates if one.candidate.model == DEFAULT]
    return most_macs(defaults or candidates, seconds, rng)


def at_random(
    candidates: Sequence[Recorded], seconds: float, rng: np.random.Generator
) -> tuple[Recorded, float]:
    """DRAWN candidates with equal time; the best of them on val."""
    drawn = rng.permutation(len(candidates))[:DRAWN]
    each = max(1.0, seconds / len(drawn) - max(one.beginning(seconds) for one in candidates))
    return candidates[max(drawn, key=lambda number: candidates[number].val_ended_at(each))], each


def load(table: Path, latencies: Path) -> dict[tuple[str, int], list[Recorded]]:
    """Return the candidates of each (dataset, seed) from rows of today's recipes.

    A seed with one candidate, or with less than WHOLE of those of another seed, is named and
    skipped: its cases would be another choice in less time. The last latency of a candidate counts.
    Raises SystemExit if a candidate has no latency or the latencies are of several devices.
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
    by_case: dict[tuple[str, int], list[Recorded]] = {}
    for row in read_table(table).values():
        key = (row["dataset"], row["model"], row["scale"])
        if key not in times:
            raise SystemExit(
                f"{latencies} has no latency of {row['model']} at {row['scale']:g} "
                f"on {row['dataset']}."
            )
        if (gain := gained(row["rungs"])) >= GAIN:
            name = f"{row['model']} at {row['scale']:g} on {row['dataset']} with seed {row['seed']}"
            print(
                f"{name} still gained {gain:.1f} points "
                f"in its last fifth of {row['rungs'][-1]['seconds']} s"
            )
        steps, ended = (np.array([r[k] for r in row["rungs"]], float) for k in ("steps", "ended"))
        val, test = (np.array([r[k] for r in row["rungs"]], float) for k in ("val", "test_decayed"))
        p50_ms, size = times[key]
        one = Candidate(row["model"], row["scale"], p50_ms, row["step_seconds"])
        curves = steps * one.step_seconds, val, ended * one.step_seconds, test
        curves = *curves, np.array([r["val_decayed"] for r in row["rungs"]], float)
        overheads = STARTING + row["val_seconds"], AN_IMAGE * row["images"]
        recorded = by_case.setdefault((row["dataset"], row["seed"]), [])
        recorded.append(Recorded(one, size, *counts(row["model"]), *curves, *overheads))
    most = {
        dataset: max(len(recorded) for (other, _), recorded in by_case.items() if other == dataset)
        for dataset, _ in by_case
    }
    for (dataset, seed), recorded in [*by_case.items()]:
        if len(recorded) < max(2, WHOLE * most[dataset]):
            print(
                f"{dataset} with seed {seed} is skipped: "
                f"it has {len(recorded)} of {most[dataset]} candidates"
            )
            del by_case[dataset, seed]
    return by_case


def regrets(
    by_case: Mapping[tuple[str, int], list[Recorded]], ways: Mapping[str, Way]
) -> list[dict[str, Any]]:
    """A row a case: dataset, seed, limit, share, and the regret of every way in points."""
    rows = []
    for (dataset, seed), recorded in by_case.items():
        # test scores of every candidate at its end, over seeds
        ends: dict[str, list[float]] = {}
        for (other, _), more in by_case.items():
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
    """Print mean regret and share of cases within noise by time and dataset; compare methods."""
    datasets = sorted({row["dataset"] for row in rows})
    for share in SHARES:
        print(f"\n{share:.0%} of the time: mean regret in points (cases of at most {GOOD})")
        for dataset in [*datasets, None]:
            these = [
                row for row in rows if row["share"] == share and dataset in (row["dataset"], None)
            ]
            cells = [
                (np.mean([r[w] for r in these]), np.mean([r[w] <= GOOD for r in these]))
                for w in ways
            ]
            columns = [
                f"{way} {mean:.2f} ({good:.0%})"
                for way, (mean, good) in zip(ways, cells, strict=True)
            ]
            print(f"  {dataset or 'all':14}", "  ".join(columns))
        these = [row for row in rows if row["share"] == share]
        for way in ways[1:]:
            means = [
                np.mean([r[way] - r["fit"] for r in these if r["dataset"] == name])
                for name in datasets
            ]
            mean, low, high = interval(np.array(means))
            worst = max(r["fit"] - r[way] for r in these)
            print(
                f"  {way} less fit: {mean:+.2f} ({low:+.2f} to {high:+.2f}), "
                f"fit worse by {worst:.2f} at most"
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
    for names in sorted(origins.values(), key=lambda names: (-len(names), names)):
        min(halves, key=len).extend(names)
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
    by_case = load(asked.rows, asked.latencies)
    datasets = sorted({dataset for dataset, _ in by_case})
    if len(datasets) < 2:
        raise SystemExit(
            f"{asked.rows} has {len(datasets)} datasets; "
            "two or more are needed, to choose and to judge."
        )
    halves, rows = split_in_halves(datasets), []
    for judged, tuned in (halves, halves[::-1]):

        def of(names: Sequence[str]) -> dict[tuple[str, int], list[Recorded]]:
            return {key: more for key, more in by_case.items() if key[0] in names}

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
    every = {one.candidate.name: one for recorded in by_case.values() for one in recorded}
    names = (one.candidate.name for one in learnt_from(by_case)(list(every.values())))
    print("\nlearnt from all of them:", ", ".join(names))


if __name__ == "__main__":
    main()
