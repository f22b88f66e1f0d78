"""ONNX: one file for any batch, height and width, with all that prediction needs inside.

The inputs are normalised images and the outputs logits, or, with masks, uint8 images and masks.
`usage_lines` is how to use such a file without featherseg; `export` prints these lines, and
docs/formats.md shows them as well.
"""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featherseg.core.errors import require
from featherseg.core.types import Size
from featherseg.exporters.job import Facts, Job, Maps, metadata
from featherseg.exporters.masks import Masks
from featherseg.exporters.quiet import EVERY_SIZE, quiet
from featherseg.exporters.stages import PREFIX, Stages
from featherseg.inference.runtimes.file_metadata import OUTPUTS, FileFacts
from featherseg.layers.model import SegmentationModel
from featherseg.layers.normalise import FULL_RANGE, divisor

OPSET = 18
EXAMPLE = (
    2,
    160,
    224,
)  # (batch, height, width) of the image that is traced; a size of 1 would be built in as fixed
PADDED = (1, 33, 35)  # (batch, height, width) of an image that every model pads that pads at all
DYNAMIC = {0: "batch", 2: "height", 3: "width"}
DYNAMIC_IMAGES = {0: "batch", 1: "height", 2: "width"}


def write(job: Job) -> None:
    """Write model.onnx into the job's folder.

    Raises MissingExtra, and ExportError if the exporter fails.
    """
    (job.folder / "model.onnx").write_bytes(job.graph())


