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
from featherseg.core.config import setting_texts, with_given
from featherseg.core.errors import ConfigError, require
from featherseg.core.files import check_folder, check_writable
from featherseg.core.machine import pick_device
from featherseg.core.notebook import reporter_of
from featherseg.core.types import Progress, Reporter
from featherseg.core.wording import counted, duration
from featherseg.costs.cost import cost
from featherseg.runs.run import RESOLVED, open_run

if TYPE_CHECKING:
    from featherseg.training.request import Request

LARGEST = "largest"
"""As teacher.runs: of the models of a sweep the one with the most multiply-accumulates teaches the others."""

COSTED = (512, 1024)
"""(height, width) of the image that this is counted for."""

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
    budgets: Budgets | Mapping[str, Any] = Budgets(),  # noqa: B008 (frozen)
    device: str | None = None,
    page: Path | str | None = None,
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
        settings: Keys of the recipe and their values, {"train.epochs": 40}, or texts, ["train.epochs=40"]. With
            {"teacher.runs": "largest"} the model that costs most is trained first, and teaches the others: each run by
            that of its own seed.
        costs: False leaves latency and memory out of the comparison.
        budgets: As of `featherseg.compare`.
        device: auto, cpu, cuda, cuda:N or mps, for training and comparing; default: the recipe's.
        page: Also write the comparison as one HTML page.
        progress: As of `featherseg.train`.

    Raises:
        UnknownName, ConfigError, WeightsError and so on, before the first is trained.
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
        pick_device(device)  # raises for a wrong one, not after the training
        texts.append(f'train.device="{device}"')
    out, reporter = Path(out), reporter_of(progress)
    check_folder(out)
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


def train_all(
    request: Request, names: Sequence[str], seeds: Sequence[int], out: Path, reporter: Reporter
) -> list[Path]:
    """Train every model of the catalogue under the recipe of `request` with every seed; -> the runs, OUT/NAME-SEED.

    Where teacher.runs is LARGEST the model that costs most comes first; the other keys of [teacher] are not its own.
    """
    from featherseg.training.check import check_request
    from featherseg.training.job import train
    from featherseg.training.resume import resumed_recipe
    from featherseg.training.teaching import check_pupil, open_unlabelled

    if len(set(names)) != len(names) or len(set(seeds)) != len(seeds) or not names or not seeds:
        raise ConfigError("expected every model and every seed once, and one of each at least.")
    asked = {
        text.partition("=")[0].strip(): text.partition("=")[2].strip(' "')
        for text in request.overrides
    }
    for key, these in (("model.name", "models"), ("train.seed", "seeds")):
        if key in asked:
            raise ConfigError(
                f"{key} = {asked[key]}: a sweep trains with each of its {these}. Leave it out."
            )
    teacher, untaught = None, request.overrides
    if asked.get("teacher.runs") == LARGEST:
        if len(names) < 2:
            raise ConfigError(
                f"teacher.runs = {LARGEST!r}: one model has nobody to teach. Name two or more."
            )
        teacher = max(names, key=lambda name: cost(name, COSTED, 19).macs["macs"])
        untaught = tuple(text for text in untaught if not text.strip().startswith("teacher."))

    # What is wrong with any of them is found here
    trainings = []
    for name in names:
        own = [f'model.name="{name}"']
        if catalogue.configure(name).backbone not in PRETRAINED:
            own.append("model.pretrained=false")
        one = replace(
            request, overrides=(*own, *untaught), group=out.absolute()
        )  # the user's own come last and count
        inputs = check_request(one, lambda message: None)
        taught = teacher is not None and name != teacher
        if name == teacher and inputs.model.panoptic:
            raise ConfigError(
                f"{name} costs most and would teach, but it is panoptic, and teachers tell classes alone. Leave it out."
            )
        for seed in seeds:
            seeded = replace(one, overrides=(*one.overrides, f"train.seed={seed}"))
            if taught:
                runs = {"teacher.runs": [(out / f"{teacher}-{seed}").absolute()]}
                others = [text for text in request.overrides if text not in untaught]
                seeded = replace(
                    seeded, overrides=(*seeded.overrides, *others, *setting_texts(runs))
                )
            trainings.append((f"{name}, seed {seed}", seeded, out / f"{name}-{seed}"))
        if taught:
            check_pupil(inputs.recipe, inputs.model, request.objects)
            open_unlabelled(trainings[-1][1].read()[1], inputs.train)
    for _, own_request, run in trainings:
        if (run / RESOLVED).is_file():
            resumed_recipe(open_run(run), own_request)  # refuses what was begun otherwise

    minutes = trainings[0][1].read()[1].train.minutes or 0
    waiting = sum(not (run / RESOLVED).is_file() for _, _, run in trainings)
    about = f", about {duration(60 * minutes * waiting)}" if minutes else ""
    if waiting:
        reporter.message(f"{counted(waiting, 'training')} to begin{about}, then the comparison")

    # The teacher's runs first
    for title, own_request, run in sorted(
        trainings, key=lambda training: training[0].partition(",")[0] != teacher
    ):
        reporter.message(title)
        try:
            train(
                replace(own_request, began=time.monotonic()), run, reporter, resume=True
            )  # train.minutes are of each
        except KeyboardInterrupt:
            reporter.message(
                "the same sweep, started again, goes on with this run and trains those that are missing"
            )
            raise
    return [run for _, _, run in trainings]
