"""What training minimises for a semantic model: the sum of the terms of a recipe's [loss]."""

import math
from collections.abc import Mapping

from torch import Tensor, nn

from featherseg.core.types import SegOutput
from featherseg.losses.distillation import Distillation, DistillationLosses, TeacherOutputs


class Hybrid(nn.Module):
    """The sum of terms, each called with (SegOutput, labels), and what teachers add to it.

    FRM Eq. 4 is {"cross_entropy": CrossEntropy(), "contrast": PixelContrast(..., weight=lambda)}.
    """

    def __init__(
        self, terms: Mapping[str, nn.Module], distillation: Distillation | None = None
    ) -> None:
        super().__init__()
        for name, term in terms.items():
            self.add_module(name, term)
        self.terms, self.distillation = tuple(terms), distillation

    @property
    def needs_heads(self) -> bool:
        """Whether the model must compute its auxiliary heads."""
        return "auxiliary" in self.terms

    def forward(
        self,
        out: SegOutput,
        labels: Tensor,
        teachers: TeacherOutputs | None = None,
        *,
        step: float = math.inf,
    ) -> Tensor | DistillationLosses:
        """Return the loss as a scalar, float32, or its two parts if there are teachers.

        Args:
            out: the model's output in training.
            labels: (B, H, W) int64.
            teachers: what the teachers predict for the batch.
            step: optimiser steps taken so far; a term adds 0 before its `warmup_steps`.
        """
        first, *others = (self.get_submodule(name) for name in self.terms)
        supervised = first(out, labels)
        for term in others:
            if step < getattr(term, "warmup_steps", 0):
                # zero gradients and not none: processes wait for those of every parameter
                supervised = supervised + 0 * sum(p.sum() for p in term.parameters())
            else:
                supervised = supervised + term(out, labels)
        if self.distillation is None or teachers is None:
            return supervised
        return DistillationLosses(supervised, self.distillation(out, teachers))
