"""What [loss] of a recipe can contain: its keys, term by term, and how each term is built.

To add a term: its keys as a `Config` here, a row in TERMS, the `Config` among the bases of
`LossTable`; its function in a file of this folder; a test. How much memory it takes is measured by
training, which tries a step before the first one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import nn

from featherseg.core.config import Config, Positive, Share
from featherseg.layers.model import SegmentationModel
from featherseg.losses.auxiliary import AuxiliaryLoss
from featherseg.losses.cross_entropy import CrossEntropy, Mean
from featherseg.losses.overlap import OverlapLoss
from featherseg.losses.panoptic import PanopticLoss
from featherseg.losses.pixel_contrast import PixelContrast

Weight = Annotated[float, Field(ge=0)]
"""Factor of a term in the sum; 0 = off."""


ClassWeights = Annotated[list[float], Field(max_length=255)]


class AnyKeys(Config):
    """Keys that every loss has."""

    class_weights: Literal["none", "auto"] | ClassWeights = "none"
    """Weight of each class in the loss; auto: by median frequency in the training masks."""
    class_weight_power: Share = 1.0
    """Exponent of automatic class weights: 0.5 = their square roots."""


class SemanticKeys(Config):
    """Keys that every loss of a semantic model has."""

    name: str | None = None
    """A loss of an installed package, instead of the terms below."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of that loss."""
    undo_class_weights: Share | Literal["auto"] = 0.0
    """Share of the class weights that the kept model undoes; auto: the one that validates best."""


class CrossEntropyKeys(Config):
    """Arguments of `CrossEntropy`."""

    label_smoothing: Share = 0.0
    """e: the target is 1 - e + e/K at the true class of K and e/K at the others."""
    mean: Mean = "labelled"
    """Divisor: the pixels' weights (`labelled`), their `number`, or the number of `all` pixels."""
    ohem_threshold: Share | None = None
    """Only pixels whose true class has a probability below this count; unset: all."""
    ohem_min_kept: Positive = 10_000
    """Fewest pixels of an image that count with `ohem_threshold`."""
    focal: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Gamma of the focal loss: a pixel counts (1 - p(true class)) ** gamma; 0 = off."""
    boundary_weight: Weight = 0.0
    """w: pixels near another class have 1 + w times their weight; 0 = off."""


class HeadKeys(Config):
    """Weights of the losses of auxiliary heads."""

    auxiliary: Weight = 0.0
    """Weight of the cross-entropy of each auxiliary head; 0 = off."""
    boundary: Weight = 0.0
    """Weight of the boundary loss of PIDNet; 0 = off."""


class OverlapKeys(Config):
    """Weights of the losses of the overlap between prediction and ground truth."""

    dice: Weight = 0.0
    """Weight of the Dice loss; 0 = off."""
    lovasz: Weight = 0.0
    """Weight of the Lovasz-softmax loss, which follows IoU; 0 = off."""


class ContrastKeys(Config):
    """The pixel contrast (FRM Eq. 4)."""

    contrast: Weight = 0.0
    """Weight of the pixel contrast (FRM, lambda of Eq. 4); 0 = off."""
    contrast_temperature: Annotated[float, Field(gt=0)] = 0.1
    """Temperature of the contrast (tau of Eq. 6)."""
    contrast_dim: Annotated[int, Field(gt=0, le=4096)] = 256
    """Channels of the embedding."""
    contrast_samples: Annotated[int, Field(gt=0, le=2**16)] = 1024
    """Most pixels of a group."""
    contrast_views: Annotated[int, Field(gt=0, le=2**16)] = 100
    """Most pixels of a class in an image."""
    contrast_group: Positive | None = None
    """Images that are contrasted with each other; unset: all of a batch on one device."""
    # the next two are ContrastiveSeg's (Wang et al., ICCV 2021); FRM's paper names neither
    contrast_base_temperature: Annotated[float, Field(gt=0)] | None = None
    """The term is multiplied by tau / this (ContrastiveSeg); unset: by 1."""
    contrast_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """First steps without the contrast (ContrastiveSeg)."""


class PanopticKeys(Config):
    """Arguments of `PanopticLoss`."""

    hardest: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the pixels that count in the semantic part, the hardest ones."""
    center_sigma: Annotated[int, Field(ge=1, le=64)] = 8
    """Standard deviation of an object's centre in its heat map, in pixels."""


