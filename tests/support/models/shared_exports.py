"""Exports that several tests read, made once a session by the first worker; the others wait."""

import fcntl
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.models.small_model import FACTS, small_model

from featherseg.exporters.onnx import to_onnx


def shared_folder(
    tmp_path_factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]
) -> Path:
    """Return a folder that `fill` filled, here or in another xdist worker; nobody may change it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # root is the worker's own then
        root = root.parent
    folder, made = root / "shared" / name, root / "shared" / f"{name}.made"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            fill(folder)
            made.touch()
    return folder


def small_graph(tmp_path_factory: pytest.TempPathFactory, *, masks: bool = False) -> bytes:
    """The content of the .onnx file of `small_model()`."""
    write = partial(to_onnx, small_model(), FACTS, masks)
    name = "small-masks" if masks else "small-logits"
    folder = shared_folder(
        tmp_path_factory, name, lambda folder: (folder / "a.onnx").write_bytes(write())
    )
    return (folder / "a.onnx").read_bytes()
