"""Sweeps: several models and seeds trained under one recipe and budget, then compared."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherseg import models as catalogue
from featherseg.backbones.weights import PRETRAINED
from featherseg.comparison.compare import compare
from featherseg.comparison.compare_results import Budgets, Comparison
from featherseg.converters.converted import as_dataset
from featherseg.core.config import setting_texts, with_given
from featherseg.core.errors import ConfigError, require
from featherseg.core.files import check_folder, check_writable
from featherseg.core.machine import pick_device
from featherseg.core.notebook import reporter_of
from featherseg.core.types import Progress, Reporter
from featherseg.core.wording import brief, counted, duration
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.runs.run import RESOLVED, open_run

if TYPE_CHECKING:
    from featherseg.training.request import Request

SEEDS = (0, 1, 2)
"""The fewest seeds with which models, not only files, are compared."""


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep, MODEL-SEED, and how they compare."""

    runs: tuple[Path, ...]
    comparison: Comparison

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values, and the paths of the runs."""
        return {**self.comparison.as_dict(), "runs": [str(run) for run in self.runs]}

    def __repr__(self) -> str:
        return brief(self, *(run.name for run in self.runs))

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
    budgets: Budgets | Mapping[str, Any] = Budgets(),  # noqa: B008 (frozen)
    device: str | None = None,
    page: Path | str | None = None,
    progress: Progress | Reporter | None = None,
) -> Sweep:
    """Train every model with every seed under one recipe, then compare them on validation images.

    It may be killed at any time: the same call keeps finished runs and resumes an interrupted one.
    A model starts from scratch if there are no ImageNet weights of its backbone, or none on this
    machine and its default recipe asks for none. To compare in another way, pass the runs to
    `compare`.

        featherseg.sweep("frm-lite0", ["frm-lite0", "rsp-lite0"], data="photos", out="runs/sweep")

    Args:
        recipe: a model (its default recipe), a shipped recipe, or a .toml file.
        models: names of the catalogue.
        out: folder of the runs, OUT/MODEL-SEED.
        seeds: one run of each model per seed.
        data, data_root: a dataset in place of the recipe's, and its folder.
        settings: keys of the recipe with values, {"train.epochs": 40}, or texts,
            ["train.epochs=40"].
        costs: False omits latency and memory from the comparison.
        budgets: as for `featherseg.compare`.
        device: auto, cpu, cuda, cuda:N or mps, for training and comparing; default: the recipe's.
        page: also write the comparison as one HTML page.
        progress: as for `featherseg.train`.

    Raises:
        UnknownName, ConfigError, WeightsError: a training cannot be done; before the first begins.
    """
    require("lightning", "train", "training")
    from featherseg.training.job import torch_as_it_was
    from featherseg.training.request import Request

    if len(models) * len(seeds) < 2:
        raise ConfigError("one model and one seed make one run: name two models or seeds, or more.")
    with_given(Budgets(), budgets, "budgets").check(costs)
    if page is not None:
        check_writable(Path(page))
    texts = [*(setting_texts(settings) if isinstance(settings, Mapping) else settings)]
    if device:
        pick_device(device)  # raises before the training, not after it
        texts.append(f'train.device="{device}"')
    out, reporter = Path(out), reporter_of(progress)
    check_folder(out)
    data = None if data is None else as_dataset(data, reporter.progress)
    request = Request(recipe, data, data_root, None, tuple(texts))
    with torch_as_it_was():
        runs = train_all(request, models, seeds, out, reporter)
    device = device or open_run(runs[0]).recipe.train.device
    comparison = compare(
        runs,
        data,
        data_root=data_root,
        costs=costs,
        budgets=budgets,
        device=device,
        out=page,
        progress=reporter.progress,
    )
    return Sweep(tuple(runs), comparison)


def _lacks_weights(name: str) -> bool:
    """Whether there are no ImageNet weights of a model here, and its default recipe asks for none.

    True also if there are none anywhere.
    """
    source = PRETRAINED.get(catalogue.configure(name).backbone)
    return source is None or (
        source.path() is None and not parse_recipe(read_recipe(name)).model.pretrained
    )


def train_all(
    request: Request, names: Sequence[str], seeds: Sequence[int], out: Path, reporter: Reporter
) -> list[Path]:
    """Train every model under the recipe of `request` with every seed; return the runs."""
    from featherseg.training.check import check_request
    from featherseg.training.job import train
    from featherseg.training.resume import resumed_recipe

    if len(set(names)) != len(names) or len(set(seeds)) != len(seeds) or not names or not seeds:
        raise ConfigError("expected every model and every seed once, and one of each at least.")
    overrides = {
        text.partition("=")[0].strip(): text.partition("=")[2].strip(' "')
        for text in request.overrides
    }
    for key, plural in (("model.name", "models"), ("train.seed", "seeds")):
        if key in overrides:
            raise ConfigError(
                f"{key} = {overrides[key]}: a sweep trains with each of its {plural}. Leave it out."
            )

    # Check every training before the first one begins
    trainings = []
    for name in names:
        of_model = [f'model.name="{name}"']
        if _lacks_weights(name):
            of_model.append("model.pretrained=false")
        # The user's overrides come last, because the last one counts
        one = replace(request, overrides=(*of_model, *request.overrides), group=out.absolute())
        check_request(one, lambda message: None)
        for seed in seeds:
            seeded = replace(one, overrides=(*one.overrides, f"train.seed={seed}"))
            trainings.append((f"{name}, seed {seed}", seeded, out / f"{name}-{seed}"))
    for _, run_request, run in trainings:
        if (run / RESOLVED).is_file():
            resumed_recipe(open_run(run), run_request)  # refuses a run of other settings

    minutes = trainings[0][1].read()[1].train.minutes or 0
    waiting = sum(not (run / RESOLVED).is_file() for _, _, run in trainings)
    about = f", about {duration(60 * minutes * waiting)}" if minutes else ""
    if waiting:
        reporter.message(f"{counted(waiting, 'training')} to begin{about}, then the comparison")

    # Train; train.minutes count for each run
    for title, run_request, run in trainings:
        reporter.message(title)
        try:
            train(replace(run_request, began=time.monotonic()), run, reporter, resume=True)
        except KeyboardInterrupt:
            reporter.message("the same sweep, started again, resumes this run and trains the rest")
            raise
    return [run for _, _, run in trainings]
