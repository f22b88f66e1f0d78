"""The record of a run that never was, for tests of what reads run folders."""

from collections.abc import Iterable

from featherseg.core.types import ClassInfo, Size
from featherseg.recipe.tables import Recipe
from featherseg.runs.run import FORMAT_VERSION, ClassRow, RunInfo


def small_info(
    classes: Iterable[ClassInfo],
    *,
    model: str = "frm-lite0",
    data: dict | None = None,
    image_size: Size = (64, 96),
    licence: str = "Apache-2.0",
    epochs: int = 1,
) -> RunInfo:
    """Return the resolved.json of a run of `model` on `data` (the [data] table, default shapes)."""
    tables = {
        "model": {"name": model},
        "data": data or {"name": "shapes"},
        "train": {"epochs": epochs},
    }
    return RunInfo(
        format_version=FORMAT_VERSION,
        featherseg="0",
        recipe_name=model,
        recipe=Recipe.model_validate(tables),
        classes=[ClassRow(name=c.name, color=c.color, thing=c.thing) for c in classes],
        channels=3,
        image_size=image_size,
        licence=licence,
        loaded={},
        class_weights=None,
        threads=1,
    )
