"""One export of every catalogue model for all tests here; quick tests use two shallow ones."""

import pickle
from dataclasses import dataclass

import pytest
from support.models.quick_exports import AS_ONNX, ONE_OF_EACH
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


def identify(param) -> str:
    return f"{param[1]}-{'shallow' if param[0] is shallow else 'whole'}"


def whole(names) -> list:
    return [pytest.param((models.build, name), marks=pytest.mark.slow) for name in names]


@pytest.fixture(
    scope="session",
    params=[*((shallow, name) for name in AS_ONNX), *whole(ONE_OF_EACH)],
    ids=identify,
)
def exported(request, tmp_path_factory) -> Exported:
    """A run of a variant of each architecture, exported to its default place."""
    return export_once(*request.param, tmp_path_factory)


@pytest.fixture(
    scope="session", params=whole(n for n in MODELS if n not in ONE_OF_EACH), ids=identify
)
def exported_variant(request, tmp_path_factory) -> Exported:
    """A run of each other model of the catalogue, exported to its default place."""
    return export_once(*request.param, tmp_path_factory)


def export_once(build, name, tmp_path_factory) -> Exported:
    """Export a run of `build(name, ...)` where this session has not done so."""
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
