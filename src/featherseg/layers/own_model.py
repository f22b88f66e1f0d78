"""A user's nn.Module as a model, for training, evaluation and export."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from featherseg.core.errors import ConfigError
from featherseg.core.types import SegOutput
from featherseg.layers.model import Backbone, SegmentationModel
from featherseg.layers.resize import pad_images


class OwnModel(SegmentationModel):
    """A user's `module`: normalised images (B, channels, H, W) -> logits (B, classes, h, w).

    The module may also return a SegOutput. It states `classes`, `mean` and `std` (one value per
    channel, in units of 0..255). It may state `align_corners` of its logits; `size_divisor` and
    `minimum_size` in pixels, to which images are padded; `backbone`, the part that is trained at
    `train.backbone_lr`, which may name the classes of its blocks as `checkpointed`
    (`train.checkpoint_activations`); and `class_bias`, the key of the bias that is added to the
    logits last (`loss.undo_class_weights`). Raises ConfigError with the name of what is missing.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        missing = [name for name in ("classes", "mean", "std") if not hasattr(module, name)]
        if missing:
            raise ConfigError(
                f"{type(module).__name__} states no {', '.join(missing)}. A model must state "
                "`classes`, its number of classes, and `mean` and `std` for normalisation, one "
                "value per channel in units of 0..255."
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
        """The part with its own learning rate; a module without parameters if none is named."""
        return _OwnBackbone(getattr(self.module, "backbone", None), self.mean, self.std)

    def forward(self, images: Tensor, aux: bool = False) -> SegOutput:
        """(B, channels, H, W) of any size -> SegOutput with logits (B, classes, h, w).

        Raises ConfigError if the module returns something else.
        """
        image_size = (images.shape[2], images.shape[3])
        images, padded_size = pad_images(
            images, divisor=self.size_divisor, minimum=self.least_side(images)
        )
        out = self.module(images)
        if isinstance(out, SegOutput):  # its sizes are those of the padded images
            return out._replace(image_size=image_size, padded_size=padded_size)
        if not (isinstance(out, Tensor) and out.ndim == 4 and out.shape[1] == self.classes):
            returned = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ConfigError(
                f"{type(self.module).__name__} returned {returned}: expected logits "
                f"(B, {self.classes}, h, w), with its `classes`."
            )
        return SegOutput(out, image_size, padded_size, self.align_corners)


class _OwnBackbone(Backbone):
    """The interface of a backbone for a module that may have none."""

    def __init__(
        self, module: nn.Module | None, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.module, self.mean, self.std = module, mean, std
        self.checkpointed = getattr(module, "checkpointed", ())

    def widen(self, channels: int) -> None:
        """Raise ConfigError if the number of channels is not that of the module."""
        if channels != len(self.mean):
            raise ConfigError(
                f"this model takes images of {len(self.mean)} channels; the data have {channels}."
            )

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return the state unchanged: a user's module has only its own key names."""
        return dict(state), []


def as_model(module: nn.Module) -> SegmentationModel:
    """Return `module` if it is a featherseg model, else an OwnModel of it."""
    return module if isinstance(module, SegmentationModel) else OwnModel(module)
