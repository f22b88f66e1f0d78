"""Try the extras for `doctor`: the calls that verbs make, each extra in its own process.

A version number does not show that a call is gone. `python -m featherseg.cli.probes video` is such
a process: it exits with 0 and prints what it did as its last line, or prints a traceback, or dies.
"""

import asyncio
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from featherseg.core.installation import Finding, reinstall, requirements

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = 300
"""Seconds that all probes together may take, on a cold disk or a busy machine."""

QUICK = ("serve", "video")
"""Extras whose probe imports no torch: 0.7 and 0.4 s of a core. The others take 3 to 8 s each."""


def findings(extras: Iterable[str], *, all_of_them: bool) -> list[Finding]:
    """Try these extras, all at once, and return what came of it; skip extras without a probe.

    all_of_them: also try those outside QUICK; else a finding names the option that tries them.
    """
    command = [sys.executable, "-P", "-W", "ignore", "-m", __name__]
    extras = [extra for extra in extras if extra in PROBES]
    selected = [extra for extra in extras if all_of_them or extra in QUICK]
    begun = {
        extra: subprocess.Popen(
            [*command, extra],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        for extra in selected
    }
    end = time.monotonic() + PATIENCE
    rows = []
    for extra, process in begun.items():
        try:
            output, _ = process.communicate(timeout=max(0.0, end - time.monotonic()))
            lines = output.strip().splitlines()
            last = lines[-1] if lines else f"the process died of it, exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            last = f"it takes longer than {PATIENCE} s"
        if process.returncode == 0:
            rows.append(Finding("extras, tried", extra, last))
        else:
            remedy = reinstall(
                *(f"'{row.name}{row.versions}'" for row in requirements() if row.extra == extra)
            )
            rows.append(Finding("extras, tried", extra, f"does not work: {last}", "broken", remedy))
    if untried := [extra for extra in extras if extra not in selected]:
        hint = "installed, not tried: featherseg doctor --try-extras"
        rows.append(Finding("extras, tried", ", ".join(untried), hint))
    return rows


def _train(folder: Path) -> str:
    import lightning.pytorch as pl
    import torch
    from lightning.pytorch.loggers import TensorBoardLogger

    class Line(pl.LightningModule):
        """One linear layer."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch: "Tensor", index: int) -> "Tensor":
            """Return the loss."""
            loss = self.layer(batch).square().mean()
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            """Return plain SGD."""
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = pl.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=TensorBoardLogger(folder),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Line(), torch.utils.data.DataLoader(torch.ones(2, 2)))  # type: ignore[arg-type]
    if not list(folder.rglob("*.ckpt")) or not list(folder.rglob("events.*")):
        raise RuntimeError("one step was trained, but no checkpoint or no events were written")
    return "one step was trained, logged and written"


def _export(folder: Path) -> str:
    import onnxruntime
    import torch

    size: Any = {0: "batch", 2: "height", 3: "width"}
    program = torch.onnx.export(
        torch.nn.Conv2d(3, 2, 3, padding=1).eval(),
        (torch.zeros(2, 3, 8, 8),),
        input_names=["images"],
        dynamic_shapes=[size],
        opset_version=18,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    content = program.model_proto.SerializeToString()  # type: ignore[union-attr]
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    _expect_shape(session.run(None, {"images": np.zeros((1, 3, 5, 7), np.float32)})[0])
    return "a convolution was written as ONNX and run by onnxruntime"


def _openvino(folder: Path) -> str:
    import nncf
    import openvino
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "weights")
    images = helper.make_tensor_value_info(
        "images", TensorProto.FLOAT, ["batch", 3, "height", "width"]
    )
    logits = helper.make_tensor_value_info(
        "logits", TensorProto.FLOAT, ["batch", 2, "height", "width"]
    )
    node = helper.make_node("Conv", ["images", "weights"], ["logits"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "probe", [images], [logits], [weights])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    core = openvino.Core()
    model = core.read_model(proto.SerializeToString())
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    _expect_shape(
        core.compile_model(model, "CPU", settings)([np.zeros((1, 3, 5, 7), np.float32)])[0]
    )
    logging.getLogger("nncf").setLevel(logging.ERROR)
    nncf.quantize(model, nncf.Dataset([np.zeros((1, 3, 8, 8), np.float32)]), subset_size=1)
    return "a convolution was compiled, run and quantised to int8"


def _serve(folder: Path) -> str:
    import fastapi
    import prometheus_client
    import uvicorn

    app = fastapi.FastAPI()

    @app.post("/")
    async def length(image: fastapi.UploadFile) -> int:  # this needs python-multipart
        return len(await image.read())

    disposition = b'Content-Disposition: form-data; name="image"; filename="a"'
    body = b"--b\r\n" + disposition + b"\r\n\r\n1234567\r\n--b--\r\n"
    headers = [
        (b"content-type", b"multipart/form-data; boundary=b"),
        (b"content-length", str(len(body)).encode()),
    ]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    config = uvicorn.Config(app, log_level="error")
    config.load()
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
    asyncio.run(
        config.loaded_app(
            {**scope, "asgi": {"version": "3.0"}, "http_version": "1.1"}, receive, send
        )
    )
    if sent[0]["status"] != 200 or sent[1]["body"] != b"7":
        raise RuntimeError(f"a form was answered with {sent}")
    prometheus_client.generate_latest()
    return "a form with a file was answered"


def _video(folder: Path) -> str:
    from featherseg.inference.video.read import Frames, read_facts
    from featherseg.inference.video.write import (
        CONTAINERS,
        OverlaidFrame,
        VideoFormat,
        join_segments,
        write_segment,
    )

    for suffix in CONTAINERS:
        format = VideoFormat(suffix, (48, 64), Fraction(25), Fraction(1, 1000))
        segment, path = folder / "segment.nut", folder / f"video{suffix}"
        with open(segment, "wb") as file:
            write_segment(file, format, [OverlaidFrame(np.full((48, 64, 3), 200, np.uint8), 0, 40)])
        with open(path, "wb") as file:
            join_segments(file, format, [segment])
        pixels = [frame.pixels for frame in Frames(path, read_facts(path)).after(0)]
        if len(pixels) != 1 or abs(float(pixels[0].mean()) - 200) > 8:
            raise RuntimeError(
                f"one frame was written as {suffix}, {len(pixels)} came back, or another"
            )
    return f"a frame was written and read again: {', '.join(CONTAINERS)}"


def _ncnn(folder: Path) -> str:
    import ncnn
    import pnnx
    import torch

    layer, images = torch.nn.Conv2d(3, 2, 3, padding=1).eval(), torch.zeros(1, 3, 5, 7)
    torch.jit.trace(layer, images, check_trace=False).save(str(folder / "model.pt"))
    subprocess.run(
        [pnnx.EXEC_PATH, "model.pt", "fp16=0"], cwd=folder, capture_output=True, check=True
    )
    net = ncnn.Net()
    if net.load_param(str(folder / "model.ncnn.param")) or net.load_model(
        str(folder / "model.ncnn.bin")
    ):
        raise RuntimeError("ncnn refuses what pnnx wrote")
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(images[0].numpy()).clone())
    _expect_shape(np.array(extractor.extract("out0")[1])[None])
    return "a convolution was converted by pnnx and run by ncnn"


def _litert(folder: Path) -> str:
    import litert_torch
    import torch
    from ai_edge_litert.interpreter import Interpreter

    path = folder / "model.tflite"
    layer = torch.nn.Conv2d(3, 2, 3, padding=1).eval()
    litert_torch.convert(layer, (torch.zeros(1, 3, 5, 7),)).export(str(path))
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    _expect_shape(
        interpreter.get_signature_runner()(args_0=np.zeros((1, 3, 5, 7), np.float32))["output_0"]
    )
    return "a convolution was written as LiteRT and run"


def _coreml(folder: Path) -> str:
    import coremltools

    return f"coremltools {coremltools.__version__} can be imported"


def _expect_shape(output: Any) -> None:
    if np.shape(output) != (1, 2, 5, 7):
        raise RuntimeError(
            f"a convolution returned an array of {np.shape(output)} instead of (1, 2, 5, 7)"
        )


PROBES = {
    "train": _train,
    "export": _export,
    "openvino": _openvino,
    "serve": _serve,
    "video": _video,
    "ncnn": _ncnn,
    "litert": _litert,
    "coreml": _coreml,
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with TemporaryDirectory() as draft:
        print(PROBES[sys.argv[1]](Path(draft)))
