"""Pixel counts of simulated models on simulated images, with differences known beforehand."""

from dataclasses import dataclass
from functools import cache

import numpy as np

CLASSES = 5


@dataclass(frozen=True)
class Scene:
    """How images are simulated.

    qualities: log-odds of a hit of each model before noise. correlation: that of neighbours. rare:
    class 0 is in 3 of 100 images and no other class is confused with it. lone: each of the first
    `lone` classes is in a single image.
    """

    qualities: tuple[float, ...] = (1.0, 1.3)
    correlation: float = 0.0
    rare: bool = False
    lone: int = 0

    def counts(self, rng: np.random.Generator, images: int) -> np.ndarray:
        """Return (S, N, 3, K) pixels: ground truth, hits, predictions by model, image and class."""
        label = np.round(
            rng.gamma(1, 1, (images, CLASSES)) * np.linspace(200, 2000, CLASSES)
        )  # (N, K)
        if self.rare:
            label[:, 0] = 0
            chosen = rng.choice(images, images * 3 // 100, replace=False)
            label[chosen, 0] = np.round(rng.gamma(4, 50, len(chosen)))
        for k in range(self.lone):
            label[:, k] = 0
            label[rng.integers(images), k] = np.round(rng.gamma(4, 50))
        difficulty = self._series(rng, images)
        models = []
        for quality in self.qualities:
            odds = quality + 0.5 * difficulty + 0.5 * self._series(rng, images)
            hits = np.round(label / (1 + np.exp(-odds)))
            wrong = (label - hits).sum(axis=1, keepdims=True)  # (N, 1)
            alone = self.lone or int(self.rare)
            share = np.array([0] * alone + [1 / (CLASSES - alone)] * (CLASSES - alone))
            models.append(np.stack([label, hits, hits + np.round(wrong * share)], axis=1))
        return np.stack(models)

    def _series(self, rng: np.random.Generator, images: int) -> np.ndarray:
        """Return (N, K) normal noise of standard deviation 1, correlated with the image before."""
        noise = rng.normal(size=(images, CLASSES))
        for i in range(1, images) if self.correlation else ():
            noise[i] = self.correlation * noise[i - 1] + (1 - self.correlation**2) ** 0.5 * noise[i]
        return noise

    @cache  # noqa: B019  few scenes, of a few bytes each
    def truth(self) -> np.ndarray:
        """First model less second over 200,000 images: mIoU, then the IoU of each class."""
        unrelated = Scene(
            self.qualities, rare=self.rare
        )  # neighbours do not change what is true in the long run
        rng = np.random.default_rng(99)
        pooled = sum(unrelated.counts(rng, 10_000).sum(axis=1) for _ in range(20))  # (S, 3, K)
        iou = pooled[:, 1] / (pooled[:, 0] + pooled[:, 2] - pooled[:, 1])
        return np.array([iou[0].mean() - iou[1].mean(), *(iou[0] - iou[1])])


def training_runs(
    rng: np.random.Generator, runs: int, images: int, spread: float, noise: float
) -> np.ndarray:
    """Return runs of one recipe, (m, N, 3, K); log-odds vary by `spread`, images by `noise`."""
    label = np.round(rng.gamma(1, 1, (images, CLASSES)) * np.linspace(200, 2000, CLASSES))
    difficulty = 1 + 0.5 * rng.normal(size=(images, CLASSES))
    odds = (
        difficulty
        + spread * rng.normal(size=(runs, 1, CLASSES))
        + noise * rng.normal(size=(runs, *label.shape))
    )
    hits = np.round(label / (1 + np.exp(-odds)))  # (m, N, K)
    predicted = hits + np.round((label - hits).sum(axis=-1, keepdims=True) / CLASSES)
    return np.stack([np.broadcast_to(label, hits.shape), hits, predicted], axis=2)
