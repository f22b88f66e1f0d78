"""The published figures of a recipe's [paper] table, compared with a run's own.

Published figures are shown as they are printed, and called published. Ours are counted, or measured
when the run was evaluated. The settings that the run does not share with the row's recipe stand
beside them.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from featherseg import models
from featherseg.core.config import toml_value
from featherseg.core.wording import counted, flattened, last_parts, size_text
from featherseg.costs.cost import cost_of
from featherseg.inference.settings import InferenceSettings
from featherseg.recipe.reading import parse_recipe, read_recipe, shipped_recipes
from featherseg.recipe.tables import MACHINE_KEYS, PaperTable, Recipe
from featherseg.runs.run import Run

SHOWN = 12
"""Most differences that are shown; JSON has all."""

SHOWN_LETTERS = 40
"""Most letters of a setting's value that are shown."""

NOT_COMPARED = MACHINE_KEYS | {"data.root", "train.seed", "train.checkpoint_activations"}
"""Settings in which a training by the paper's recipe is free."""


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
class Difference:
    """A setting that the paper's recipe and the run do not share; None: it is not set."""

    key: str
    paper: Any
    run: Any

    def texts(self) -> tuple[str, str, str]:
        """Return the key and both values as short texts."""
        return self.key, _short(self.paper), _short(self.run)


@dataclass(frozen=True)
class Comparison:
    """The figures of a paper's row beside those of a run, and how the run differs from its recipe.

    Attributes:
        row: Where the row is printed.
        recipe: The name of the shipped recipe that repeats the row; None if there is none.
        differences: Between that recipe and the run.
    """

    row: str
    figures: tuple[Figure, ...]
    recipe: str | None
    differences: tuple[Difference, ...]

    @property
    def differs(self) -> str:
        """Whether the run has the settings of the row's recipe, in a sentence."""
        if self.recipe is None:
            return "No shipped recipe repeats this row: what this run did otherwise is not known"
        if not self.differences:
            return f"This run has the settings of this row's recipe, {self.recipe}"
        number = counted(len(self.differences), "setting")
        return f"This run differs from this row's recipe, {self.recipe}, in {number}"

    def difference_rows(self) -> list[tuple[str, str, str]]:
        """Return the texts of the first differences; a last row counts the others."""
        rows = [difference.texts() for difference in self.differences[:SHOWN]]
        more = len(self.differences) - SHOWN
        return [*rows, (f"{more} more: featherseg evaluate --json", "", "")] if more > 0 else rows

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with every difference."""
        return {
            "row": self.row,
            "figures": [
                {"name": figure.name, "published": figure.published, "ours": figure.ours}
                for figure in self.figures
            ],
            "recipe": self.recipe,
            "differences": [asdict(difference) for difference in self.differences],
        }


HEADS = ("figure", "published", "ours", "difference")
"""Headings of the columns of `Figure.texts`."""

DIFFERENCE_HEADS = ("setting", "recipe", "this run")
"""Headings of the columns of `Difference.texts`."""


def compare(run: Run) -> Comparison | None:
    """Compare a run with the paper's row in its recipe; None if there is nothing to compare.

    That is if the recipe has no [paper], the run is on other data, or its model has options set.
    Our mIoU is the last score of each split with the row's scales and flips at the run's test size.
    Parameters and MACs are those of the model with the row's number of classes. Whoever shows the
    figures shows `differs` and `difference_rows` too.
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
    repeating = (
        (name, recipe)
        for name, recipe in _recipes(run.recipe.model.name).items()
        if recipe.paper and (recipe.paper.row, recipe.paper.data) == (paper.row, paper.data)
    )
    name, recipe = next(repeating, (None, None))
    return Comparison(
        paper.row,
        (
            *_accuracy(run, paper),
            Figure(f"parameters, M{of}", paper.params_m, counted.params / 1e6, 3),
            Figure(gmacs, paper.gmacs, counted.macs[convention] / 1e9, 3),
        ),
        name,
        () if recipe is None else differences(run, recipe),
    )


def _accuracy(run: Run, paper: PaperTable) -> list[Figure]:
    """Return the mIoU in % of each split in the paper's row."""
    inference = row_inference(run.recipe)
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


def differences(run: Run, recipe: Recipe) -> tuple[Difference, ...]:
    """Return what a run does not share with a recipe, except what the recipe leaves open."""
    theirs, ours = (
        flattened(one.model_dump(mode="json", exclude={"paper"})) for one in (recipe, run.recipe)
    )
    different = [
        Difference(key, theirs.get(key), ours.get(key))
        for key in theirs | ours
        if key not in NOT_COMPARED and theirs.get(key) not in (ours.get(key), "auto")
    ]

    # What no key of a recipe says: other weights at the start, and objects from Python
    start = "ImageNet weights" if recipe.model.pretrained else "from scratch"
    if run.imported:
        different.append(Difference("weights", "trained", f"imported from {run.imported}"))
    elif run.info.loaded.get("init"):
        different.append(Difference("start of training", start, run.init))
    different += [Difference(name, "of the recipe", "an object") for name in run.info.objects]
    return tuple(different)


def _short(value: Any) -> str:
    """Return a setting as in a recipe, a path by its last two parts, cut to SHOWN_LETTERS."""
    if value is None:
        return "-"
    if isinstance(value, str):
        text = last_parts(value)
    elif isinstance(value, list):
        text = f"[{', '.join(map(_short, value))}]"
    else:
        text = toml_value(value)
    return text if len(text) <= SHOWN_LETTERS else f"{text[: SHOWN_LETTERS - 3]}..."


def _recipes(model: str) -> dict[str, Recipe]:
    """Return the shipped recipes of a model by name: MODEL and MODEL_*."""
    names = [name for name in shipped_recipes() if name == model or name.startswith(f"{model}_")]
    return {name: parse_recipe(read_recipe(name)) for name in names}


def row_inference(recipe: Recipe) -> InferenceSettings:
    """Return how the images of a recipe's row are processed, at the recipe's test size."""
    resize = recipe.data.test_resize
    if recipe.paper is None:
        return InferenceSettings(resize=resize)
    return InferenceSettings(scales=recipe.paper.scales, flip=recipe.paper.flip, resize=resize)


def published(model: str) -> list[PaperTable]:
    """Return what papers print of a model: the [paper] tables of its recipes, MODEL and MODEL_*."""
    recipes = _recipes(model).values()
    return [r.paper for r in recipes if r.paper and not r.model.options]
