"""Training: a recipe and data in, a run folder out. The only folder that imports Lightning.

Names are resolved when they are first used (PEP 562): modules that need no Lightning are imported without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featherseg.training.job import train
    from featherseg.training.prepare import Request

__all__ = ["Request", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(
            import_module(f"featherseg.training.{'job' if name == 'train' else 'prepare'}"), name
        )
    raise AttributeError(f"module 'featherseg.training' has no attribute {name!r}")
