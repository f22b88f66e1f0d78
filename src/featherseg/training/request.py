"""What the user asks of a training: a recipe, data, starting weights and changed settings."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from featherseg.core.errors import ConfigError
from featherseg.core.machine import command_began
from featherseg.layers.own_model import OwnModel
from featherseg.recipe.reading import RecipeFile, parse_recipe, read_recipe, with_absolute_paths
from featherseg.recipe.tables import LossTable, ModelTable, Recipe
from featherseg.training.objects import NAMES_ALONE, Objects

FIRST_SHARE = 1 / 3
"""Share of `train.minutes` of the first of two trainings: the second has more images."""

OBJECT_RECIPE = "frm-lite0"
"""The recipe of a model given as an object; its [model] table is replaced."""


@dataclass(frozen=True)
class Request:
    """The arguments of `featherseg train`, and the objects that replace names of the recipe.

    first: It is the first training of `self_training`: on the masks alone, in FIRST_SHARE
        of the minutes.
    labeller: The run that labels images without masks, in place of a first training.
    group: The folder of the sweep or fit that this training belongs to.
    began: When the command began, by `time.monotonic`; `train.minutes` count from here.
    ends: The training stops after the step that is running at this time (`time.monotonic`), or
        after the first step for which this function returns True.
    """

    recipe: str | None
    data: str | None = None
    data_root: Path | None = None
    init: str | None = None
    overrides: tuple[str, ...] = ()
    objects: Objects = NAMES_ALONE
    first: bool = False
    labeller: Path | None = None
    group: Path | None = None
    began: float = field(default_factory=command_began, compare=False)
    ends: float | Callable[[int], bool] | None = field(default=None, compare=False)

    def read(self) -> tuple[RecipeFile, Recipe]:
        """Return the recipe as text, and parsed with overrides. Raises ConfigError, UnknownName."""
        if self.recipe is None:
            raise ConfigError(
                "no recipe was given. Name a model or a recipe:\nfeatherseg train frm-lite0-light"
            )
        file = read_recipe(self.recipe)
        if self.objects.loss:
            for key in self.override_keys:
                if key.startswith("loss."):
                    raise ConfigError(
                        f"{key} does not apply to a loss given as loss=. Leave it out."
                    )
        return file, self.with_objects(
            with_absolute_paths(parse_recipe(file, self.overrides, **self.data_keys))
        )

    def with_objects(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the names of the objects, and without the paper's figures."""
        model, data = self.objects.model, self.objects.data
        if model is not None:
            name = type(model.module if isinstance(model, OwnModel) else model).__name__
            recipe = recipe.model_copy(
                update={"model": ModelTable(name=name, pretrained=False), "paper": None}
            )
        if data is not None:
            named = recipe.data.model_copy(update={"name": data[0].name, "root": None})
            recipe = recipe.model_copy(update={"data": named, "paper": None})
        if self.objects.loss is not None:  # it replaces class weights and auxiliary losses too
            recipe = recipe.model_copy(update={"loss": LossTable()})
        if self.first:
            minutes = recipe.train.minutes and FIRST_SHARE * recipe.train.minutes
            # the last weights: few images to choose by may choose poor ones
            train = recipe.train.model_copy(update={"minutes": minutes, "keep": "last"})
            masked = recipe.data.model_copy(update={"unlabelled": None})
            update = {"data": masked, "train": train}
            recipe = recipe.model_copy(update=update)
        return recipe

    @property
    def override_keys(self) -> list[str]:
        """The recipe keys that the overrides set, such as "train.epochs"."""
        return [text.partition("=")[0].strip() for text in self.overrides]

    @property
    def data_keys(self) -> dict[str, str | None]:
        """The keys of [data] that replace the recipe's; None keeps the recipe's value."""
        return {"name": self.data, "root": None if self.data_root is None else str(self.data_root)}
