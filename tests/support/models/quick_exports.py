"""The models of quick tests, in which each would take seconds; the others are in slow ones."""

import pytest

from featherseg.models import MODELS

AS_ONNX = ("sctnet-s",)

_CHOSEN = (
    "rsp-lite0-panoptic",
    "rtformer-slim",
    "frm-van-t",
    "segformer-b0",
    "cgrseg-lite0",
    "pidnet-s",
)
_SMALLEST = {
    row.model: name for name, row in sorted(MODELS.items(), key=lambda item: -(item[1].params or 0))
}
ONE_OF_EACH = (
    *_CHOSEN,
    *(name for model, name in _SMALLEST.items() if model not in {MODELS[n].model for n in _CHOSEN}),
)
"""One variant of every architecture."""

EVERY_MODEL = [
    pytest.param(name, marks=[] if name in ONE_OF_EACH else pytest.mark.slow) for name in MODELS
]
"""One variant of each architecture for quick tests, all for slow ones; variants share layers."""
