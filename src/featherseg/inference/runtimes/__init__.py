"""One object that runs a model, whether a torch run or an exported file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from featherseg.core.config import refuse_unused
from featherseg.core.errors import (
    ConfigError,
    ExportError,
    UnknownName,
    UntrustedFile,
    missing_torch,
)
from featherseg.core.types import ClassInfo, Resize, SegOutput, Size
from featherseg.inference.runtimes.file_metadata import FileRuntime, OpenFile, open_as
from featherseg.inference.runtimes.litert import LitertRuntime
from featherseg.inference.runtimes.ncnn import NcnnRuntime
from featherseg.inference.runtimes.onnx import OnnxRuntime
from featherseg.inference.runtimes.openvino import OpenvinoRuntime
from featherseg.recipe.panoptic import PanopticTable

if TYPE_CHECKING:
    import torch
    from torch import nn

    from featherseg.runs.run import Run

MOST_THREADS = 4096
"""Most threads that may be asked for."""


class Runtime(Protocol):
    """A model that is ready to run, with all that is needed to use it.

    Attributes:
        name: For messages and pages.
        licence: The terms of its weights.
        how_far: How far an unfinished training is; "" if it is finished, or unknown.
        classes: In the order of the logits.
        channels: Number of channels of its images.
        mean: One value per channel, 0..255.
        std: One value per channel.
        image_range: Number of values of 16-bit images.
        align_corners: That of its logits.
        size_divisor: As every model states it.
        minimum_size: As every model states it.
        image_size: (H, W) of the training images, if known.
        test_resize: How images were resized for validation; None: their own size.
        panoptic: How centres become objects; None for a model without objects.
        threads: Threads of the CPU; None: `core.machine.default_threads`.
    """

    name: str
    licence: str
    how_far: str
    classes: tuple[ClassInfo, ...]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_range: int
    align_corners: bool
    size_divisor: int
    minimum_size: int
    image_size: Size | None
    test_resize: Resize | None
    panoptic: PanopticTable | None
    threads: int | None

    @property
    def device(self) -> torch.device | None:
        """The device of its tensors; None if it takes and returns numpy arrays."""
        ...

    @property
    def peak_bytes_per_pixel(self) -> float:
        """Peak memory of a forward, in bytes per pixel of input, without weights."""
        ...

    def __call__(self, images: Any) -> SegOutput:
        """Return the logits of normalised float32 images (B, C, H, W), arrays or on `device`."""
        ...


def _open_pt2(path: Path, device: str, threads: int | None) -> FileRuntime:
    if find_spec("torch") is None:
        raise missing_torch(f"running {path.name}")
    from featherseg.core.machine import torch_threads
    from featherseg.inference.runtimes.pt2 import TorchExportRuntime

    with torch_threads(threads):
        return TorchExportRuntime(path, device, threads)


FILE_RUNTIMES: dict[str, OpenFile] = {
    ".onnx": OnnxRuntime,
    ".xml": OpenvinoRuntime,
    ".pt2": _open_pt2,
    ".ncnn.param": NcnnRuntime,
    ".tflite": LitertRuntime,
}
"""Ending of an exported file -> its runtime."""


def is_exported_file(path: str | Path) -> bool:
    """Whether a path ends like an exported file."""
    return str(path).endswith(tuple(FILE_RUNTIMES))


def check_trust(path: str | Path, trust: bool) -> None:
    """Raise UntrustedFile for a .pt2 file, which is a program, without `trust`."""
    if not trust and str(path).endswith(".pt2") and os.path.isfile(path):
        raise UntrustedFile(path)


def refuse_needless_trust(model: object, trust: bool) -> None:
    """Raise ConfigError if `trust` is given for a model that is no .pt2 file."""
    needless = trust and not str(model).endswith(".pt2")
    refuse_unused({"trust": needless}, "only .pt2 files are programs")


def open_file(
    path: str | Path, device: str = "auto", threads: int | None = None, *, trust: bool = False
) -> FileRuntime:
    """Open an exported file on a device; also one that returns masks.

    Args:
        path: The file. Its ending names the runtime.
        device: auto, cpu, cuda, cuda:N or mps, if the runtime has it.
        threads: Threads of the CPU. Default: `core.machine.default_threads`.
        trust: Open a .pt2 file, which runs the code that it contains.

    Raises:
        UntrustedFile: It is a .pt2 file, and `trust` is False.
        ExportError, DeviceError, DataNotFound, MissingExtra: It cannot be run here.
        UnknownName: No runtime has this ending.
    """
    check_trust(path, trust)
    for ending, runtime in FILE_RUNTIMES.items():
        if str(path).endswith(ending):
            return open_as(runtime, Path(path), device, threads)
    raise UnknownName(
        f"{path} does not have the suffix of an exported file. Known suffixes: "
        f"{', '.join(FILE_RUNTIMES)}."
    )


def open_runtime(
    run: Run | Runtime | nn.Module | str | Path,
    device: str = "auto",
    threads: int | None = None,
    *,
    trust: bool = False,
    classes: Sequence[str | ClassInfo] | None = None,
) -> Runtime:
    """Open a Run, the path or name of one, a module or an exported file; a Runtime stays as it is.

    Args:
        run: What to open.
        device: auto, cpu, cuda, cuda:N or mps.
        threads: Threads of the CPU. Default: `core.machine.default_threads`.
        trust: Open a .pt2 file, which runs the code that it contains.
        classes: For a module: its classes in the order of the logits.

    Raises:
        RunError, WeightsError, ExportError, DeviceError, DataNotFound: It cannot be opened.
            UntrustedFile is an ExportError.
        ConfigError: `threads` is out of range, or a Runtime is combined with a device or threads.
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise ConfigError(f"threads = {threads}: expected 1 to {MOST_THREADS:,} (--threads).")
    if is_module(run):
        return _open_module(run, classes, device, threads)
    refuse_unused({"classes": classes is not None}, "only a module has no classes of its own")
    if isinstance(run, str | Path):
        if is_exported_file(run):
            return _without_masks(open_file(run, device, threads, trust=trust))
    elif hasattr(run, "test_resize"):
        if device != "auto":
            raise ConfigError(
                f"device = {device!r} would have no effect: a runtime is on its device already."
            )
        if threads is not None:
            raise ConfigError(
                f"threads = {threads} would have no effect: a runtime has its threads already."
            )
        return cast(Runtime, run)
    if find_spec("torch") is None:
        raise missing_torch(f"opening {run}, which is no exported file,")
    from featherseg.inference.runtimes.pytorch import TorchRuntime
    from featherseg.runs.run import Run, load_run, not_a_run

    if isinstance(run, str | Path):
        run = load_run(run)
    if not isinstance(run, Run):
        raise not_a_run(run)
    runtime = TorchRuntime(
        run.model,
        run.classes,
        name=run.name,
        licence=run.info.licence,
        how_far=run.how_far,
        image_size=run.info.image_size,
        test_resize=run.info.recipe.data.test_resize,
        panoptic=run.info.recipe.panoptic,
        device=device,
    )
    runtime.threads = threads
    return runtime


