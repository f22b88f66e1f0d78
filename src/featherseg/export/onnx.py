"""ONNX: one file, any batch, height and width; normalised pictures in, logits out, all that predicting needs inside."""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from featherseg.core.errors import ExportError, require
from featherseg.core.types import ClassInfo, Fit, Size
from featherseg.inference.memory import peak_bytes_per_pixel
from featherseg.inference.runtimes import ONNX_FORMAT_VERSION, OUTPUTS
from featherseg.layers.network import SegmentationNetwork
from featherseg.recipe import PanopticTable

OPSET = 18
EXAMPLE = (2, 160, 224)  # (batch, height, width) of the picture that is traced; a size of 1 would be built in as fixed
DYNAMIC = {0: "batch", 2: "height", 3: "width"}


class Maps(nn.Module):
    """A network as a file holds it: images (B, C, H, W), normalised -> logits (B, K, h, w), and nothing else.

    A panoptic network also gives centers (B, 1, h, w) and offsets (B, 2, h, w).
    """

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        out = self.network(images)
        return (out.logits,) if out.centers is None or out.offsets is None else (out.logits, out.centers, out.offsets)


@dataclass(frozen=True)
class Facts:
    """What a file tells about its network besides what the network tells itself.

    image_size is the (H, W) in pixels that it was trained on, where known; test_fit what pictures were brought to fit
    when it was validated, None for their own size; panoptic how a panoptic network's centres become objects.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    licence: str
    image_size: Size | None = None
    test_fit: Fit | None = None
    panoptic: PanopticTable | None = None


def metadata(model: SegmentationNetwork, facts: Facts) -> dict[str, str]:
    """What a reader of the file needs besides the graph, each value as JSON text; `inference.runtimes` reads it.

    Logits are brought to the picture as `layers.resize.to_image` does it: the graph pads right and below to the least
    multiple of size_divisor that is at least minimum_size. mean and std are in units of 0..255, one value a channel.
    """
    values = {
        "format_version": ONNX_FORMAT_VERSION,
        "model": facts.name,
        "classes": [row.name for row in facts.classes],
        "colors": [list(row.color) for row in facts.classes],
        "things": [row.thing for row in facts.classes],
        "mean": list(model.mean),
        "std": list(model.std),
        "channels": len(model.mean),
        "size_divisor": model.size_divisor,
        "minimum_size": model.minimum_size,
        "align_corners": model.align_corners,
        "licence": facts.licence,
        "image_size": facts.image_size,
        "test_fit": facts.test_fit,
        "panoptic": (facts.panoptic or PanopticTable()).model_dump() if model.panoptic else None,
        "peak_bytes_per_pixel": float(peak_bytes_per_pixel(model)),
    }
    return {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}


def to_onnx(model: SegmentationNetwork, facts: Facts) -> bytes:
    """The content of an .onnx file: input `images`, outputs `Maps`, `metadata` as its metadata_props.

    The network must be in eval mode, in fp32, on the CPU. Raises MissingExtra, and ExportError where the exporter gives
    up.
    """
    onnx = require("onnx", "export", "ONNX export")
    require("onnxscript", "export", "ONNX export")
    batch, height, width = EXAMPLE
    outputs = OUTPUTS if model.panoptic else OUTPUTS[:1]
    proto = _trace(Maps(model).eval(), torch.zeros(batch, len(model.mean), height, width), outputs)
    _strip(proto.graph)
    onnx.helper.set_model_props(proto, metadata(model, facts))
    return proto.SerializeToString()


def _trace(network: nn.Module, images: Tensor, outputs: Sequence[str]) -> Any:
    """-> onnx.ModelProto."""
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                network,
                (images,),
                input_names=["images"],
                output_names=outputs,
                dynamic_shapes={"images": DYNAMIC},
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            return program.model_proto
    except Exception as error:  # torch.export and onnxscript raise dozens of kinds
        raise ExportError(
            f"torch {torch.__version__} cannot write this network as ONNX ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]}). Every layer must run at any height and width."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """What torch's exporter warns of concerns its own insides (deprecations, no torchvision): it is not passed on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strip(graph: Any) -> None:
    """Drop what the exporter notes beside every node: stack traces with paths of this machine, 2 MB of them."""
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)
