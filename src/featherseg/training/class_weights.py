"""Class weights of the loss, and how much of them the kept weights undo.

If the pixels of class k weigh w_k, the loss is minimal at logits log(w_k p_k): the model then marks
rare classes also where they are improbable (Elkan, "The foundations of cost-sensitive learning",
IJCAI 2001). The most pixels are right by p_k alone. mIoU is highest in between: a pixel adds to the
IoU of class k if p_k exceeds IoU_k / (1 + IoU_k), so it depends on how well k is recognised.

So s log w_k is subtracted from the trained logits ("post-hoc logit adjustment", Menon et al.,
"Long-tail learning via logit adjustment", ICLR 2021, Eq. 9, there by the priors). The bias of the
last layer does that at no cost. The share s is the best of SHARES on the validation images, among
those whose gain over s = 0 has a confidence interval above 0. Frames next to training frames do not
tell: CamVid's seemed to want 50 to 75 %, later frames of the drives want 0 (docs/log.md).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from featherseg.core.errors import ConfigError
from featherseg.core.types import OnMessage, Progress, SegmentationData
from featherseg.core.wording import WarningText, counted
from featherseg.data.checks.notes import SHOWN_CLASSES
from featherseg.data.datasets.statistics import class_statistics, median_frequency
from featherseg.evaluation.bootstrap import compare_files, image_counts
from featherseg.evaluation.clusters import Sequences
from featherseg.evaluation.iou import Confusion
from featherseg.evaluation.scoring import check_classes, count_image
from featherseg.inference.runtimes import Runtime
from featherseg.inference.settings import own_settings
from featherseg.inference.test_time_augmentation import masks_of, passes_over
from featherseg.layers.model import SegmentationModel
from featherseg.recipe.tables import Recipe

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the class weights that validation tries to undo."""

MESSAGE_SECONDS = 20.0
"""Seconds between two messages while all masks are counted."""

NEAR = 0.001
"""mIoU (0..1): the smallest share is chosen among those this near to the best one."""


def resolve_class_weights(
    recipe: Recipe, train: SegmentationData, model: SegmentationModel, on_message: OnMessage
) -> list[float] | None:
    """Return the weights of the loss, one per class; None for `loss.class_weights = "none"`.

    Raises ConfigError if their number is wrong, or if nothing can be undone.
    """
    weights, undo = recipe.loss.class_weights, recipe.loss.undo_class_weights
    if weights == "none":
        if undo not in ("auto", 0):
            raise ConfigError(
                f"loss.undo_class_weights = {undo}: loss.class_weights is 'none', so there is "
                "nothing to undo. Leave it out."
            )
        return None
    if undo and (model.class_bias is None or model.class_bias not in model.state_dict()):
        problem = (
            f"loss.undo_class_weights = {undo!r}: {recipe.model.name} names no bias of its classes "
            "(class_bias)"
        )
        if undo != "auto":
            raise ConfigError(f"{problem}. Leave it out.")
        on_message(f"{problem}, so its kept weights undo nothing")
    if weights == "auto":
        on_message(f"counting the classes in {counted(len(train), 'mask')}")
        last_message = time.monotonic()

        def progress(doing: str, done: int, total: int | None) -> None:
            nonlocal last_message
            if time.monotonic() - last_message >= MESSAGE_SECONDS:
                last_message = time.monotonic()
                on_message(f"{doing}: {done} of {total} masks")

        frequency_weights = median_frequency(class_statistics(train, progress))
        balanced = [w**recipe.loss.class_weight_power if w else 0.0 for w in frequency_weights]
        if absent := [
            info.name for info, weight in zip(train.classes, balanced, strict=True) if not weight
        ]:
            more = f" and {len(absent) - SHOWN_CLASSES} more" if len(absent) > SHOWN_CLASSES else ""
            names = ", ".join(absent[:SHOWN_CLASSES]) + more
            on_message(
                WarningText(
                    f"{recipe.data.train_split}: no pixel of {names}, so it cannot be learned"
                )
            )
        return balanced
    if len(weights) != len(train.classes):
        raise ConfigError(
            f"loss.class_weights has {len(weights)} numbers, but {train.name} has "
            f"{len(train.classes)} classes: {', '.join(c.name for c in train.classes)}."
        )
    return weights


def undo_class_weights(
    state: Mapping[str, Tensor], class_bias: str, class_weights: Sequence[float], share: float
) -> dict[str, Tensor]:
    """Return the state of a model whose logits are lower by share * log(weight) of each class."""
    bias = state[class_bias]
    logs = _logs(class_weights).to(bias)
    values_of_a_class = len(bias) // len(logs)  # more than 1 if they are shuffled to pixels
    return {**state, class_bias: bias - share * logs.repeat_interleave(values_of_a_class)}


def score_shares(
    runtime: Runtime,
    data: SegmentationData,
    class_weights: Sequence[float],
    undone: float,
    progress: Progress | None = None,
) -> tuple[Confusion, dict[float, np.ndarray]]:
    """Score a model that has undone the share `undone`, and as if it had undone each of SHARES.

    The model runs once per image.

    Returns:
        The confusion matrix of the model as it is, and `image_counts` (N, 3, K) by share.

    Raises:
        ConfigError: classes or channels of model and data differ.
        DataError: a label cannot be read; names the image.
    """
    check_classes(runtime, data)
    total = Confusion(len(data.classes))
    counts: dict[float, list[np.ndarray]] = {share: [] for share in (undone, *SHARES)}
    inference, logs = own_settings(runtime), _logs(class_weights).to(runtime.device).view(-1, 1, 1)
    for index in range(len(data)):
        sample = data[index]
        (only,) = passes_over(runtime, sample.image[None], inference)
        for share, of_images in counts.items():
            logits = (
                only.out.logits if share == undone else only.out.logits + (undone - share) * logs
            )  # (1, K, h, w)
            mask = masks_of(
                [replace(only, out=only.out._replace(logits=logits))], sample.label.shape, inference
            )[0]
            one = count_image(data, sample.key, sample.label, mask)
            of_images.append(image_counts(one.matrix, one.void))
            if share == undone:
                total.add(one)
        if progress:
            progress("scoring", index + 1, len(data))
    return total, {share: np.stack(of_images) for share, of_images in counts.items()}


def best_share(counts: Mapping[float, np.ndarray], clusters: Sequences) -> float:
    """Return the share of the highest mIoU, by `image_counts` (N, 3, K); 0 if none gains over 0.

    A gain has a 95 % interval over the images above 0 (`compare_files`). Among shares NEAR the best
    the smallest is chosen.
    """
    gains = {
        share: compare_files([counts[share], counts[0.0]], clusters)[0].miou
        for share in counts
        if share
    }
    proven = {share: gain.value for share, gain in gains.items() if gain.sign > 0}
    return min(
        (share for share in proven if proven[share] >= max(proven.values()) - NEAR), default=0.0
    )


def _logs(class_weights: Sequence[float]) -> Tensor:
    """Return the log of each weight (K,); 0 for weight 0, of a class without training pixels."""
    weights = torch.tensor(class_weights, dtype=torch.float32)
    return torch.where(weights > 0, weights.clamp(min=torch.finfo(torch.float32).tiny).log(), 0.0)
