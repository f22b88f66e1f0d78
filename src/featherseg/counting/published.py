"""Published figures beside ours. They stand in one place, the [paper] tables of recipes; ours are counted or measured.

A published figure is shown as it was printed and called published: nothing here repeats a
measurement of others.
"""

from dataclasses import dataclass

import torch

from featherseg import models
from featherseg.core.wording import counted
from featherseg.counting.cost import cost_of
from featherseg.inference.settings import InferenceSettings
from featherseg.recipe import PaperTable, parse_recipe, read_recipe, shipped_recipes
from featherseg.runs import Run


@dataclass(frozen=True)
class Figure:
    """One published figure and ours, in the unit that `name` gives; ours is None where it was not measured.

    digits: decimals that ours is shown with.
    """

    name: str
    published: float
    ours: float | None
    digits: int

    def texts(self) -> tuple[str, str, str, str]:
        """Name, published, ours, difference (ours less published), as they are shown."""
        if self.ours is None:
            return self.name, str(self.published), "-", "-"
        difference = round(self.ours, self.digits) - self.published
        return self.name, str(self.published), f"{self.ours:.{self.digits}f}", f"{difference:+.{self.digits}f}"


@dataclass(frozen=True)
class Comparison:
    """A row of a paper, named, and its figures beside a run's."""

    row: str
    figures: tuple[Figure, ...]


HEADS = ("figure", "published", "ours", "difference")
"""Of the columns that `Figure.texts` fills."""


def compare(run: Run) -> Comparison | None:
    """The row that a run's recipe names, beside the run's own figures; None where it names none.

    None as well for a run on other data than the row's, or of a model with settings of its own.
    mIoU is the last score of each split that was computed with the row's scales and flips, at the
    run's own test size; it names the number of images. Counts are of the model with the row's
    classes.
    """
    paper = run.recipe.paper
    if paper is None or run.recipe.data.name != paper.data or run.recipe.model.options:
        return None
    with torch.device("meta"):
        model = models.build(run.recipe.model.name, paper.classes, run.info.channels)
    counted = cost_of(model, run.recipe.model.name, paper.size)
    height, width = paper.size
    convention = "macs" if paper.convention == "other" else paper.convention
    counted_by = "ours by macs, theirs by another convention" if paper.convention == "other" else convention
    of = "" if paper.classes == len(run.info.classes) else f", {paper.classes} classes"
    return Comparison(
        paper.row,
        (
            *_accuracy(run, paper),
            Figure(f"parameters, M{of}", paper.params_m, counted.params / 1e6, 3),
            Figure(
                f"GMACs ({counted_by}), {height}x{width}{of}",
                paper.gmacs,
                counted.macs[convention] / 1e9,
                3,
            ),
        ),
    )


def _accuracy(run: Run, paper: PaperTable) -> list[Figure]:
    """mIoU by split, in %."""
    inference = InferenceSettings(scales=paper.scales, flip=paper.flip, resize=run.recipe.data.test_resize)
    evaluations = {
        evaluation.get("split"): evaluation
        for evaluation in run.current_evaluations()
        if evaluation.get("data") == paper.data
        and evaluation.get("inference") == str(inference)
        and isinstance(evaluation.get("miou"), float | int)
        and isinstance(evaluation.get("images"), int)
    }
    figures = []
    for split, published in paper.miou.items():
        name = f"mIoU on {paper.data} {split}, %" + (", at several scales" if len(paper.scales) > 1 else "")
        if split in evaluations:
            images, ours = evaluations[split]["images"], 100 * evaluations[split]["miou"]
            figures.append(Figure(f"{name}, {counted(images, 'image')}", published, ours, 2))
        else:
            figures.append(Figure(name, published, None, 2))
    return figures


def published(model: str) -> list[PaperTable]:
    """What papers print of a model of the catalogue: the [paper] tables of its recipes, MODEL and MODEL_*."""
    names = [name for name in shipped_recipes() if name == model or name.startswith(f"{model}_")]
    recipes = [parse_recipe(read_recipe(name)) for name in names]
    return [r.paper for r in recipes if r.paper and not r.model.options]
