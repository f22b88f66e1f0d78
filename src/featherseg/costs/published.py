"""The published figures of a recipe's [paper] table, compared with a run's own.

Published figures are shown as they are printed, and called published. Ours are counted, or measured
when the run was evaluated.
"""

from dataclasses import dataclass

import torch

from featherseg import models
from featherseg.core.wording import counted, size_text
from featherseg.costs.cost import cost_of
from featherseg.inference.settings import InferenceSettings
from featherseg.recipe.reading import parse_recipe, read_recipe, shipped_recipes
from featherseg.recipe.tables import PaperTable
from featherseg.runs.run import Run


@dataclass(frozen=True)
class Figure:
    """A published figure and ours, in the unit in `name`; ours is None if it was not measured.

    digits: number of decimals that ours is shown with.
    """

    name: str
    published: float
    ours: float | None
    digits: int

    def texts(self) -> tuple[str, str, str, str]:
        """Return name, published, ours and the difference (ours minus published) as texts."""
        if self.ours is None:
            return self.name, str(self.published), "-", "-"
        ours = f"{self.ours:.{self.digits}f}"
        difference = round(self.ours, self.digits) - self.published
        return self.name, str(self.published), ours, f"{difference:+.{self.digits}f}"


@dataclass(frozen=True)
class Comparison:
    """The figures of a paper's row beside those of a run; `row` names where it is printed."""

    row: str
    figures: tuple[Figure, ...]


HEADS = ("figure", "published", "ours", "difference")
"""Headings of the columns of `Figure.texts`."""


def compare(run: Run) -> Comparison | None:
    """Compare a run with the paper's row in its recipe; None if there is nothing to compare.

    That is if the recipe has no [paper], the run is on other data, or its model has options set.
    Our mIoU is the last score of each split with the row's scales and flips at the run's test size.
    Parameters and MACs are those of the model with the row's number of classes.
    """
    paper = run.recipe.paper
    if paper is None or run.recipe.data.name != paper.data or run.recipe.model.options:
        return None
    with torch.device("meta"):
        model = models.build(run.recipe.model.name, paper.classes, run.info.channels)
    counted = cost_of(model, run.recipe.model.name, paper.size)
    own = paper.convention == "other"
    convention = "macs" if own else paper.convention
    counted_by = "ours by macs, theirs by another convention" if own else convention
    of = "" if paper.classes == len(run.info.classes) else f", {paper.classes} classes"
    gmacs = f"GMACs ({counted_by}), {size_text(paper.size)}{of}"
    return Comparison(
        paper.row,
        (
            *_accuracy(run, paper),
            Figure(f"parameters, M{of}", paper.params_m, counted.params / 1e6, 3),
            Figure(gmacs, paper.gmacs, counted.macs[convention] / 1e9, 3),
        ),
    )


def _accuracy(run: Run, paper: PaperTable) -> list[Figure]:
    """Return the mIoU in % of each split in the paper's row."""
    inference = InferenceSettings(
        scales=paper.scales,
        flip=paper.flip,
        resize=run.recipe.data.test_resize,
    )
    evaluations = {
        evaluation.get("split"): evaluation
        for evaluation in run.current_evaluations()
        if evaluation.get("data") == paper.data
        and evaluation.get("inference") == str(inference)
        and isinstance(evaluation.get("miou"), float | int)
        and isinstance(evaluation.get("images"), int)
    }
    figures, several = [], ", at several scales" if len(paper.scales) > 1 else ""
    for split, published in paper.miou.items():
        name = f"mIoU on {paper.data} {split}, %{several}"
        if split in evaluations:
            images, ours = evaluations[split]["images"], 100 * evaluations[split]["miou"]
            figures.append(Figure(f"{name}, {counted(images, 'image')}", published, ours, 2))
        else:
            figures.append(Figure(name, published, None, 2))
    return figures


def published(model: str) -> list[PaperTable]:
    """Return what papers print of a model: the [paper] tables of its recipes, MODEL and MODEL_*."""
    names = [name for name in shipped_recipes() if name == model or name.startswith(f"{model}_")]
    recipes = [parse_recipe(read_recipe(name)) for name in names]
    return [r.paper for r in recipes if r.paper and not r.model.options]
