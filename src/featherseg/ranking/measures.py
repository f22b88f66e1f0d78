"""What is measured of an image: how uncertain a model is of its regions, and features that place it among others."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from featherseg.auditing.regions import components
from featherseg.data.decisions import audited_places
from featherseg.inference.masks import threads_of
from featherseg.inference.runtimes import Runtime
from featherseg.inference.settings import InferenceSettings
from featherseg.inference.test_time_augmentation import passes_over, score_blocks


@dataclass(frozen=True)
class Measures:
    """Of one image, at the pixels at which it is looked at (`data.decisions.audited_places`).

    prediction (H, W) uint8 class ids; entropy (H, W) float32, 0..1; feature (F,) float32, empty where the model has
    none.
    """

    prediction: np.ndarray
    entropy: np.ndarray
    feature: np.ndarray

    @property
    def uncertainty(self) -> float:
        """The mean over the predicted regions of the mean entropy in each, 0..1: a small region counts as a large one.

        A region is connected pixels of one class (`auditing.regions.components`). Without any, the mean of all pixels.
        """
        numbers, classes = components(self.prediction)
        if not len(classes):
            return float(self.entropy.mean())
        areas = np.bincount(numbers.ravel())[1:]
        return float((np.bincount(numbers.ravel(), weights=self.entropy.ravel())[1:] / areas).mean())


def backbone_of(runtime: Runtime) -> nn.Module | None:
    """The module whose last map gives the features; None of exported files and of models that name no backbone."""
    model = getattr(runtime, "model", None)
    return dict(model.named_children()).get("backbone") if isinstance(model, nn.Module) else None


@torch.inference_mode()
def measure(runtime: Runtime, image: np.ndarray, settings: InferenceSettings) -> Measures:
    """Run the model on an image (H, W, C) uint8 or uint16; scores at full resolution exist a block of rows at a time.

    The feature is the mean over the positions of the backbone's last map, of several windows the mean of theirs.
    """
    rows, columns = audited_places((image.shape[0], image.shape[1]))
    most = np.log(max(2, len(runtime.classes)))  # nats, all classes alike
    predictions, entropies = [], []
    with threads_of(runtime):
        with _pooled_maps(runtime) as pooled:
            passes = passes_over(runtime, image[None], settings)
        for start, scores in score_blocks(passes, image.shape[:2], settings):
            wanted = rows[(rows >= start) & (rows < start + scores.shape[2])] - start
            block = scores[0][:, torch.from_numpy(wanted)][:, :, torch.from_numpy(columns)]  # (K, rows, columns)
            chances = (block.softmax(dim=0) if len(passes) == 1 else block).float()
            predictions.append(chances.argmax(dim=0).to(torch.uint8).cpu())
            entropies.append((torch.special.entr(chances).sum(dim=0) / most).cpu())
    feature = torch.stack(pooled).mean(dim=0).cpu().numpy() if pooled else np.zeros(0, np.float32)
    return Measures(torch.cat(predictions).numpy(), torch.cat(entropies).numpy(), feature)


@contextmanager
def _pooled_maps(runtime: Runtime) -> Iterator[list[Tensor]]:
    """What the block runs leaves the mean (F,) of the backbone's last map in the list, one a run of the model."""
    pooled: list[Tensor] = []
    backbone = backbone_of(runtime)
    if backbone is None:
        yield pooled
        return

    def keep(module: nn.Module, inputs: object, maps: list[Tensor]) -> None:
        pooled.append(maps[-1][0].float().mean(dim=(1, 2)))  # (C, h, w) -> (C,)

    handle = backbone.register_forward_hook(keep)
    try:
        yield pooled
    finally:
        handle.remove()
