"""`featherseg compare --train`: several names under one recipe and budget, a run a seed."""

from collections.abc import Sequence
from pathlib import Path

from featherseg import models
from featherseg.backbones.weights import PRETRAINED
from featherseg.core.errors import ConfigError
from featherseg.runs import RESOLVED, open_run
from featherseg.training.job import train
from featherseg.training.prepare import Request, check_request
from featherseg.training.recorder import Reporter
from featherseg.training.resume import resumed_recipe


def train_sweep(
    request: Request, names: Sequence[str], seeds: Sequence[int], out: Path, reporter: Reporter
) -> list[Path]:
    """Train every model of the catalogue under the recipe of `request` with every seed; -> the runs, OUT/NAME-SEED.

    Kill it at any time: finished runs are kept, a stopped one goes on. A model of whose backbone no ImageNet weights
    are known starts from scratch. Raises UnknownName, ConfigError, WeightsError and so on before the first is trained.
    """
    if len(set(names)) != len(names) or len(set(seeds)) != len(seeds) or not names or not seeds:
        raise ConfigError("expected every model and every seed once, and one of each at least.")
    asked = [(name, _of(request, name)) for name in names]
    for _, one in asked:
        check_request(one, lambda message: None)
    trainings = []
    for name, one in asked:
        for seed in seeds:
            own = Request(one.recipe, one.data, one.data_root, None, (*one.overrides, f"train.seed={seed}"))
            trainings.append((f"{name}, seed {seed}", own, out / f"{name}-{seed}"))
    for _, own, run in trainings:
        if (run / RESOLVED).is_file():
            resumed_recipe(open_run(run), own)  # refuses what was begun otherwise
    for title, own, run in trainings:
        reporter.message(title)
        train(own, run, reporter, resume=True)
    return [run for _, _, run in trainings]


def _of(request: Request, name: str) -> Request:
    """The request for one model; what the user asked for comes last and counts."""
    known = models.configure(name).backbone in PRETRAINED
    own = (f'model.name="{name}"', *([] if known else ["model.pretrained=false"]))
    return Request(request.recipe, request.data, request.data_root, None, (*own, *request.overrides))
