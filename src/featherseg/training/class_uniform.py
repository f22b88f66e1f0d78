"""`data.class_uniform`: the points that samples are drawn by, found once and kept in the run folder.

They take one pass over all labels (33 ms for a mask of 1024 x 2048 on one CPU core), so a resumed run and the other
processes of a distributed one read the file instead.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from featherseg.core.errors import RunError
from featherseg.core.types import SegmentationData
from featherseg.data.sampling import ClassPoints, ClassUniform, find_class_points
from featherseg.recipe import Recipe

CLASS_POINTS = "class_points.npy"


def write_class_points(out: Path, recipe: Recipe, data: SegmentationData, say: Callable[[str], None]) -> None:
    """Find the points of the training labels, in tiles of the crop's longer side, and write them to the run folder.

    Nothing is done where the recipe leaves `data.class_uniform` off. Raises what reading a label raises.
    """
    if recipe.data.class_uniform:
        assert recipe.augment.crop is not None
        say(f"locating the classes in {len(data)} masks, to sample by class")
        find_class_points(data, max(recipe.augment.crop)).save(out / CLASS_POINTS)


def open_class_uniform(out: Path, recipe: Recipe, data: SegmentationData) -> ClassUniform | None:
    """How the samples of a run are drawn, with the points of its folder; None where `data.class_uniform` is off.

    Raises RunError where the file is missing, damaged, or names images that `data` does not hold.
    """
    if not recipe.data.class_uniform:
        return None
    path = out / CLASS_POINTS
    try:
        rows = np.load(path, allow_pickle=False)  # (n, 4)
        last = int(rows[:, 1].max())
    except (OSError, ValueError, IndexError, EOFError) as error:
        raise RunError(
            f"{path} cannot be read ({error}): it was written when this run started, and data.class_uniform needs it. "
            "Start a new run with another --out."
        ) from None
    if last >= len(data):
        raise RunError(
            f"{path} names image {last + 1}, but {data.name} has {len(data)}: this run started with more images. "
            "Point --data-root to the same images."
        )
    return ClassUniform(recipe.data.class_uniform, ClassPoints(rows))
