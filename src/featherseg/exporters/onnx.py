"""ONNX: one file, any batch, height and width; all that predicting needs inside.

Normalised images in and logits out, or, with masks, uint8 images in and masks out.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from featherseg.core.errors import ExportError, require
from featherseg.exporters.job import Facts, Job, Maps, metadata
from featherseg.exporters.masks import Masks
from featherseg.exporters.stages import PREFIX, Stages
from featherseg.inference.runtimes.file_facts import OUTPUTS
from featherseg.layers.model import SegmentationModel

OPSET = 18
EXAMPLE = (2, 160, 224)  # (batch, height, width) of the image that is traced; a size of 1 would be built in as fixed
PADDED = (1, 33, 35)  # (batch, height, width) of an image that every model pads that pads at all
DYNAMIC = {0: "batch", 2: "height", 3: "width"}
DYNAMIC_IMAGES = {0: "batch", 1: "height", 2: "width"}


def write(job: Job) -> None:
    """model.onnx in the job's folder. Raises MissingExtra, and ExportError where the exporter gives up."""
    (job.folder / "model.onnx").write_bytes(content(job))


def content(job: Job) -> bytes:
    """The content of the job's .onnx file, which several targets start from: written once where they share it."""
    return job.graph() if job.graph else to_onnx(job.model, job.facts, job.masks)


def to_onnx(model: SegmentationModel, facts: Facts, masks: bool = False) -> bytes:
    """The content of an .onnx file: input `images`, outputs `Maps` or `Masks`, `job.metadata` as its metadata_props.

    images are normalised float32 (B, C, H, W); with `masks` uint8 (B, H, W, C). The model must be in eval mode, in
    fp32, on the CPU. Its stages (exporters/stages.py) are named tensors inside the graph. Raises MissingExtra, and
    ExportError where the exporter gives up.
    """
    onnx = require("onnx", "export", "ONNX export")
    require("onnxscript", "export", "ONNX export")
    outputs = ("masks",) if masks else OUTPUTS if model.panoptic else OUTPUTS[:1]
    with Stages(model) as stages:
        graph = Staged(Masks(model, stages.note) if masks else Maps(model), stages).eval()
        example, padded = _blank(model, EXAMPLE, masks), _blank(model, PADDED, masks)
        proto = _trace(graph, example, padded, outputs, DYNAMIC_IMAGES if masks else DYNAMIC)
    _strip(proto.graph)
    onnx.helper.set_model_props(proto, metadata(model, facts, masks))
    return proto.SerializeToString()


def _blank(model: SegmentationModel, shape: tuple[int, int, int], masks: bool) -> Tensor:
    """A batch of (batch, height, width) as the file takes it."""
    batch, *size = shape
    channels = len(model.mean)
    return torch.zeros(batch, *size, channels, dtype=torch.uint8) if masks else torch.zeros(batch, channels, *size)


class Staged(nn.Module):
    """A graph that also gives its stages, before its own outputs: images -> (*stages, *outputs).

    Which stages those are is decided when it runs outside of an export: an exporter may copy what torch passes on.
    """

    def __init__(self, inner: nn.Module, stages: Stages) -> None:
        super().__init__()
        self.inner, self._stages = inner, stages
        self.names: list[str] = []

    def forward(self, images: Tensor) -> list[Tensor]:
        self._stages.clear()
        outputs = self.inner(images)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        if not torch.compiler.is_exporting():  # inputs and outputs have names of their own
            named = [images, *outputs]
            self.names = [name for name, value in self._stages.values.items() if all(value is not x for x in named)]
        return [*(self._stages.values[name] for name in self.names), *outputs]


def _trace(graph: Staged, images: Tensor, padded: Tensor, outputs: Sequence[str], dynamic: dict[int, str]) -> Any:
    """-> onnx.ModelProto, whose outputs are `outputs` alone; `images` are traced, `padded` tell the stages' names."""
    try:
        with torch.no_grad():
            graph(padded)
        with _quiet():
            program: Any = torch.onnx.export(
                graph,
                (images,),
                input_names=["images"],
                output_names=[*(PREFIX + name for name in graph.names), *outputs],
                dynamic_shapes={"images": dynamic},
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        for _ in graph.names:
            program.model.graph.outputs.pop(0)
        program.optimize()  # what was kept apart to be an output: a convolution and its batch norm are one again
        return program.model_proto
    except Exception as error:  # torch.export and onnxscript raise dozens of kinds
        raise ExportError(
            f"torch {torch.__version__} cannot write this model as ONNX ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]}). Every layer must run at any batch, height and width."
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
