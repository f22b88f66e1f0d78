"""The builds that one torch model is timed in, from the usual one to ours: a literal table."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from featherseg.core.types import ClassInfo, Resize, SegOutput, Size
from featherseg.inference.memory import peak_bytes_per_pixel
from featherseg.inference.optimize import optimize
from featherseg.layers.model import SegmentationModel
from featherseg.layers.precision import autocast_off
from featherseg.recipe.tables import PanopticTable

EAGER, TUNED = "eager", "eager-tuned"
"""The two baselines: what torch does by default, and what two lines of a user's own make of it."""

GRAPH_WARM_UP = 3
"""Passes on a side stream before a CUDA graph is captured."""

Build = Callable[[SegmentationModel], Callable[[Tensor], SegOutput]]


@dataclass(frozen=True)
class TorchBuild:
    """description is for people; build makes the function that is timed of a model in eval mode on its device.

    allocator: freed memory is kept in the process (`core.allocator`); channels_last: of weights and images.
    precision is what most of its arithmetic is done in. usual_masks: upsampling and argmax by torch too, not by ours.
    devices: the kinds it is for; one_thread: on one thread only.
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
    """A model in one of TORCH_BUILDS as a `Runtime`, see there; the model given is used up."""

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
        """See Runtime."""
        return peak_bytes_per_pixel(self._model)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> SegOutput:
        """Normalised float32 images (B, C, H, W) on `device` -> SegOutput; float32 stays float32 (no TF32)."""
        exact = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=False, allow_tf32=False
        )
        with autocast_off(self.device), exact:
            return self._forward(images.contiguous(memory_format=self._layout))


class GraphReplay:
    """A forward that is recorded as a CUDA graph at each new size, and replayed after that: one launch for all."""

    def __init__(self, forward: Callable[[Tensor], SegOutput]) -> None:
        self._forward = forward
        self._graphs: dict[torch.Size, tuple[Any, Tensor, SegOutput]] = {}

    def __call__(self, images: Tensor) -> SegOutput:
        """(B, C, H, W) on a CUDA device -> SegOutput, which the next call at that size overwrites."""
        if images.shape not in self._graphs:
            self._graphs[images.shape] = self._capture(images)
        graph, given, out = self._graphs[images.shape]
        given.copy_(images)
        graph.replay()
        return out

    def _capture(self, images: Tensor) -> tuple[Any, Tensor, SegOutput]:
        given, side = (
            images.clone(memory_format=torch.preserve_format),
            torch.cuda.Stream(images.device),
        )
        side.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(side):
            for _ in range(GRAPH_WARM_UP):
                self._forward(given)
        torch.cuda.current_stream(images.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self._forward(given)
        return graph, given, out


def pointwise_by_onednn(model: SegmentationModel) -> SegmentationModel:
    """The model itself, its 1x1 convolutions sent to oneDNN, as torch does by itself on two threads or more.

    On one thread torch hands them to its BLAS, which on some processors takes twice as long.
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
"""Name -> build; the first is what every fidelity is measured against."""


def builds_for(device: str, threads: int) -> list[str]:
    """The names of TORCH_BUILDS that apply on a kind of device ("cpu", "cuda") with so many threads."""
    return [
        n
        for n, build in TORCH_BUILDS.items()
        if device in build.devices and (threads == 1 or not build.one_thread)
    ]
