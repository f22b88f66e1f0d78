"""The loss of a training, from the [loss] table of a recipe."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from featherseg.core.errors import ConfigError, unknown
from featherseg.data.pipeline.loader import Batch
from featherseg.layers.model import SegmentationModel
from featherseg.layers.normalise import normalise
from featherseg.losses import LOSSES, Hybrid, PanopticLosses
from featherseg.losses.terms import LossFacts, build_terms, unused_keys
from featherseg.recipe.tables import Recipe
from featherseg.training.objects import LossOfLogits, OwnLoss


def build_loss(
    class_weights: Sequence[float] | None,
    recipe: Recipe,
    model: SegmentationModel,
    own: OwnLoss | None = None,
) -> nn.Module:
    """Return the recipe's loss, or `own` if it is given.

    Raises:
        UnknownName: no installed package has the loss `loss.name`.
        ConfigError: `loss.options` do not fit the loss.
    """
    settings = recipe.loss
    if own is not None:
        return LossOfLogits(own)
    if settings.name:
        check_loss_name(settings.name)
        try:
            return LOSSES[settings.name](model, class_weights, **settings.options)
        except TypeError as error:
            raise ConfigError(
                f"loss.options do not fit the loss {settings.name!r}: {error}."
            ) from error
    terms = build_terms(settings, LossFacts(model, class_weights, recipe.train.seed))
    return terms["panoptic"] if model.panoptic else Hybrid(terms)


def check_loss_name(name: str) -> None:
    """Raise UnknownName if no installed package has this loss."""
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)


def refuse_unused_keys(recipe: Recipe, *, panoptic: bool) -> None:
    """Raise ConfigError if a key of [loss] is set that has no effect on such a model."""
    settings, model = recipe.loss, recipe.model.name
    if settings.name and not panoptic:
        check_loss_name(settings.name)
    for key in unused_keys(settings, panoptic=panoptic):
        if panoptic:
            reason = f"does not apply to panoptic models ({model})"
        elif settings.name:
            reason = f"is not part of the loss {settings.name!r}"
        else:
            reason = f"is for panoptic models; {model} is none"
        raise ConfigError(f"loss.{key} {reason}: leave it out.")


def keep_supervised_heads(model: SegmentationModel, recipe: Recipe) -> None:
    """Freeze auxiliary heads without a loss. Raises ConfigError for a loss without a head."""
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


def compute_loss(
    model: Any, loss: nn.Module, batch: Batch, step: float = math.inf
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (the loss of a batch, scalar; its parts by name, empty if it has none).

    step: optimiser steps taken so far; by default those after every warm-up of a term.
    """
    images, labels, *targets = batch
    inputs = normalise(images, model.mean, model.std, model.image_range).contiguous(
        memory_format=torch.channels_last
    )
    if isinstance(loss, Hybrid):
        out = model(inputs, aux=loss.needs_heads)
        output = loss(out, labels.long(), step=step)
    else:
        output = loss(model(inputs, aux=False), labels.long(), *targets)
    if isinstance(output, PanopticLosses):
        return output.total, output._asdict()
    return output, {}