def to_onnx(
    model: SegmentationModel, facts: Facts, masks: bool = False, size: Size | None = None
) -> bytes:
    """Return the content of an .onnx file: input `images`, outputs of `Maps` or `Masks`.

    `job.metadata` is in its metadata_props. images are normalised float32 (B, C, H, W); with
    `masks` uint8 (B, H, W, C); with `size` only one image of this (height, width), which is written
    in a fifth of the time. The model must be in eval mode, in fp32, on the CPU. Its stages
    (exporters/stages.py) are named tensors in the graph. Raises MissingExtra, and ExportError if
    the exporter fails.
    """
    onnx = require("onnx", "export", "ONNX export")
    require("onnxscript", "export", "ONNX export")
    outputs = ("masks",) if masks else OUTPUTS if model.panoptic else OUTPUTS[:1]
    channels = len(model.mean)
    example, padded = (
        torch.zeros(batch, *size, channels, dtype=torch.uint8)
        if masks
        else torch.zeros(batch, channels, *size)
        for batch, *size in (EXAMPLE if size is None else (1, *size), PADDED)
    )
    failure = f"torch {torch.__version__} cannot write this model as ONNX"
    with Stages(model) as stages, quiet(failure, "torch.onnx", advice=EVERY_SIZE):
        graph = Staged(Masks(model, stages.note) if masks else Maps(model), stages).eval()
        graph(padded)  # collects the names of the stages
        program: Any = torch.onnx.export(
            graph,
            (example,),
            input_names=["images"],
            output_names=[*(PREFIX + name for name in graph.names), *outputs],
            dynamic_shapes={"images": DYNAMIC_IMAGES if masks else DYNAMIC}
            if size is None
            else None,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        # Stages are outputs only to keep their names. Without them, operations that were kept apart
        # as outputs, such as a convolution and its batch norm, are fused again
        for _ in graph.names:
            program.model.graph.outputs.pop(0)
        program.optimize()
        proto = program.model_proto
    _strip(proto.graph)
    _order_gelu(proto.graph)
    onnx.helper.set_model_props(proto, metadata(model, facts, masks))
    return proto.SerializeToString()


def graph_form(model: SegmentationModel, channels_last: bool = False) -> SegmentationModel:
    """Return a copy of the model with layers in the form that is fast in runtimes.

    It is equal within rounding. If no layer has another form, it is the model itself.
    channels_last: the runtime keeps maps in this layout, as OpenVINO does; ONNX Runtime uses blocks
    of channels and copies into them and out of them.
    """
    forms = {
        name: form
        for name, layer in model.named_modules()
        if hasattr(layer, "for_graph")
        and (form := layer.for_graph(model.size_divisor, channels_last)) is not layer
    }
    model = deepcopy(model) if forms else model
    for name, form in forms.items():
        model.set_submodule(name, form)
    return model


class Staged(nn.Module):
    """A graph that also gives its stages, before its outputs: images -> (*stages, *outputs).

    The stages are selected when it runs outside an export: an exporter may copy tensors that torch
    passes on.
    """

    def __init__(self, inner: nn.Module, stages: Stages) -> None:
        super().__init__()
        self.inner, self._stages = inner, stages
        self.names: list[str] = []

    def forward(self, images: Tensor) -> list[Tensor]:
        self._stages.clear()
        outputs = self.inner(images)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        if not torch.compiler.is_exporting():  # inputs and outputs already have names
            named = [images, *outputs]
            self.names = [
                name
                for name, value in self._stages.values.items()
                if all(value is not x for x in named)
            ]
        return [*(self._stages.values[name] for name in self.names), *outputs]


def _order_gelu(graph: Any) -> None:
    """Reorder GELU, x * (0.5 * (1 + erf)), to (x * (1 + erf)) * 0.5, which ONNX Runtime fuses."""
    made: Any = {name: node for node in graph.node for name in node.output}
    erf = {node.output[0] for node in graph.node if node.op_type == "Erf"}
    of_erf = {
        node.output[0] for node in graph.node if node.op_type == "Add" and node.input[0] in erf
    }
    for last in graph.node:
        half = made.get(last.input[1]) if last.op_type == "Mul" else None
        if half and half.op_type == "Mul" and half.input[1] in of_erf:
            x, constant = last.input[0], half.input[0]
            half.input[0], last.input[0], last.input[1] = x, half.output[0], constant


def _strip(graph: Any) -> None:
    """Drop the exporter's notes on every node: 2 MB of stack traces with paths of this machine."""
    for item in (
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)


HEAD = """\
import json, os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else onnxruntime reports usage
import numpy as np, onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession({path})
metadata = session.get_modelmeta().custom_metadata_map
facts = {{key: json.loads(text) for key, text in metadata.items()}}
photo = ImageOps.exif_transpose(Image.open("photo.jpg"))
image = np.asarray(photo.convert("RGB"))  # (H, W, 3) uint8, red first
if photo.mode.startswith("I"):  # grey of 16 bits, which convert cuts off at 255
    image = np.stack([np.float32(photo) / {divisor:g}] * 3, axis=2)
"""

MASKS = """\
images = image[None].round().astype(np.uint8)
mask = session.run(["masks"], {"images": images})[0][0]  # (H, W) uint8; 0 is facts["classes"][0]
"""

LOGITS = """\
# image, mean and std are in units of 0..255
normal = (image - np.float32(facts["mean"])) / np.float32(facts["std"])
(scores,) = session.run(["logits"], {"images": normal.transpose(2, 0, 1)[None]})
logits = scores[0]  # (classes, h, w)
(H, W), step = image.shape[:2], facts["size_divisor"]
# the graph pads right and below
size = [-(-max(side, facts["minimum_size"]) // step) * step for side in (W, H)]
"""

ENLARGE = """\
planes = [Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR) for plane in logits]
"""

ENLARGE_BY_CORNERS = """\
# align_corners: the corners of both grids coincide
steps = [(n - 1) / (N - 1) for n, N in zip(logits.shape[:0:-1], size)]
box = [0.5 - s / 2 for s in steps] + [n - 0.5 + s / 2 for n, s in zip(logits.shape[:0:-1], steps)]
planes = [Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR, box) for plane in logits]
"""

ARGMAX = """\
mask = np.argmax(np.stack(planes), axis=0)[:H, :W].astype(np.uint8)
"""

SAVE = 'Image.fromarray(mask).save("mask.png")\n'


def usage_lines(path: Path, facts: FileFacts) -> str | None:
    """Return Python lines that make mask.png of photo.jpg with an .onnx file; None if not RGB.

    The mask equals that of `predict`, except for pixels with two almost equally likely classes, and
    for what the lines omit (resizing to test_resize, objects), which is stated above them. Colour
    of 16 bits is reduced to its high byte, as Pillow reads it, and for a file of masks, which takes
    uint8, grey is rounded to 8 bits.
    """
    if facts.channels != 3:
        return None
    notes = ""
    if facts.test_resize:
        short, long = facts.test_resize
        notes += (
            f"# To be added: make the image fit {short} (short side) x {long} (long side) pixels "
        )
        notes += "first, its ratio\n"
        notes += "# kept, as the model sees it so, and bring the mask back to the image's own size "
        notes += "in the end\n"
    if facts.image_range < FULL_RANGE:
        notes += "# grey images alone: Pillow reads colour of 16 bits as 8, "
        notes += "and so loses what this model looks at\n"
    if facts.panoptic:
        notes += "# classes alone: objects are found by featherseg's predict\n"
    enlarge = ENLARGE_BY_CORNERS if facts.align_corners else ENLARGE
    body = MASKS if facts.masks else LOGITS + enlarge + ARGMAX
    head = HEAD.format(
        path=json.dumps(str(path), ensure_ascii=False), divisor=divisor(facts.image_range)
    )
    return notes + head + body + SAVE
