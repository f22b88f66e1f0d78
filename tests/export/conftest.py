"""One export of every network of the catalogue, for all tests of this folder: each takes half a minute."""

from dataclasses import dataclass

import pytest
from quick_exports import AS_ONNX
from small_run import small_info

from featherseg import models
from featherseg.core.types import ClassInfo
from featherseg.export import ExportReport, export
from featherseg.export.parity import perturb
from featherseg.models import MODELS
from featherseg.runs import Run, open_run, save_weights, write_info

CLASSES = (
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("straße", (0, 0, 142)),
    ClassInfo("car", (0, 60, 100), thing=True),
    ClassInfo("sky", (70, 130, 180)),
    ClassInfo("void-like", (1, 2, 3)),
)


@dataclass(frozen=True)
class Exported:
    """A run whose weights are all noise, and what `export` said about it."""

    run: Run
    report: ExportReport


@pytest.fixture(
    scope="session", params=[pytest.param(n, marks=[] if n in AS_ONNX else pytest.mark.slow) for n in MODELS]
)
def exported(request, tmp_path_factory) -> Exported:
    """A run of each network, exported to its default place."""
    name = request.param
    folder = tmp_path_factory.mktemp("runs") / f"{name}-noise"
    folder.mkdir()
    info = small_info(CLASSES, model=name, image_size=(96, 128), licence="research only")
    write_info(folder, info)
    save_weights(folder, perturb(models.build(name, classes=len(CLASSES))).state_dict())
    run = open_run(folder)
    return Exported(run, export(run))
