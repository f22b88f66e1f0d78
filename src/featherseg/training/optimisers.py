"""Optimisers and the learning-rate schedule, from the [train] table of a recipe."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from featherseg.core.errors import ConfigError, unknown
from featherseg.layers.model import SegmentationModel
from featherseg.recipe.tables import TrainTable
from featherseg.training.muon import Muon

Ids = set[int]
"""`id` of parameters."""

Groups = list[dict[str, Any]]
"""Groups of parameters, as torch's optimisers take them."""


def build_optimizer(model: SegmentationModel, loss: nn.Module, settings: TrainTable) -> Optimizer:
    """Return the recipe's optimiser over `parameter_groups`, which says what it raises."""
    groups = parameter_groups(model, loss, settings)
    return optimiser_of(settings).build(groups, settings, model)


def parameter_groups(model: SegmentationModel, loss: nn.Module, settings: TrainTable) -> Groups:
    """Return the groups of parameters: with the backbone's rate or `lr`, with weight decay or not.

    With `train.layer_decay` each stage of the backbone has two groups of its own. Parameters of the
    loss (the embedding head of the pixel contrast) belong to the groups with rate `lr`. Raises
    ConfigError if `train.groups` or `train.layer_decay` does not fit the model.
    """
    everything = [*model.parameters(), *loss.parameters()]
    at_backbone_rate, undecayed = sort_parameters(model, everything, settings)
    factors = _stage_factors(model, settings.layer_decay) if settings.layer_decay < 1 else {}
    groups: Groups = []
    for in_backbone in (True, False):
        lr = rate_factor(settings) * ((in_backbone and settings.backbone_lr) or settings.lr)
        part = [p for p in everything if (id(p) in at_backbone_rate) == in_backbone]
        for factor in sorted({factors.get(id(p), 1.0) for p in part if factors} or {1.0}):
            level = [p for p in part if factors.get(id(p), 1.0) == factor]
            decayed, kept = (
                [p for p in level if (id(p) in undecayed) == undecays] for undecays in (False, True)
            )
            groups.append(
                {"params": decayed, "lr": factor * lr, "weight_decay": settings.weight_decay}
            )
            groups.append({"params": kept, "lr": factor * lr, "weight_decay": 0.0})
    return groups


def _sgd(groups: Groups, settings: TrainTable, model: SegmentationModel) -> Optimizer:
    return SGD(groups, lr=settings.lr, momentum=settings.momentum)


def _adamw(groups: Groups, settings: TrainTable, model: SegmentationModel) -> Optimizer:
    # fused is one pass over the weights instead of ten, but Lightning cannot clip its gradients
    return AdamW(groups, lr=settings.lr, fused=not settings.clip_norm)


def _muon(groups: Groups, settings: TrainTable, model: SegmentationModel) -> Optimizer:
    everything = [p for group in groups for p in group["params"]]
    undecayed = sort_parameters(model, everything, settings)[1]
    # the first and the last layer are recognised by their channels; a hidden layer with as many
    # learns by AdamW too
    hidden = [
        p
        for p in everything
        if p.ndim > 1 and len(p) != model.classes and p.shape[1] != len(model.mean)
    ]
    matrices = {id(p) for p in hidden if p.shape[1] > 1} - undecayed  # those with 1 mix no channels
    groups = [
        {
            **group,
            "matrices": is_matrix,
            "params": [p for p in group["params"] if (id(p) in matrices) == is_matrix],
        }
        for group in groups
        for is_matrix in (True, False)
    ]
    return Muon(groups, lr=settings.lr, half=settings.precision != "fp32")


@dataclass(frozen=True)
class Optimiser:
    """One optimiser: how it is built, and the number of values that it keeps for each weight."""

    build: Callable[[Groups, TrainTable, SegmentationModel], Optimizer]
    moments: Callable[[TrainTable], int]


OPTIMISERS = {
    "adamw": Optimiser(_adamw, lambda _: 2),
    "muon": Optimiser(_muon, lambda _: 2),
    "sgd": Optimiser(_sgd, lambda settings: int(settings.momentum > 0)),
}
"""`train.optimizer` -> optimiser; "auto" becomes muon or adamw when a training starts."""


