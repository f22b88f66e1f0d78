"""A torch model that is ready to run."""

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor, nn

from featherseg.core.machine import pick_device
from featherseg.core.types import ClassInfo, Resize, SegOutput, Size
from featherseg.inference.dataflow import SIZE
from featherseg.inference.memory import peak_bytes, peak_bytes_per_pixel
from featherseg.inference.optimize import optimize
from featherseg.layers.model import SegmentationModel
from featherseg.layers.precision import autocast_off
from featherseg.recipe.panoptic import PanopticTable


class TorchRuntime:
    """A torch model, optimised for its device by `optimize`; the model that is passed is unchanged.

    The form is always the same on one device, so that scoring the same weights gives the same bits,
    during training and later.

    Raises:
        DeviceError: This machine has no such device.
    """

    threads: int | None = None

    def __init__(
        self,
        model: SegmentationModel,
        classes: tuple[ClassInfo, ...],
        *,
        name: str = "model",
        licence: str = "",
        how_far: str = "",
        image_size: Size | None = None,
        test_resize: Resize | None = None,
        panoptic: PanopticTable | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self.name, self.licence, self.how_far, self.classes = name, licence, how_far, tuple(classes)
        self.image_size, self.test_resize = image_size, test_resize
        self.panoptic = (panoptic or PanopticTable()) if model.panoptic else None
        self.device = pick_device(device) if isinstance(device, str) else device
        self.mean, self.std, self.channels = tuple(model.mean), tuple(model.std), len(model.mean)
        self.image_range, self.align_corners = model.image_range, model.align_corners
        self.size_divisor = model.size_divisor
        self.minimum_size = model.minimum_size
        self.model = optimize(model, device=self.device)

    @cached_property
    def peak_bytes_per_pixel(self) -> float:
        """The figure of `memory.peak_bytes_per_pixel`; measured once, in 1.4 s."""
        return peak_bytes_per_pixel(self.model)

    def most_bytes_per_pixel(self, area: float) -> float:
        """Return an upper bound on the peak of a forward of `area` pixels, in bytes per pixel.

        It is the peak of a small image, which is quick to measure, times the square of the pixels:
        nothing in a model grows faster.
        """
        if "peak_bytes_per_pixel" in vars(self):
            return self.peak_bytes_per_pixel
        return self._small_peak * max(1.0, area / (SIZE[0] * SIZE[1])) ** 2 / area

    @cached_property
    def _small_peak(self) -> int:
        return peak_bytes(self, torch.zeros(1, self.channels, *SIZE, device=self.device))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> SegOutput:
        """Run normalised float32 images (B, C, H, W), without gradients, autocast and TF32."""
        images = images.contiguous(memory_format=torch.channels_last)
        with (
            autocast_off(self.device),
            torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            ),
        ):
            return self.model(images)


def weight_bytes(model: nn.Module) -> Iterator[bytes]:
    """Yield the weights of a model, tensor by tensor as float32, for a digest of them."""
    for value in model.state_dict().values():
        yield value.detach().cpu().float().numpy().tobytes()
