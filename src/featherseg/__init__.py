"""featherseg: light semantic and panoptic segmentation, from images to an exported model.

Names are resolved when they are first used (PEP 562), so that `import featherseg` imports neither
torch nor Lightning. It switches off the telemetry of packages that it may use, in this process and
its children.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from featherseg._version import __version__
from featherseg.core.errors import OF_TORCH, FeathersegError, missing_torch, require
from featherseg.core.telemetry import switch_off

switch_off()

if TYPE_CHECKING:
    from featherseg import backbones, kernels
    from featherseg.api import check, cost, report, train
    from featherseg.auditing.audit import audit
    from featherseg.backbones.weights import load_official
    from featherseg.comparison.benchmark import benchmark
    from featherseg.comparison.compare import compare
    from featherseg.comparison.model_list import list_models
    from featherseg.comparison.sweep import sweep
    from featherseg.converters import convert
    from featherseg.data.cache.prepared_writer import prepare
    from featherseg.data.opening import open_dataset
    from featherseg.exporters import export
    from featherseg.fitting.fit import fit
    from featherseg.inference.optimize import optimize
    from featherseg.inference.predict import predict
    from featherseg.inference.predictor import Prediction, Predictor
    from featherseg.models import build
    from featherseg.reports.evaluate import evaluate
    from featherseg.reports.sharing import push
    from featherseg.runs.run import load_run
    from featherseg.serving.server import serve
    from featherseg.training.published_weights import import_weights

_HOMES = {
    "audit": "featherseg.auditing.audit",
    "benchmark": "featherseg.comparison.benchmark",
    "build": "featherseg.models",
    "check": "featherseg.api",
    "compare": "featherseg.comparison.compare",
    "convert": "featherseg.converters",
    "cost": "featherseg.api",
    "evaluate": "featherseg.reports.evaluate",
    "export": "featherseg.exporters",
    "fit": "featherseg.fitting.fit",
    "import_weights": "featherseg.training.published_weights",
    "list_models": "featherseg.comparison.model_list",
    "load_official": "featherseg.backbones.weights",
    "load_run": "featherseg.runs.run",
    "open_dataset": "featherseg.data.opening",
    "optimize": "featherseg.inference.optimize",
    "predict": "featherseg.inference.predict",
    "Prediction": "featherseg.inference.predictor",
    "Predictor": "featherseg.inference.predictor",
    "prepare": "featherseg.data.cache.prepared_writer",
    "push": "featherseg.reports.sharing",
    "report": "featherseg.api",
    "serve": "featherseg.serving.server",
    "sweep": "featherseg.comparison.sweep",
    "train": "featherseg.api",
}
_FOLDERS = ("backbones", "evaluation", "kernels", "losses", "models")

__all__ = [
    "FeathersegError",
    "Prediction",
    "Predictor",
    "__version__",
    "audit",
    "backbones",
    "benchmark",
    "build",
    "check",
    "compare",
    "convert",
    "cost",
    "evaluate",
    "export",
    "fit",
    "import_weights",
    "kernels",
    "list_models",
    "load_official",
    "load_run",
    "open_dataset",
    "optimize",
    "predict",
    "prepare",
    "push",
    "report",
    "serve",
    "sweep",
    "train",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    # Their modules cannot be imported without these packages
    if name == "fit":
        require("lightning", "train", "featherseg.fit")
    if name == "serve":
        require("uvicorn", "serve", "featherseg.serve")
    try:
        if name in _HOMES:
            return getattr(import_module(_HOMES[name]), name)
        if name in _FOLDERS:
            return import_module(f"featherseg.{name}")
    except ModuleNotFoundError as error:
        if error.name in OF_TORCH:
            raise missing_torch(f"featherseg.{name}", error.name) from error
        raise
    raise AttributeError(f"module 'featherseg' has no attribute {name!r}")
