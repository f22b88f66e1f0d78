"""Count how often a model is called better than itself: all splits of one recipe's runs in halves.

    featherseg sweep frm-lite0 --models frm-lite0 --seeds 0,1,2,3,4,5,6,7 --data shapes \\
        --no-costs --set train.epochs=4 --set data.train_size=300 --set data.val_size=100 \\
        --out runs/same-recipe
    python benchmarks/same_recipe.py runs/same-recipe/* --split test

At most 3 of the 35 splits of 8 runs may say "better". The intervals are those of `featherseg
compare`.
"""

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np

from featherseg.comparison.candidates import Candidate, by_model, open_candidates
from featherseg.data import LabelledImages
from featherseg.evaluation.bootstrap import compare_models
from featherseg.evaluation.clusters import clusters_of
from featherseg.evaluation.scoring import evaluate
from featherseg.inference.settings import own_settings
from featherseg.reports.record import log_evaluation


def called_better(counts: np.ndarray, keys: list[str]) -> list[tuple[int, ...]]:
    """Return halves of the runs (m, N, 3, K) `image_counts` that are called better or worse."""
    units, runs, better = clusters_of(keys), range(len(counts)), []
    for others in combinations(runs[1:], len(runs) // 2 - 1):
        first = [0, *others]
        second = [run for run in runs if run not in first]
        if compare_models([counts[first], counts[second]], units)[0].better is not None:
            better.append(tuple(first))
    return better


def main() -> None:
    """Score every run once, then part them in every way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--split", default="val")
    parser.add_argument("--data-root", type=Path)
    asked = parser.parse_args()
    candidates: list[Candidate] = open_candidates(asked.runs)
    (files,) = by_model(candidates).values()  # of one recipe, or this is no such test
    first = files[0].run
    assert first is not None
    table = first.recipe.data
    root = asked.data_root or (Path(table.root) if table.root else None)
    data = LabelledImages(table.name, asked.split, root).open()
    scores = [evaluate(one.runtime, data, boundary=False) for one in files]
    for one, score in zip(files, scores, strict=True):
        if one.run:
            log_evaluation(
                one.run, data, asked.split, own_settings(one.runtime), score
            )  # a look is counted
        print(f"{one.name}: {100 * score.miou:.2f}")
    better = called_better(np.stack([score.counts for score in scores]), data.keys)
    splits = len(list(combinations(range(1, len(files)), len(files) // 2 - 1)))
    print(
        f"{len(better)} of {splits} splits on {data.name} {asked.split}, {len(data)} images, "
        f"say better: {better}"
    )


if __name__ == "__main__":
    main()
