"""Train with the PyTorch loop a competent user writes in an hour: the opponent in against_plain.py.

    python benchmarks/plain_loop.py OUT --data NAME-OR-TOML [--data-root PATH] --minutes 15
                                    [--settings JSON]

U-Net decoder, cross-entropy on the upsampled logits, AdamW, flip and random scale with crop, bf16
autocast where it is faster, channels-last, decoded images kept in memory, no validation. Training
ends after the minutes, start and reading included, and keeps the last weights. The backbone is
featherseg's module with the same ImageNet weights, so it has the compiled depthwise and norm
kernels, which the usual packages lack. Images and labels come from featherseg's readers. Everything
else is torch.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.backbones import build
from featherseg.backbones.weights import load_pretrained
from featherseg.core.types import IGNORE, SegmentationData
from featherseg.data import open_dataset

BACKBONE = "efficientnet-lite0"
WIDTHS = (128, 96, 64)
"""Channels of the decoder at 1/16, 1/8 and 1/4."""
SCALES = (0.5, 2.0)
KEPT_BYTES = 2e9
"""Of decoded images and labels that are kept in memory."""
TRIAL = (False, False, False, True, True, True)
"""Whether each of the first steps is in bf16; of either kind the fastest decides for the rest."""


@dataclass(frozen=True)
class Settings:
    """Tuned settings; length: share of the minutes used; class_weights "median": by frequency."""

    lr: float = 1e-3
    area: Literal["crop", "whole"] = "crop"
    class_weights: Literal["none", "median"] = "none"
    length: float = 1.0
    schedule: Literal["cosine", "poly"] = "cosine"
    batch_size: int = 8
    weight_decay: float = 0.01


class UNet(nn.Module):
    """Images (B, C, H, W), 0..255 -> logits (B, classes, H/4, W/4), sizes rounded up."""

    def __init__(self, classes: int, channels: int = 3, pretrained: bool = True) -> None:
        super().__init__()
        self.backbone = build(BACKBONE)
        if pretrained:
            load_pretrained(self.backbone, BACKBONE)
        if channels != 3:
            self.backbone.widen(channels)
        # another number of channels has no statistics of its own
        three = channels == len(self.backbone.mean)
        mean = self.backbone.mean if three else (float(np.mean(self.backbone.mean)),) * channels
        std = self.backbone.std if three else (float(np.mean(self.backbone.std)),) * channels
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        *skips, inside = self.backbone.stage_channels
        blocks = []
        for skip, width in zip(reversed(skips), WIDTHS, strict=True):
            conv = nn.Conv2d(inside + skip, width, 3, padding=1, bias=False)
            blocks.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)))
            inside = width
        self.blocks, self.head = nn.ModuleList(blocks), nn.Conv2d(inside, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        *skips, x = self.backbone((images - self.mean) / self.std)
        for skip, block in zip(reversed(skips), self.blocks, strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skip], dim=1))
        return self.head(x)


class Crops:
    """Batches of random crops, each image once an epoch; workers would only share the core."""

    def __init__(self, data: SegmentationData, settings: Settings, seed: int) -> None:
        self.data, self.rng = data, np.random.default_rng(seed)
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.bytes, self.order = 0, list[int]()
        height, width = self.read(0)[1].shape
        side = min(512, max(32, round(min(height, width) * 2 / 3 / 32) * 32))
        self.size = (height, width) if settings.area == "whole" else (side, side)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (C, H, W) and label (H, W), decoded once as long as there is room."""
        if index in self.kept:
            return self.kept[index]
        sample = self.data[index]
        decoded = torch.from_numpy(sample.image).permute(2, 0, 1), torch.from_numpy(sample.label)
        self.bytes += sample.image.nbytes + sample.label.nbytes
        if self.bytes < KEPT_BYTES:
            self.kept[index] = decoded
        return decoded

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Images (B, C, h, w) float and labels (B, h, w) int64."""
        while len(self.order) < count:
            self.order += self.rng.permutation(len(self.data)).tolist()
        crops = [self.crop(*self.read(index)) for index in self.order[:count]]
        del self.order[:count]
        images = torch.stack([image for image, _ in crops]).contiguous(
            memory_format=torch.channels_last
        )
        return images, torch.stack([label for _, label in crops])

    def crop(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Cut the crop's window, resize and pad it, and flip it in half of the cases."""
        (height, width), scale = self.size, self.rng.uniform(*SCALES)
        rows, columns = (
            min(label.shape[0], round(height / scale)),
            min(label.shape[1], round(width / scale)),
        )
        top = int(self.rng.integers(label.shape[0] - rows + 1))
        left = int(self.rng.integers(label.shape[1] - columns + 1))
        size = min(height, round(rows * scale)), min(width, round(columns * scale))
        window = slice(top, top + rows), slice(left, left + columns)
        cut = F.interpolate(
            image[:, *window][None].float(), size=size, mode="bilinear", align_corners=False
        )[0]
        marked = F.interpolate(label[window][None, None], size=size, mode="nearest")[0, 0]
        pad = (0, width - size[1], 0, height - size[0])
        cut, marked = F.pad(cut, pad, value=127.0), F.pad(marked.long(), pad, value=IGNORE)
        return (cut.flip(-1), marked.flip(-1)) if self.rng.random() < 0.5 else (cut, marked)


