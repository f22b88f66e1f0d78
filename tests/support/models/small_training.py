"""A small training on synthetic scenes: 8 images, crops of 64 x 96, a weak model of nine layers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from featherseg.layers.model import Backbone, Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.resize import resize
from featherseg.models import MODELS
from featherseg.training import Request, train

SMALL = (
    "model.pretrained=false",
    "data.train_size=8",
    "data.val_size=2",
    "data.workers=0",
    "augment.crop=[64, 96]",
    "loss.class_weights=none",
    "train.epochs=2",
    "train.batch_size=4",
    "train.lr_batch_size=4",
    "train.precision=fp32",
    "train.checkpoint_seconds=1000",
)


YARD = """
name = "yard"
images = "images"
masks = "masks"
classes = ["grass", "path", "plant"]
[splits]
train = "train.txt"
val = "val.txt"
[map]
0 = "grass"
1 = "path"
2 = "plant"
"""
"""A dataset.toml of three classes, of images/ and masks/ listed in train.txt and val.txt."""


class Block(nn.Sequential):
    """To half the size: (B, C_in, h, w) -> (B, C, ceil(h / 2), ceil(w / 2))."""

    def __init__(self, in_channels: int, channels: int) -> None:
        conv = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        super().__init__(conv, nn.BatchNorm2d(channels), nn.ReLU())


class TinyBackbone(Backbone):
    """Normalised images (B, 3, H, W) -> four stage maps."""

    stage_channels = (8, 12, 16, 16)
    first_convolution = "stem.0"
    checkpointed = (Block,)

    def __init__(self) -> None:
        super().__init__()
        self.stem = Block(3, 8)
        self.stages = nn.ModuleList(Block(a, b) for a, b in pairwise((8, *self.stage_channels)))

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        return dict(state), []

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [self.stem(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


class TinyConfig(ModelConfig):
    backbone: Literal["tiny"] = "tiny"
    channels: Annotated[int, Field(ge=1)] = 16


class Tiny(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, K, H/8, W/8); dropout uses the random state."""

    lone_side = 32

    def __init__(self, config: TinyConfig, classes: int) -> None:
        super().__init__()
        width = config.channels
        self.classes, self.feature_channels, self.backbone = classes, width, TinyBackbone()
        self.fine, self.coarse = nn.Conv2d(12, width, 1), nn.Conv2d(16, width, 1)
        self.classifier = nn.Conv2d(width, classes, 1)

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        fine, coarse = self.fine(pyramid[1]), self.coarse(pyramid[3])
        features = F.relu(
            fine + resize(coarse, (fine.shape[2], fine.shape[3]), align_corners=False)
        )
        return Decoded(self.classifier(F.dropout(features, 0.1, self.training)), features)


TINY = {
    "tiny": ModelEntry(Tiny, TinyConfig(), paper="none"),
    "tiny-panoptic": ModelEntry(Tiny, TinyConfig(), paper="none", panoptic=True),
}
"""Models of this process alone, which `tiny_models` adds to the catalogue."""


@contextmanager
def tiny_models() -> Iterator[None]:
    """The catalogue has the models of TINY as well."""
    with pytest.MonkeyPatch.context() as patched:
        for name, entry in TINY.items():
            patched.setitem(MODELS, name, entry)
        yield


class Silent:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.messages, self.steps = [], []

    def message(self, text):
        self.messages.append(text)

    def step(self, step, steps, record):
        self.steps.append(step)

    def progress(self, doing, done, total):
        pass


class Killed(BaseException):
    """Stands for a kill: nothing of ours handles it."""


class KilledAt(Silent):
    """Dies when a step is reported: its metrics are written then, its checkpoint is not."""

    def __init__(self, step):
        super().__init__()
        self.last = step

    def step(self, step, steps, record):
        super().step(step, steps, record)
        if step == self.last:
            raise Killed


def request(*overrides: str, **kwargs) -> Request:
    """Of the model "tiny", if `overrides` name no other."""
    return Request("frm-lite0", overrides=("model.name=tiny", *SMALL, *overrides), **kwargs)


def trained(out: Path, *overrides: str, reporter=None, resume=False):
    return train(request(*overrides), out, reporter or Silent(), resume=resume)


def equal_state(first, second) -> bool:
    """Whether two nested structures of tensors and plain values are the same to the bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            equal_state(first[k], second[k]) for k in first
        )
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal_state, first, second))
    return first == second


def outcome(run):
    """Return what runs are compared by: weights, optimiser, schedule, EMA, last records by step."""
    checkpoint = torch.load(run.path / "last.ckpt", weights_only=True)
    parts = {
        key: checkpoint[key]
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "average", "global_step")
    }
    recorder = checkpoint["callbacks"]["Recorder"]
    return {
        "weights": dict(run.model.state_dict()),
        "recorder": recorder,
        "metrics": run.metrics(),
        **parts,
    }
