"""A module of one's own as a model: what training, scoring and export ask of a model, taken from a plain nn.Module."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from featherseg.core.errors import ConfigError
from featherseg.core.types import SegOutput
from featherseg.layers.model import Backbone, SegmentationModel
from featherseg.layers.resize import pad_images


class OwnModel(SegmentationModel):
    """`module` with normalised images (B, channels, H, W) -> logits (B, classes, h, w), or a SegOutput.

    The module states `classes`, `mean` and `std` (one value a channel, in units of 0..255); where it has them also
    `align_corners` of its logits, `size_divisor` and `minimum_size` in pixels, which its images are padded to, and
    `backbone`, the part that learns at `train.backbone_lr`, which may name the classes of its blocks as `checkpointed`
    (`train.checkpoint_activations`), and `class_bias`, the key of the bias that is added to the logits last
    (`loss.undo_class_weights`). Raises ConfigError naming what it does not state.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        lacking = [name for name in ("classes", "mean", "std") if not hasattr(module, name)]
        if lacking:
            raise ConfigError(
                f"{type(module).__name__} states no {', '.join(lacking)}. A model of one's own states `classes`, its "
                f"number of classes, and `mean` and `std`, one value a channel in units of 0..255, to normalise with."
            )
        stated: Any = module
        self.module = stated
        self.classes = int(stated.classes)
        self.mean, self.std = tuple(map(float, stated.mean)), tuple(map(float, stated.std))
        for name in ("align_corners", "size_divisor", "minimum_size"):
            setattr(self, name, getattr(module, name, getattr(self, name)))
        bias = getattr(module, "class_bias", None)
        self.class_bias = None if bias is None else f"module.{bias}"

    @property
    def backbone(self) -> Any:  # type: ignore[override]
        """The part that has a learning rate of its own; one without parameters where the module names none."""
        return _OwnBackbone(getattr(self.module, "backbone", None), self.mean, self.std)

    def forward(self, images: Tensor, aux: bool = False) -> SegOutput:
        """(B, channels, H, W) of any size -> logits (B, classes, h, w), and what they cover.

        Raises ConfigError where the module gives others.
        """
        image_size = (images.shape[2], images.shape[3])
        images, padded_size = pad_images(
            images, divisor=self.size_divisor, minimum=self.least_side(images)
        )
        out = self.module(images)
        if isinstance(out, SegOutput):  # of the padded images, as it sees no others
            return out._replace(image_size=image_size, padded_size=padded_size)
        if not (isinstance(out, Tensor) and out.ndim == 4 and out.shape[1] == self.classes):
            found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            kind = type(self.module).__name__
            raise ConfigError(
                f"{kind} gave {found}: expected logits (B, {self.classes}, h, w), as its `classes` says."
            )
        return SegOutput(out, image_size, padded_size, self.align_corners)


class _OwnBackbone(Backbone):
    """What is asked of a backbone, of a module that may be none."""

    def __init__(
        self, module: nn.Module | None, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.module, self.mean, self.std = module, mean, std
        self.checkpointed = getattr(module, "checkpointed", ())

    def widen(self, channels: int) -> None:
        if channels != len(self.mean):
            raise ConfigError(
                f"this model takes images of {len(self.mean)} channels; the data have {channels}."
            )

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        return dict(state), []


def as_model(module: nn.Module) -> SegmentationModel:
    """`module` itself where it is a model of featherseg's kind, else an OwnModel of it."""
    return module if isinstance(module, SegmentationModel) else OwnModel(module)
