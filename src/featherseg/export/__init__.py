"""Export: a trained network becomes a file for another runtime, kept only if it gives the same logits.

To add a target: its file with a function (network, facts) -> content, its row in EXPORTERS, a test.
"""

import os
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from featherseg.core.errors import ExportError, require, unknown
from featherseg.core.files import write_bytes, write_json
from featherseg.core.types import ClassInfo
from featherseg.data.palettes import default_palette
from featherseg.export.onnx import Facts, to_onnx
from featherseg.export.parity import TOLERANCE, ParityReport, verify
from featherseg.layers.network import SegmentationNetwork
from featherseg.runs import Run

EXPORTERS: dict[str, Callable[[SegmentationNetwork, Facts], bytes]] = {"onnx": to_onnx}
PARITY = "parity.json"


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how near it is to the network it came from."""

    path: Path
    target: str
    bytes: int
    parity: ParityReport

    def as_json(self) -> dict[str, Any]:
        """{"path", "target", "bytes", "parity": {"tolerance", "ok", "rows"}}."""
        return {**asdict(self), "path": str(self.path), "parity": self.parity.as_json()}


def export(
    source: SegmentationNetwork | Run,
    target: str = "onnx",
    path: str | Path | None = None,
    classes: Sequence[ClassInfo] | None = None,
) -> ExportReport:
    """Write a run's network, or a bare one, as a file of `target`, after it was found to give the network's logits.

    path is RUN/export/model.TARGET unless given. A bare network's classes are class_0, class_1, ... unless given; a run
    has its own. A file that was there is replaced only when parity holds; a run also gets RUN/parity.json.
    Raises UnknownName for the target, MissingExtra, ExportError where the network cannot be written or parity fails.
    """
    if target not in EXPORTERS:
        raise unknown("export target", target, EXPORTERS)
    require("onnxruntime", "export", "Checking an exported file")  # before long work
    path = _destination(source, target, path)
    network = source.model if isinstance(source, Run) else source
    facts = _facts(source, network, classes)
    network = deepcopy(network).to("cpu", torch.float32).eval()
    content = EXPORTERS[target](network, facts)
    parity = _verified(network, content, target)
    if not parity.ok:
        raise ExportError(_off(path, parity))
    write_bytes(path, content)
    report = ExportReport(path, target, len(content), parity)
    if isinstance(source, Run):
        write_json(source.path / PARITY, report.as_json())
    return report


def _destination(source: SegmentationNetwork | Run, target: str, path: str | Path | None) -> Path:
    """Where the file goes. Raises ExportError where no place is named, or nothing can be written there."""
    if path is None:
        if not isinstance(source, Run):
            raise ExportError("a network without a run has no folder of its own: name the file, path='model.onnx'.")
        path = source.path / "export" / f"model.{target}"
    path = Path(path)
    if path.is_dir():
        raise ExportError(f"{path} is a folder. Name the file to write, such as {path / f'model.{target}'}.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ExportError(f"nothing can be written to {path}: {folder} is no folder, or may not be written to.")
    return path


def _facts(
    source: SegmentationNetwork | Run, network: SegmentationNetwork, classes: Sequence[ClassInfo] | None
) -> Facts:
    """What the file will tell about the network. Raises ExportError for the wrong number of classes."""
    if classes is None:
        classes = source.classes if isinstance(source, Run) else default_classes(network.classes)
    if len(classes) != network.classes:
        raise ExportError(f"{len(classes)} classes were named, but the network tells {network.classes} apart.")
    if isinstance(source, Run):
        recipe = source.recipe
        size, fit = source.info.image_size, recipe.data.test_fit
        return Facts(recipe.model.name, tuple(classes), source.licence, size, fit, recipe.panoptic)
    return Facts(type(source).__name__, tuple(classes), "not stated")


def default_classes(count: int) -> list[ClassInfo]:
    """class_0, class_1, ... in colours that lie apart, for a network whose classes nobody named."""
    return [ClassInfo(f"class_{i}", color) for i, color in enumerate(default_palette(count))]


def _verified(network: SegmentationNetwork, content: bytes, target: str) -> ParityReport:
    """Parity of a file's content, before the file is where its readers look."""
    with TemporaryDirectory() as folder:
        draft = Path(folder) / f"model.{target}"
        draft.write_bytes(content)
        return verify(network, draft)


def _off(path: Path, parity: ParityReport) -> str:
    row = parity.worst
    return (
        f"the exported network is not the same: at {row.height}x{row.width}, batch {row.batch}, its logits are off by "
        f"{row.relative_error:.1e} of their range (at most {TOLERANCE:.0e} is allowed). {path} was not written."
    )
