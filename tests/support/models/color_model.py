"""A model whose output can be checked by eye: red pixels are "wall", green "grass", blue "ball"."""

import threading
import time
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from featherseg.core.types import ClassInfo, SegOutput
from featherseg.inference.predictor import Predictor
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.layers.model import SegmentationModel
from featherseg.serving.models import Served

CLASSES = (
    ClassInfo("wall", (200, 0, 0)),
    ClassInfo("grass", (0, 200, 0)),
    ClassInfo("ball", (0, 0, 200), thing=True),
)
POISON = (7, 77, 7)
"""The colour at whose sight the model fails."""


class ColorModel(SegmentationModel):
    """Logits are the image's channels; if panoptic, full blue is a centre and offsets are 0."""

    classes = len(CLASSES)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, panoptic: bool = False) -> None:
        super().__init__()
        self.is_panoptic = panoptic
        self.scale = torch.nn.Parameter(torch.ones(1))

    @property
    def panoptic(self) -> bool:
        return self.is_panoptic

    def forward(self, images):
        poison = torch.tensor(POISON, device=images.device)[:, None, None]
        if not images.is_meta and (images == poison).all(dim=1).any():
            raise RuntimeError("a secret of the server")
        size = tuple(images.shape[2:])
        out = SegOutput(images * self.scale, size, size, self.align_corners)
        if not self.is_panoptic:
            return out
        blue = images[:, 2:]
        return out._replace(centers=(blue == 255).float(), offsets=torch.zeros_like(images[:, :2]))


def color_predictor(panoptic: bool = False, batch: int = 4, name: str = "color") -> Predictor:
    runtime = TorchRuntime(
        ColorModel(panoptic).eval(), CLASSES, name=name, licence="CC0-1.0", device="cpu"
    )
    return Predictor(runtime, batch=batch)


def served(name: str = "color", panoptic: bool = False, batch: int = 4) -> Served:
    return Served(name, color_predictor(panoptic, batch, name))


def image(seed: int = 0, size: tuple[int, int] = (24, 40)) -> np.ndarray:
    """(H, W, 3) uint8: noise below 250, so that no pixel is a centre."""
    return np.random.default_rng(seed).integers(0, 250, (*size, 3), dtype=np.uint8)


def poisoned(size: tuple[int, int] = (24, 40)) -> np.ndarray:
    pixels = image(9, size)
    pixels[3, 5] = POISON
    return pixels


def answer_of(pixels: np.ndarray) -> np.ndarray:
    """The mask (H, W) that is right."""
    return pixels.argmax(axis=2).astype(np.uint8)


def encoded(pixels: np.ndarray, form: str = "PNG", **options) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def mask_in(png: bytes) -> np.ndarray:
    """(H, W) class ids of an index PNG."""
    with Image.open(BytesIO(png)) as mask:
        assert mask.mode == "P"
        return np.array(mask)


class Gated(Predictor):
    """A predictor that waits until `gate` is open; `seen` are the sizes of its batches."""

    def __init__(self, batch: int = 4) -> None:
        super().__init__(color_predictor(batch=batch).runtime, batch=batch)
        self.gate, self.seen = threading.Event(), []

    def __call__(self, x):
        self.seen.append(len(x))
        assert self.gate.wait(60)
        return super().__call__(x)


def until(condition) -> None:
    """Wait for something that happens in another thread."""
    end = time.monotonic() + 20  # less than the 60 s after which a service gives up by itself
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


class Slow:
    """A runtime that waits for `gate` before it returns for more than 500,000 pixels.

    It adds 0 meanwhile; `running` counts such runs. `seen` are the sizes (H, W) of all runs.
    """

    def __init__(self) -> None:
        self._runtime = color_predictor().runtime
        self.gate, self.running, self.seen = threading.Event(), 0, []

    def __getattr__(self, name):
        return getattr(self._runtime, name)

    def __call__(self, images):
        size = tuple(images.shape[2:])
        self.seen.append(size)
        self.running += 1
        try:
            while size[0] * size[1] > 500_000 and not self.gate.wait(0.001):
                images = images + 0
            return self._runtime(images)
        finally:
            self.running -= 1


def large_image(
    size: tuple[int, int] = (1000, 1010), color: tuple[int, int, int] = (0, 90, 10)
) -> np.ndarray:
    """(H, W, 3) uint8 of one colour: too many pixels for a small image, and few bytes as PNG."""
    return np.broadcast_to(np.array(color, dtype=np.uint8), (*size, 3))
