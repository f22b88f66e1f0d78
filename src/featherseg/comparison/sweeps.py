"""Sweeps: several models and seeds trained under one recipe and budget, then compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherseg import models as catalogue
from featherseg.backbones.weights import PRETRAINED
from featherseg.comparison.comparison import compare
from featherseg.comparison.results import Comparison
from featherseg.core.errors import ConfigError, require
from featherseg.core.files import check_folder
from featherseg.core.machine import pick_device
from featherseg.core.notebook import reporter_of
from featherseg.core.types import Progress, Reporter
from featherseg.runs import RESOLVED, open_run

if TYPE_CHECKING:
    from featherseg.training.prepare import Request

SEEDS = (0, 1, 2)
"""The fewest with which models, not only files, can be compared."""


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep, MODEL-SEED, and how they compare."""

    runs: tuple[Path, ...]
    comparison: Comparison

    def as_dict(self) -> dict[str, Any]:
        """That of the comparison, and the paths of the runs."""
        return {**self.comparison.as_dict(), "runs": [str(run) for run in self.runs]}

    def _repr_html_(self) -> str:
        return self.comparison._repr_html_()


def sweep(
    recipe: str,
    models: Sequence[str],
    *,
    out: Path | str,
    seeds: Sequence[int] = SEEDS,
    data: str | None = None,
    data_root: Path | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    costs: bool = True,
    device: str | None = None,
    progress: Progress | Reporter | None = None,
) -> Sweep:
    """Train every model under one recipe, a run a seed, then compare them on what training validated on.

    Kill it at any time: the same call keeps finished runs and goes on with a stopped one. A model of whose backbone no
    ImageNet weights are known starts from scratch. To compare on another split or in another way, give the runs to
    `compare`.

    Args:
        recipe: A model (its default recipe), a shipped recipe, or a .toml file.
        models: Names of the catalogue.
        out: The folder of the runs: OUT/MODEL-SEED.
        seeds: One run of each model a seed.
        data, data_root: A dataset in place of the recipe's, and the folder in which it lies.
        settings: Keys of the recipe and their values, {"train.epochs": 40}, or texts, ["train.epochs=40"].
        costs: False leaves latency and memory out of the comparison.
        device: auto, cpu, cuda, cuda:N or mps, for training and comparing; default: the recipe's.
        progress: As of `featherseg.train`.

    Raises:
        UnknownName, ConfigError, WeightsError and so on, before the first is trained.
    """
    require("lightning", "train", "training")
    from featherseg.training.job import torch_as_it_was
    from featherseg.training.prepare import Request

    if len(models) * len(seeds) < 2:
        raise ConfigError("one model and one seed make one run: name two models or seeds, or more.")
    pairs = settings.items() if isinstance(settings, Mapping) else ()
    texts = [f"{k}={json.dumps(v)}" for k, v in pairs] or list(settings)
    if device:
        pick_device(device)  # raises for a wrong one, not after the training
        texts.append(f'train.device="{device}"')
    out, reporter = Path(out), reporter_of(progress)
    check_folder(out)
    request = Request(recipe, data, data_root, None, tuple(texts))
    with torch_as_it_was():
        runs = train_all(request, models, seeds, out, reporter)
    found = compare(runs, data, data_root=data_root, costs=costs, device=device or "auto", progress=reporter.progress)
    return Sweep(tuple(runs), found)


def train_all(
    request: Request, names: Sequence[str], seeds: Sequence[int], out: Path, reporter: Reporter
) -> list[Path]:
    """Train every model of the catalogue under the recipe of `request` with every seed; -> the runs, OUT/NAME-SEED."""
    from featherseg.training.job import train
    from featherseg.training.prepare import check_request
    from featherseg.training.resume import resumed_recipe

    if len(set(names)) != len(names) or len(set(seeds)) != len(seeds) or not names or not seeds:
        raise ConfigError("expected every model and every seed once, and one of each at least.")
    trainings = []
    for name in names:
        own = [f'model.name="{name}"']
        if catalogue.configure(name).backbone not in PRETRAINED:
            own.append("model.pretrained=false")
        one = replace(request, overrides=(*own, *request.overrides))  # the user's own come last and count
        check_request(one, lambda message: None)
        for seed in seeds:
            seeded = replace(one, overrides=(*one.overrides, f"train.seed={seed}"))
            trainings.append((f"{name}, seed {seed}", seeded, out / f"{name}-{seed}"))
    for _, own_request, run in trainings:
        if (run / RESOLVED).is_file():
            resumed_recipe(open_run(run), own_request)  # refuses what was begun otherwise
    for title, own_request, run in trainings:
        reporter.message(title)
        train(own_request, run, reporter, resume=True)
    return [run for _, _, run in trainings]
