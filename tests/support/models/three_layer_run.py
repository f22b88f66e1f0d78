"""An untrained run of `three_layers` on `shapes`, finished in form; quick to export and score."""

from pathlib import Path

from support.models.small_run import small_info
from support.models.three_layers import ThreeLayers

from featherseg.data.shapes import Shapes
from featherseg.runs.run import Run, open_run, write_info


class EightClasses(ThreeLayers):
    """The same model for the classes of `shapes`."""

    classes = len(Shapes.classes)


def three_layer_run(folder: Path, **data: object) -> Run:
    """Write a run with twelve train and two val images unless `data` (its [data] table) differs."""
    folder.mkdir()
    table = {"name": "shapes", "train_size": 12, "val_size": 2, **data}
    write_info(folder, small_info(Shapes.classes, data=table, image_size=(64, 96)))
    run = open_run(folder)
    run.__dict__["model"] = EightClasses().eval()  # what `Run.model` would read
    return run
