"""Datasets: images with their class ids, torch-free. `open_dataset` opens one by its name or path.

The functions are in opening.py. Their names are resolved when they are first used (PEP 562): a
program that only reads images does not import every dataset.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featherseg.data.opening import (
        DATASETS,
        LabelledImages,
        category_ids,
        data_folder,
        dataset_facts,
        find_dataset,
        given_root,
        is_own,
        open_dataset,
        open_files,
        own_config,
        own_listing,
        own_path,
        score_split,
        share_rule,
    )

__all__ = [
    "DATASETS",
    "LabelledImages",
    "category_ids",
    "data_folder",
    "dataset_facts",
    "find_dataset",
    "given_root",
    "is_own",
    "open_dataset",
    "open_files",
    "own_config",
    "own_listing",
    "own_path",
    "score_split",
    "share_rule",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("featherseg.data.opening"), name)
    raise AttributeError(f"module 'featherseg.data' has no attribute {name!r}")
