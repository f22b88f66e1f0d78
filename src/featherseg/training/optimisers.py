"""Optimisers and the learning-rate schedule, from the [train] table of a recipe."""

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from featherseg.layers.network import SegmentationNetwork
from featherseg.recipe import TrainTable


def build_optimizer(model: SegmentationNetwork, loss: nn.Module, settings: TrainTable) -> Optimizer:
    """AdamW or SGD over four groups: backbone or not, weights (decayed) or norms and biases (not decayed).

    A loss may have parameters too (the embedding head of the pixel contrast): they learn as the rest of the network.
    """
    backbone = {id(p) for p in model.backbone.parameters()}
    everything = [*model.parameters(), *loss.parameters()]
    groups = []
    for in_backbone in (True, False):
        lr = settings.backbone_lr if in_backbone and settings.backbone_lr else settings.lr
        own = [p for p in everything if (id(p) in backbone) == in_backbone]
        groups.append({"params": [p for p in own if p.ndim > 1], "lr": lr, "weight_decay": settings.weight_decay})
        groups.append({"params": [p for p in own if p.ndim <= 1], "lr": lr, "weight_decay": 0.0})
    if settings.optimizer == "sgd":
        return SGD(groups, lr=settings.lr, momentum=settings.momentum)
    return AdamW(groups, lr=settings.lr)


def poly_schedule(optimizer: Optimizer, settings: TrainTable, steps: int) -> LambdaLR:
    """lr * (1 - step / steps) ** power, after a linear warm-up; a closed form of the step, which can be resumed."""

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
        return warmup * max(0.0, 1 - step / steps) ** settings.power

    return LambdaLR(optimizer, factor)
