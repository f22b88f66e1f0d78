"""What training minimises for a semantic model: the sum of the terms of a recipe's [loss]."""

import math
from collections.abc import Mapping

from torch import Tensor, nn

from featherseg.core.types import SegOutput


class Hybrid(nn.Module):
    """The sum of terms, each called with (SegOutput, labels).

    FRM Eq. 4 is {"cross_entropy": CrossEntropy(), "contrast": PixelContrast(..., weight=lambda)}.
    """

    def __init__(self, terms: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, term in terms.items():
            self.add_module(name, term)
        self.terms = tuple(terms)

    @property
    def needs_heads(self) -> bool:
        """Whether the model must compute its auxiliary heads."""
        return "auxiliary" in self.terms

    def forward(self, out: SegOutput, labels: Tensor, *, step: float = math.inf) -> Tensor:
        """Return the loss as a scalar, float32.

        Args:
            out: the model's output in training.
            labels: (B, H, W) int64.
            step: optimiser steps taken so far; a term adds 0 before its `warmup_steps`.
        """
        first, *others = (self.get_submodule(name) for name in self.terms)
        loss: Tensor = first(out, labels)
        for term in others:
            if step < getattr(term, "warmup_steps", 0):
                # zero gradients and not none: processes wait for those of every parameter
                loss = loss + 0 * sum(p.sum() for p in term.parameters())
            else:
                loss = loss + term(out, labels)
        return loss
