"""The loss of a training, from the [loss] table of a recipe."""

from collections.abc import Sequence

import torch
from torch import nn

from featherseg.core.errors import ConfigError, unknown
from featherseg.layers.model import SegmentationModel
from featherseg.losses import (
    LOSSES,
    AuxiliaryLoss,
    CrossEntropy,
    Distillation,
    Hybrid,
    OverlapLoss,
    PanopticLoss,
    PixelContrast,
)
from featherseg.losses.cross_entropy import Mean
from featherseg.recipe.tables import OF_ANY_LOSS, LossTable, Recipe
from featherseg.training.objects import LossOfLogits, OwnLoss


def build_loss(
    class_weights: Sequence[float] | None,
    recipe: Recipe,
    model: SegmentationModel,
    own: OwnLoss | None = None,
) -> nn.Module:
    """The loss of the recipe, or one's own; the embedding head of the contrast starts the same for the same seed.

    Raises UnknownName for a loss that no installed package has, ConfigError for options that it does not take.
    """
    settings = recipe.loss
    if own is not None:
        return LossOfLogits(own)
    if settings.name:
        if settings.name not in LOSSES:
            raise unknown("loss", settings.name, LOSSES)
        for key, value in LossTable():
            if key not in OF_ANY_LOSS and getattr(settings, key) != value:
                raise ConfigError(
                    f"loss.{key} is not part of the loss {settings.name!r}: leave it out."
                )
        try:
            return LOSSES[settings.name](model, class_weights, **settings.options)
        except TypeError as error:
            raise ConfigError(
                f"loss.options do not fit the loss {settings.name!r}: {error}."
            ) from error
    if model.panoptic:
        return PanopticLoss(settings.hardest, class_weights, settings.center_sigma)
    cross_entropy = CrossEntropy(
        class_weights,
        label_smoothing=settings.label_smoothing,
        ohem_threshold=settings.ohem_threshold,
        ohem_min_kept=settings.ohem_min_kept,
        mean=settings.mean,
        focal=settings.focal,
        boundary_weight=settings.boundary_weight,
    )
    contrast = _contrast(settings, model, recipe.train.seed) if settings.contrast else None
    auxiliary = None
    if settings.auxiliary or settings.boundary:
        # PIDNet's code averages L_0 over all pixels, whatever L_2 and L_3 are divided by
        plain_mean: Mean = "all" if settings.boundary else settings.mean
        auxiliary = AuxiliaryLoss(
            CrossEntropy(class_weights, mean=plain_mean),
            cross_entropy,
            heads=settings.auxiliary,
            boundaries=settings.boundary,
            boundary_head=model.boundary_head,
        )
    overlap = None
    if settings.dice or settings.lovasz:
        overlap = OverlapLoss(dice=settings.dice, lovasz=settings.lovasz)
    distillation = None
    if recipe.teacher.runs:
        distillation = Distillation(**recipe.teacher.model_dump(exclude={"runs", "unlabelled"}))
    return Hybrid(cross_entropy, contrast, settings.contrast, auxiliary, overlap, distillation)


def _contrast(settings: LossTable, model: SegmentationModel, seed: int) -> PixelContrast:
    assert model.feature_channels is not None  # refused before training starts
    torch.manual_seed(seed)
    return PixelContrast(
        model.feature_channels,
        model.classes,
        dim=settings.contrast_dim,
        temperature=settings.contrast_temperature,
        max_samples=settings.contrast_samples,
        max_views=settings.contrast_views,
        groups_of=settings.contrast_group,
    )


def keep_supervised_heads(model: SegmentationModel, recipe: Recipe) -> None:
    """Let only those auxiliary heads learn that have a loss. Raises ConfigError for a weight without a head."""
    weights = {"loss.auxiliary": recipe.loss.auxiliary, "loss.boundary": recipe.loss.boundary}
    keys = {
        name: "loss.boundary" if name == model.boundary_head else "loss.auxiliary"
        for name in model.aux_heads
    }
    for key, weight in weights.items():
        if weight and key not in keys.values():
            raise ConfigError(
                f"{key} = {weight}: {recipe.model.name} has no head for it. Set {key}=0."
            )
    for name, head in model.aux_heads.items():
        head.requires_grad_(weights[keys[name]] > 0)
