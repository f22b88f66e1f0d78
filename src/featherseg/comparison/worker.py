"""One variant in a process of its own: it opens the model once and answers commands.

    python -m featherseg.comparison.worker      # started by worker_process.py

Commands and answers are lines of JSON. The first line on standard input says what to open, or asks
for the machine's limits; each further line is a command of COMMANDS with its arguments. An answer
on standard output is a result, {"error": message}, or {"doing": text, "done": n, "of": m} while
the command runs. The process ends when its standard input ends. What libraries print goes to
standard error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from featherseg.core.allocator import keep_freed_memory
from featherseg.core.arrays import as_float, to_numpy, without_gradients
from featherseg.core.config import SplitBy
from featherseg.core.errors import FeathersegError
from featherseg.core.types import SegOutput, Size
from featherseg.costs.latency import answers_alone, clocks, peak_memory, settle, warm_up
from featherseg.data.images.decoding import read_image
from featherseg.inference.drawing import index_image, png_bytes
from featherseg.inference.masks import threads_of
from featherseg.inference.runtimes import Runtime, open_runtime
from featherseg.inference.settings import InferenceSettings
from featherseg.inference.sliding_window import Window
from featherseg.inference.test_time_augmentation import Pass, masks_of, native, on_device
from featherseg.layers.resize import preprocess, to_image

if TYPE_CHECKING:
    import torch

    from featherseg.comparison.builds import BuildRuntime

MIB = 2**20

Answer = dict[str, Any]


@dataclass
class Times:
    """Milliseconds of each stage of a pass, by the three clocks of `costs.latency.Clocks`."""

    device: torch.device | None
    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    queue: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block; on CUDA, events on the GPU measure the wall time of the forward."""
        cuda, events = on_cuda(self.device), list[Any]()
        if cuda:
            import torch

            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        with clocks(partial(wait, self.device)) as block:
            if cuda:
                events[0].record()
            yield
            if cuda:
                events[1].record()
        self.wall[name], self.cpu[name], self.queue[name] = block.wall, block.cpu, block.queue
        if cuda and name == "forward":
            self.wall[name] = events[0].elapsed_time(events[1])


@dataclass
class TimedModel:
    """A model that is ready to run, and the files of one batch, all of one size.

    usual_masks: upsampling and argmax by torch, as users of plain PyTorch do it.
    """

    runtime: Runtime
    usual_masks: bool
    files: list[Path] = field(default_factory=list)

    def decode(self, files: Sequence[Path]) -> np.ndarray:
        """Return image files as (B, H, W, C) uint8."""
        return np.stack([read_image(file, self.runtime.channels) for file in files])

    @without_gradients
    def masks(self, out: SegOutput, size: Size) -> np.ndarray:
        """Return masks (B, *size) uint8 of logits, by torch if `usual_masks`, else as Predictor."""
        if self.usual_masks:
            import torch

            return np.asarray(to_image(out, size).argmax(dim=1).to(torch.uint8).cpu().numpy())
        window = Window(0, 0, *size)
        return masks_of(
            [Pass(window, native(out, window), flipped=False)], size, InferenceSettings()
        )

    def encode(self, masks: np.ndarray) -> list[bytes]:
        """Return masks as palette PNGs, as `predict` writes them."""
        return [png_bytes(index_image(mask, self.runtime.classes)) for mask in masks]

    def one_pass(self) -> tuple[Times, SegOutput, np.ndarray]:
        """Run every stage from image file to PNG; return times, output and masks (B, H, W)."""
        runtime = self.runtime
        times = Times(runtime.device)
        with times.stage("decode"):
            pixels = self.decode(self.files)
        with times.stage("to device"):
            planes = on_device(runtime, pixels)  # (B, C, H, W)
        with threads_of(runtime):
            with times.stage("preprocess"):  # resized as the run was validated
                images = preprocess(planes, runtime.mean, runtime.std, runtime.test_resize)
            with times.stage("forward"):
                out = runtime(images)
            with times.stage("upsample + argmax"):
                masks = self.masks(out, pixels.shape[1:3])
        with times.stage("encode"):
            self.encode(masks)
        return times, out, masks