def optimiser_of(settings: TrainTable) -> Optimiser:
    """Return the optimiser of a recipe. Raises UnknownName."""
    name = "adamw" if settings.optimizer == "auto" else settings.optimizer
    if name not in OPTIMISERS:
        raise unknown("optimiser", name, ["auto", *OPTIMISERS])
    return OPTIMISERS[name]


def rate_factor(settings: TrainTable) -> float:
    """Return the factor of lr and backbone_lr: root of (images of a step / `lr_batch_size`), or 1.

    Malladi et al., "On the SDEs and scaling rules for adaptive gradient algorithms", NeurIPS 2022.
    """
    if settings.lr_batch_size is None or settings.batch_size == "auto":  # not resolved yet
        return 1.0
    return math.sqrt(settings.batch_size * settings.accumulate / settings.lr_batch_size)


def _stage_factors(model: SegmentationModel, decay: float) -> dict[int, float]:
    """Return the factor of the rate by `id` of each backbone parameter.

    It is 1 in the last stage, `decay` in the stage before, and so on; the stem comes before the
    first stage. Raises ConfigError if the backbone is no row of stages.
    """
    # The backbone of a model given as an object is wrapped
    backbone = getattr(model.backbone, "module", None) or model.backbone
    parts = {name: part for name, part in backbone.named_children() if list(part.parameters())}
    row = parts.pop("stages", None) or parts.pop("groups", None)
    if not isinstance(row, nn.ModuleList | nn.Sequential) or parts.keys() - {"stem"}:
        raise ConfigError(
            f"train.layer_decay: {type(backbone).__name__} is no row of stages. Leave it out."
        )
    levels = [*parts.values(), *row]
    return {
        id(p): decay**above
        for above, level in enumerate(reversed(levels))
        for p in level.parameters()
    }


def sort_parameters(
    model: SegmentationModel, everything: Sequence[nn.Parameter], settings: TrainTable
) -> tuple[Ids, Ids]:
    """Return (ids of the parameters with the backbone's rate, ids of those without weight decay).

    `train.groups`: "structure" spares norms, biases, layer scales and layers marked `no_decay` from
    decay; "uniform" decays all, as torch's optimisers do; "mmseg" follows mmsegmentation. Raises
    ConfigError if the backbone has no such groups.
    """
    backbone = {id(p) for p in model.backbone.parameters()}
    if settings.groups == "uniform":
        return backbone, set()
    if settings.groups == "mmseg":
        at_head_rate, undecayed = model.backbone.mmseg_groups()
        return backbone - {id(p) for p in at_head_rate}, {id(p) for p in undecayed}
    marked = [module for module in model.modules() if getattr(module, "no_decay", False)]
    tables = {id(p) for module in marked for p in module.parameters()}
    vectors = {id(p) for p in everything if p.ndim <= 1}  # norms, biases, layer scales
    return backbone, vectors | tables


def build_schedule(optimizer: Optimizer, settings: TrainTable, steps: int) -> LambdaLR:
    """Return the schedule from lr to floor * lr after a linear warm-up, a closed form of the step.

    poly: lr * (floor + (1 - floor) (1 - step / steps) ** power).
    cosine: half a period of a cosine instead of the power (Loshchilov and Hutter, ICLR 2017, Eq. 5,
    without restarts).
    stable: lr until the last decay_steps, then 1 - sqrt of their share that is over (Haegele et
    al., "Scaling laws and compute-optimal training beyond fixed training durations", NeurIPS 2024,
    Sec. 3). The rate before them does not depend on the length.
    """

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
        left = max(0.0, 1 - step / steps)
        if settings.schedule == "stable":
            over = (
                max(0.0, 1 - (steps - step) / settings.decay_steps) if settings.decay_steps else 0.0
            )
            fall = 1 - math.sqrt(min(1.0, over))
        else:
            fall = (
                (1 - math.cos(math.pi * left)) / 2
                if settings.schedule == "cosine"
                else left**settings.power
            )
        return warmup * (settings.floor + (1 - settings.floor) * fall)

    return LambdaLR(optimizer, factor)