class LossTable(
    # pydantic takes the keys of the last base first
    PanopticKeys,
    ContrastKeys,
    OverlapKeys,
    HeadKeys,
    CrossEntropyKeys,
    SemanticKeys,
    AnyKeys,
):
    """[loss]: cross-entropy and other terms, the loss of a panoptic model, or one of a package."""

    @model_validator(mode="after")
    def _options_need_a_name(self) -> "LossTable":
        if self.options and not self.name:
            raise ValueError("loss.options are for a loss of another package: set loss.name too")
        return self


class LossFacts(NamedTuple):
    """What a term needs beside its keys."""

    model: SegmentationModel
    class_weights: Sequence[float] | None
    seed: int


@dataclass(frozen=True)
class Term:
    """One row: its keys, and a function that builds it, or returns None if the keys turn it off.

    A term of semantic models is called with (SegOutput, labels) and returns a scalar. Panoptic
    models have one term, which is their loss.
    """

    keys: type[Config]
    build: Callable[[LossTable, LossFacts], nn.Module | None]
    panoptic: bool = False


def _arguments(settings: LossTable, keys: type[Config]) -> dict[str, Any]:
    return {key: getattr(settings, key) for key in keys.model_fields}


def _cross_entropy(settings: LossTable, facts: LossFacts) -> CrossEntropy:
    return CrossEntropy(facts.class_weights, **_arguments(settings, CrossEntropyKeys))


def _heads(settings: LossTable, facts: LossFacts) -> AuxiliaryLoss | None:
    if not (settings.auxiliary or settings.boundary):
        return None
    # PIDNet's code averages L_0 over all pixels, whatever L_2 and L_3 are divided by
    plain_mean: Mean = "all" if settings.boundary else settings.mean
    return AuxiliaryLoss(
        CrossEntropy(facts.class_weights, mean=plain_mean),
        _cross_entropy(settings, facts),
        heads=settings.auxiliary,
        boundaries=settings.boundary,
        boundary_head=facts.model.boundary_head,
    )


def _overlap(settings: LossTable, facts: LossFacts) -> OverlapLoss | None:
    weights = _arguments(settings, OverlapKeys)
    return OverlapLoss(**weights) if any(weights.values()) else None


def _contrast(settings: LossTable, facts: LossFacts) -> PixelContrast | None:
    if not settings.contrast:
        return None
    assert facts.model.feature_channels is not None  # refused before training starts
    torch.manual_seed(facts.seed)  # the embedding starts the same for the same seed
    return PixelContrast(
        facts.model.feature_channels,
        facts.model.classes,
        weight=settings.contrast,
        dim=settings.contrast_dim,
        temperature=settings.contrast_temperature,
        max_samples=settings.contrast_samples,
        max_views=settings.contrast_views,
        groups_of=settings.contrast_group,
        base_temperature=settings.contrast_base_temperature,
        warmup_steps=settings.contrast_warmup_steps,
    )


def _panoptic(settings: LossTable, facts: LossFacts) -> PanopticLoss:
    return PanopticLoss(settings.hardest, facts.class_weights, settings.center_sigma)


TERMS = {
    "cross_entropy": Term(CrossEntropyKeys, _cross_entropy),
    "auxiliary": Term(HeadKeys, _heads),
    "overlap": Term(OverlapKeys, _overlap),
    "contrast": Term(ContrastKeys, _contrast),
    "panoptic": Term(PanopticKeys, _panoptic, panoptic=True),
}
"""Name -> term, in the order in which they are added up; checkpoints contain weights by name."""


def build_terms(settings: LossTable, facts: LossFacts) -> dict[str, nn.Module]:
    """Return the terms of a model of this kind that are on, by name."""
    terms = {
        name: term.build(settings, facts)
        for name, term in TERMS.items()
        if term.panoptic == facts.model.panoptic
    }
    return {name: term for name, term in terms.items() if term is not None}


PACKAGE_KEYS = frozenset({**AnyKeys.model_fields, **SemanticKeys.model_fields})
"""Keys that a loss of an installed package has."""


def unused_keys(settings: LossTable, *, panoptic: bool) -> list[str]:
    """Return the keys that differ from their default and have no effect on a model of this kind."""
    used = {*AnyKeys.model_fields, *(() if panoptic else PACKAGE_KEYS)}
    if settings.name is None or panoptic:
        used |= {
            key
            for term in TERMS.values()
            if term.panoptic == panoptic
            for key in term.keys.model_fields
        }
    default = LossTable()
    return [
        key
        for key in LossTable.model_fields
        if key not in used and getattr(settings, key) != getattr(default, key)
    ]