class Worker:
    """The commands; `send` writes a line of progress."""

    def __init__(self, model: TimedModel, send: Callable[[Answer], None]) -> None:
        self.model, self.send = model, send

    def prepare(self, files: list[str]) -> Answer:
        """Set the batch and warm up; return the time of the first pass and of the others."""
        self.model.files = [Path(file) for file in files]
        first, _, _ = self.model.one_pass()

        def forward_ms() -> float:
            times, _, _ = self.model.one_pass()
            return (times.wall if on_cuda(times.device) else times.cpu)["forward"]

        return {"first_ms": first.wall["forward"], "warm_up_ms": warm_up(forward_ms)}

    def turn(self) -> Answer:
        """Return the times of a pass that follows untimed passes."""
        settle(self.model.one_pass)
        times, _, _ = self.model.one_pass()
        return {"wall": times.wall, "cpu": times.cpu, "queue": times.queue}

    def memory(self) -> Answer:
        """Return peak memory of this process and of its GPU in MiB; None if unknown."""
        device, gpu = self.model.runtime.device, None
        if on_cuda(device):
            import torch

            gpu = torch.cuda.max_memory_allocated(device) / MIB
        peak = peak_memory()
        return {"process_mib": None if peak is None else peak / MIB, "gpu_mib": gpu}

    def outputs(self, files: list[str], to: str) -> Answer:
        """Write logits (N, K, h, w) float32 and masks (N, H, W) uint8 of N files to an .npz."""
        logits, masks = [], []
        for file in files:
            self.model.files = [Path(file)]
            _, out, mask = self.model.one_pass()
            logits.append(to_numpy(as_float(out.logits)))
            masks.append(mask)
        np.savez(to, logits=np.concatenate(logits), masks=np.concatenate(masks))
        return {}

    def score(
        self, data: str, split: str, root: str | None, split_by: SplitBy | None, to: str
    ) -> Answer:
        """Return mIoU on a labelled split; write the counts of images, (N, 3, K), to an .npy."""
        from featherseg.data import open_dataset
        from featherseg.evaluation.scoring import evaluate

        dataset = open_dataset(data, split, Path(root) if root else None, split_by=split_by)

        def progress(doing: str, done: int, of: int | None) -> None:
            self.send({"doing": doing, "done": done, "of": of})

        scores = evaluate(self.model.runtime, dataset, boundary=False, progress=progress)
        np.save(to, scores.counts)
        return {"miou": scores.miou, "images": scores.images}


COMMANDS: dict[str, Callable[..., Answer]] = {
    "prepare": Worker.prepare,
    "turn": Worker.turn,
    "memory": Worker.memory,
    "outputs": Worker.outputs,
    "score": Worker.score,
}


def open_variant(
    source: str, build: str | None, file: str | None, device: str, threads: int
) -> tuple[TimedModel, Answer]:
    """Open a build of a run or catalogue model, or an exported file; return it and its facts."""
    start = time.perf_counter()
    if file is not None:
        # The parent process checked the user's trust
        runtime: Runtime = open_runtime(file, device, threads, trust=True)
        usual_masks, precision = False, precision_of(file)
    else:
        from featherseg.comparison.builds import TORCH_BUILDS

        assert build is not None
        runtime = _torch_runtime(source, build, device, threads)
        usual_masks, precision = TORCH_BUILDS[build].usual_masks, TORCH_BUILDS[build].precision
    return TimedModel(runtime, usual_masks), {
        "open_ms": 1000 * (time.perf_counter() - start),
        "classes": [info.name for info in runtime.classes],
        "channels": runtime.channels,
        "precision": precision,
        "threads": threads,
        "device": str(runtime.device or "cpu"),
    }


def precision_of(file: str) -> str:
    """Return the precision that the name of an exported file states, as in model.int8.onnx."""
    return next((p for p in ("int8", "bf16") if p in Path(file).name.split(".")), "fp32")


def on_cuda(device: torch.device | None) -> bool:
    """Whether this is a CUDA device of torch."""
    return device is not None and device.type == "cuda"


def wait(device: torch.device | None) -> None:
    """Wait until a GPU has finished."""
    if device is None or device.type == "cpu":
        return
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def serve(lines: Iterator[str], answers: TextIO) -> None:
    """Answer every line of `lines`; the first is {"do": "open", ...} or {"do": "limits", ...}."""

    def send(answer: Answer) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    worker: Worker | None = None
    for line in lines:
        order = json.loads(line)
        do = order.pop("do")
        try:
            if do == "open":
                if order.pop("allocator"):
                    keep_freed_memory()
                model, answer = open_variant(**order)
                worker = Worker(model, send)
            elif do == "limits":
                answer = _limits(**order)
            else:
                assert worker is not None
                answer = COMMANDS[do](worker, **order)
        except FeathersegError as error:
            answer = {"error": " ".join(str(error).splitlines())}
        except Exception as error:  # of a runtime: this variant is left out, the benchmark goes on
            answer = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
        send(answer)


def _limits(threads: int, device: str) -> Answer:
    import torch

    from featherseg.comparison.roofline import measure_limits
    from featherseg.core.machine import pick_device

    torch.set_num_threads(threads)
    return measure_limits(pick_device(device)).as_json()


def _torch_runtime(source: str, build: str, device: str, threads: int) -> BuildRuntime:
    import torch

    from featherseg import models
    from featherseg.comparison.builds import TORCH_BUILDS, BuildRuntime
    from featherseg.comparison.variants import CATALOGUE_CLASSES, untrained_classes
    from featherseg.core.machine import pick_device
    from featherseg.runs.run import load_run

    torch.set_num_threads(threads)
    where = pick_device(device)
    if source in models.MODELS and not Path(source).exists():
        torch.manual_seed(0)
        model = models.build(source, CATALOGUE_CLASSES).eval()
        return BuildRuntime(model, untrained_classes(), TORCH_BUILDS[build], where)
    run = load_run(source)
    return BuildRuntime(
        run.model, run.classes, TORCH_BUILDS[build], where, run.recipe.data.test_resize
    )


def main() -> None:
    """Answer on what was standard output."""
    with answers_alone() as answers:
        serve(iter(sys.stdin), answers)


if __name__ == "__main__":
    main()
