"""The models of quick tests, in which each would take seconds; the others are in slow ones."""

from featherseg.models import MODELS

AS_ONNX = ("frm-van-t", "rsp-lite0-panoptic")
AS_PT2 = ("rtformer-slim", "segformer-b0")

_CHOSEN = (*AS_ONNX, *AS_PT2, "cgrseg-lite0", "pidnet-s")
_SMALLEST = {row.model: name for name, row in sorted(MODELS.items(), key=lambda item: -(item[1].params or 0))}
ONE_OF_EACH = (
    *_CHOSEN,
    *(name for model, name in _SMALLEST.items() if model not in {MODELS[n].model for n in _CHOSEN}),
)
"""One variant of every architecture."""
