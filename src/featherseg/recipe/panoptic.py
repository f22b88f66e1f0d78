"""The table [panoptic] of a recipe, which exported files contain too; without torch."""

from typing import Annotated

from pydantic import Field, model_validator

from featherseg.core.config import Config


class PanopticTable(Config):
    """[panoptic]: how centres and offsets become objects; it does not affect training."""

    threshold: Annotated[float, Field(ge=0)] = 0.1
    """A centre has a value above this."""
    kernel: Annotated[int, Field(gt=0, lt=512)] = 7
    """Side of the square with at most one centre, in pixels; odd."""
    top_k: Annotated[int, Field(gt=0, le=10_000)] = 200
    """Most objects of an image."""
    stuff_area: Annotated[int, Field(ge=0)] = 0
    """Fewest pixels of a class without instances; smaller areas become void."""

    @model_validator(mode="after")
    def _kernel_has_a_middle(self) -> "PanopticTable":
        if self.kernel % 2 == 0:
            raise ValueError(f"panoptic.kernel = {self.kernel}: expected an odd number of pixels")
        return self
