"""Class weights of the loss, and how much of them the kept weights undo.

Where the pixels of class k weigh w_k, the loss is least with logits log(w_k p_k): the model then marks rare classes
also where they probably are not (Elkan, "The foundations of cost-sensitive learning", IJCAI 2001). Most pixels are
right by p_k alone; mIoU is highest in between, and where depends on how well each class is told, as a pixel adds to the
IoU of class k where p_k is above IoU_k / (1 + IoU_k). So s log w_k is taken from the logits of what was trained
("post-hoc logit adjustment", Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, Eq. 9, there by the
priors), which the bias of the last layer does at no cost. The share s is the best of SHARES on the validation images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from featherseg.core.errors import ConfigError
from featherseg.core.types import Progress, SegmentationData
from featherseg.data.statistics import class_statistics, median_frequency
from featherseg.evaluation.iou import Confusion
from featherseg.evaluation.scoring import check_classes, count_image
from featherseg.inference.runtimes import Runtime
from featherseg.inference.settings import own_settings
from featherseg.inference.test_time_augmentation import masks_of, passes_over
from featherseg.layers.model import SegmentationModel
from featherseg.recipe import Recipe

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)

NEAR = 0.001
"""Of mIoU (0..1): of shares that are so near to the best one the smallest is taken, as few images tell little."""


def resolve_class_weights(
    recipe: Recipe, train: SegmentationData, net: SegmentationModel, say: Callable[[str], None]
) -> list[float] | None:
    """The weights of the loss, one a class. Raises ConfigError where their number is wrong or nothing can be undone."""
    weights, undo = recipe.loss.class_weights, recipe.loss.undo_class_weights
    if weights == "none":
        if undo not in ("auto", 0):
            raise ConfigError(f"loss.undo_class_weights = {undo}: there are none, as loss.class_weights is 'none'.")
        return None
    if undo and (net.class_bias is None or net.class_bias not in net.state_dict()):
        found = f"loss.undo_class_weights = {undo!r}: {recipe.model.name} names no bias of its classes (class_bias)"
        if undo != "auto":
            raise ConfigError(f"{found}. Leave it out.")
        say(f"{found}, so that its kept weights undo nothing")
    if weights == "auto":
        say(f"counting the classes in {len(train)} masks")
        return [w**recipe.loss.class_weight_power if w else 0.0 for w in median_frequency(class_statistics(train))]
    if len(weights) != len(train.classes):
        raise ConfigError(
            f"loss.class_weights holds {len(weights)} numbers, but {train.name} has {len(train.classes)} classes: "
            f"{', '.join(c.name for c in train.classes)}."
        )
    return weights


def undo_class_weights(
    state: Mapping[str, Tensor], class_bias: str, class_weights: Sequence[float], share: float
) -> dict[str, Tensor]:
    """The weights of a model whose logits are lower by share x log(weight) of each class."""
    bias = state[class_bias]
    return {**state, class_bias: bias - share * _logs(class_weights).to(bias)}


def score_shares(
    runtime: Runtime,
    data: SegmentationData,
    class_weights: Sequence[float],
    undone: float,
    progress: Progress | None = None,
) -> dict[float, Confusion]:
    """Score a model that has undone a share of the weights, as `evaluate` does, and as if it had undone each of SHARES.

    The model runs once an image. Raises ConfigError where the classes or channels of model and data differ, DataError
    naming the image whose label is none.
    """
    check_classes(runtime, data)
    found = {share: Confusion(len(data.classes)) for share in (undone, *SHARES)}
    inference, logs = own_settings(runtime), _logs(class_weights).to(runtime.device).view(-1, 1, 1)
    for index in range(len(data)):
        sample = data[index]
        (only,) = passes_over(runtime, sample.image[None], inference)
        for share, confusion in found.items():
            logits = only.out.logits if share == undone else only.out.logits + (undone - share) * logs  # (1, K, h, w)
            one = replace(only, out=only.out._replace(logits=logits))
            mask = masks_of([one], sample.label.shape, inference)[0]
            confusion.add(count_image(data, sample.key, sample.label, mask))
        if progress:
            progress("scoring", index + 1, len(data))
    return found


def best_share(scores: Mapping[float, Confusion]) -> float:
    """The smallest share whose mIoU is near that of the best; 0 where no image has a label."""
    miou = {share: confusion.miou() for share, confusion in scores.items()}
    return min((share for share in miou if miou[share] >= max(miou.values()) - NEAR), default=0.0)


def _logs(class_weights: Sequence[float]) -> Tensor:
    """log of each weight (K,); 0 where it is 0, of a class that is not in the training masks."""
    weights = torch.tensor(class_weights, dtype=torch.float32)
    return torch.where(weights > 0, weights.clamp(min=torch.finfo(torch.float32).tiny).log(), 0.0)
