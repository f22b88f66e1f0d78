"""The base classes of backbones and models, and what each must state."""

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
from featherseg.layers.official_keys import rename_start
from featherseg.layers.residual import ResidualBlock
from featherseg.layers.resize import pad_images


class ModelConfig(Config):
    """Settings of a row of a paper's VARIANTS; a recipe's [model] may set the keys of a paper."""

    backbone: str


@dataclass(frozen=True)
class ModelEntry:
    """One model of the catalogue: its class, settings and paper.

    params, and macs by the convention `macs`, are measured with 19 classes and one image of 512 x
    1024 (costs/catalogue.py). panoptic: with an instance branch.
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
    """Normalised images (B, channels, H, W) -> four stages, fine to coarse: 1/4, 1/8, 1/16, 1/32.

    mean and std, 0..255, are those of its published weights; default ImageNet's. first_convolution
    is the name of the layer that receives the image. checkpointed are the classes of modules whose
    maps may be computed again in the backward pass (`train.checkpoint_activations`). absent is how
    the keys begin that its published ImageNet weights lack.
    """

    stage_channels: tuple[int, ...]
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    first_convolution: str
    checkpointed: tuple[type[nn.Module], ...] = (ResidualBlock,)
    absent: tuple[str, ...] = ()

    def widen(self, channels: int) -> None:
        """Accept another number of channels; call after loading three-channel weights."""
        first = self.get_submodule(self.first_convolution)
        assert isinstance(first, nn.Conv2d)
        widen_input(first, channels)

    def dilate(self, output_stride: int) -> None:
        """Keep all stages at 1 / output_stride (8 or 16) or finer, by dilation.

        The weights stay. Raises ConfigError if the backbone cannot.
        """
        raise ConfigError(
            f"output_stride = {output_stride}: {type(self).__name__} has no dilated version. "
            "Expected a ResNet, an EfficientNet or a MobileNetV2 as backbone."
        )

    def dilate_blocks(self, stage: int, rates: int | Sequence[int]) -> None:
        """Dilate the second convolution of each block of a stage, 0 to 3; strides and weights stay.

        rates: one for all blocks, or one per block. Raises ConfigError if the backbone cannot.
        """
        raise ConfigError(
            f"{type(self).__name__} has no dilated blocks: expected a ResNet as backbone, such as "
            "'resnet-18-deep'."
        )

    def halve_from(self, stride: int) -> None:
        """Let the stages from 1/stride on (8 or 16) see maps of half the size.

        The weights stay; the last stage is then at 1/64. Raises ConfigError if the backbone cannot.
        """
        raise ConfigError(
            f"halved_from = {stride}: expected an EfficientNet or MobileNetV2, not "
            f"{type(self).__name__}."
        )

    def mmseg_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return the groups for `train.groups = "mmseg"`: (with the head's rate, without decay).

        Raises ConfigError for a backbone that no published configuration groups so.
        """
        raise ConfigError(
            "train.groups = 'mmseg' reproduces how CGRSeg's authors grouped the parameters of "
            f"EfficientFormerV2, but the backbone is {type(self).__name__}. Use train.groups = "
            "'structure'."
        )

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, keys that are accepted but not used)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, channels, H, W) -> (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3, sizes rounded up."""
        raise NotImplementedError


class Decoded(NamedTuple):
    """The result of a decoder: logits (B, K, h, w) and features (B, C, h', w') as in SegOutput.

    aux computes the auxiliary logits by name; it is called only when they are needed.
    """

    logits: Tensor
    features: Tensor | None = None
    aux: Callable[[], Mapping[str, Tensor]] | None = None


class SegmentationModel(nn.Module):
    """Normalised images (B, channels, H, W) -> SegOutput with logits (B, classes, h, w).

    A model is how it encodes images, as a pyramid of four maps, and how it decodes that pyramid; a
    panoptic model also has an instance branch on it.

    mean and std have one value per channel, 0..255; 16-bit images have values 0..image_range-1
    (`normalise`). forward pads to size_divisor and minimum_size, in pixels. lone_side is the stride
    of the coarsest map that a batch norm sees, see `least_side`. align_corners is that of the
    logits. feature_channels is the width of SegOutput.features in training, None without. aux_heads
    are used in training only; each returns class logits under its name, except the one named by
    boundary_head, which returns one logit of boundaries. class_bias is the key of the bias
    that is added to the logits last, one value per class or several in a row; None without.
    local_norms are the classes of blocks whose own batch norms see the images of one process, even
    with train.sync_bn.
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
    local_norms: tuple[type[nn.Module], ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.instance_branch: InstanceBranch | None = None
        self.aux_heads = nn.ModuleDict()

    @property
    def panoptic(self) -> bool:
        """Whether its output separates objects."""
        return self.instance_branch is not None

    @property
    def pyramid_channels(self) -> Sequence[int]:
        """Channels of the maps from `encode`, fine to coarse."""
        return self.backbone.stage_channels

    def forward(self, images: Tensor, aux: bool = False) -> SegOutput:
        """(B, channels, H, W) of any size -> logits (B, classes, h, w), centers, offsets.

        With `aux` also the auxiliary logits by name, (B, classes, h', w'), boundaries (B, 1, h',
        w').
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
        """Accept another number of channels; call after loading three-channel weights."""
        self.backbone.widen(channels)

    def least_side(self, images: Tensor) -> int:
        """Return the side in pixels to which a shorter side of images (B, C, H, W) is padded.

        It is minimum_size. For a single training image of at most lone_side it is lone_side + 1: a
        batch norm has no variance of a single position.
        """
        alone = self.training and len(images) == 1 and max(images.shape[2:]) <= self.lone_side
        return self.lone_side + 1 if alone else self.minimum_size

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the pyramid (B, C_i, H/2^(i+2), W/2^(i+2)), i = 0..3, of padded images."""
        return self.backbone(images)

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """Return logits (B, K, h, w) from the pyramid, and what losses need besides."""
        raise NotImplementedError

    def rename_backbone(
        self, state: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[str], dict[str, Tensor]]:
        """Rename the keys under `backbone.` of an authors' model by the backbone's own rules.

        Returns (renamed keys of the backbone, those that are not used, all other keys unchanged).
        """
        own = {
            key.removeprefix("backbone."): value
            for key, value in state.items()
            if key.startswith("backbone.")
        }
        renamed, unused = self.backbone.rename_official(own)
        others = {key: value for key, value in state.items() if not key.startswith("backbone.")}
        return (
            {f"backbone.{k}": v for k, v in renamed.items()},
            [f"backbone.{k}" for k in unused],
            others,
        )

    def rename_parts(
        self, state: Mapping[str, Tensor], parts: Mapping[str, str]
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Rename the beginnings of the authors' keys; keys under `backbone.` by its own rules then.

        parts: the authors' beginning -> ours; the first that fits counts. Returns (state under our
        key names, unused keys). A file without auxiliary heads leaves ours unchanged.
        """
        named = {rename_start(key, parts): value for key, value in state.items()}
        renamed, unused, others = self.rename_backbone(named)
        return self.with_own_aux_heads(renamed | others), unused

    def with_own_aux_heads(self, renamed: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a state under our names with all auxiliary heads.

        Those missing in the file, which was made for inference, keep our weights.
        """
        if any(key.startswith("aux_heads.") for key in renamed):
            return renamed
        return renamed | {
            key: value for key, value in self.state_dict().items() if key.startswith("aux_heads.")
        }


def merge_paths(model: nn.Module) -> None:
    """Fold blocks of several paths into one layer each, in place, as files and counts have them."""
    for block in list(model.modules()):
        if hasattr(block, "merge_paths"):
            block.merge_paths()  # type: ignore[operator]
