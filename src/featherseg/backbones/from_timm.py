"""Backbones of the package timm, where it is installed: `model.backbone = "timm:NAME"`.

timm imports torchvision, which must fit torch, so that neither is a dependency of featherseg.
"""

from collections.abc import Mapping
from copy import deepcopy
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from featherseg.core.errors import ConfigError, MissingExtra, UnknownName, WeightsError
from featherseg.layers.model import Backbone
from featherseg.layers.resize import pad_images

PREFIX = "timm:"
STRIDES = (4, 8, 16, 32)

TRIED = ("torch==2.14.1", "torchvision==0.29.1")
"""Versions that were tried with each other and with timm 1.0.31."""


def import_timm(name: str) -> ModuleType:
    """Import timm for the backbone `name`, or raise MissingExtra with the command to install it."""
    try:
        return import_module("timm")
    except Exception as error:  # RuntimeError if torchvision was built for another torch
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise MissingExtra(
            f"the backbone {name!r} needs the package 'timm', which cannot be imported here "
            f"({reason}). timm needs the torchvision that fits torch; this command installs "
            f"versions that were tried: pip install timm {' '.join(TRIED)}"
        ) from error


def described(name: str) -> tuple[ModuleType, Any]:
    """Return (timm, what it states of a backbone: mean, std, licence and place of its weights).

    Raises MissingExtra, and UnknownName for a name or a tag that timm lacks.
    """
    timm, model = import_timm(name), name.removeprefix(PREFIX)
    if timm.is_model(model):
        try:
            return timm, timm.get_pretrained_cfg(model, allow_unregistered=False)
        except RuntimeError as error:
            raise UnknownName(f"timm {timm.__version__}, {model!r}: {error}") from None
    close = get_close_matches(model, timm.list_models(), n=1)
    near = f" Did you mean {PREFIX + close[0]!r}?" if close else ""
    raise UnknownName(
        f"timm {timm.__version__} has no model {model!r}.{near} "
        "Expected a name from timm.list_models()."
    )


def published_file(name: str) -> tuple[str, str, str]:
    """Return (address, name for a copy of the file, licence) of a backbone's ImageNet weights.

    The weights are those of the tag in `name`, or of timm's default tag. Raises WeightsError if
    timm names none, MissingExtra and UnknownName as `described`.
    """
    timm, cfg = described(name)
    if not cfg.hf_hub_id:
        raise WeightsError(
            f"timm {timm.__version__} names no weights of {name!r} on the Hugging Face Hub. "
            "Train from scratch with --set model.pretrained=false."
        )
    file = cfg.hf_hub_filename or "model.safetensors"
    copy = cfg.hf_hub_id.replace("/", "-") + Path(file).suffix
    licence = f"{cfg.license or 'no licence'}, as timm {timm.__version__} states"
    return f"https://huggingface.co/{cfg.hf_hub_id}/resolve/main/{file}", copy, licence


