"""Training: a recipe and data in, a run folder out. The only folder that imports Lightning.

`job.py` reads from top to bottom: resolve -> check -> open -> run -> finish. Lightning is imported
by `run.py` alone, when the first step is near. `train` and `Request` are imported when first used
(PEP 562), because they need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featherseg.training.job import train
    from featherseg.training.request import Request

__all__ = ["Request", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(
            import_module(f"featherseg.training.{'job' if name == 'train' else 'request'}"), name
        )
    raise AttributeError(f"module 'featherseg.training' has no attribute {name!r}")
