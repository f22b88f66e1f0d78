"""What every backbone and every model states about itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from featherseg.core.config import Config
from featherseg.core.errors import ConfigError
from featherseg.core.types import SegOutput
from featherseg.layers.conv import widen_input
from featherseg.layers.instance_branch import InstanceBranch
from featherseg.layers.normalise import FULL_RANGE
from featherseg.layers.residual import ResidualBlock
from featherseg.layers.resize import pad_images


class ModelConfig(Config):
    """What every row of a paper's VARIANTS has; the keys a paper adds may be set in a recipe's [model]."""

    backbone: str


@dataclass(frozen=True)
class ModelEntry:
    """One model of the catalogue: the class of its model, its settings, after which paper.

    params, and macs by the convention `macs`, are with 19 classes for one image of 512 x 1024, as counted
    (costs/catalogue.py); panoptic: with an instance branch.
    """

    model: Callable[[Any, int], "SegmentationModel"]
    config: ModelConfig
    paper: str
    params: int | None = None
    macs: int | None = None
    panoptic: bool = False

    @property
    def backbone(self) -> str:
        """The name of its backbone."""
        return self.config.backbone


class Backbone(nn.Module):
    """Normalised images (B, channels, H, W) -> four stage maps, fine to coarse: 1/4, 1/8, 1/16, 1/32.

    mean and std, 0..255, are what its published weights expect, ImageNet's unless it says otherwise; first_convolution
    is the name of the layer that takes the image; checkpointed are the classes of the modules that need not keep their
    maps for the backward (`train.checkpoint_activations`).
    """

    stage_channels: tuple[int, ...]
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    first_convolution: str
    checkpointed: tuple[type[nn.Module], ...] = (ResidualBlock,)

    def widen(self, channels: int) -> None:
        """Take images of another number of channels than three; call after three-channel weights were loaded."""
        first = self.get_submodule(self.first_convolution)
        assert isinstance(first, nn.Conv2d)
        widen_input(first, channels)

    def dilate(self, output_stride: int) -> None:
        """Let no stage be coarser than 1 / output_stride, 8 or 16: dilation in place of stride, the same weights.

        Raises ConfigError where a backbone cannot.
        """
        raise ConfigError(
            f"output_stride = {output_stride}: {type(self).__name__} has no dilated version. Expected a ResNet, an "
            "EfficientNet or a MobileNetV2 as backbone."
        )

    def halve_from(self, stride: int) -> None:
        """Let stages from 1/stride on, 8 or 16, see maps of half the size, and so end at 1/64; the same weights.

        Raises ConfigError where a backbone cannot.
        """
        raise ConfigError(
            f"halved_from = {stride}: expected an EfficientNet or MobileNetV2, not {type(self).__name__}."
        )

    def mmseg_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """`train.groups = "mmseg"`: -> (those of its parameters with the head's learning rate, those without decay).

        Raises ConfigError for a backbone that no published configuration sorts so.
        """
        raise ConfigError(
            "train.groups = 'mmseg' reproduces how CGRSeg's authors grouped the parameters of EfficientFormerV2, but "
            f"the backbone is {type(self).__name__}. Use train.groups = 'structure'."
        )

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The authors' key names -> ours; -> (renamed state, keys that are accepted and not used)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, channels, H, W) -> (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3, sizes rounded up."""
        raise NotImplementedError


class Decoded(NamedTuple):
    """What a decoder makes of a pyramid: logits (B, K, h, w), features (B, C, h', w') as SegOutput has them.

    aux computes the auxiliary logits by name; it is called only where they are wanted.
    """

    logits: Tensor
    features: Tensor | None = None
    aux: Callable[[], Mapping[str, Tensor]] | None = None


class SegmentationModel(nn.Module):
    """Normalised images (B, channels, H, W) -> SegOutput with logits (B, classes, h, w).

    mean and std have one value a channel, 0..255, and 16-bit images values 0..image_range-1 (`normalise`); size_divisor
    and minimum_size, in pixels, are what forward pads to; lone_side is the stride of its coarsest map where a batch
    norm sees that, see `least_side`; align_corners is that of its logits. feature_channels is the width of
    SegOutput.features in training, None where it gives none. A model is how it encodes images, as a pyramid of four
    maps, and how it decodes that; a panoptic one also has an instance branch on the pyramid. aux_heads are used in
    training alone, each giving class logits under its name but for that named by boundary_head, which tells boundaries
    from the rest by one logit. class_bias is the key of the bias (classes,) that is added to the logits last, None
    where there is none.
    """

    backbone: Backbone
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_range: int = FULL_RANGE
    align_corners: bool = False
    size_divisor: int = 1
    minimum_size: int = 1
    lone_side: int = 0
    feature_channels: int | None = None
    boundary_head: str | None = None
    class_bias: str | None = "classifier.bias"

    def __init__(self) -> None:
        super().__init__()
        self.instance_branch: InstanceBranch | None = None
        self.aux_heads = nn.ModuleDict()

    @property
    def panoptic(self) -> bool:
        """Whether its output tells objects apart."""
        return self.instance_branch is not None

    @property
    def pyramid_channels(self) -> Sequence[int]:
        """Channels of what `encode` gives, fine to coarse."""
        return self.backbone.stage_channels

    def forward(self, images: Tensor, aux: bool = False) -> SegOutput:
        """(B, channels, H, W) of any size -> logits (B, classes, h, w) and what they cover; centers, offsets.

        With `aux` also the auxiliary logits by name, (B, classes, h', w') or of boundaries (B, 1, h', w').
        """
        image_size = (images.shape[2], images.shape[3])
        images, padded_size = pad_images(
            images, divisor=self.size_divisor, minimum=self.least_side(images)
        )
        pyramid = self.encode(images)
        out = self.decode(pyramid)
        centers, offsets = self.instance_branch(pyramid) if self.instance_branch else (None, None)
        return SegOutput(
            logits=out.logits,
            image_size=image_size,
            padded_size=padded_size,
            align_corners=self.align_corners,
            features=out.features if self.training else None,
            aux=out.aux() if out.aux and aux else None,
            centers=centers,
            offsets=offsets,
        )

    def widen(self, channels: int) -> None:
        """Take images of another number of channels than three; call after three-channel weights were loaded."""
        self.backbone.widen(channels)

    def least_side(self, images: Tensor) -> int:
        """What a shorter side of these images (B, channels, H, W) is padded to, in pixels.

        minimum_size; in training one more than lone_side for a single image that is no larger than it: of the one
        position that is left of it a batch norm has no variance.
        """
        alone = self.training and len(images) == 1 and max(images.shape[2:]) <= self.lone_side
        return self.lone_side + 1 if alone else self.minimum_size

    def encode(self, images: Tensor) -> list[Tensor]:
        """Padded images (B, channels, H, W) -> pyramid (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3."""
        return self.backbone(images)

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """The pyramid -> logits (B, K, h, w), and what losses look at beside them."""
        raise NotImplementedError

    def rename_backbone(
        self, state: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[str], dict[str, Tensor]]:
        """An authors' model with its backbone under `backbone.`, that part renamed as the backbone says.

        -> (renamed keys of the backbone, those that are not used, all other keys as they were).
        """
        own = {
            key.removeprefix("backbone."): value
            for key, value in state.items()
            if key.startswith("backbone.")
        }
        renamed, unused = self.backbone.rename_official(own)
        rest = {key: value for key, value in state.items() if not key.startswith("backbone.")}
        return (
            {f"backbone.{k}": v for k, v in renamed.items()},
            [f"backbone.{k}" for k in unused],
            rest,
        )

    def with_own_aux_heads(self, renamed: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state by our names in which no auxiliary head is missing: a file made for inference has none, ours stay."""
        if any(key.startswith("aux_heads.") for key in renamed):
            return renamed
        return renamed | {
            key: value for key, value in self.state_dict().items() if key.startswith("aux_heads.")
        }
