"""The builds of a torch model that are timed, from plain PyTorch to `featherseg.optimize`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from featherseg.comparison.variants import EAGER, TUNED
from featherseg.core.types import ClassInfo, Resize, SegOutput, Size
from featherseg.inference.memory import peak_bytes_per_pixel
from featherseg.inference.optimize import optimize
from featherseg.layers.model import SegmentationModel
from featherseg.layers.precision import autocast_off
from featherseg.recipe.panoptic import PanopticTable

GRAPH_WARM_UP = 3
"""Passes on a side stream before a CUDA graph is captured, as PyTorch's documentation has it."""

Build = Callable[[SegmentationModel], Callable[[Tensor], SegOutput]]


@dataclass(frozen=True)
class TorchBuild:
    """One build.

    Args:
        description: for people.
        build: turns a model in eval mode on its device into the function that is timed.
        precision: of most of its arithmetic.
        allocator: keep freed memory in the process (`core.allocator`).
        channels_last: memory format of weights and images.
        usual_masks: torch does upsampling and argmax; else featherseg's kernels.
        devices: kinds of devices on which it is timed.
        one_thread: time it on one thread only.
    """

    description: str
    build: Build
    precision: str = "fp32"
    allocator: bool = True
    channels_last: bool = True
    usual_masks: bool = False
    devices: tuple[str, ...] = ("cpu", "cuda", "mps")
    one_thread: bool = False


class BuildRuntime:
    """A `Runtime` of a model in one of TORCH_BUILDS; it changes the model that it is given."""

    threads: int | None = None

    def __init__(
        self,
        model: SegmentationModel,
        classes: tuple[ClassInfo, ...],
        build: TorchBuild,
        device: torch.device,
        test_resize: Resize | None = None,
    ) -> None:
        self.name, self.licence, self.how_far = build.description, "", ""
        self.classes, self.device = classes, device
        self.image_size: Size | None = None
        self.test_resize = test_resize
        self.panoptic = PanopticTable() if model.panoptic else None
        self.mean, self.std, self.channels = tuple(model.mean), tuple(model.std), len(model.mean)
        self.image_range, self.align_corners = model.image_range, model.align_corners
        self.size_divisor = model.size_divisor
        self.minimum_size, self._model = model.minimum_size, model
        self._layout = torch.channels_last if build.channels_last else torch.contiguous_format
        float_model: Any = model.float().eval()
        self._forward = build.build(float_model.to(device, memory_format=self._layout))

    @cached_property
    def peak_bytes_per_pixel(self) -> float:
        """As of `Runtime`."""
        return peak_bytes_per_pixel(self._model)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> SegOutput:
        """Run normalised float32 images (B, C, H, W) on `device`, without TF32."""
        exact = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=False, allow_tf32=False
        )
        with autocast_off(self.device), exact:
            return self._forward(images.contiguous(memory_format=self._layout))


class GraphReplay:
    """A forward that is recorded as a CUDA graph at each new size, then replayed in one launch."""

    def __init__(self, forward: Callable[[Tensor], SegOutput]) -> None:
        self._forward = forward
        self._graphs: dict[torch.Size, tuple[Any, Tensor, SegOutput]] = {}

    def __call__(self, images: Tensor) -> SegOutput:
        """Run (B, C, H, W) on a CUDA device; the next call at this size overwrites the output."""
        if images.shape not in self._graphs:
            self._graphs[images.shape] = self._capture(images)
        graph, static_input, out = self._graphs[images.shape]
        static_input.copy_(images)
        graph.replay()
        return out

    def _capture(self, images: Tensor) -> tuple[Any, Tensor, SegOutput]:
        static_input = images.clone(memory_format=torch.preserve_format)
        side = torch.cuda.Stream(images.device)
        side.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(side):
            for _ in range(GRAPH_WARM_UP):
                self._forward(static_input)
        torch.cuda.current_stream(images.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self._forward(static_input)
        return graph, static_input, out


def pointwise_by_onednn(model: SegmentationModel) -> SegmentationModel:
    """Send the 1x1 convolutions of a model to oneDNN, as torch does on two threads or more.

    On one thread torch sends them to its BLAS, which takes twice as long on some processors.
    """
    for layer in model.modules():
        if (
            isinstance(layer, nn.Conv2d)
            and layer.kernel_size == (1, 1)
            and layer.padding_mode == "zeros"
        ):
            layer.forward = partial(_mkldnn_convolution, layer)  # type: ignore[method-assign]
    return model


def _mkldnn_convolution(layer: Any, x: Tensor) -> Tensor:
    bias, geometry = layer.bias, (layer.padding, layer.stride, layer.dilation, layer.groups)
    return torch.mkldnn_convolution(x, layer.weight, bias, *geometry)


def _as_it_is(model: SegmentationModel) -> SegmentationModel:
    return model


def _graph(precision: str, model: SegmentationModel) -> GraphReplay:
    return GraphReplay(_ours(precision, model))


def _ours(precision: Any, model: SegmentationModel) -> SegmentationModel:
    return optimize(model, precision)


def _compiled(model: SegmentationModel) -> Callable[[Tensor], SegOutput]:
    compiled: Callable[[Tensor], SegOutput] = torch.compile(model)
    return compiled


TORCH_BUILDS = {
    EAGER: TorchBuild(
        "plain eager PyTorch, float32",
        _as_it_is,
        allocator=False,
        channels_last=False,
        usual_masks=True,
    ),
    "eager-1x1": TorchBuild(
        "plain eager, 1x1 convolutions by oneDNN as on several threads",
        pointwise_by_onednn,
        allocator=False,
        channels_last=False,
        usual_masks=True,
        devices=("cpu",),
        one_thread=True,
    ),
    TUNED: TorchBuild("eager, freed memory kept, channels-last", _as_it_is, usual_masks=True),
    "ours-fp32": TorchBuild(
        "featherseg.optimize, float32: what Predictor runs", partial(_ours, "fp32")
    ),
    "ours-bf16": TorchBuild(
        "featherseg.optimize, bfloat16", partial(_ours, "bf16"), precision="bf16"
    ),
    "compiled": TorchBuild(
        "torch.compile, channels-last", _compiled, usual_masks=True, devices=("cuda",)
    ),
    "ours-fp32-graph": TorchBuild(
        "ours-fp32 as a CUDA graph", partial(_graph, "fp32"), devices=("cuda",)
    ),
    "ours-bf16-graph": TorchBuild(
        "ours-bf16 as a CUDA graph", partial(_graph, "bf16"), "bf16", devices=("cuda",)
    ),
}
"""Name -> build; the first one is the reference of every fidelity."""


def builds_for(device: str, threads: int) -> list[str]:
    """Return the names of TORCH_BUILDS for a kind of device ("cpu", "cuda") and its threads."""
    return [
        n
        for n, build in TORCH_BUILDS.items()
        if device in build.devices and (threads == 1 or not build.one_thread)
    ]
