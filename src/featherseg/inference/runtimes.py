"""One object that runs a network, wherever it came from: a torch run, or an exported .onnx file."""

import copy
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from featherseg.core.config import Config, parse
from featherseg.core.device import pick_device
from featherseg.core.errors import ConfigError, DataNotFound, DeviceError, ExportError, require
from featherseg.core.types import ClassInfo, Color, Fit, SegOutput, Size
from featherseg.inference.memory import peak_bytes_per_pixel
from featherseg.layers.network import SegmentationNetwork
from featherseg.layers.precision import autocast_off
from featherseg.layers.resize import pad_images
from featherseg.recipe import PanopticTable
from featherseg.runs import Run, load_run

ONNX_FORMAT_VERSION = 1
OUTPUTS = ("logits", "centers", "offsets")
"""Of an exported file; the last two where the network is panoptic."""


class Runtime(Protocol):
    """A network that is ready to run, with all that is needed to use it.

    classes in the order of the logits; mean and std one value a channel, 0..255; align_corners, size_divisor and
    minimum_size as every network states them; peak_bytes_per_pixel of memory while it runs; image_size, the (H, W)
    it was trained on, where known; test_fit, what pictures were brought to fit when it was validated (None: their own
    size); panoptic, how its centres become objects (None: it knows classes alone); device, where its input should lie.
    """

    name: str
    licence: str
    classes: tuple[ClassInfo, ...]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    align_corners: bool
    size_divisor: int
    minimum_size: int
    image_size: Size | None
    test_fit: Fit | None
    panoptic: PanopticTable | None
    device: torch.device

    @property
    def peak_bytes_per_pixel(self) -> float:
        """Memory that a forward needs at its peak, in bytes a pixel of input, weights apart."""
        ...

    def __call__(self, images: Tensor) -> SegOutput:
        """Normalised float32 images (B, C, H, W) on `device` -> logits, as `model(images)` gives them."""
        ...


