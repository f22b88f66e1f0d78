"""The models of quick tests, in which each would take seconds; the others are in slow ones."""

AS_ONNX = ("frm-van-t", "rsp-lite0-panoptic")
AS_PT2 = ("rtformer-slim", "segformer-b0")

ONE_OF_EACH = (
    *AS_ONNX,
    *AS_PT2,
    "cgrseg-lite0",
    "ddrnet-23-slim",
    "deeplabv3-lite0",
    "efficientvit-seg-b0",
    "pidnet-s",
    "sctnet-s",
    "seaformer-tiny",
    "segnext-t",
    "sfnet-r18",
)
"""One variant of every architecture."""
