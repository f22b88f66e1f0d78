"""The networks whose files are checked in quick tests, one variant of every architecture; the others in slow tests."""

AS_ONNX = ("frm-van-t", "cgrseg-lite0", "rsp-lite0-panoptic")
AS_PT2 = (
    "ddrnet-23-slim",
    "deeplabv3-lite0",
    "efficientvit-seg-b0",
    "pidnet-s",
    "rtformer-slim",
    "sctnet-s",
    "seaformer-tiny",
    "segformer-b0",
    "segnext-t",
    "sfnet-r18",
)