def is_module(x: object) -> bool:
    """Whether x is a module of torch."""
    torch = sys.modules.get("torch")  # without it there is none
    return torch is not None and isinstance(x, torch.nn.Module)


def _open_module(
    module: Any, classes: Sequence[str | ClassInfo] | None, device: str, threads: int | None
) -> Runtime:
    from featherseg.data.images.palettes import class_colors
    from featherseg.inference.runtimes.pytorch import TorchRuntime
    from featherseg.layers.own_model import as_model

    model = as_model(module)
    if classes is None or len(classes) != model.classes:
        given = "none were" if classes is None else f"{len(classes)} were"
        raise ConfigError(
            f"a model of {model.classes} classes needs their names, {given} given: "
            "Predictor(model, classes=[...])."
        )
    own = {info.name: info for info in classes if isinstance(info, ClassInfo)}
    names = [info.name if isinstance(info, ClassInfo) else info for info in classes]
    colors = class_colors(names, {name: info.color for name, info in own.items()})
    infos = [own.get(name, ClassInfo(name, colors[name])) for name in names]
    runtime = TorchRuntime(model, tuple(infos), name=type(module).__name__, device=device)
    runtime.threads = threads
    return runtime


def _without_masks(runtime: FileRuntime) -> Runtime:
    if runtime.masks:
        raise ExportError(
            f"{runtime.name} returns masks, but logits are needed here. Export it without --masks "
            "for predict, evaluate and compare."
        )
    return runtime