def median_weights(data: SegmentationData) -> Tensor:
    """Return median frequency balancing weights (K,): median share / class share, 0 if absent."""
    counts = sum(
        np.bincount(data.label(i).ravel(), minlength=256)[: len(data.classes)]
        for i in range(len(data))
    )
    shares = np.asarray(counts, dtype=float)
    weights = np.where(shares > 0, np.median(shares[shares > 0]) / np.maximum(shares, 1), 0)
    return torch.tensor(weights, dtype=torch.float32)


DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda part: 0.5 * (1 + np.cos(np.pi * part)),
    "poly": lambda part: (1 - part) ** 0.9,
}
"""Learning rate, of its first, when this part of the time is over."""


def train(
    data: SegmentationData,
    settings: Settings,
    seconds: float,
    seed: int,
    began: float,
    pretrained: bool = True,
) -> tuple[UNet, dict[str, object]]:
    """Train until `seconds` after `began` (time.time()); return the model and facts of the run."""
    torch.manual_seed(seed)
    model = (
        UNet(len(data.classes), data.channels, pretrained)
        .to(memory_format=torch.channels_last)
        .train()
    )  # type: ignore[call-overload]
    crops = Crops(data, settings, seed)
    weights = median_weights(data) if settings.class_weights == "median" else None
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    start, limit = time.time(), began + seconds * settings.length
    took: dict[bool, list[float]] = {False: [], True: []}
    losses: list[float] = []
    half, longest = False, 0.0
    while not losses or time.time() + longest < limit:
        before = time.time()
        half = (
            TRIAL[len(losses)]
            if len(losses) < len(TRIAL)
            else min(took, key=lambda kind: min(took[kind]))
        )
        part = min(1.0, (before - start) / max(limit - start, 1e-9))
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * DECAYS[settings.schedule](part)
        images, labels = crops.batch(settings.batch_size)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            logits = model(images)
        logits = F.interpolate(
            logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False
        )
        loss = F.cross_entropy(logits, labels, weights, ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        took[half].append(time.time() - before)
        longest = max(took[half][-10:])
    return model.eval(), {
        "steps": len(losses),
        "precision": "bf16" if half else "fp32",
        "losses": losses,
    }


@torch.inference_mode()
def predict(model: UNet, image: np.ndarray) -> np.ndarray:
    """The class of every pixel of a whole image: (H, W, C) -> (H, W) uint8."""
    pixels = (
        torch.from_numpy(image)
        .permute(2, 0, 1)[None]
        .float()
        .contiguous(memory_format=torch.channels_last)
    )
    logits = F.interpolate(
        model(pixels), size=image.shape[:2], mode="bilinear", align_corners=False
    )
    return logits[0].argmax(dim=0).to(torch.uint8).numpy()


def main() -> None:
    """Train, and write weights.pt and log.json to OUT."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--settings",
        type=json.loads,
        default={},
        help="what differs from " + str(asdict(Settings())),
    )
    asked = parser.parse_args()
    data = open_dataset(asked.data, asked.split, asked.data_root)
    began = psutil.Process().create_time()
    model, log = train(data, Settings(**asked.settings), 60 * asked.minutes, asked.seed, began)
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), asked.out / "weights.pt")
    (asked.out / "log.json").write_text(json.dumps(log))


if __name__ == "__main__":
    main()
