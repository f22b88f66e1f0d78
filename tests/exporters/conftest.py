"""One export of every catalogue model for all tests here; quick tests use two shallow ones."""

import pickle
from dataclasses import dataclass

import pytest
from support.models.quick_exports import AS_ONNX
from support.models.shallow import shallow
from support.models.shared_exports import shared_folder
from support.models.small_run import small_info

from featherseg import models
from featherseg.core.types import ClassInfo
from featherseg.exporters import ExportReport, export
from featherseg.exporters.parity import perturb
from featherseg.models import MODELS
from featherseg.runs.run import Run, open_run, write_info

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
    scope="session",
    params=[(shallow, name) for name in AS_ONNX]
    + [pytest.param((models.build, name), marks=pytest.mark.slow) for name in MODELS],
    ids=lambda param: f"{param[1]}-{'shallow' if param[0] is shallow else 'whole'}",
)
def exported(request, tmp_path_factory) -> Exported:
    """A run of each model, exported to its default place."""
    build, name = request.param
    info = small_info(CLASSES, model=name, image_size=(96, 128), licence="research only")

    def opened(folder):
        run = open_run(folder)
        run.__dict__["model"] = perturb(
            build(name, classes=len(CLASSES))
        )  # what `Run.model` would read
        return run

    def fill(folder):
        write_info(folder, info)
        (folder / "report.pickle").write_bytes(pickle.dumps(export(opened(folder))))

    folder = shared_folder(tmp_path_factory, f"{name}-{build.__name__}", fill)
    return Exported(opened(folder), pickle.loads((folder / "report.pickle").read_bytes()))
