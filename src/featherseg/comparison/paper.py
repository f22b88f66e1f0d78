"""A paper's tables, trained: every row by its recipe, and its scores beside the printed ones."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherseg.core.errors import FeathersegError, UnknownName, require
from featherseg.core.notebook import reporter_of
from featherseg.core.types import Progress, Reporter
from featherseg.core.wording import counted
from featherseg.costs.papers import check_paper, read_counting, read_paper
from featherseg.costs.published import Difference, differences, row_inference
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.recipe.tables import Recipe
from featherseg.reports.evaluate import evaluate
from featherseg.runs.run import RESOLVED, Run, open_run

if TYPE_CHECKING:
    from featherseg.training.request import Request


@dataclass(frozen=True)
class PaperTraining:
    """One training of a paper's tables; rows of several tables may share it.

    Attributes:
        name: The name of its recipe, or of the row if its model is not built here.
        reason: Why it has no recipe, with the remedy; "" if it has one.
        recipe: The recipe with `settings`.
        out: The run folder.
        data_root: The folder of the dataset.
        settings: Texts KEY=VALUE that replace keys of the shipped recipe.
    """

    name: str
    reason: str = ""
    recipe: Recipe | None = None
    out: Path = Path()
    data_root: Path | None = None
    settings: tuple[str, ...] = ()

    def request(self) -> Request:
        """Return the request to train; its minutes count from now."""
        from featherseg.training.request import Request

        return Request(
            self.name,
            data_root=self.data_root,
            overrides=self.settings,
            began=time.monotonic(),
        )

    def commands(self) -> list[str]:
        """Return lines for a shell: one trains, one scores as the paper does."""
        if self.recipe is None:
            return [f"# {self.name} is not trained: {' '.join(self.reason.split())}"]
        train = ["featherseg", "train", self.name, "--out", str(self.out), "--resume"]
        train += ["--no-report"]
        train += ["--data-root", str(self.data_root)] if self.data_root else []
        train += [word for text in self.settings for word in ("--set", text)]
        inference = row_inference(self.recipe)
        score = ["featherseg", "evaluate", str(self.out), "--split", self.recipe.data.val_split]
        if self.recipe.train.device != "auto":
            score += ["--device", self.recipe.train.device]
        if inference.scales != (1.0,):
            score += ["--scales", ",".join(map(str, inference.scales))]
        score += ["--tta", "flip"] if inference.flip else []
        return [shlex.join(train), shlex.join(score)]


def plan_paper(
    name: str,
    table_number: int | None = None,
    *,
    out: Path,
    data_root: Path | None = None,
    settings: Sequence[str] = (),
) -> list[PaperTraining]:
    """Return every training of a paper's tables, once each. No data are read.

    Args:
        name, table_number: as for `featherseg.costs.papers.read_paper`.
        out: folder of the runs, OUT/RECIPE.
        data_root: folder of the datasets, ROOT/NAME each, or of the only one.
        settings: texts KEY=VALUE that replace keys of every recipe.

    Raises:
        UnknownName, ConfigError: there is no such paper, table or key.
    """
    plan = dict[str, PaperTraining]()
    for table in read_paper(name, table_number)["tables"]:
        for row in table["rows"]:
            if not row["counting"]:
                model = f"{row['method']}, {row['backbone']}"
                plan[model] = PaperTraining(model, f"its model is not built here. {row['remark']}")
                continue
            model = read_counting(row["counting"]).model
            for data in table["trained"].values():
                recipe = f"{model}_{data}"
                plan[recipe] = _plan_training(recipe, out, data_root, settings)
    return [*plan.values()]


def _plan_training(
    name: str, out: Path, data_root: Path | None, settings: Sequence[str]
) -> PaperTraining:
    """Return the training by a shipped recipe; one with the reason if there is no such recipe."""
    try:
        file = read_recipe(name)
    except UnknownName as error:
        return PaperTraining(name, str(error))
    recipe = parse_recipe(file, settings)
    if data_root is not None and (data_root / recipe.data.name).is_dir():
        data_root /= recipe.data.name
    return PaperTraining(name, "", recipe, out / name, data_root, tuple(settings))


def train_paper(
    name: str,
    table_number: int | None,
    plan: Sequence[PaperTraining],
    progress: Progress | Reporter | None = None,
) -> dict[str, Any]:
    """Train and score every row of a paper's tables; return our scores beside theirs.

    It may be killed at any time: the same call keeps finished runs and resumes an interrupted one.
    A row that cannot be trained does not stop the others.

    Args:
        name, table_number: as for `read_paper`.
        plan: what `plan_paper` returned for them.
        progress: as for `featherseg.train`.

    Returns:
        What `check_paper` returns. A score that was measured here has ours in %, and "difference"
        in points. "trainings" has each training's name, its run folder (None without a score) and
        "reason", why there is no score, with the remedy, and "differences": the settings that the
        run does not share with the recipe.
    """
    require("lightning", "train", "training")
    from featherseg.training.job import torch_as_it_was, train

    reporter = reporter_of(progress)

    # Check every training before the first one begins
    reasons = {training.name: _obstacle(training) for training in plan}
    for reason in filter(None, dict.fromkeys(reasons.values())):
        refused = ", ".join(name for name, why in reasons.items() if why == reason)
        reporter.message(f"not trained: {refused}. {reason}")

    # Train and score
    evaluations, changes = dict[str, dict[str, Any]](), dict[str, tuple[Difference, ...]]()
    for training in plan:
        if reasons[training.name]:
            continue
        reporter.message(training.name)
        try:
            with torch_as_it_was():
                run = train(training.request(), training.out, reporter, resume=True)
            evaluations[training.name] = _evaluation(run, reporter)
            changes[training.name] = differences(run, parse_recipe(read_recipe(training.name)))
        except FeathersegError as error:
            reasons[training.name] = str(error)
            reporter.message(f"{training.name} failed: {error}")
        except KeyboardInterrupt:
            reporter.message("the same command, started again, resumes this run and does the rest")
            raise

    # Put our scores beside theirs
    check = check_paper(name, table_number)
    for table in check["tables"]:
        for row in table["rows"]:
            for heading, data in table["trained"].items():
                if evaluation := evaluations.get(f"{row['model']}_{data}"):
                    row["measured"][heading] = _with_ours(heading, row["measured"], evaluation)
    check["trainings"] = [
        {
            "name": training.name,
            "run": str(training.out) if training.name in evaluations else None,
            "reason": reasons[training.name],
            "differences": [asdict(one) for one in changes.get(training.name, ())],
        }
        for training in plan
    ]
    return check


def _obstacle(training: PaperTraining) -> str:
    """Return why a training cannot begin or go on, with the remedy; "" if it can."""
    from featherseg.training.check import check_request
    from featherseg.training.resume import resumed_recipe

    if training.recipe is None:
        return training.reason
    try:
        if (training.out / RESOLVED).is_file():
            run = open_run(training.out)
            resumed_recipe(run, training.request())  # refuses a run of other settings
            if not run.unfinished:
                return ""
        else:
            check_request(training.request(), lambda message: None)
    except FeathersegError as error:
        return str(error)
    # Lightning starts the other processes with this command, which would train every row in each
    if training.recipe.train.devices * training.recipe.train.nodes > 1:
        return "one command trains with one process. Run the commands that --dry-run prints."
    return ""


def _evaluation(run: Run, reporter: Reporter) -> dict[str, Any]:
    """Return the run's evaluation as the paper's row has it; score the run if there is none."""
    data, inference = run.recipe.data, row_inference(run.recipe)
    row = {"data": data.name, "split": data.val_split, "inference": str(inference)}

    def evaluations() -> list[dict[str, Any]]:
        return [line for line in run.current_evaluations() if row.items() <= line.items()]

    if not evaluations():
        device, progress = run.recipe.train.device, reporter.progress
        settings = asdict(inference)
        evaluate(run, split=data.val_split, device=device, inference=settings, progress=progress)
    return evaluations()[-1]


def _with_ours(
    heading: str, measured: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a measured figure in the form of `check_paper`, with ours in %."""
    printed = measured[heading]["printed"] if heading in measured else "-"
    score = evaluation[heading.partition(" ")[0].lower()]  # "miou" of "mIoU val, %"
    ours = None if score is None else 100 * score  # None: no class was there to be scored
    return {
        "printed": printed,
        "verdict": None,
        "ours": None if ours is None else {"value": ours},
        "difference": None if ours is None or printed == "-" else ours - float(printed),
        "words": counted(evaluation["images"], "image"),
    }