class TimmBackbone(Backbone):
    """A feature extractor of timm: normalised images (B, C, H, W) -> four stages, 1/4 to 1/32.

    If it rounds sizes down, images are padded to a multiple of 32 and the stages cropped. mean and
    std are those of timm's weights. Raises MissingExtra, UnknownName, and ConfigError for a model
    whose stages are not four maps with these strides.
    """

    checkpointed = ()

    def __init__(self, name: str) -> None:
        super().__init__()
        _, cfg = described(name)
        self.name = name.removeprefix(PREFIX)
        self.mean = tuple(255 * value for value in cfg.mean)
        self.std = tuple(255 * value for value in cfg.std)

        # The last map of each stride: some models have two at 1/32, most have one at 1/2
        with torch.device("meta"):
            info = self.create(features_only=True).feature_info
        places = dict(zip(info.reduction(), info.out_indices, strict=True))
        if not set(STRIDES) <= places.keys():
            strides = ", ".join(map(str, info.reduction()))
            raise ConfigError(
                f"timm's {self.name} has stages with strides {strides}; expected 4, 8, 16 and 32. "
                "Choose another model of timm."
            )
        self.places = tuple(places[stride] for stride in STRIDES)
        self.body = self.create(features_only=True, out_indices=self.places)
        self.stage_channels = tuple(self.body.feature_info.channels())
        split_norms(self.body)
        self.first_convolution = next(
            (name for name, x in self.named_modules() if isinstance(x, nn.Conv2d)), ""
        )
        self.pads = self._must_pad()

    def create(self, **settings: Any) -> Any:
        """Build timm's model. Raises ConfigError with timm's reason."""
        timm = import_timm(PREFIX + self.name)
        try:
            return timm.create_model(self.name, **settings)
        except Exception as error:  # timm raises many kinds
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise ConfigError(
                f"timm {timm.__version__} cannot build {self.name} as a backbone: {reason}. "
                "Choose another model of timm."
            ) from error

    def _must_pad(self) -> bool:
        """Whether images must be padded to multiples of 32 for stages of the expected sizes.

        Raises ConfigError if the stages have other shapes then, too.
        """
        twin = deepcopy(self.body).to("meta").eval()
        for must_pad, size in ((False, (97, 129)), (True, (128, 160))):
            expected = [
                (1, channels, *(-(-side // stride) for side in size))
                for channels, stride in zip(self.stage_channels, STRIDES, strict=True)
            ]
            try:
                with torch.no_grad():
                    stages = twin(torch.empty(1, 3, *size, device="meta"))
                shapes: Any = [tuple(stage.shape) for stage in stages]
            except Exception as error:  # such as that of a model for images of one size
                shapes = str(error).partition("\n")[0]
            if shapes == expected:
                return must_pad
        raise ConfigError(
            f"timm's {self.name} cannot be a backbone: the stages of an image of 128x160 pixels "
            f"are {shapes}; expected {expected}. Choose another model of timm."
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3, sizes rounded up."""
        if not self.pads:
            return list(self.body(images))
        height, width = images.shape[2:]
        padded, _ = pad_images(images, divisor=STRIDES[-1])
        return [
            stage[:, :, : (height + stride - 1) // stride, : (width + stride - 1) // stride]
            for stage, stride in zip(self.body(padded), STRIDES, strict=True)
        ]

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (the state of timm's whole model under our key names, unused keys: its head).

        A state that is not such a model's is returned as it is.
        """
        if not state:  # timm would download weights
            return {}, []
        weights = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": dict(state)}}
        try:
            # timm loads the whole model strictly, a feature extractor whatever the keys
            self.create(**weights)
            body = self.create(features_only=True, out_indices=self.places, **weights)
        except ConfigError:
            return dict(state), []
        # Feature extractors join names of nested layers by "_"
        used = {key.replace(".", "_") for key in body.state_dict()}
        unused = [key for key in state if key.replace(".", "_") not in used]
        split_norms(body)
        return {f"body.{key}": value for key, value in body.state_dict().items()}, unused

    def macs(self, x: Tensor, y: list[Tensor]) -> int:
        """Return the products outside of layers, such as q @ k, for images x (B, C, H, W)."""
        from torch.utils.flop_counter import FlopCounterMode

        with torch.device("meta"):
            twin = TimmBackbone(PREFIX + self.name).eval()
            images = torch.empty(len(x), 3, *x.shape[2:])
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            twin(images)
        aten = torch.ops.aten
        layers = (aten.convolution, aten.addmm, aten.mm)
        counts = counter.get_flop_counts()["Global"]
        return sum(flops for product, flops in counts.items() if product not in layers) // 2


def split_norms(body: nn.Module) -> None:
    """Replace each of timm's batch norms that has an activation by a plain norm and that layer.

    Folding, counting and norms over several processes then see layers of torch alone.
    """
    for name, layer in list(body.named_modules()):
        if not (isinstance(layer, nn.BatchNorm2d) and hasattr(layer, "act")):
            continue
        norm = nn.BatchNorm2d(
            layer.num_features,
            layer.eps,
            layer.momentum,
            layer.affine,
            layer.track_running_stats,
        )
        norm.load_state_dict(layer.state_dict(), assign=True)
        later: list[Any] = [
            part for part in (layer.drop, layer.act) if not isinstance(part, nn.Identity)
        ]
        body.set_submodule(name, nn.Sequential(norm, *later) if later else norm)