class TorchRuntime:
    """A torch network in eval mode, fp32, channels-last: an own copy, so that the network given is left as it is.

    Always the same form and precision on one device, so that scoring the same weights gives the same bits, in training
    as afterwards.
    """

    def __init__(
        self,
        model: SegmentationNetwork,
        classes: tuple[ClassInfo, ...],
        *,
        name: str = "network",
        licence: str = "",
        image_size: Size | None = None,
        test_fit: Fit | None = None,
        panoptic: PanopticTable | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self.name, self.licence, self.classes = name, licence, tuple(classes)
        self.image_size, self.test_fit = image_size, test_fit
        self.panoptic = (panoptic or PanopticTable()) if model.panoptic else None
        self.device = pick_device(device) if isinstance(device, str) else device
        network: Any = copy.deepcopy(model).float().eval()  # Any: torch types no `to` with a memory format
        self.mean, self.std, self.channels = tuple(network.mean), tuple(network.std), len(network.mean)
        self.align_corners, self.size_divisor = network.align_corners, network.size_divisor
        self.minimum_size = network.minimum_size
        self.model: SegmentationNetwork = network.to(self.device, memory_format=torch.channels_last)

    @cached_property
    def peak_bytes_per_pixel(self) -> float:
        """As `memory.peak_bytes_per_pixel` measures it (about a second, once)."""
        return peak_bytes_per_pixel(self.model)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> SegOutput:
        """Normalised float32 images (B, C, H, W) -> SegOutput, without gradients, in fp32 (no autocast, no TF32)."""
        images = images.contiguous(memory_format=torch.channels_last)
        with (
            autocast_off(self.device),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            return self.model(images)


class OnnxRuntime:
    """A file written by `featherseg export --to onnx`, run by onnxruntime; the facts come from its metadata.

    Raises ExportError for a file that is none, MissingExtra without onnxruntime, DeviceError for a device that the
    installed onnxruntime cannot use.
    """

    def __init__(self, path: Path, device: str = "auto") -> None:
        self._session, self.device = _open_session(path, device)
        facts = _read_facts(self._session.get_modelmeta().custom_metadata_map, path)
        self.name, self.licence = path.name, facts.licence
        self.image_size, self.test_fit, self.panoptic = facts.image_size, facts.test_fit, facts.panoptic
        rows = zip(facts.classes, facts.colors, facts.things, strict=True)
        self.classes = tuple(ClassInfo(name, color, thing) for name, color, thing in rows)
        self.mean, self.std, self.channels = facts.mean, facts.std, facts.channels
        self.align_corners, self.size_divisor = facts.align_corners, facts.size_divisor
        self.minimum_size, self.peak_bytes_per_pixel = facts.minimum_size, facts.peak_bytes_per_pixel
        self._input = self._session.get_inputs()[0].name
        self._outputs = OUTPUTS if self.panoptic else OUTPUTS[:1]

    def __call__(self, images: Tensor) -> SegOutput:
        """Normalised float32 images (B, C, H, W) on the CPU -> SegOutput."""
        feed = {self._input: np.ascontiguousarray(images.numpy())}
        maps = [torch.from_numpy(x) for x in self._session.run(self._outputs, feed)]  # (B, K | 1 | 2, h, w)
        out = SegOutput(maps[0], (images.shape[2], images.shape[3]), self._padded(images), self.align_corners)
        return out._replace(centers=maps[1], offsets=maps[2]) if self.panoptic else out

    def _padded(self, images: Tensor) -> Size:
        """The size the graph pads to, by the rule of the network itself; no pixel is touched."""
        shape_only = torch.empty(images.shape, device="meta")
        return pad_images(shape_only, divisor=self.size_divisor, minimum=self.minimum_size)[1]


def open_runtime(run: Run | str | Path, device: str = "auto") -> Runtime:
    """A Run, the path or the name of one, or the path of an exported .onnx file, ready to run on `device`.

    Raises RunError, WeightsError, ExportError, DeviceError, DataNotFound.
    """
    if not isinstance(run, Run):
        if str(run).endswith(".onnx"):
            return OnnxRuntime(Path(run), device)
        run = load_run(run)
    return TorchRuntime(
        run.model,
        run.classes,
        name=run.name,
        licence=run.licence,
        image_size=run.info.image_size,
        test_fit=run.recipe.data.test_fit,
        panoptic=run.recipe.panoptic,
        device=device,
    )


def _open_session(path: Path, device: str) -> tuple[Any, torch.device]:
    """An onnxruntime session, and the device its input lies on: always the CPU, the session copies."""
    if not path.is_file():
        raise DataNotFound(f"{path} does not exist. Write it with: featherseg export RUN --to onnx -o {path}")
    ort: Any = require("onnxruntime", "export", f"running {path.name}")
    offered = ort.get_available_providers()
    kind = device.partition(":")[0]
    providers = {"auto": ["CUDAExecutionProvider"], "cuda": ["CUDAExecutionProvider"], "cpu": []}.get(kind)
    if providers is None or (kind == "cuda" and providers[0] not in offered):
        raise DeviceError(
            f"device {device!r} was asked for, but onnxruntime {ort.__version__} offers {', '.join(offered)} here. "
            f"Use --device cpu or --device auto."
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: they are raised as well
    chosen = [provider for provider in providers if provider in offered] + ["CPUExecutionProvider"]
    try:
        return ort.InferenceSession(str(path), options, providers=chosen), torch.device("cpu")
    except Exception as error:  # onnxruntime raises its own kinds, which share no base
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ExportError(f"{path} cannot be run by onnxruntime {ort.__version__}: {first}") from None


class _Facts(Config):
    """The metadata of an exported file, as export/onnx.py writes them; keys that are not listed are passed over."""

    format_version: int
    classes: list[str]
    colors: list[Color]
    things: list[bool]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int
    size_divisor: int
    minimum_size: int
    align_corners: bool
    licence: str
    peak_bytes_per_pixel: float
    image_size: Size | None = None
    test_fit: Fit | None = None
    panoptic: PanopticTable | None = None

    @model_validator(mode="after")
    def _lengths_agree(self) -> "_Facts":
        if not len(self.classes) == len(self.colors) == len(self.things):
            raise ValueError("classes, colors and things are not of one length")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError("mean and std do not have one value a channel")
        return self


def _read_facts(texts: dict[str, str], path: Path) -> _Facts:
    """The file's metadata, each a JSON text. Raises ExportError where they are missing, broken or newer."""
    missing = [key for key, field in _Facts.model_fields.items() if field.is_required() and key not in texts]
    if missing:
        raise ExportError(
            f"{path} lacks the metadata {', '.join(missing)}: it was not written by featherseg. "
            f"Write it with: featherseg export RUN --to onnx -o {path}"
        )
    try:
        values = {key: json.loads(text) for key, text in texts.items() if key in _Facts.model_fields}
        if isinstance(values["format_version"], int) and values["format_version"] > ONNX_FORMAT_VERSION:
            raise ExportError(
                f"{path} has format {values['format_version']}; this featherseg reads up to {ONNX_FORMAT_VERSION}. "
                f"Update with: pip install --upgrade featherseg"
            )
        return parse(_Facts, values, str(path))
    except (ValueError, ConfigError) as error:
        raise ExportError(f"{error} The file's metadata are damaged; export it again.") from None
