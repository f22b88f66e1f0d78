"""Optimisers and the learning-rate schedule, from the [train] table of a recipe."""

from collections.abc import Sequence

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from featherseg.backbones.efficientformer_v2 import Attention, ConvNorm, EfficientFormerV2, FeedForward
from featherseg.core.errors import ConfigError
from featherseg.layers.model import SegmentationModel
from featherseg.layers.position_bias import PositionBias
from featherseg.models.seaformer import AxisPosition
from featherseg.recipe import TrainTable

Ids = set[int]
"""`id` of parameters."""


def build_optimizer(model: SegmentationModel, loss: nn.Module, settings: TrainTable) -> Optimizer:
    """AdamW or SGD over four groups: at the backbone's rate or at `lr`, decayed or not, as `train.groups` sorts them.

    A loss may have parameters too (the embedding head of the pixel contrast): they learn as the rest of the model.
    Raises ConfigError where the model cannot be sorted so.
    """
    everything = [*model.parameters(), *loss.parameters()]
    at_backbone_rate, undecayed = sort_parameters(model, everything, settings)
    groups = []
    for in_backbone in (True, False):
        lr = settings.backbone_lr if in_backbone and settings.backbone_lr else settings.lr
        own = [p for p in everything if (id(p) in at_backbone_rate) == in_backbone]
        decayed, kept = ([p for p in own if (id(p) in undecayed) == undecays] for undecays in (False, True))
        groups.append({"params": decayed, "lr": lr, "weight_decay": settings.weight_decay})
        groups.append({"params": kept, "lr": lr, "weight_decay": 0.0})
    if settings.optimizer == "sgd":
        return SGD(groups, lr=settings.lr, momentum=settings.momentum)
    return AdamW(groups, lr=settings.lr)


def sort_parameters(
    model: SegmentationModel, everything: Sequence[nn.Parameter], settings: TrainTable
) -> tuple[Ids, Ids]:
    """-> (those of the model's parameters with the backbone's rate, those of `everything` without weight decay).

    By structure, norms, biases, layer scales and position tables do not decay. Raises ConfigError where the model
    cannot be sorted as `train.groups` says.
    """
    if settings.groups == "mmseg":
        return _as_mmseg(model)
    backbone = {id(p) for p in model.backbone.parameters()}
    tables = {id(p) for m in model.modules() if isinstance(m, PositionBias | AxisPosition) for p in m.parameters()}
    vectors = {id(p) for p in everything if p.ndim <= 1}  # norms, biases, layer scales
    return backbone, vectors | tables


def _as_mmseg(model: SegmentationModel) -> tuple[Ids, Ids]:
    """As the custom_keys of CGRSeg's published configs sort EfficientFormerV2's parameters, by parts of their names.

    'head' (10 times the rate) is in decode_head, but in talking_head1 and 2 of the backbone too. 'norm' (no decay) is
    in the names of the feed-forward models' norms and of the first two downsamplings'; those of the attentions and
    the stem are called otherwise, and 'head' comes before 'norm' in the head: all these decay, as biases, layer scales
    and position tables do. Raises ConfigError for another backbone.
    """
    backbone = model.backbone
    if not isinstance(backbone, EfficientFormerV2):
        raise ConfigError(
            f"train.groups = 'mmseg' repeats how CGRSeg's authors sorted the parameters of EfficientFormerV2, but the "
            f"backbone is {type(backbone).__name__}. Use train.groups = 'structure'."
        )
    attentions = [module for module in backbone.modules() if isinstance(module, Attention)]
    talking = {id(p) for a in attentions for head in (a.talking_before, a.talking_after) for p in head.parameters()}
    downsamplings = [module for stage in backbone.stages for module in stage.children() if isinstance(module, ConvNorm)]
    feed_forwards = [module for module in backbone.modules() if isinstance(module, FeedForward)]
    norms = [m for part in (*downsamplings, *feed_forwards) for m in part.modules() if isinstance(m, nn.BatchNorm2d)]
    return {id(p) for p in backbone.parameters()} - talking, {id(p) for norm in norms for p in norm.parameters()}


def poly_schedule(optimizer: Optimizer, settings: TrainTable, steps: int) -> LambdaLR:
    """lr * (1 - step / steps) ** power, after a linear warm-up; a closed form of the step, which can be resumed."""

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
        return warmup * max(0.0, 1 - step / steps) ** settings.power

    return LambdaLR(optimizer, factor)
